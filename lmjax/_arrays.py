"""What users hand over as data, as arrays that jax reads as NumPy does."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def as_array(value: Any) -> np.ndarray | jax.Array:
    """Return an array of what may be a number or a list."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            "x, y, sigma, mask: expected plain arrays, got a masked one; give its "
            ".data, and mask=~array.mask"
        )
    try:
        return native(np.asarray(value))
    except ValueError as error:
        raise ValueError(
            "x, y, sigma, mask: expected lists that are arrays, got one with parts of "
            "unequal length; several data sets go into a dict or tuple, curves of "
            "unequal length into pad_ragged or global_fit"
        ) from error


def native(array: np.ndarray) -> np.ndarray:
    """Return an array that jax reads as NumPy does.

    Of another byte order (FITS files) jax takes the bytes as they are, and integers of
    64 bits it cuts to 32 unless x64 is on.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size:
        limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
        if array.max() > limits.max or array.min() < limits.min:
            array = array.astype(np.float32)
    return array


def as_arrays(value: Any) -> Any:
    """Return an array, or the arrays of several data sets.

    A dict holds data sets, and so does a tuple with more than numbers in it.
    """
    many = isinstance(value, tuple) and any(np.ndim(part) for part in value)
    if value is None or not (many or isinstance(value, Mapping)):
        return value if value is None else as_array(value)
    return jax.tree.map(as_array, value, is_leaf=is_list)


def as_weights(value: Any, y: Any) -> Any:
    """Return sigma or mask as arrays: for several data sets a prefix pytree of y."""
    if value is None or hasattr(y, "shape"):
        return as_arrays(value)
    return jax.tree.map(as_array, value, is_leaf=is_list)


def arrays_of(x: Any) -> Any:
    """Return a pytree of independent variables, its lists and numbers as arrays."""
    return jax.tree.map(as_array, x, is_leaf=is_list)


def is_list(value: Any) -> bool:
    """Return whether a value is a list, which stands for an array."""
    return isinstance(value, list)


def broadcast(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Return an array as large as y, or raise an error that names the argument."""
    try:
        return jnp.broadcast_to(value, shape)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to y, {shape}, got "
            f"{jnp.shape(value)}"
        ) from error
