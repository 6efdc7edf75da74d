"""Which element of an array belongs to point k: arithmetic on indices.

The residual of a fit is an array over points. A machine program visits one point at a
time, so an index into an array is either a number or moves with the point.
"""

from math import prod
from typing import NamedTuple


class Unsupported(Exception):
    """The residual cannot be worked out one point at a time; says why."""


class Along(NamedTuple):
    """An index that moves with the point: ``start + step * ((k // every) % size)``."""

    every: int
    size: int
    start: int = 0
    step: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether it runs through all of an axis, in order."""
        return self.start == 0 and self.step == 1


Index = int | Along
Place = tuple[Index, ...]


def moved(index: Index, start: int, step: int) -> Index:
    """Return ``start + step * index``."""
    if isinstance(index, int):
        return start + step * index
    return index._replace(start=start + step * index.start, step=step * index.step)


def reshaped(place: Place, shape: tuple[int, ...], old: tuple[int, ...]) -> Place:
    """Return the place in an array of shape ``old`` that was reshaped to ``shape``."""
    result: list[Index] = []
    i = j = 0
    while i < len(old) or j < len(shape):
        # the next groups of axes that hold equally many elements
        first, second = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(shape))
        while prod(old[first:i]) != prod(shape[second:j]):
            if prod(old[first:i]) < prod(shape[second:j]):
                i += 1
            else:
                j += 1
        flat = _flat(place[second:j], shape[second:j])
        result += _spread(flat, old[first:i])
    return tuple(result)


def _flat(place: Place, shape: tuple[int, ...]) -> Index:
    """Return the index into the flattened array."""
    total: Index = 0
    size = 1  # of what `total` runs through, while that moves with the point
    for axis in reversed(range(len(shape))):
        index, stride = place[axis], prod(shape[axis + 1 :])
        if isinstance(index, int):
            total = moved(total, index * stride, 1)
        elif isinstance(total, int):
            total, size = moved(index, total, stride), index.size
        else:
            # the axis before one that the point runs through: one longer run
            joined = index.is_plain and total.is_plain and stride == size
            if not (joined and index.every == total.every * total.size):
                raise Unsupported("it reads two axes in an order of its own")
            size *= index.size
            total = Along(total.every, size)
    return total


def _spread(flat: Index, shape: tuple[int, ...]) -> list[Index]:
    """Return the index along each axis, given that into the flattened array."""
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    result: list[Index] = [0] * len(shape)
    if isinstance(flat, Along) and len(wide) > 1 and flat.size != prod(shape):
        raise Unsupported("it reads a part of an array that was reshaped")
    for axis in wide:
        stride, size = prod(shape[axis + 1 :]), shape[axis]
        if isinstance(flat, int):
            result[axis] = flat // stride % size
        elif len(wide) == 1:
            result[axis] = flat
        elif flat.is_plain:
            result[axis] = Along(flat.every * stride, size)
        else:
            raise Unsupported("it reads a part of an array that was reshaped")
    return result
