"""Time per fit and memory as the number of fits grows from 10^4 to 10^6."""

import time

import jax
import numpy as np

import lmjax
from benchmarks.batch import measure, peers, workloads

SIZES, QUICK_SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000), (1_000, 4_000)
CHUNK, ROUNDS = 2_500, 7  # what `fit_batch` chooses for 10^4 fits on two cores


def run(quick: bool = False, say=print) -> dict:
    """Run the headline workload in chunks from host arrays to host arrays.

    Through ``lmjax.fit_batch``. Memory is that above the data, results included.
    """
    sizes = QUICK_SIZES if quick else SIZES
    chunk = min(CHUNK, sizes[0])
    fit = _compiled(chunk)
    rows = []
    for size in sizes:
        load = workloads.headline(size)
        fit(load.y, load.start)  # warm-up
        times = []
        for _ in range(1 if quick else ROUNDS):
            started = time.perf_counter()
            result = fit(load.y, load.start)
            times.append(time.perf_counter() - started)
        peak, device = measure.memory_growth(lambda load=load: fit(load.y, load.start))
        rows.append(
            {
                "fits": size,
                "us_per_fit": float(np.median(times) / size * 1e6),
                "seconds": times,
                "rss_growth_bytes": peak,
                "device_growth_bytes": device,
                "result_bytes": sum(a.nbytes for a in jax.tree.leaves(result)),
            }
        )
        say(
            f"{size:>9} fits: {rows[-1]['us_per_fit']:.2f} us per fit, "
            f"{(peak or 0) / 1e6:.0f} MB above the data, "
            f"of which results {rows[-1]['result_bytes'] / 1e6:.0f} MB"
        )
    return {"chunk": chunk, "rows": rows}


def _compiled(chunk):
    """Return ``fit(y, start)`` that keeps at most a chunk on the device."""
    load = workloads.headline(1)
    tol = np.float32(load.ftol)

    def fit_one(data):
        y, start = data
        return peers.fit_lmjax(load, load.max_steps, load.x, y, start, tol)

    return lambda y, start: lmjax.fit_batch(fit_one, (y, start), chunk_size=chunk)
