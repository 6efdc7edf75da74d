"""Where is the receiver, and how far off is its clock?

Six anchors at known places measure their distance to a receiver. Its clock is off, so
every distance is too long by the same unknown amount. The unknowns live in a dict with
a 2-vector and a number; `least_squares` takes it as it is.

Expect: status GTOL or FTOL within about ten steps, the position within 0.05 m of
(3, 4) and the offset within 0.05 m of 1.5, since the ranges have 2 cm of noise.
"""

import jax.numpy as jnp
import numpy as np

import lmjax

ANCHORS = jnp.array(
    [[0.0, 0.0], [10.0, 0.0], [10.0, 8.0], [0.0, 8.0], [5.0, 12.0], [-3.0, 4.0]]
)
TRUTH = {"position": np.array([3.0, 4.0]), "clock_offset": 1.5}
START = {"position": jnp.array([5.0, 5.0]), "clock_offset": jnp.array(0.0)}
NOISE = 0.02
SEED = 0


def distances(params, anchors):
    """Return what the receiver measures to each anchor."""
    away = anchors - params["position"]
    return jnp.sqrt(jnp.sum(away**2, axis=-1)) + params["clock_offset"]


def residual(params, anchors, measured):
    """Return model minus data; `least_squares` minimises half its sum of squares."""
    return distances(params, anchors) - measured


def main():
    """Fit, then print the status, the parameters and the report."""
    noise = np.random.default_rng(SEED).normal(0.0, NOISE, len(ANCHORS))
    measured = np.asarray(distances(TRUTH, ANCHORS)) + noise

    sol = lmjax.least_squares(residual, START, args=(ANCHORS, jnp.asarray(measured)))

    status = lmjax.Status(int(sol.status))
    print(f"{status.name} after {sol.num_steps} steps. {status.advice}")
    x, y = sol.params["position"]
    print(f"position     ({x:.3f}, {y:.3f}) m, truth (3, 4)")
    print(f"clock offset {sol.params['clock_offset']:.3f} m, truth 1.5")
    print(f"rms residual {np.sqrt(np.mean(np.asarray(sol.residual) ** 2)):.3f} m\n")
    print(sol.report())


if __name__ == "__main__":
    main()
