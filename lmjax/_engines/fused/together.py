"""Points of a pass that are worked out together.

The instructions for a point mostly wait for one another, and a processor looks only so
far ahead for others. Those of several points, written in turns, keep it busy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.values import Name

# How many: a surface of five parameters takes three quarters of its time by fives.
CHOICES = (5, 4, 3)
# Instructions of a point that gives a processor enough to do: so many took as long one
# by one, and a third less to translate.
LONG = 120


class Row(NamedTuple):
    """What a point adds to the sums.

    Attributes:
        exists: Whether there is such a point, where that is not sure.
        columns: Its values.
    """

    exists: Name | None
    columns: list[Any]


def how_many(points: int, instructions: int) -> int:
    """Return how many points are worked out together: so that few places stay empty.

    Args:
        points: How many there are.
        instructions: What a point takes, its sums included.
    """
    if points < min(CHOICES) or instructions > LONG:
        return 1
    return min(CHOICES, key=lambda many: -points % many)


def with_next(code: Code, many: int, work_out: Callable) -> list[Row]:
    """Let the next points be worked out with that of ``code``; return their rows.

    Args:
        code: Has the instructions for its own point.
        many: How many points are worked out together.
        work_out: Writes the same instructions for the point of another code, and
            returns rows of columns.
    """
    size, rows, turns = code.points, [], [code.lines]
    numbers = Code(code.module, "n", point=code.point)
    for i in range(1, many):
        number, exists = numbers.scalar(f"add i64 {code.point}, {i}"), None
        if size % many:
            is_one = numbers.scalar(f"icmp ult i64 {number}, {size}")
            exists = numbers.spread(is_one, "bool")
            # what it reads is there
            last = f"call i64 @llvm.umin.i64(i64 {number}, i64 {size - 1})"
            number = numbers.scalar(last)
        other = Code(code.module, "v", point=number, still=code.still, points=size)
        rows += [Row(exists, columns) for columns in work_out(other)]
        turns.append(other.lines)
        code.moving |= other.moving
    code.moving |= numbers.moving
    lines = [line for lines in zip(*turns, strict=True) for line in lines]
    code.lines = [*numbers.lines, *lines]
    return rows


def if_it_exists(code: Code, row: Row, before: list[Name], after: list) -> list:
    """Return the sums after a point, which are those before it if there is none."""
    if row.exists is None:
        return after
    both = zip(before, after, strict=True)
    return [code.emit("select_n", [row.exists, a, b], a.dtype) for a, b in both]
