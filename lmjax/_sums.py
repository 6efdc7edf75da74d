"""Sums over the points of a block of fits, written out as rounds of plain additions.

They vectorise across the fits on the last axis; a ``reduce`` is handed to a library
kernel that wakes up every core for 50 kB. Long sums are folded into eighths first:
short loop bodies, and less rounding than one long sum.
"""

from functools import reduce
from operator import add

from jaxtyping import Array, Float


def sum_points(rows: Float[Array, "m *f"]) -> Float[Array, "*f"]:
    """Return the sum over the first axis."""
    m = rows.shape[0]
    if m == 1:
        return rows[0]
    fold, whole = _fold_size(m)
    folded = [rows[k : k + fold] for k in range(0, whole, fold)]
    return reduce(add, [sum_points(reduce(add, folded)), *rows[whole:]])


def dot_points(a: Float[Array, "m *f"], b: Float[Array, "m *f"]) -> Float[Array, "*f"]:
    """Return the sum of ``a * b`` over the first axis, folded before multiplied."""
    fold, whole = _fold_size(a.shape[0])
    products = [a[k : k + fold] * b[k : k + fold] for k in range(0, whole, fold)]
    rest = [a[k] * b[k] for k in range(whole, a.shape[0])]
    return reduce(add, [sum_points(reduce(add, products)), *rest])


def _fold_size(m: int) -> tuple[int, int]:
    """Return how many rows an eighth has, and how many rows eighths cover."""
    fold = max(m // 8, 1)
    return fold, (m // fold if m < 8 else 8) * fold
