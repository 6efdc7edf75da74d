"""An array of several axes as rows, one per fit, without reading all of it."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np


def rows_of(values: Any, axes: Sequence[int]) -> Any:
    """Return an array whose first axis counts fits; the axes of the points come last.

    Arrays that are in memory are reshaped. Those on disk are read row by row, unless
    the points lie along their first axis.
    """
    inner = [values.shape[axis] for axis in axes]
    shape = (prod(n for k, n in enumerate(values.shape) if k not in axes), *inner)
    if isinstance(values, np.ndarray) or 0 in axes or any(a < 0 for a in axes):
        array = values if isinstance(values, np.ndarray) else np.asarray(values[:])
        moved = np.moveaxis(array, axes, range(-len(axes), 0))
        return moved.reshape(shape)
    return _Rows(values, tuple(axes), shape)


class _Rows:
    """Rows of an array on disk; slices read what they need of its first axis."""

    def __init__(self, values: Any, axes: tuple[int, ...], shape: tuple[int, ...]):
        self.values, self.axes, self.shape = values, axes, shape
        self.dtype = values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, step = index.indices(self.shape[0])
        each = self.shape[0] // self.values.shape[0]  # rows per element of that axis
        first, last = start // each, -(-stop // each)
        part = np.moveaxis(
            np.asarray(self.values[first:last]),
            self.axes,
            range(-len(self.axes), 0),
        )
        rows = part.reshape(-1, *self.shape[1:])
        return rows[start - first * each : stop - first * each : step]
