"""Batches too large for one call: chunks, several devices, checkpoints.

`fit_batch` adds bounded memory, all devices, progress and checkpoints to ``jax.vmap``.
"""

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lmjax._batch import packing
from lmjax._batch.checkpoint import Checkpoint, describe, opened
from lmjax._batch.chunks import (
    check_progress,
    checksum_of,
    counter,
    gather_chunks,
    run_chunks,
)
from lmjax._batch.packing import RowType, Table
from lmjax._jax.arrays import leaves_of
from lmjax._jax.captured_values import CapturedValues
from lmjax._jax.closures import Split, as_pytree, unwrapped
from lmjax._jax.program_hash import program_hash
from lmjax._problem.precision import rounds, warn_of_rounded
from lmjax._solver.settings import as_int

AXIS = "fits"
# Bytes and fits of a chunk at most: a call costs little beside its work, and several
# fit into memory. The second is for short rows, whose results are larger than they.
CHUNK_BYTES = 2**26
MAX_CHUNK = 2**17


def fit_batch(
    fit_one: Callable[[Any], Any],
    data: Any,
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool | Callable[[Any], None] = False,
    checkpoint: str | Path | None = None,
) -> Any:
    """Return ``fit_one`` of each row of ``data``, chunk by chunk.

    The result is that of ``jax.vmap(fit_one)(data)``. Memory is bounded: data are read
    chunk by chunk and need not fit into it. All local devices are used; while one chunk
    is computed, the next is copied to the device. On a CPU several chunks are computed
    at once, one per core.

    Under ``jax.distributed`` every process calls this with the same arguments, works on
    its own share of the chunks and returns all results.

    Args:
        fit_one: Function of one row that returns any pytree of arrays. Return only what
            you need. Rows keep their dtype, so convert integers (camera counts) to
            floats inside. The function is compiled once, and again if a number or NumPy
            array that it reads (from a closure, an attribute, a global) has changed.
        data: Pytree of arrays with one row per fit: NumPy or JAX arrays (random keys,
            too), lists of numbers, tables of pandas (as arrays), ``np.memmap``, h5py or
            zarr data sets, or anything else with a ``shape``, a ``dtype`` and slices.
        chunk_size: Fits per chunk, rounded up to a multiple of 64 per device. None
            chooses by the size of a row.
        mesh: Mesh with one axis named "fits" to spread each chunk over. None takes all
            local devices.
        progress: Show a progress bar (needs tqdm). Or a function that is called with
            the results of each chunk as it is done, in any order.
        checkpoint: Folder that keeps finished chunks. A later call of the same job
            computes only the others, and its result is the same to the last bit. A job
            is the same if its data, the shapes and dtypes of its results,
            ``jax_enable_x64`` and all that ``fit_one`` computes are, starts and
            constants included; a folder that holds another job is an error. A damaged
            chunk is computed again, with a warning.

    Returns:
        The results in the order of the rows, as NumPy arrays with a leading axis
        (random keys as jax arrays).

    Raises:
        ValueError: If the arrays of ``data`` differ in length or are empty, the mesh
            has no axis "fits", or the checkpoint belongs to another job.
        TypeError: If data are no numbers, or masked.
        RuntimeError: If another call is using the checkpoint.
        OSError: If the checkpoint cannot be written; finished chunks are kept.

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
    if not callable(fit_one):
        raise TypeError(f"fit_one: expected a function of one row, got {fit_one!r}")
    check_progress(progress)
    if checkpoint is not None and not (
        isinstance(checkpoint, str | os.PathLike) and str(checkpoint)
    ):
        raise TypeError(f"checkpoint: expected a folder, got {checkpoint!r}")
    data = packing.table(data)
    if rounds():
        warn_of_rounded(data=packing.some_rows(data))
    mesh = _local_mesh(mesh)
    chunk_size = as_int(chunk_size)
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise ValueError(f"chunk_size: expected an int >= 1, got {chunk_size!r}")
    fit, numbers = _split(fit_one)
    call = _Call(fit, tuple(map(jax.typeof, numbers)), data.row)
    if checkpoint is None and not _cached(_captured, call).changes(fit_one):
        program, results = None, _cached(_result_type, call)
    else:
        # without the cache: the function as it is now, not as it was when compiled
        results = _result_type.__wrapped__(call)
        held = jax.tree.unflatten(fit, numbers)
        of_row = lambda leaves: held(data.row.restore(leaves))
        program = program_hash(of_row, [*data.row.leaves])
    compute = partial(_cached(_compiled, call, mesh, program), numbers)
    done = counter(progress, data.size, results.restore)
    if checkpoint is None:
        chunk_size = _chunk_size(chunk_size, data, mesh.devices.size)
        leaves = _run(compute, data, chunk_size, mesh, done, None)
    else:
        assert program is not None
        job = describe(data.size, data.row, results, program)
        with opened(checkpoint, job, results) as saved:
            chosen = saved.chunk_size if chunk_size is None else chunk_size
            size = _chunk_size(chosen, data, mesh.devices.size)
            saved.begin(size)
            leaves = _run(compute, data, size, mesh, done, saved)
        saved.report()
    return results.restore([leaf[: data.size] for leaf in leaves])


def _run(
    compute: Callable,
    data: Table,
    chunk_size: int,
    mesh: Mesh,
    done: Callable[[list[np.ndarray]], None],
    saved: Checkpoint | None,
) -> list[np.ndarray]:
    """Return the results of all chunks, those of other processes among them."""
    starts = range(0, data.size, chunk_size)
    mine = list(starts)[jax.process_index() :: jax.process_count()]

    def work(start: int) -> list[np.ndarray]:
        rows = [
            packing.rows(name, x, start, chunk_size, data.size)
            for name, x in zip(data.row.names, data.leaves, strict=True)
        ]
        checksum = checksum_of(rows) if saved else 0
        leaves = saved.load(start, checksum) if saved else None
        if leaves is None:
            leaves = [np.asarray(leaf) for leaf in compute(rows)]
            if saved:
                saved.save(start, checksum, leaves)
        return leaves

    results: dict[int, list[np.ndarray]] = {}
    for start, out in run_chunks(work, mine, _workers(mesh.devices.size)):
        results[start] = out
        done([leaf[: data.size - start] for leaf in out])
    chunks = [results[start] for start in mine]
    leaves = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
    if jax.process_count() > 1:
        leaves = [gather_chunks(leaf, len(starts), chunk_size) for leaf in leaves]
    return leaves


class _Call(NamedTuple):
    """A function of a row without the numbers that it holds: a key of caches.

    Attributes:
        structure: The function as a pytree.
        numbers: Shapes and dtypes of its leaves.
        row: What it is called with.
    """

    structure: Any
    numbers: tuple[Any, ...]
    row: RowType


def _split(fit_one: Callable) -> tuple[Any, list[Any]]:
    """Return a function as a pytree, and the arrays that it holds as a Module."""
    if isinstance(fit_one, eqx.Module):
        is_number = lambda leaf: isinstance(leaf, jax.Array | np.ndarray)
        fit_one = leaves_of("fit_one", fit_one)
        fit_one = Split(*eqx.partition(fit_one, is_number))
    numbers, structure = jax.tree.flatten(as_pytree(fit_one))
    return structure, numbers


def _local_mesh(mesh: Mesh | None) -> Mesh:
    if mesh is None:
        return Mesh(np.array(jax.local_devices()), (AXIS,))
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh, got {mesh!r}")
    if AXIS not in mesh.axis_names or mesh.devices.ndim != 1:
        raise ValueError(
            f"mesh: expected one axis named {AXIS!r}, got {mesh.axis_names}"
        )
    return mesh.local_mesh


def _chunk_size(given: int | None, data: Table, devices: int) -> int:
    if given is None:
        row = sum(
            int(np.prod(x.shape, dtype=np.int64)) * np.dtype(x.dtype).itemsize
            for x in data.row.leaves
        )
        given = min(max(CHUNK_BYTES // max(row, 1), 1), MAX_CHUNK)
        # enough chunks to keep every worker busy
        given = min(given, -(-data.size // (2 * _workers(devices))))
    # A multiple of every vector length: the statistics that follow a fit then meet the
    # same instructions in every chunk, and the answer is the same to the last bit.
    unit = 64 * devices
    return -(-min(given, data.size) // unit) * unit


def _workers(devices: int) -> int:
    """Return how many chunks are in flight.

    XLA runs one call on one core of a CPU, so a device that is a CPU takes several; any
    other takes two: one computes while the next is copied.
    """
    if jax.default_backend() == "cpu" and devices == 1:
        return max(len(os.sched_getaffinity(0)), 1)
    return 2


def _cached(make: Any, *given: Any) -> Any:
    """Call a cached function, past its cache if an argument has no hash."""
    try:
        hash(given)
    except TypeError:
        return make.__wrapped__(*given)
    return make(*given)


@lru_cache(maxsize=32)  # the trace takes as long as some thousand fits
def _result_type(call: _Call) -> RowType:
    fit = lambda numbers: jax.tree.unflatten(call.structure, numbers)
    return packing.result_type(fit, call.numbers, call.row)


@lru_cache(maxsize=32)
def _captured(call: _Call) -> CapturedValues:
    """Return what the function read from outside at its first call."""
    return CapturedValues(unwrapped(jax.tree.unflatten(call.structure, call.numbers)))


@lru_cache(maxsize=32)  # so that a second call with the same function compiles nothing
def _compiled(call: _Call, mesh: Mesh, program: str | None) -> Callable:
    """Return the function of a chunk: each device loops over its own fits only.

    ``program`` is the hash of what the function does, if that is known.
    """

    def one(numbers, leaves):
        fit = jax.tree.unflatten(call.structure, numbers)
        return packing.plain(fit(call.row.restore(leaves)))

    batch = jax.vmap(one, in_axes=(None, 0))
    if mesh.devices.size > 1:
        spec = PartitionSpec(AXIS)
        batch = jax.shard_map(
            batch,
            mesh=mesh,
            in_specs=(PartitionSpec(), spec),
            out_specs=spec,
            check_vma=False,
        )
    elif mesh.devices.flat[0] != jax.local_devices()[0]:
        batch = _on(mesh.devices.flat[0], batch)
    return jax.jit(batch)


def _on(device, fn):
    return lambda *given: fn(*jax.device_put(given, device))
