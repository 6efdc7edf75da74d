"""Batches too large for one call: chunks, several devices, checkpoints, second tries.

``jax.vmap`` of a fit is the batch engine. What it cannot do is done here: keep memory
bounded, read arrays that live on disk, use every core or device, show progress, and
survive an interruption.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from lmjax._arrays import native
from lmjax._checkpoint import Checkpoint
from lmjax._solver import as_int

AXIS = "fits"
# Chunks of this many bytes of input: large enough to make the cost of a call vanish,
# small enough to keep several in flight.
CHUNK_BYTES = 2**26
MAX_CHUNK = 2**17


def fit_batch(
    fit_one: Callable[[Any], Any],
    data: Any,
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Any:
    """Return ``fit_one`` of each row of ``data``, chunk by chunk.

    The same as ``jax.vmap(fit_one)(data)``, with bounded memory on the device, on all
    its local devices, and for data that need not fit into memory: only one chunk at a
    time is read. While one chunk is computed, the next is copied to the device; on a
    CPU with several cores several chunks are computed at once.

    Under ``jax.distributed`` every process calls this with the same arguments, works on
    its own share of the chunks and returns all results.

    Args:
        fit_one: Function of one row that returns any pytree of arrays. It is traced
            once: rows keep their dtype, so cast camera counts inside. Return only what
            you need.
        data: Pytree of arrays with one row per fit: NumPy or JAX arrays,
            ``np.memmap``, h5py or zarr data sets, or anything else with a ``shape``, a
            ``dtype`` and slices.
        chunk_size: Fits per chunk, rounded up to a multiple of 64 per device. None
            chooses by the size of a row.
        mesh: Mesh with one axis named "fits" to spread each chunk over. None takes all
            local devices.
        progress: Show a progress bar (needs tqdm).
        checkpoint: Folder where finished chunks are kept. A call that finds chunks of
            the same job there goes on from them. Data are compared, ``fit_one`` is
            not: another one needs another folder.

    Returns:
        The results in the order of the rows, as NumPy arrays with a leading axis.

    Raises:
        ValueError: If the arrays of ``data`` differ in length or are empty, the mesh
            has no axis "fits", or the checkpoint belongs to another job.

    Example:
        >>> import jax.numpy as jnp, numpy as np, lmjax
        >>> t = jnp.linspace(0.0, 3.0, 20)
        >>> curves = np.exp(-np.linspace(0.5, 2.0, 1000)[:, None] * np.asarray(t))
        >>> def fit_one(y):
        ...     model = lambda p, t: p["a"] * jnp.exp(-p["k"] * t)
        ...     fit = lmjax.curve_fit(model, t, y, {"a": 0.5, "k": 1.0})
        ...     return fit.params["k"], fit.status
        >>> rate, status = lmjax.fit_batch(fit_one, curves, chunk_size=256)
        >>> rate.shape, bool((status > 0).all())
        ((1000,), True)
    """
    size = _length(data)
    mesh = _local_mesh(mesh)
    devices = mesh.devices.size
    saved = None if checkpoint is None else Checkpoint(checkpoint, size, data)
    if chunk_size is None:
        chunk_size = saved.chunk_size if saved else None
    chunk_size = _chunk_size(chunk_size, data, size, devices)
    if saved:
        saved.begin(chunk_size)
    starts = range(0, size, chunk_size)
    mine = list(starts)[jax.process_index() :: jax.process_count()]
    compute = _compiled(fit_one, mesh)

    def work(start: int) -> list[np.ndarray]:
        rows = jax.tree.map(lambda x: _rows(x, start, chunk_size, size), data)
        mark = _fingerprint(rows) if saved else 0
        leaves = saved.load(start, mark) if saved else None
        if leaves is None:
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(compute(rows))]
            if saved:
                saved.save(start, mark, leaves)
        return leaves

    results: dict[int, list[np.ndarray]] = {}
    bar = _progress_bar(size, progress)
    for start, out in _in_flight(work, mine, _workers(devices)):
        results[start] = out
        bar(min(chunk_size, size - start))
    chunks = [results[start] for start in mine]
    leaves = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
    if jax.process_count() > 1:
        leaves = [_exchange(leaf, len(starts), chunk_size) for leaf in leaves]
    return jax.tree.unflatten(
        _structure(fit_one, data), [leaf[:size] for leaf in leaves]
    )


def _length(data: Any) -> int:
    sizes = {
        jax.tree_util.keystr(path): x.shape[0] if x.shape else None
        for path, x in jax.tree_util.tree_leaves_with_path(data)
        if hasattr(x, "shape")
    }
    if len(sizes) != len(jax.tree.leaves(data)) or not sizes or None in sizes.values():
        raise ValueError("data: expected arrays with one row per fit")
    if len(set(sizes.values())) != 1:
        raise ValueError(f"data: expected the same number of rows, got {sizes}")
    size = max(count for count in sizes.values() if count is not None)
    if size == 0:
        raise ValueError("data: expected at least one row, got none")
    return size


def _local_mesh(mesh: Mesh | None) -> Mesh:
    if mesh is None:
        return Mesh(np.array(jax.local_devices()), (AXIS,))
    if AXIS not in mesh.axis_names or mesh.devices.ndim != 1:
        raise ValueError(
            f"mesh: expected one axis named {AXIS!r}, got {mesh.axis_names}"
        )
    return mesh.local_mesh


def _chunk_size(given: int | None, data: Any, size: int, devices: int) -> int:
    given = as_int(given)
    if given is not None and (type(given) is not int or given < 1):
        raise ValueError(f"chunk_size: expected an int >= 1, got {given!r}")
    if given is None:
        row = sum(
            int(np.prod(x.shape[1:], dtype=np.int64)) * np.dtype(x.dtype).itemsize
            for x in jax.tree.leaves(data)
        )
        given = min(max(CHUNK_BYTES // max(row, 1), 1), MAX_CHUNK)
        # enough chunks to keep every worker busy
        given = min(given, -(-size // (2 * _workers(devices))))
    # A multiple of every vector length: the statistics that follow a fit then meet the
    # same instructions in every chunk, and the answer is the same to the last bit.
    unit = 64 * devices
    return -(-min(given, size) // unit) * unit


def _workers(devices: int) -> int:
    """Return how many chunks are in flight.

    XLA runs one call on one core of a CPU, so a device that is a CPU takes several; any
    other takes two: one computes while the next is copied.
    """
    if jax.default_backend() == "cpu" and devices == 1:
        return max(len(os.sched_getaffinity(0)), 1)
    return 2


def _rows(x: Any, start: int, count: int, size: int) -> np.ndarray | Array:
    """Return the rows of a chunk; the last chunk is filled up with its last row."""
    rows = x[start : min(start + count, size)]
    if not isinstance(rows, jax.Array):
        rows = native(np.asarray(rows))
    missing = count - rows.shape[0]
    if missing:
        xp = jnp if isinstance(rows, jax.Array) else np
        rows = xp.concatenate([rows, xp.repeat(rows[-1:], missing, axis=0)])
    return rows


def _structure(fit_one: Callable, data: Any) -> Any:
    """Return the pytree structure of what ``fit_one`` returns."""
    row = lambda x: jax.ShapeDtypeStruct(
        x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype)
    )
    rows, structure = jax.tree.flatten(jax.tree.map(row, data))
    return _structure_of(fit_one, structure, tuple(rows))


@lru_cache(maxsize=32)  # looking it up takes as long as some thousand fits
def _structure_of(fit_one: Callable, structure: Any, rows: tuple) -> Any:
    out = jax.eval_shape(fit_one, jax.tree.unflatten(structure, rows))
    return jax.tree.structure(out)


@lru_cache(maxsize=32)  # so that a second call with the same function compiles nothing
def _compiled(fit_one: Callable, mesh: Mesh) -> Callable:
    """Return the function of a chunk: each device loops over its own fits only."""
    batch = jax.vmap(fit_one)
    if mesh.devices.size > 1:
        spec = PartitionSpec(AXIS)
        batch = jax.shard_map(
            batch, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
    elif mesh.devices.flat[0] != jax.local_devices()[0]:
        batch = _on(mesh.devices.flat[0], batch)
    return jax.jit(batch)


def _on(device, fn):
    return lambda rows: fn(jax.device_put(rows, device))


def _in_flight(
    work: Callable, starts: list[int], workers: int
) -> Iterator[tuple[int, Any]]:
    """Yield (start, result) as chunks finish, a few at a time in flight."""
    queue = iter(starts)
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future, int] = {}
        try:
            while True:
                while (
                    len(running) < workers and (start := next(queue, None)) is not None
                ):
                    running[pool.submit(work, start)] = start
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _progress_bar(size: int, progress: bool) -> Callable[[int], None]:
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


def _fingerprint(rows: Any) -> int:
    mark = 0
    for leaf in jax.tree.leaves(rows):
        mark = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), mark)
    return mark


def _exchange(leaf: np.ndarray, chunks: int, chunk_size: int) -> np.ndarray:
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
