"""Cost of a global fit, next to as many independent fits.

    python -m benchmarks.global_fit

1,000 peaks of 50 points, float64, converged to the precision of the dtype, parameters
and standard errors both times. Independent: ``vmap`` of a fit with four parameters.
Global: three per curve and one width for all. The two take turns; ``ratio`` is global
over independent, and the bar is 3. A small case is compared with the same problem
written as one dense fit. ``blocks_ratio`` is the same problem written as
`ResidualBlocks`, without errors, over global: `global_fit` has its own linear algebra
for it.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from benchmarks._report import save

CURVES, POINTS, ROUNDS, FEW = 1_000, 50, 21, 5
X = np.linspace(-4.0, 4.0, POINTS)
START = {"height": 1.0, "centre": 0.0, "offset": 0.0, "width": 1.0}


def peak(p, x):
    """Gaussian peak with offset."""
    return (
        p["height"] * jnp.exp(-0.5 * ((x - p["centre"]) / p["width"]) ** 2)
        + (p["offset"])
    )


def outcome(fit):
    """Return what a user would ask for."""
    return fit.params, fit.stderr, fit.success, fit.num_steps


def independent(ys):
    """Fit every curve by itself."""
    return jax.vmap(lambda y: outcome(lmjax.curve_fit(peak, X, y, START)))(ys)


def together(ys):
    """Fit all curves with one width."""
    return outcome(lmjax.global_fit(peak, X, ys, START, shared={"width": True}))


def dense(ys):
    """Fit all curves with one width as one model of many parameters."""
    own = lambda p: {name: p[name][:, None] for name in p if name != "width"}
    model = lambda p, x: peak(own(p) | {"width": p["width"]}, x[None])
    start = {
        name: jnp.full(len(ys), value) if name != "width" else value
        for name, value in START.items()
    }
    return outcome(lmjax.curve_fit(model, X, ys, start))


def misfit(p, y):
    """Return the residual of one curve."""
    height, centre, offset = p["own"]
    known = {"height": height, "centre": centre, "offset": offset}
    return peak(known | {"width": p["width"]}, jnp.asarray(X)) - y


def blocks(ys):
    """Fit all curves with one width, each curve a block of residuals."""
    own = jnp.array([START["height"], START["centre"], START["offset"]])
    start = {"own": jnp.tile(own, (len(ys), 1)), "width": jnp.array(START["width"])}
    every = lmjax.ResidualBlocks(misfit, {"own": np.arange(len(ys))}, (ys,))
    sol = lmjax.least_squares(every, start)
    return sol.params, sol.cost, sol.success, sol.num_steps


def simulate():
    """Return noisy peaks."""
    rng = np.random.default_rng(0)
    height, centre = rng.uniform(1, 3, CURVES), rng.uniform(-1, 1, CURVES)
    shape = np.exp(-0.5 * ((X - centre[:, None]) / 0.9) ** 2)
    clean = height[:, None] * shape + rng.uniform(0, 0.5, CURVES)[:, None]
    return jnp.asarray(clean + 0.05 * rng.normal(size=clean.shape))


def difference(ys) -> float:
    """Return the largest relative difference from the dense fit of a few curves."""
    pairs = zip(
        jax.tree.leaves(together(ys[:FEW])[:2]),
        jax.tree.leaves(dense(ys[:FEW])[:2]),
        strict=True,
    )
    return max(float(jnp.max(jnp.abs(a - b) / jnp.abs(b))) for a, b in pairs)


def main():
    """Run, print and save."""
    jax.config.update("jax_enable_x64", True)
    ys = simulate()
    fits = {
        "independent": jax.jit(independent),
        "global": jax.jit(together),
        "blocks": blocks,
    }
    results = {}
    for name, fit in fits.items():
        _, _, success, steps = jax.block_until_ready(fit(ys))  # compiles
        assert bool(jnp.all(success)), name
        results[name] = {"most_steps": int(jnp.max(steps)), "times_s": []}
    for _ in range(ROUNDS):
        for name, fit in fits.items():
            started = time.perf_counter()
            jax.block_until_ready(fit(ys))
            results[name]["times_s"].append(time.perf_counter() - started)
    one, other, third = (np.array(results[name]["times_s"]) for name in results)
    ratio, slower = other / one, third / other
    results |= {"ratio": list(ratio), "difference_from_dense": difference(ys)}
    results["blocks_ratio"] = list(slower)
    print(
        f"independent {np.median(one):.4f} s, global {np.median(other):.4f}"
        f" s; ratio {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}); "
        f"as blocks {np.median(slower):.1f} times as long as global "
        f"({slower.min():.1f} to {slower.max():.1f}); "
        f"difference from the dense fit {results['difference_from_dense']:.1e}"
    )
    print("saved", save("global_fit", results).name)


if __name__ == "__main__":
    main()
