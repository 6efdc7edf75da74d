"""Which element of an array belongs to point k: arithmetic on indices.

The residual of a fit is an array over points. A machine program visits one point at a
time, so an index into an array is either a number or moves with the point.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from lmjax._jax.machine import Unsupported


class PointIndex(NamedTuple):
    """An index that moves with the point: ``start + step * ((k // every) % size)``."""

    every: int
    size: int
    start: int = 0
    step: int = 1

    def at(self, turn: int) -> int:
        """Return its value after so many steps."""
        return self.start + self.step * turn


# Places at which the points may be cut.
MOST_BREAKS = 64
_PART = "it reads a part of an array that was reshaped"
Index = int | PointIndex
# Where an element of an array is: an index for each axis.
Place = tuple[Index, ...]


class Undecided(Unsupported):
    """What is true of some points is not of others.

    Attributes:
        index: The index that decides.
        breaks: Steps of it at which another answer begins.
    """

    def __init__(self, reason: str, index: PointIndex, breaks: list[int]):
        super().__init__(reason)
        self.index, self.breaks = index, breaks


def decided(index: Index, answer: Callable[[int], Any], reason: str) -> Any:
    """Return the answer that is the same for all values of an index.

    Args:
        index: The index.
        answer: Its answers are equal only to those of its neighbours.
        reason: What is said if they are not all equal.

    Raises:
        Undecided: If they are not.
        Unsupported: If there are too many of them.
    """
    if not isinstance(index, PointIndex):
        return answer(index)
    at = lambda turn: answer(index.at(turn))
    last, breaks = at(index.size - 1), [0]
    while at(breaks[-1]) != last:
        if len(breaks) > MOST_BREAKS:
            raise Unsupported(reason)
        same, other = breaks[-1], index.size - 1
        while other - same > 1:
            middle = (same + other) // 2
            if at(middle) == at(breaks[-1]):
                same = middle
            else:
                other = middle
        breaks.append(other)
    if len(breaks) > 1:
        raise Undecided(reason, index, breaks[1:])
    return last


def point_index(size: int, start: int = 0, step: int = 1, every: int = 1) -> Index:
    """Return an index that moves with the point, if it has more than one value."""
    return PointIndex(every, size, start, step) if size > 1 else start


def moved(index: Index, start: int, step: int) -> Index:
    """Return ``start + step * index``."""
    start, step = int(start), int(step)  # jax also has integers of NumPy there
    if not isinstance(index, PointIndex):
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
    for axis in reversed(range(len(shape))):
        index, stride = place[axis], prod(shape[axis + 1 :])
        if not isinstance(index, PointIndex):
            total = moved(total, index * stride, 1)
        elif not isinstance(total, PointIndex):
            total = moved(index, total, stride)
        else:
            # the axis before one that the point runs through: one longer run
            run = total.every * total.size, total.step * total.size
            if run != (index.every, index.step * stride):
                raise Unsupported("it reads two axes in an order of its own")
            start = total.start + index.start * stride
            total = PointIndex(total.every, total.size * index.size, start, total.step)
    return total


def _spread(flat: Index, shape: tuple[int, ...]) -> list[Index]:
    """Return the index along each axis, given that into the flattened array."""
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    result: list[Index] = [0] * len(shape)
    for axis in reversed(wide[1:]):
        flat, result[axis] = _divided(flat, shape[axis])
    for axis in wide[:1]:
        result[axis] = flat
    return result


def _divided(flat: Index, size: int) -> tuple[Index, Index]:
    """Return the row and the column of an index, given how long a row is."""
    if not isinstance(flat, PointIndex):
        return divmod(flat, size)
    every, count, start, step = flat
    if step % size == 0:  # down a column
        return PointIndex(every, count, start // size, step // size), start % size
    first = start % size
    if step > 0 and size % step == 0:
        row, head = size // step, -(-(size - first) // step)
        if head == row and count % row == 0:  # whole rows
            rows = point_index(count // row, start // size, every=every * row)
            return rows, point_index(row, first, step, every)
        if count > head:  # the rest of a row, or whole rows before a part of one
            breaks = [count - count % row if head == row else head]
            raise Undecided(_PART, flat, breaks)
    row = decided(flat, lambda value: value // size, _PART)
    return row, moved(flat, -row * size, 1)
