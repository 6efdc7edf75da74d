"""What goes into a batch and what comes out, as plain arrays with one row per fit.

Random keys are carried as the integers behind them, because NumPy, files and other
processes cannot hold typed keys. ``fit_one`` and the caller see keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from lmjax._errors.advice import calling
from lmjax._jax.arrays import as_array, is_numeric, is_wide
from lmjax._jax.sharded import explicit_axes


class RowType(NamedTuple):
    """The pytree of one row or of one result, hashable.

    Attributes:
        structure: Its structure.
        leaves: Shapes and dtypes of its leaves as plain arrays.
        keys: For each leaf the kind of random key that it holds, or None.
        names: Paths of the leaves.
    """

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    keys: tuple[Any, ...]
    names: tuple[str, ...]

    def restore(self, leaves: list[Any]) -> Any:
        """Return the pytree of plain arrays like these."""
        wrap = lambda leaf, key: jax.random.wrap_key_data(jnp.asarray(leaf), impl=key)
        whole = [
            leaf if key is None else wrap(leaf, key)
            for leaf, key in zip(leaves, self.keys, strict=True)
        ]
        return jax.tree.unflatten(self.structure, whole)

    def describe(self) -> list[list[Any]]:
        """Return names, shapes and dtypes for a file."""
        return [
            [name, list(leaf.shape), str(leaf.dtype if key is None else key)]
            for name, leaf, key in zip(self.names, self.leaves, self.keys, strict=True)
        ]


class Table(NamedTuple):
    """The data of a batch: arrays or anything that slices, and their rows."""

    leaves: list[Any]
    size: int
    row: RowType


def table(data: Any) -> Table:
    """Return the data of a batch, as a user gave them, as a `Table`.

    Raises:
        TypeError: If there are other things than numbers and random keys.
        ValueError: If arrays differ in length or are empty.
    """
    pairs = tree_leaves_with_path(data, is_leaf=_is_array_of_lists)
    structure = jax.tree.structure(data, is_leaf=_is_array_of_lists)
    names = tuple("data" + keystr(path) for path, _ in pairs)
    leaves = [_source(name, leaf) for name, (_, leaf) in zip(names, pairs, strict=True)]
    sizes = {name: _rows_of(leaf) for name, leaf in zip(names, leaves, strict=True)}
    if not sizes or None in sizes.values():
        raise ValueError("data: expected arrays with one row per fit")
    if len(set(sizes.values())) != 1:
        raise ValueError(f"data: expected the same number of rows, got {sizes}")
    size = max(count for count in sizes.values() if count is not None)
    if size == 0:
        raise ValueError("data: expected at least one row, got none")
    keys = tuple(_kind_of_key(leaf) for leaf in leaves)
    leaves = [_plain(leaf) for leaf in leaves]
    rows = tuple(jax.ShapeDtypeStruct(x.shape[1:], _dtype(x.dtype)) for x in leaves)
    return Table(leaves, size, RowType(structure, rows, keys, names))


def some_rows(data: Table) -> list[np.ndarray]:
    """Return the first rows, for the check of what float32 would lose."""
    count = min(8, data.size)
    parts = [
        rows(name, x, 0, count, data.size)
        for name, x in zip(data.row.names, data.leaves, strict=True)
        if not isinstance(x, jax.Array)
    ]
    arrays = map(np.asarray, parts)
    # rows of one number each are checked together: alone they have no spread
    each = [[part] if part.ndim == 1 else list(part) for part in arrays]
    return [row for part in each for row in part]


def result_type(fit_of: Callable, numbers: Any, row: RowType) -> RowType:
    """Return what ``fit_of(numbers)`` makes of a row."""
    seen = {}  # filled in by the trace: what shapes alone do not tell

    def results(numbers, leaves):
        out = calling(fit_of(numbers), "fit_one(row)")(row.restore(leaves))
        seen["structure"] = jax.tree.structure(out)
        seen["names"] = tuple(keystr(path) for path, _ in tree_leaves_with_path(out))
        seen["keys"] = tuple(_kind_of_key(leaf) for leaf in jax.tree.leaves(out))
        return tuple(plain(out))

    leaves = jax.eval_shape(results, numbers, list(row.leaves))
    if not leaves:
        raise TypeError(
            "fit_one: expected a function that returns a fit or arrays, got one that "
            "returns nothing (is its return missing?)"
        )
    return RowType(leaves=leaves, **seen)


def plain(tree: Any) -> list[Any]:
    """Return the leaves of a pytree as plain arrays."""
    return [_plain(leaf) for leaf in jax.tree.leaves(tree)]


def rows(
    name: str, x: Any, start: int, count: int, size: int
) -> np.ndarray | jax.Array:
    """Return the rows of a chunk; the last chunk is filled up with its last row."""
    part = as_array(name, x[start : min(start + count, size)])
    missing = count - part.shape[0]
    if missing:
        xp = jnp if isinstance(part, jax.Array) else np
        part = xp.concatenate([part, xp.repeat(part[-1:], missing, axis=0)])
    return part


def _is_array_of_lists(value: Any) -> bool:
    """Return whether a list stands for an array: nothing but numbers in it."""
    number = lambda part: isinstance(part, bool | int | float | complex)
    listed = isinstance(value, list) and len(value) > 0
    return listed and all(number(part) or _is_array_of_lists(part) for part in value)


def _source(name: str, leaf: Any) -> Any:
    """Return something that has a shape and a dtype of NumPy, and slices by position.

    What does so already is returned unread: a file need not fit into memory.
    """
    if isinstance(leaf, jax.Array):
        return leaf
    dtype = getattr(leaf, "dtype", None)
    fine = isinstance(dtype, np.dtype) and is_numeric(dtype) and not is_wide(dtype)
    odd = hasattr(leaf, "iloc") or isinstance(leaf, np.ma.MaskedArray)
    if fine and hasattr(leaf, "shape") and not odd:
        return leaf
    if isinstance(leaf, bool | int | float | str | bytes) or leaf is None:
        return leaf  # no array at all
    return as_array(name, leaf)


def _rows_of(leaf: Any) -> int | None:
    shape = getattr(leaf, "shape", ())
    return shape[0] if shape else None


def _dtype(dtype: Any) -> np.dtype:
    return jax.dtypes.canonicalize_dtype(np.dtype(dtype).newbyteorder("="))


def _kind_of_key(leaf: Any) -> Any:
    """Return the kind of random key that an array holds, None if it holds none."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_impl(leaf)
    return None


def _plain(leaf: Any) -> Any:
    if _kind_of_key(leaf) is not None:
        return jax.random.key_data(leaf)
    # rows are taken in an order of their own, whatever a mesh of explicit axes says
    return np.asarray(leaf) if explicit_axes(leaf) else leaf
