"""Time per fit and memory as the number of fits grows from 10^4 to 10^6."""

import time

import jax
import numpy as np

import lmjax
from benchmarks.batch import measure, peers, workloads

SIZES, QUICK_SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000), (1_000, 4_000)
CHUNK, ROUNDS = 2_500, 7  # what `fit_batch` chooses for 10^4 fits on two cores


def run(quick: bool = False, say=print) -> dict:
    """Run the headline workload from host arrays to host arrays by ``lmjax.fit_batch``.

    In chunks of one size, so that only the number of fits differs, and in chunks that
    ``fit_batch`` chooses. Memory is that of the former above the data, results
    included.
    """
    sizes = QUICK_SIZES if quick else SIZES
    chunk = min(CHUNK, sizes[0])
    fit, fit_freely = _compiled(chunk), _compiled(None)
    rows = []
    for size in sizes:
        load = workloads.headline(size)
        call = lambda fit, load=load: fit(load.y, load.start)
        call(fit), call(fit_freely)  # warm-up
        turns = range(1 if quick else ROUNDS)
        pairs = [(_seconds(call, fit), _seconds(call, fit_freely)) for _ in turns]
        seconds, freely = map(list, zip(*pairs, strict=True))
        peak, device = measure.memory_growth(lambda call=call: call(fit))
        rows.append(
            {
                "fits": size,
                "us_per_fit": float(np.median(seconds) / size * 1e6),
                "seconds": seconds,
                "us_per_fit_own_chunks": float(np.median(freely) / size * 1e6),
                "seconds_own_chunks": freely,
                "rss_growth_bytes": peak,
                "device_growth_bytes": device,
                "result_bytes": sum(a.nbytes for a in jax.tree.leaves(call(fit))),
            }
        )
        say(
            f"{size:>9} fits: {rows[-1]['us_per_fit']:.2f} us per fit, "
            f"{rows[-1]['us_per_fit_own_chunks']:.2f} in chunks of its own choice, "
            f"{(peak or 0) / 1e6:.0f} MB above the data, "
            f"of which results {rows[-1]['result_bytes'] / 1e6:.0f} MB"
        )
    return {"chunk": chunk, "rows": rows}


def _seconds(call, fit):
    started = time.perf_counter()
    call(fit)
    return time.perf_counter() - started


def _compiled(chunk):
    """Return ``fit(y, start)``, in chunks of that size if one is given."""
    load = workloads.headline(1)
    tol = np.float32(load.ftol)

    def fit_one(data):
        y, start = data
        return peers.fit_lmjax(load, load.max_steps, load.x, y, start, tol)

    return lambda y, start: lmjax.fit_batch(fit_one, (y, start), chunk_size=chunk)
