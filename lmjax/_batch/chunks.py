"""The chunks of a batch: run several at once, count, identify and gather them."""

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax._errors.checks import check_flag
from lmjax._problem.precision import rounds


def run_chunks(
    work: Callable, starts: list[int], workers: int
) -> Iterator[tuple[int, Any]]:
    """Yield (start, result) as chunks finish; ``workers`` of them run at a time."""
    queue, wide = iter(starts), not rounds()

    def in_thread(start):
        # jax.enable_x64 is a setting of the thread that entered it
        with jax.enable_x64(wide):
            return work(start)

    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future, int] = {}
        try:
            while True:
                while (
                    len(running) < workers and (start := next(queue, None)) is not None
                ):
                    running[pool.submit(in_thread, start)] = start
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def check_progress(progress: Any) -> None:
    """Raise unless it is a flag or a function."""
    if not callable(progress):
        check_flag("progress", progress)


def counter(
    progress: bool | Callable, size: int, restore: Callable
) -> Callable[[list[np.ndarray]], None]:
    """Return what is called with the results of every chunk, as a list of arrays."""
    if callable(progress):
        return lambda leaves: progress(restore(leaves))
    bar = progress_bar(size, progress)
    return lambda leaves: bar(len(leaves[0]))


def progress_bar(size: int, progress: bool) -> Callable[[int], None]:
    """Return a function that counts finished fits; if ``progress`` it draws a bar."""
    if not progress:
        return lambda count: None
    try:
        from tqdm.auto import tqdm  # only here: it is optional
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    bar = tqdm(total=size, unit="fit", unit_scale=True)

    def update(count):
        bar.update(count)
        if bar.n >= size:
            bar.close()

    return update


def checksum_of(rows: list[Any]) -> int:
    """Return a checksum of the data of a chunk."""
    checksum = 0
    for leaf in rows:
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    return checksum


def gather_chunks(leaf: np.ndarray, chunks: int, chunk_size: int) -> np.ndarray:
    """Give every process the chunks of all; process k has every n-th from k on."""
    count = jax.process_count()
    each = -(-chunks // count) * chunk_size
    padded = np.zeros((each, *leaf.shape[1:]), leaf.dtype)
    padded[: leaf.shape[0]] = leaf
    # as bytes: 64-bit results must survive with x64 off
    raw = multihost_utils.process_allgather(padded.reshape(-1).view(np.uint8))
    shape = (count, each // chunk_size, chunk_size, *leaf.shape[1:])
    whole = np.asarray(raw).reshape(-1).view(leaf.dtype).reshape(shape)
    return np.swapaxes(whole, 0, 1).reshape(-1, *leaf.shape[1:])
