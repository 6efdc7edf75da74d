"""What variable projection buys: two exponentials, 10,000 noisy curves.

    python -m benchmarks.separable

Five parameters (a1, k1, a2, k2, offset), 50 points, float64, default settings, once as
a whole and once with ``linear=``. Starts: near the truth (within 30 %), and starts that
defeat the whole problem: rates within a factor of 3, amplitudes and offset of wrong
size and sign. The minimum to find is the best that any of the fits of a curve, and one
from the truth, ended at; "found" means a cost within 1e-6 of it, relative.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from benchmarks._report import save

POINTS, NOISE, ROUNDS, MAX_STEPS = 50, 0.005, 7, 300
T = np.linspace(0.0, 5.0, POINTS)
LINEAR = np.array([True, False, True, False, True])
LOW, HIGH = [0.5, 0.3, 0.5, 2.5, -0.5], [2.0, 0.8, 2.0, 6.0, 0.5]
WRONG = np.array([100.0, 0.0, -50.0, 0.0, 30.0])


def two(p, t):
    """Two exponentials and an offset."""
    return p[0] * jnp.exp(-p[1] * t) + p[2] * jnp.exp(-p[3] * t) + p[4]


def simulate(count: int):
    """Return truth, curves and the two kinds of start."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(LOW, HIGH, (count, 5))
    curves = jax.vmap(two, (0, None))(jnp.asarray(truth), T)
    curves = curves + NOISE * rng.normal(size=curves.shape)
    near = truth * rng.uniform(0.7, 1.3, truth.shape)
    far = np.where(LINEAR, WRONG, truth * 3.0 ** rng.uniform(-1.0, 1.0, truth.shape))
    starts = {"near": jnp.asarray(near), "defeating": jnp.asarray(far)}
    return jnp.asarray(truth), curves, starts


def fitter(linear):
    """Return the compiled batch of fits."""

    def fit_one(y, start):
        solver = lmjax.LevenbergMarquardt(max_steps=MAX_STEPS)
        fit = lmjax.curve_fit(two, T, y, start, linear=linear, solver=solver)
        return fit.params, fit.cost, fit.status, fit.num_steps, fit.in_batch

    return jax.jit(jax.vmap(fit_one))


def measure(fits: dict, curves, start, best) -> dict:
    """Return what each way finds, and its times in turn, in seconds."""
    results = {name: {"times_s": []} for name in fits}
    for turn in range(ROUNDS + 1):
        for name, fit in fits.items():
            started = time.perf_counter()
            jax.block_until_ready(fit(curves, start))
            if turn:  # the first compiles
                results[name]["times_s"].append(time.perf_counter() - started)
    for name, fit in fits.items():
        _, cost, status, steps, in_batch = map(np.asarray, fit(curves, start))
        found = (status > 0) & (cost <= best * (1.0 + 1e-6))
        results[name] |= {
            "found": float(found.mean()),
            "converged": float((status > 0).mean()),
            "steps_mean": float(steps.mean()),
            "steps_most": int(steps.max()),
            "in_batch": bool(in_batch.all()),
        }
    whole, separated = (np.array(results[name]["times_s"]) for name in fits)
    results["speedup"] = list(whole / separated)
    return results


def main():
    """Run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fits", type=int, default=10_000)
    count = parser.parse_args().fits
    jax.config.update("jax_enable_x64", True)
    truth, curves, starts = simulate(count)
    fits = {"whole": fitter(None), "separated": fitter(LINEAR)}
    ends = [
        fit(curves, s)[1] for fit in fits.values() for s in (truth, *starts.values())
    ]
    best = np.nanmin(np.asarray(ends), axis=0)
    results = {"fits": count, "points": POINTS}
    for kind, start in starts.items():
        results[kind] = found = measure(fits, curves, start, best)
        for name in fits:
            row = found[name]
            print(
                f"{kind:10} {name:10} found {row['found']:.4f}, steps "
                f"{row['steps_mean']:.1f} (most {row['steps_most']}), "
                f"{np.median(row['times_s']):.3f} s"
            )
        speedup = np.array(found["speedup"])
        print(
            f"{kind:10} whole / separated: time {np.median(speedup):.2f} "
            f"({speedup.min():.2f} to {speedup.max():.2f}), steps "
            f"{found['whole']['steps_mean'] / found['separated']['steps_mean']:.2f}"
        )
    print("saved", save("separable", results).name)


if __name__ == "__main__":
    main()
