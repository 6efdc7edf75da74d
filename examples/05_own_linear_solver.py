"""How do I bring my own linear solver, and my own Jacobian?

A linear solver is any callable ``(linearization, damping) -> dp`` that minimises
``||J dp + r||^2 + damping ||dp||^2``; the linearization offers ``residual``, ``mv``,
``rmv`` and ``normal_matrix()``. A Jacobian is any function with the arguments of the
model that returns what ``jax.jacfwd`` would: here a dict, like the parameters.

Expect: all fits reach the same parameters and errors to at least eight digits.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

jax.config.update("jax_enable_x64", True)

TRUTH = {"amplitude": 2.0, "rate": 0.7, "frequency": 3.0}
START = {"amplitude": 1.0, "rate": 1.0, "frequency": 2.8}
NOISE = 0.05
SEED = 3


def ringing(params, t):
    """Return a damped oscillation."""
    envelope = params["amplitude"] * jnp.exp(-params["rate"] * t)
    return envelope * jnp.cos(params["frequency"] * t)


def ringing_jacobian(params, t):
    """Return the derivative of `ringing` by each parameter."""
    envelope = jnp.exp(-params["rate"] * t)
    phase = params["frequency"] * t
    return {
        "amplitude": envelope * jnp.cos(phase),
        "rate": -t * params["amplitude"] * envelope * jnp.cos(phase),
        "frequency": -t * params["amplitude"] * envelope * jnp.sin(phase),
    }


def eigenvalue_solver(linearization, damping):
    """Return the damped step from the eigenvalues of ``J^T J``."""
    gradient = linearization.rmv(linearization.residual)
    values, vectors = jnp.linalg.eigh(linearization.normal_matrix())
    return -vectors @ ((vectors.T @ gradient) / (values + damping))


def main():
    """Fit with each combination and print how far it is from the default."""
    noise = np.random.default_rng(SEED).normal(0.0, NOISE, 200)
    t = np.linspace(0.0, 6.0, noise.size)
    y = np.asarray(ringing(TRUTH, t)) + noise

    cases = {
        "default": lmjax.LevenbergMarquardt(),
        "own solver": lmjax.LevenbergMarquardt(linear_solver=eigenvalue_solver),
        "own Jacobian": lmjax.LevenbergMarquardt(jac=ringing_jacobian),
        "both": lmjax.LevenbergMarquardt(
            linear_solver=eigenvalue_solver, jac=ringing_jacobian
        ),
    }
    flat = lambda fit: np.array(jax.tree.leaves((fit.params, fit.stderr)))
    reference = None
    for label, solver in cases.items():
        fit = lmjax.curve_fit(ringing, t, y, START, solver=solver).raise_if_failed()
        reference = flat(fit) if reference is None else reference
        print(f"{label}: {fit.linear_solver}, Jacobian {fit.jacobian}")
        for name, value in fit.params.items():
            print(f"    {name:<10} {value:.8f} +- {fit.stderr[name]:.8f}")
        apart = np.max(np.abs(flat(fit) / reference - 1))
        print(f"    largest relative difference from the default {apart:.0e}")
        assert apart < 1e-8


if __name__ == "__main__":
    main()
