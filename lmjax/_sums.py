"""Sums over the points of a block of fits, written out as rounds of plain additions.

They vectorise across the fits on the last axis; a ``reduce`` is handed to a library
kernel that wakes up every core for 50 kB. Long sums are folded into eighths first:
short loop bodies, and less rounding than one long sum. There are thousands of them in a
batch, hence `lax`: an operator of `jax.numpy` takes several times longer to trace.
"""

from functools import reduce

from jax import lax
from jaxtyping import Array, Float


def sum_points(rows: Float[Array, "m *f"]) -> Float[Array, "*f"]:
    """Return the sum over the first axis."""
    m = rows.shape[0]
    if m == 1:
        return _row(rows, 0)
    fold, whole = _fold_size(m)
    folded = [_rows(rows, k, fold) for k in range(0, whole, fold)]
    rest = [_row(rows, k) for k in range(whole, m)]
    return reduce(lax.add, [sum_points(reduce(lax.add, folded)), *rest])


def dot_points(a: Float[Array, "m *f"], b: Float[Array, "m *f"]) -> Float[Array, "*f"]:
    """Return the sum of ``a * b`` over the first axis, folded before multiplied."""
    m = a.shape[0]
    fold, whole = _fold_size(m)
    folded = range(0, whole, fold)
    products = [lax.mul(_rows(a, k, fold), _rows(b, k, fold)) for k in folded]
    rest = [lax.mul(_row(a, k), _row(b, k)) for k in range(whole, m)]
    return reduce(lax.add, [sum_points(reduce(lax.add, products)), *rest])


def _rows(x, k, count):
    return lax.slice_in_dim(x, k, k + count)


def _row(x, k):
    return lax.index_in_dim(x, k, keepdims=False)


def _fold_size(m: int) -> tuple[int, int]:
    """Return how many rows an eighth has, and how many rows eighths cover."""
    fold = max(m // 8, 1)
    return fold, (m // fold if m < 8 else 8) * fold
