"""Curves of unequal length as one array with a mask."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from lmjax._errors.checks import check_real
from lmjax._jax.arrays import as_array


def pad_ragged(
    curves: list[Any], fill: float | None = None
) -> tuple[np.ndarray, Bool[np.ndarray, "b m"]]:
    """Return curves of unequal length as one array, and the mask of what is real.

    Args:
        curves: One-dimensional arrays (or arrays that differ in their first axis only).
            The mask of a numpy.ma array is kept.
        fill: Value of the padding, which the mask keeps out of the fit. None repeats
            the last value of each curve: as x, a model can be evaluated there.

    Example:
        >>> import lmjax
        >>> y, mask = lmjax.pad_ragged([[1.0, 2.0, 3.0], [4.0]])
        >>> mask.tolist()
        [[True, True, True], [True, False, False]]
    """
    if fill is not None:
        check_real("fill", fill)
        if np.ndim(fill):
            raise ValueError(f"fill: expected a number, got shape {np.shape(fill)}")
    return padded("curves", curves, fill)[:2]


def padded(
    name: str, curves: list[Any], fill: float | None = None
) -> tuple[np.ndarray, Bool[np.ndarray, "b m"], list[int]]:
    """Return what `pad_ragged` does, and the length of each curve.

    ``name`` is that of the argument, for errors.
    """
    if isinstance(curves, Mapping) or hasattr(curves, "columns"):
        raise TypeError(
            f"{name}: expected a list of curves, got a {type(curves).__name__}; give "
            "list(curves.values()), or the columns of a table that are curves"
        )
    try:
        curves = list(curves)
    except TypeError:
        raise TypeError(f"{name}: expected a list of curves, got {curves!r}") from None
    masked = [isinstance(curve, np.ma.MaskedArray) for curve in curves]
    arrays = [
        np.asarray(as_array(f"{name}[{k}]", curve.data if mask else curve))
        for k, (curve, mask) in enumerate(zip(curves, masked, strict=True))
    ]
    if not arrays:
        raise ValueError(f"{name}: expected at least one curve, got none")
    trailing = {array.shape[1:] for array in arrays}
    if len(trailing) > 1 or not all(array.ndim for array in arrays):
        raise ValueError(
            f"{name}: expected arrays that differ in their first axis only, got shapes "
            f"{[array.shape for array in arrays]}"
        )
    lengths = [len(array) for array in arrays]
    dtype = np.result_type(*arrays, *([] if fill is None else [fill]))
    shape = (len(arrays), max(lengths), *arrays[0].shape[1:])
    whole = np.full(shape, 0 if fill is None else fill, dtype)
    mask = np.zeros(shape[:2], bool)
    for row, (curve, array) in enumerate(zip(curves, arrays, strict=True)):
        whole[row, : len(array)] = array
        if fill is None and len(array):
            whole[row, len(array) :] = array[-1]
        mask[row, : len(array)] = True
        if masked[row]:  # a point counts if none of its numbers is masked
            points = np.ma.getmaskarray(curve).reshape(len(array), -1)
            mask[row, : len(array)] = ~points.any(axis=1)
    return whole, mask, lengths
