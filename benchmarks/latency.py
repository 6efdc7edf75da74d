"""Time of one eager curve_fit call, of the first call, and how often it compiles.

    python -m benchmarks.latency

50 points, 3 parameters, float64, the same data for both; lmjax and SciPy take turns in
one run. SciPy's ``curve_fit`` runs as its users call it, with numeric derivatives.

With several cores XLA hands such a call to another thread and waits for it to wake up;
``taskset -c 0 python -m benchmarks.latency`` measures without that.
"""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import lmjax
from benchmarks._report import save

CALLS, ROUNDS = 100, 41


def model(p, x):
    """Decay with offset."""
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def numpy_model(x, a, b, c):
    """The same for SciPy."""
    return a * np.exp(-b * x) + c


def median_us(call) -> float:
    """Return the median time of a call in microseconds, after warm-up."""
    for _ in range(20):
        call()
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1e6)


def first_call_seconds(repeats: int = 5) -> list[float]:
    """Return the time of the first call of each new model, compilation included."""
    seconds = []
    for i in range(repeats):
        # a function that does the same shares the program: the size makes it a new one
        x = np.linspace(0.0, 5.0, 50 + i)
        y = numpy_model(x, 2.5, 1.3, 0.5)
        started = time.perf_counter()
        jax.block_until_ready(lmjax.curve_fit(model, x, y, np.ones(3)))
        seconds.append(time.perf_counter() - started)
    return seconds


def main():
    """Run, print and save."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 5.0, 50)
    y = numpy_model(x, 2.5, 1.3, 0.5) + 0.05 * rng.normal(size=50)
    start = np.array([1.0, 1.0, 0.0])
    jax.block_until_ready(jnp.zeros(1))  # start the backend
    first = first_call_seconds()
    print("first call of a new model:", " ".join(f"{s:.2f}" for s in first), "s")
    fit = lambda: jax.block_until_ready(lmjax.curve_fit(model, x, y, start).params)
    peer = lambda: scipy.optimize.curve_fit(numpy_model, x, y, start)
    pairs = [(median_us(fit), median_us(peer)) for _ in range(ROUNDS)]
    ours, theirs = np.transpose(pairs)
    ratio = ours / theirs
    print(
        f"eager call: lmjax {np.median(ours):.0f} us, "
        f"SciPy {np.median(theirs):.0f} us, "
        f"ratio {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
    )
    results = {
        "first_call_s": first,
        "lmjax_us": list(ours),
        "scipy_us": list(theirs),
    }
    alone = len(os.sched_getaffinity(0)) == 1
    print("saved", save("latency_one_core" if alone else "latency", results).name)


if __name__ == "__main__":
    main()
