"""Cholesky's factorisation of a sparse matrix of small square blocks.

The pattern is worked out once on the host: an order of the rows that keeps the factor
sparse, and the places of its blocks (SuperLU, through SciPy). The numbers are worked
out by machine code, column by column: factor the diagonal block, solve with the blocks
below it, subtract their products from the columns to the right.

References:
    Davis (2006), Direct Methods for Sparse Linear Systems, chapter 4 (right-looking
    Cholesky); Liu (1985), ACM TOMS 11, 141-153, for the minimum-degree order.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from lmjax._linalg.blocks.loops import KINDS, Loops, function


class Pattern(NamedTuple):
    """Where the blocks of a factor are, column by column.

    Attributes:
        place: Where each row of the matrix stands in the new order.
        starts: Where each column begins among the blocks, and where the last ends.
        rows: Row of each block in the new order, the diagonal block first.
    """

    place: np.ndarray
    starts: np.ndarray
    rows: np.ndarray

    def find(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return which block holds entry (i, j), or (j, i), of the lower triangle."""
        i, j = self.place[i], self.place[j]
        row, column = np.maximum(i, j), np.minimum(i, j)
        columns = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        keys = columns.astype(np.int64) * len(self.place) + self.rows
        return np.searchsorted(keys, column.astype(np.int64) * len(self.place) + row)


