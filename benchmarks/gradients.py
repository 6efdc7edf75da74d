"""Cost of the gradient of a batch of fits, next to the fits themselves.

    python -m benchmarks.gradients

10,000 decays of 50 points with 3 parameters, float64, converged to the precision of the
dtype by each library's own tolerances. The extra cost is the time of value and gradient
(with respect to all data) less the time of the fits, in units of the latter: 1 means
that a gradient costs as much again as the fits. Forward and gradient take turns.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

import lmjax
from benchmarks._report import save

FITS, POINTS, ROUNDS = 10_000, 50, 7
X = np.linspace(0.0, 5.0, POINTS)
START = np.array([1.0, 1.0, 0.0])


def residual(p, y):
    """Decay with offset less data."""
    return p[0] * jnp.exp(-p[1] * X) + p[2] - y


def lmjax_fit(y):
    """Return the parameters of one fit."""
    return lmjax.least_squares(residual, jnp.asarray(START), (y,)).params


def optimistix_fit(y):
    """Return the parameters of one fit by optimistix."""
    solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-12)
    return optimistix.least_squares(
        residual, solver, jnp.asarray(START), args=y, throw=False
    ).value


def measure(fit, ys) -> dict:
    """Return the times of forward and of value and gradient, alternated, in seconds."""
    weights = jnp.array([1.0, 0.5, -2.0])

    def loss(ys):
        return jnp.sum(jax.vmap(fit)(ys) @ weights)

    forward, both = jax.jit(jax.vmap(fit)), jax.jit(jax.value_and_grad(loss))
    times = {"forward_s": [], "value_and_grad_s": []}
    for turn in range(ROUNDS + 1):
        for name, call in zip(times, (forward, both), strict=True):
            started = time.perf_counter()
            jax.block_until_ready(call(ys))
            if turn:  # the first compiles
                times[name].append(time.perf_counter() - started)
    extra = np.array(times["value_and_grad_s"]) / np.array(times["forward_s"]) - 1.0
    times["extra"] = list(extra)
    return times


def main():
    """Run, print and save."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    truth = np.stack([rng.uniform(1, 3, FITS), rng.uniform(0.5, 2, FITS)], axis=1)
    curves = truth[:, :1] * np.exp(-truth[:, 1:] * X) + 0.5
    ys = jnp.asarray(curves + 0.05 * rng.normal(size=curves.shape))
    results = {}
    for name, fit in (("lmjax", lmjax_fit), ("optimistix", optimistix_fit)):
        results[name] = found = measure(fit, ys)
        extra = np.array(found["extra"])
        print(
            f"{name}: forward {np.median(found['forward_s']):.3f} s, value and grad "
            f"{np.median(found['value_and_grad_s']):.3f} s, extra "
            f"{np.median(extra):.2f} ({extra.min():.2f} to {extra.max():.2f}) x forward"
        )
    print("saved", save("gradients", results).name)


if __name__ == "__main__":
    main()
