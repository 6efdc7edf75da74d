"""Conversion of user data to arrays that jax reads as NumPy does.

All public functions read their data here: tables and series of pandas and xarray,
lists, other byte orders. Data that are not numbers, and masked arrays that would lose
their mask, raise an error that names the argument.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

# What jax reads as it is. Integers of 64 bits are checked, see `native`.
_PLAIN = frozenset(np.dtype(code) for code in ("f4", "f8", "?", "i4", "i2", "u1", "u2"))


def as_array(name: str, value: Any) -> np.ndarray | jax.Array:
    """Return an array of numbers; ``name`` is that of the argument, for errors.

    Raises:
        TypeError: If it holds no numbers, or masks some of them.
        ValueError: If it is a list with parts of unequal length.
    """
    if isinstance(value, jax.Array):
        if not hasattr(value.dtype, "kind"):
            raise TypeError(f"{name}: expected numbers, got random keys")
        return value
    if _is_plain(value):
        return value
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise TypeError(
                f"{name}: expected a plain array, got a masked one; give its .data, "
                "and mask=~numpy.ma.getmaskarray(array) where points are left out"
            )
        value = value.data
    array = _read(name, value)
    return array if isinstance(array, jax.Array) else native(array)


def _is_plain(value: Any) -> bool:
    return type(value) is np.ndarray and value.dtype in _PLAIN


def _read(name: str, value: Any) -> np.ndarray | jax.Array:
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list of traced numbers
        return jnp.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected lists that are arrays, got one with parts of unequal "
            "length; several data sets go into a dict or tuple, curves of unequal "
            "length into pad_ragged or global_fit"
        ) from error
    if array.dtype.kind == "O" and _is_nullable(value):
        array = value.to_numpy(dtype=float, na_value=np.nan)
    if is_numeric(array.dtype):
        return array
    raise TypeError(f"{name}: expected numbers, got {_kind_of(value, array.dtype)}")


def is_numeric(dtype: np.dtype) -> bool:
    """Return whether jax computes with a dtype, once it is `native`.

    Those of ml_dtypes, such as bfloat16, are numbers, though NumPy does not know it.
    """
    of_ml_dtypes = dtype.kind == "V" and jnp.issubdtype(dtype, np.number)
    return dtype.kind in "biufc" or of_ml_dtypes


def is_wide(dtype: np.dtype) -> bool:
    """Return whether floats have more than the 64 bits that jax knows."""
    return dtype.itemsize > {"f": 8, "c": 16}.get(dtype.kind, np.inf)


def _columns(value: Any) -> list[tuple[Any, Any]]:
    """Return the columns of a table with their dtypes; a series has one."""
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        return list(zip(value.columns, value.dtypes, strict=True))
    return [(None, getattr(value, "dtype", None))]


def _letter(dtype: Any) -> str:
    """Return the kind of a dtype; O for what only looks like one."""
    kind = getattr(dtype, "kind", "O")
    return kind if isinstance(kind, str) else "O"


def _is_nullable(value: Any) -> bool:
    """Return whether only missing numbers of pandas kept an array from being one."""
    kinds = [_letter(dtype) for _, dtype in _columns(value)]
    return hasattr(value, "to_numpy") and all(kind in "biuf" for kind in kinds)


def _kind_of(value: Any, dtype: np.dtype) -> str:
    """Return what an array holds instead of numbers, and what to do about it."""
    strange = [
        (column, each)
        for column, each in _columns(value)
        if each is not None and _letter(each) not in "biufc"
    ]
    column, dtype = strange[0] if strange else (None, dtype)
    where = "" if column is None else f" in column {column!r}"
    hint = "convert it first, with .astype(float) if it holds numbers"
    if _letter(dtype) in "mM":
        hint = 'subtract the first and divide by a unit, numpy.timedelta64(1, "s")'
    if getattr(dtype, "fields", None):
        hint = "give its fields as a dict of arrays"
    given = "" if hasattr(value, "dtype") else f" (of a {type(value).__name__})"
    return f"dtype {dtype}{where}{given}; {hint}"


def native(array: np.ndarray) -> np.ndarray:
    """Return an array that jax reads as NumPy does.

    jax misreads other byte orders (FITS files), refuses floats of 128 bits, and cuts
    integers of 64 bits to 32 unless x64 is on.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if is_wide(array.dtype):
        array = array.astype(complex if array.dtype.kind == "c" else float)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size:
        limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
        if array.max() > limits.max or array.min() < limits.min:
            # `lmjax._problem.precision` warns if that loses digits
            array = array.astype(np.float64)
    return array


def as_arrays(name: str, value: Any) -> Any:
    """Return an array, or the arrays of several data sets.

    A dict holds data sets, and so does a tuple with more than numbers in it.
    """
    many = isinstance(value, tuple) and any(np.ndim(part) for part in value)
    if value is None or not (many or isinstance(value, Mapping)):
        return value if value is None else as_array(name, value)
    return arrays_of(name, value)


def as_weights(name: str, value: Any, y: Any) -> Any:
    """Return sigma or mask as arrays: for several data sets a prefix pytree of y."""
    if value is None or hasattr(y, "shape"):
        return as_arrays(name, value)
    return arrays_of(name, value)


def arrays_of(name: str, tree: Any) -> Any:
    """Return a pytree of independent variables, its lists and numbers as arrays."""
    return _map(name, tree, lambda leaf: False)


def leaves_of(name: str, tree: Any) -> Any:
    """Return a pytree of starts, bounds or arguments, what is like an array as one.

    Numbers stay as they are: their types are weak. What jax cannot take is left for jax
    to refuse.
    """
    return _map(name, tree, _is_no_array, is_list=lambda leaf: False)


def _is_no_array(leaf: Any) -> bool:
    if type(leaf) is float:  # nearly all that comes by
        return True
    return not (hasattr(leaf, "__array__") or isinstance(leaf, Mapping))


def is_list(value: Any) -> bool:
    """Return whether a value is a list, which stands for an array."""
    return isinstance(value, list)


def _map(name: str, tree: Any, stays, is_list=is_list) -> Any:
    fine = lambda leaf: _is_plain(leaf) or stays(leaf) or isinstance(leaf, jax.Array)
    if all(map(fine, jax.tree.leaves(tree, is_leaf=is_list))):
        return tree

    def convert(path, leaf):
        where = name + jax.tree_util.keystr(path)
        if isinstance(
            leaf, Mapping
        ):  # of which jax does not know, as an xarray.Dataset
            return {key: as_array(f"{where}[{key!r}]", leaf[key]) for key in leaf}
        return leaf if fine(leaf) else as_array(where, leaf)

    return jax.tree_util.tree_map_with_path(convert, tree, is_leaf=is_list)


def broadcast(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Return an array as large as y, or raise an error that names the argument."""
    try:
        return jnp.broadcast_to(value, shape)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to y, {shape}, got "
            f"{jnp.shape(value)}"
        ) from error
