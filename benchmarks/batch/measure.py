"""Time, memory and accuracy of prepared peers."""

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.batch import judge, lanes
from benchmarks.batch.judge import SAME_COST
from benchmarks.batch.ladder import Setting
from benchmarks.batch.peers import Peer

STATM = Path("/proc/self/statm")
SAMPLE_S = 0.002


def seconds(settings: dict[str, Setting], rounds: int) -> dict[str, list[float]]:
    """Return the time of each call; the peers take turns, each warmed up before."""
    for setting in settings.values():
        setting.runner.run(setting.tol)
    times = {name: [] for name in settings}
    for _ in range(rounds):
        for name, setting in settings.items():
            started = time.perf_counter()
            setting.runner.run(setting.tol)
            times[name].append(time.perf_counter() - started)
    return times


def resident() -> int | None:
    """Return the resident memory of this process in bytes, None if unknown."""
    if not STATM.exists():
        return None
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_growth(call: Callable) -> tuple[int | None, int | None]:
    """Return by how much resident and device memory peak above now during a call.

    Resident memory is sampled, after what earlier calls left in the allocator's pockets
    is returned. The device keeps one high-water mark for the process, so its figure is
    None unless this call raised it.
    """
    _return_free_memory()
    before, stop = resident(), threading.Event()
    peaks = [before or 0]

    def watch():
        while not stop.wait(SAMPLE_S):
            peaks.append(resident() or 0)

    device = jax.devices()[0]
    start = device.memory_stats() or {}
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        stop.set()
        watcher.join()
    end = device.memory_stats() or {}
    raised = None
    if end.get("peak_bytes_in_use", 0) > start.get("peak_bytes_in_use", 0):
        raised = end["peak_bytes_in_use"] - start["bytes_in_use"]
    return (None if before is None else max(peaks) - before), raised


def _return_free_memory():
    gc.collect()
    # glibc has this; elsewhere what lies free hides part of the growth
    library = ctypes.CDLL(None) if os.name == "posix" else None
    trim = getattr(library, "malloc_trim", None)
    if trim is not None:
        trim(0)


def record(peer: Peer, setting: Setting, times: list[float]) -> dict:
    """Return everything that is reported about one peer on one workload."""
    _, claims, steps, *counted = (np.asarray(field) for field in setting.found)
    executed = counted[0].sum() if counted else peer.lane_steps(steps)
    excess, runner = setting.excess, setting.runner
    claimed = claims[np.searchsorted(runner.fits, excess.fits)]
    there = judge.at_minimum(excess)
    median, tail = judge.quantiles(excess)
    rates = len(runner.fits) / np.array(times)
    growth, raised = memory_growth(lambda: runner.run(setting.tol))
    return {
        "fits": len(runner.fits),
        "fits_per_s": float(np.median(rates)),
        "fits_per_s_range": [float(rates.min()), float(rates.max())],
        "seconds": times,
        "tolerance": setting.tol,
        "max_steps_allowed": setting.max_steps,
        "equal_cost": setting.equal,
        "median_excess": median,
        "tail_excess": tail,
        "same_cost": float(np.mean(excess.relative <= SAME_COST)),
        "same_fit": float(np.mean(there)),
        "false_success": float(np.mean(claimed & ~there)),
        "claims_success": float(np.mean(claimed)),
        "mean_steps": float(steps.mean()),
        "max_steps": int(steps.max()),
        "lane_efficiency": lanes.efficiency(steps, executed),
        "compile_s": runner.compile_s,
        "temp_bytes": runner.temp_bytes,
        "rss_growth_bytes": growth,
        "device_growth_bytes": raised,
    }
