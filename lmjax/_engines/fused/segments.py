"""Segments of the points, in each of which a program is the same.

Arrays that are joined along the points make a program that differs from point to point:
the points are cut until each segment of them knows which of the parts it reads. Only
that part is worked out, and what it reads is there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lmjax._engines.fused.indices import (
    MOST_BREAKS,
    Index,
    PointIndex,
    Undecided,
    Unsupported,
    point_index,
)


class Segment(NamedTuple):
    """Points that are visited by one loop.

    Attributes:
        size: How many there are.
        residuals: Which residuals each of them has, as indices that move with it.
    """

    size: int
    residuals: list[Index]


def segments(
    ask: Callable[[Index], Any], points: int, in_order: bool = False
) -> list[Segment]:
    """Return how the points are visited.

    Segments of one length are visited together: what they have in common, as the two
    parts of a complex signal, is computed once.

    Args:
        ask: Raises `Undecided` where the residuals of an index are not all made alike.
        points: How many there are.
        in_order: Whether they must be visited one after the other.

    Raises:
        Unsupported: If no cutting helps.
    """
    left, found = [point_index(points)], []
    while left:
        index = left.pop(0)
        try:
            ask(index)
        except Undecided as undecided:
            left = [*_pieces(index, undecided), *left]
            if len(left) + len(found) > MOST_BREAKS:
                raise Unsupported(str(undecided)) from undecided
        else:
            found.append(index)
    if in_order:
        if any(isinstance(index, PointIndex) and index.step != 1 for index in found):
            raise Unsupported("it loops over rows that were joined within")
        return [Segment(_size(index), [index]) for index in found]
    by_size: dict[int, list[Index]] = {}
    for index in found:
        by_size.setdefault(_size(index), []).append(index)
    return [Segment(size, indices) for size, indices in by_size.items()]


def _size(index: Index) -> int:
    return index.size if isinstance(index, PointIndex) else 1


def _pieces(whole: Index, undecided: Undecided) -> list[Index]:
    """Return the parts of an index within which the answer may be the same."""
    inner, size = undecided.index, _size(whole)
    period = inner.every * inner.size
    if period == size:
        ends = [turn * inner.every for turn in (0, *undecided.breaks, inner.size)]
        cuts = [(a, b - a, 1) for a, b in zip(ends, ends[1:], strict=False)]
    elif inner.every == 1:  # it comes again and again: one piece per answer
        cuts = [(turn, size // period, period) for turn in range(period)]
    else:
        cuts = [(first, period, 1) for first in range(0, size, period)]
    return [_part(whole, *cut) for cut in cuts]


def _part(whole: Index, first: int, size: int, step: int) -> Index:
    if not isinstance(whole, PointIndex):
        return whole
    return point_index(size, whole.at(first), whole.step * step)