def pattern(n: int, i: np.ndarray, j: np.ndarray) -> Pattern:
    """Return the pattern of the factor of an n x n matrix with entries at (i, j)."""
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    upper = csc_matrix((np.ones(len(i)), (i, j)), shape=(n, n))
    graph = upper + upper.T
    graph.setdiag(0.0)
    graph.data = -np.ones_like(graph.data)
    graph.setdiag(1.0 + np.asarray(-graph.sum(axis=1)).ravel())
    # for its order alone: of numbers that underflow it would drop the places
    found = splu(
        graph.tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    place = found.perm_c.astype(np.int32)
    graph = graph.tocoo()
    rows, columns = place[graph.row], place[graph.col]
    below = rows > columns
    return _eliminated(place, rows[below], columns[below])


def _eliminated(place: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Pattern:
    """Return the pattern of a factor, from entries below the diagonal.

    A column has its own entries and those of the columns whose first row it is.

    References:
        Davis (2006), section 4.1, equation 4.3.
    """
    n = len(place)
    order = np.argsort(columns, kind="stable")
    ends = np.searchsorted(columns[order], np.arange(n + 1))
    own = np.split(rows[order], ends[1:-1])
    passed: list[list] = [[] for _ in range(n)]
    found, starts = [], [0]
    for column in range(n):
        below = set(own[column].tolist()).union(*passed[column])
        below.discard(column)
        listed = sorted(below)
        if listed:
            passed[listed[0]].append(listed)
        passed[column] = []
        found += [column, *listed]
        starts.append(len(found))
    return Pattern(place, np.array(starts, np.int32), np.array(found, np.int32))


@cache
def factorization(size: int, dtype: str) -> str:
    """Return the function that factors a matrix.

    Its arguments: number of block columns, starts and rows of the `Pattern`, and the
    blocks of the lower triangle in its order, each with the columns one after the
    other. Its result: the factor in their places. A matrix that is not positive
    definite gives NaN.

    Args:
        size: Rows of a block.
        dtype: Of the numbers.
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        columns, starts, rows, blocks = arguments
        factor = results[0]
        n = code.integer(columns, 0)
        blocks_end = code.integer(starts, n)
        kernel = _Columns(code, kind, size, starts, rows, factor)
        with code.loop(0, blocks_end) as k:
            at = code.index("mul", k, size * size)
            for c in range(size):
                here = code.index("add", at, c * size)
                column = code.load(kind, blocks, here, size)
                code.store(kind, factor, here, column, size)
        position = code.variable("0")
        with code.loop(0, n) as j:
            kernel.eliminate(j, position)

    return function(body, 4, 1)


@cache
def substitution(size: int, dtype: str) -> str:
    """Return the function that solves with a factor.

    Its arguments: number of block columns, starts and rows of the `Pattern`, the
    factor, and the right-hand side (columns, size). Its result: the solution.

    Args:
        size: Rows of a block.
        dtype: Of the numbers.
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        columns, starts, rows, factor, rhs = arguments
        x = results[0]
        n = code.integer(columns, 0)
        kernel = _Columns(code, kind, size, starts, rows, factor)
        with code.loop(0, n) as k:
            at = code.index("mul", k, size)
            code.store(kind, x, at, code.load(kind, rhs, at, size), size)
        with code.loop(0, n) as j:
            kernel.forward(x, j)
        with code.loop(0, n) as k:
            kernel.backward(x, code.index("sub", code.index("sub", n, 1), k))

    return function(body, 5, 1)


class _Columns:
    """The parts of both programs that handle one column of blocks."""

    def __init__(self, code, kind, size, starts, rows, factor):
        self.code, self.kind, self.size = code, kind, size
        self.starts, self.rows, self.factor = starts, rows, factor

    def _op(self, name: str, a: str, b: str, size: int = 0) -> str:
        return self.code.binary(name, self.kind, a, b, size)

    def _number(self, block: str, row: int, column: int) -> str:
        at = self.code.index("add", block, column * self.size + row)
        return self.code.load(self.kind, self.factor, at)

    def _column(self, block: str, column: int) -> str:
        at = self.code.index("add", block, column * self.size)
        return self.code.load(self.kind, self.factor, at, self.size)

    def _put(self, block: str, column: int, vector: str) -> None:
        at = self.code.index("add", block, column * self.size)
        self.code.store(self.kind, self.factor, at, vector, self.size)

    def _times(self, number: str, vector: str) -> str:
        splat = self.code.splat(self.kind, number, self.size)
        return self._op("fmul", splat, vector, self.size)

    def _blocks_of(self, j: str) -> tuple[str, str]:
        """Return where the blocks of a column begin and end."""
        following = self.code.index("add", j, 1)
        return tuple(self.code.integer(self.starts, at) for at in (j, following))

    def eliminate(self, j: str, position: str) -> None:
        """Write: factor column j, update the columns to the right."""
        code, size = self.code, self.size
        first, end = self._blocks_of(j)
        below = code.index("add", first, 1)
        diagonal = code.index("mul", first, size * size)
        lower, inverses = self._diagonal_block(diagonal)
        with code.loop(below, end) as q:
            block = code.index("mul", q, size * size)
            solved = []
            for c in range(size):
                vector = self._column(block, c)
                for m in range(c):
                    product = self._times(lower[c, m], solved[m])
                    vector = self._op("fsub", vector, product, size)
                solved.append(self._times(inverses[c], vector))
                self._put(block, c, solved[c])
        with code.loop(below, end) as q:
            self._update(q, end, position)

    def _diagonal_block(self, block: str):
        """Write the factorisation of a diagonal block; return it by its numbers."""
        code, size, kind = self.code, self.size, self.kind
        lower, inverses = {}, []
        for c in range(size):
            for r in range(c, size):
                number = self._number(block, r, c)
                for m in range(c):
                    product = self._op("fmul", lower[r, m], lower[c, m])
                    number = self._op("fsub", number, product)
                if r == c:
                    number = code.root(kind, number)
                    inverses.append(self._op("fdiv", "1.0", number))
                else:
                    number = self._op("fmul", number, inverses[c])
                lower[r, c] = number
                at = code.index("add", block, c * size + r)
                code.store(kind, self.factor, at, number)
        return lower, inverses

    def _update(self, q: str, end: str, position: str) -> None:
        """Write: subtract the products of block q with itself and those below it."""
        code, size = self.code, self.size
        column = code.integer(self.rows, q)
        begins = code.integer(self.starts, column)
        code.lines.append(f"  store i64 {begins}, ptr {position}")
        block_q = code.index("mul", q, size * size)
        numbers = [
            [self._number(block_q, k, m) for m in range(size)] for k in range(size)
        ]
        with code.loop(q, end) as a:
            row = code.integer(self.rows, a)
            label = code.fresh("find")
            code.go(label)
            code.label(label)
            at = code.let(f"load i64, ptr {position}")
            other = code.integer(self.rows, at)
            following = code.index("add", at, 1)
            code.lines.append(f"  store i64 {following}, ptr {position}")
            same = code.let(f"icmp eq i64 {other}, {row}")
            code.lines.append(f"  br i1 {same}, label %found{label}, label %{label}")
            code.label(f"found{label}")
            block_a = code.index("mul", a, size * size)
            target = code.index("mul", at, size * size)
            vectors = [self._column(block_a, m) for m in range(size)]
            for k in range(size):
                total = self._column(target, k)
                for m in range(size):
                    product = self._times(numbers[k][m], vectors[m])
                    total = self._op("fsub", total, product, size)
                self._put(target, k, total)

    def forward(self, x: str, j: str) -> None:
        """Write: ``x_j = L_jj^-1 x_j``, and take it off the rows below."""
        code, size, kind = self.code, self.size, self.kind
        first, end = self._blocks_of(j)
        found = self._solved(x, j, first, range(size), lambda r, m: (r, m))
        with code.loop(code.index("add", first, 1), end) as q:
            block = code.index("mul", q, size * size)
            at = code.index("mul", code.integer(self.rows, q), size)
            rest = code.load(kind, x, at, size)
            for c in range(size):
                term = self._times(found[c], self._column(block, c))
                rest = self._op("fsub", rest, term, size)
            code.store(kind, x, at, rest, size)

    def backward(self, x: str, j: str) -> None:
        """Write: ``x_j = L_jj^-T (x_j - sum over the blocks below of L^T x)``."""
        code, size, kind = self.code, self.size, self.kind
        first, end = self._blocks_of(j)
        base = code.index("mul", j, size)
        with code.loop(code.index("add", first, 1), end) as q:
            block = code.index("mul", q, size * size)
            at = code.index("mul", code.integer(self.rows, q), size)
            known = code.load(kind, x, at, size)
            for c in range(size):
                dot = code.dot(kind, self._column(block, c), known, size)
                here = code.index("add", base, c)
                old = code.load(kind, x, here)
                code.store(kind, x, here, self._op("fsub", old, dot))
        self._solved(x, j, first, range(size)[::-1], lambda r, m: (m, r))

    def _solved(self, x: str, j: str, block: str, order, place) -> dict[int, str]:
        """Write x_j solved with the diagonal block, or with its transpose."""
        code = self.code
        diagonal = code.index("mul", block, self.size * self.size)
        base = code.index("mul", j, self.size)
        places = [code.index("add", base, r) for r in range(self.size)]
        numbers = [code.load(self.kind, x, at) for at in places]
        entry = lambda r, m: self._number(diagonal, *place(r, m))
        found = code.triangular(self.kind, numbers, order, entry)
        for r, number in found.items():
            code.store(self.kind, x, places[r], number)
        return found
