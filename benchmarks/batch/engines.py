"""The engines next to each other as the number of fits and of points grows."""

import time
from functools import partial

import numpy as np

from benchmarks.batch import peers, workloads

FITS, POINTS = (100, 1_000, 10_000, 100_000, 1_000_000), (20, 200, 2_000)
# Data of a float32 case, in numbers; larger ones are left out.
MOST = 200_000_000
ROUNDS = 7
ENGINES = ("fused", "xla")


def run(quick: bool = False, say=print) -> dict:
    """Fit decays on the device, by each engine in turns, in both precisions."""
    rows = []
    for dtype in ("float32", "float64"):
        for points in POINTS[:1] if quick else POINTS:
            for fits in FITS[:2] if quick else FITS:
                if fits * points <= MOST:
                    load = _decays(fits, points, dtype)
                    rows.append(_compared(load, 1 if quick else ROUNDS))
                    say(_line(rows[-1]), flush=True)
    return {"rows": rows}


def _decays(fits: int, points: int, dtype: str) -> workloads.Workload:
    """Return decays seen at that many points; many fits repeat the first thousands."""
    load = workloads.decays(min(fits, 20_000), points=points)
    repeat = lambda x: np.resize(x.astype(dtype), (fits, x.shape[1]))
    return load._replace(
        x=load.x.astype(dtype),
        y=repeat(load.y),
        start=repeat(load.start),
        ftol=1e-4 if dtype == "float32" else load.ftol,
        truth=None,
    )


def _compared(load: workloads.Workload, rounds: int) -> dict:
    fit = lambda engine: partial(peers.fit_lmjax, engine=engine)
    runners = {e: peers.jitted(fit(e))(load, load.max_steps) for e in ENGINES}
    claims = {}
    for engine, runner in runners.items():
        claims[engine] = float(np.mean(runner.run(load.ftol)[1]))
    seconds = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine, runner in runners.items():
            started = time.perf_counter()
            runner.run(load.ftol)
            seconds[engine].append(time.perf_counter() - started)
    return {
        "fits": load.fits,
        "points": load.y.shape[1],
        "dtype": str(load.y.dtype),
        "seconds": seconds,
        "claims_success": claims,
        "compile_s": {e: runner.compile_s for e, runner in runners.items()},
    }


def _line(row: dict) -> str:
    parts = [f"{row['fits']:>9} fits of {row['points']:>5} points, {row['dtype']}:"]
    for engine, times in row["seconds"].items():
        middle, first = np.median(times), row["compile_s"][engine]
        parts.append(f"{engine} {middle * 1e3:.2f} ms (compiled in {first:.1f} s)")
    return " ".join(parts)
