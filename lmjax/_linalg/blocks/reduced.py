r"""Elimination of a leaf by machine code: the reduced system of the others.

For each eliminated row, whose blocks lie side by side: its own part of ``J^T J`` is
``V = L L^T``, its gradient a; each block has ``Z = L^-1 W``, W being the product with
the other columns. They take ``Z_i^T Z_j`` off the matrix of the others, for every pair
of blocks of the row, and ``Z^T L^-1 a`` off their gradient.
"""

from functools import cache
from typing import NamedTuple

from lmjax._linalg.blocks.loops import KINDS, Loops, function, spans


class Kind(NamedTuple):
    """What the program must know of a group of blocks.

    Attributes:
        sizes: Sizes of the slots.
        outputs: Residuals of a block.
        inner: Which slot sees the eliminated leaf.
    """

    sizes: tuple[int, ...]
    outputs: int
    inner: int | None

    @property
    def outer(self) -> list[int]:
        """The other slots."""
        return [k for k in range(len(self.sizes)) if k != self.inner]

    @property
    def width(self) -> int:
        """Unknowns that a block sees."""
        return sum(self.sizes)


@cache
def elimination(kinds: tuple[Kind, ...], size: int, dtype: str) -> str:
    """Return the function that eliminates the rows of a leaf.

    Its arguments: size of the matrix and number of rows (int32), the damping, what is
    added to the gradient of the rows (rows, size), and for each group where each row
    begins among its blocks (rows + 1), where each slot begins in the matrix (blocks,
    slots), J (blocks, outputs, width) and the residual (blocks, outputs). Its results:
    the lower triangle of the reduced matrix without damping, the right-hand side, L
    (rows, size, size), ``L^-1 a`` (rows, size), and Z of each group (blocks, size,
    width).

    Args:
        kinds: The groups that see the leaf.
        size: Unknowns of an eliminated row.
        dtype: Of the numbers.
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, damping, extra, *given = arguments
        matrix, rhs, factor, forward, *z = results
        n, rows = code.integer(shape, 0), code.integer(shape, 1)
        code.clear(kind, matrix, code.index("mul", n, n))
        code.clear(kind, rhs, n)
        code.clear(kind, factor, code.index("mul", rows, size * size))
        with code.loop(0, rows) as row:
            at = code.index("mul", row, size)
            code.store(kind, forward, at, code.load(kind, extra, at, size), size)
        lam = code.load(kind, damping, 0)
        groups = [
            _Group(code, kind, k, size, *given[4 * i : 4 * i + 4], z[i])
            for i, k in enumerate(kinds)
        ]
        with code.loop(0, rows) as row:
            own = _Own(code, kind, size, factor, forward, row)
            ends = [group.blocks_of(row) for group in groups]
            for group, (first, end) in zip(groups, ends, strict=True):
                with code.loop(first, end) as k:
                    own.add(group, k)
            own.finish(lam)
            for group, (first, end) in zip(groups, ends, strict=True):
                with code.loop(first, end) as k:
                    group.solve(own, k, matrix, rhs, n)
            for a, (first_a, end_a) in zip(groups, ends, strict=True):
                with code.loop(first_a, end_a) as i:
                    places = a.places_of(i)
                    for b, (first_b, end_b) in zip(groups, ends, strict=True):
                        with code.loop(first_b, end_b) as j:
                            _subtract(a, i, places, b, j, matrix, n)

    return function(body, 3 + 4 * len(kinds), 4 + len(kinds))


@cache
def product(kind_of: Kind, dtype: str) -> str:
    """Return the function that adds up ``J^T J`` and ``-J^T r`` of a group.

    Its arguments: size of the matrix and number of blocks, where each slot begins in
    the matrix (blocks, slots), J (blocks, outputs, width) and the residual. Its
    results: the lower triangle, and the right-hand side.
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, places, jac, residual = arguments
        matrix, rhs = results
        n, blocks = code.integer(shape, 0), code.integer(shape, 1)
        code.clear(kind, matrix, code.index("mul", n, n))
        code.clear(kind, rhs, n)
        group = _Group(code, kind, kind_of, 0, "", places, jac, residual, "")
        with code.loop(0, blocks) as k:
            at = group.places_of(k)
            group.add_product(k, at, matrix, n)
            for s in kind_of.outer:
                group.add_gradient(k, s, at[s], rhs, [])

    return function(body, 4, 2)


class _Group:
    """Reads and writes what belongs to the blocks of one group."""

    def __init__(self, code, kind, kind_of, size, starts, places, jac, residual, z):
        self.code, self.kind, self.size = code, kind, size
        self.starts, self.places, self.jac = starts, places, jac
        self.residual, self.z = residual, z
        self.spans, self.outer = spans(kind_of.sizes), kind_of.outer
        self.width, self.outputs = kind_of.width, kind_of.outputs
        self.inner = kind_of.inner

    def blocks_of(self, row: str) -> tuple[str, str]:
        """Return where the blocks of a row begin and end."""
        following = self.code.index("add", row, 1)
        integer = self.code.integer
        return integer(self.starts, row), integer(self.starts, following)

    def places_of(self, k: str) -> dict[int, str]:
        """Return where the slots of a block begin in the matrix."""
        first = self.code.index("mul", k, len(self.spans))
        at = {s: self.code.index("add", first, s) for s in self.outer}
        return {s: self.code.integer(self.places, at[s]) for s in self.outer}

    def column(self, k: str, output: int, slot: int) -> str:
        """Return the derivative of one residual by a slot, a vector."""
        start, end = self.spans[slot]
        at = self.code.affine(k, self.outputs * self.width, output * self.width + start)
        return self.code.load(self.kind, self.jac, at, end - start)

    def number(self, k: str, output: int, column: int) -> str:
        """Return one number of J."""
        at = self.code.affine(
            k, self.outputs * self.width, output * self.width + column
        )
        return self.code.load(self.kind, self.jac, at)

    def residual_of(self, k: str, output: int) -> str:
        """Return one residual."""
        at = self.code.affine(k, self.outputs, output)
        return self.code.load(self.kind, self.residual, at)

    def z_at(self, k: str, i: int, column: int) -> str:
        """Return where a number of Z is."""
        return self.code.affine(k, self.size * self.width, i * self.width + column)

    def times(self, operation: str, total: str, number: str, vector: str, size: int):
        """Return a vector plus or minus a multiple of another."""
        splat = self.code.splat(self.kind, number, size)
        term = self.code.binary("fmul", self.kind, splat, vector, size)
        return self.code.binary(operation, self.kind, total, term, size)

    def solve(self, own: "_Own", k: str, matrix: str, rhs: str, n: str) -> None:
        """Write Z of a block, and its own part of the matrix and the gradient."""
        at = self.places_of(k)
        assert self.inner is not None
        start = self.spans[self.inner][0]
        for s in self.outer:
            s0, s1 = self.spans[s]
            size = s1 - s0
            columns = [self.column(k, o, s) for o in range(self.outputs)]
            found: list[str] = []
            for i in range(self.size):
                vector = "zeroinitializer"
                for o in range(self.outputs):
                    number = self.number(k, o, start + i)
                    vector = self.times("fadd", vector, number, columns[o], size)
                for m in range(i):
                    vector = self.times("fsub", vector, own.lower[i, m], found[m], size)
                splat = self.code.splat(self.kind, own.inverses[i], size)
                found.append(self.code.binary("fmul", self.kind, vector, splat, size))
                self.code.store(self.kind, self.z, self.z_at(k, i, s0), found[i], size)
            along = list(zip(own.solved, found, strict=True))
            self.add_gradient(k, s, at[s], rhs, along)
        self.add_product(k, at, matrix, n)

    def add_gradient(self, k: str, s: int, place: str, rhs: str, along: list) -> None:
        """Write what a slot of a block adds to the right-hand side."""
        s0, s1 = self.spans[s]
        total = self.code.load(self.kind, rhs, place, s1 - s0)
        for o in range(self.outputs):
            r, column = self.residual_of(k, o), self.column(k, o, s)
            total = self.times("fsub", total, r, column, s1 - s0)
        for number, vector in along:
            total = self.times("fadd", total, number, vector, s1 - s0)
        self.code.store(self.kind, rhs, place, total, s1 - s0)

    def add_product(self, k: str, at: dict[int, str], matrix: str, n: str) -> None:
        """Write ``J^T J`` of a block into the lower triangle."""
        code = self.code
        for t in self.outer:
            t0, t1 = self.spans[t]
            columns = [self.column(k, o, t) for o in range(self.outputs)]
            for s in self.outer:
                s0, s1 = self.spans[s]
                with code.when(code.let(f"icmp sge i64 {at[s]}, {at[t]}")):
                    for i in range(s1 - s0):
                        here = code.affine(code.index("add", at[s], i), n, at[t])
                        total = code.load(self.kind, matrix, here, t1 - t0)
                        for o in range(self.outputs):
                            number = self.number(k, o, s0 + i)
                            total = self.times(
                                "fadd", total, number, columns[o], t1 - t0
                            )
                        code.store(self.kind, matrix, here, total, t1 - t0)


class _Own:
    """The part of one eliminated row: V, its factor, its gradient."""

    def __init__(self, code, kind, size, factor, forward, row):
        self.code, self.kind, self.size = code, kind, size
        self.factor, self.forward = factor, forward
        self.matrix_at = code.index("mul", row, size * size)
        self.vector_at = code.index("mul", row, size)
        self.lower: dict[tuple[int, int], str] = {}
        self.inverses: list[str] = []
        self.solved: list[str] = []

    def add(self, group: _Group, k: str) -> None:
        """Write what a block adds to V and a."""
        code, kind, size = self.code, self.kind, self.size
        start = group.spans[group.inner][0]
        for o in range(group.outputs):
            vector = group.column(k, o, group.inner)
            numbers = [group.number(k, o, start + i) for i in range(size)]
            targets = [code.index("add", self.matrix_at, i * size) for i in range(size)]
            pairs = [
                *zip([self.factor] * size, targets, numbers, strict=True),
                (self.forward, self.vector_at, group.residual_of(k, o)),
            ]
            for base, at, number in pairs:
                total = code.load(kind, base, at, size)
                total = group.times("fadd", total, number, vector, size)
                code.store(kind, base, at, total, size)

    def finish(self, lam: str) -> None:
        """Write the factor of V with damping, and ``L^-1 a``."""
        code, kind, size = self.code, self.kind, self.size
        op = lambda name, a, b: code.binary(name, kind, a, b)
        for c in range(size):
            for r in range(c, size):
                at = code.index("add", self.matrix_at, r * size + c)
                number = code.load(kind, self.factor, at)
                if r == c:
                    # a row without any effect stays where it is
                    none = code.let(f"fcmp oeq {kind} {number}, 0.0")
                    number = code.let(f"select i1 {none}, {kind} 1.0, {kind} {number}")
                    number = op("fadd", number, lam)
                for m in range(c):
                    product = op("fmul", self.lower[r, m], self.lower[c, m])
                    number = op("fsub", number, product)
                if r == c:
                    number = code.root(kind, number)
                    self.inverses.append(op("fdiv", "1.0", number))
                else:
                    number = op("fmul", number, self.inverses[c])
                self.lower[r, c] = number
                code.store(kind, self.factor, at, number)
        for r in range(size):
            at = code.index("add", self.vector_at, r)
            number = code.load(kind, self.forward, at)
            for m in range(r):
                product = op("fmul", self.lower[r, m], self.solved[m])
                number = op("fsub", number, product)
            self.solved.append(op("fmul", number, self.inverses[r]))
            code.store(kind, self.forward, at, self.solved[r])


def _subtract(a: _Group, i, places, b: _Group, j, matrix: str, n: str) -> None:
    """Write ``S -= Z_i^T Z_j`` where it belongs below the diagonal."""
    code, kind = a.code, a.kind
    others = b.places_of(j)
    for t in b.outer:
        t0, t1 = b.spans[t]
        size = t1 - t0
        for s in a.outer:
            s0, s1 = a.spans[s]
            with code.when(code.let(f"icmp sge i64 {places[s]}, {others[t]}")):
                rows = [
                    code.load(kind, b.z, b.z_at(j, c, t0), size) for c in range(b.size)
                ]
                for r in range(s1 - s0):
                    here = code.affine(code.index("add", places[s], r), n, others[t])
                    total = code.load(kind, matrix, here, size)
                    for c in range(a.size):
                        number = code.load(kind, a.z, a.z_at(i, c, s0 + r))
                        total = a.times("fsub", total, number, rows[c], size)
                    code.store(kind, matrix, here, total, size)


@cache
def substitution(kinds: tuple[Kind, ...], size: int, dtype: str) -> str:
    """Return the function that finds the step of the eliminated rows.

    Its arguments: number of rows, L, ``L^-1 a``, the step of the others, and for each
    group where each row begins, where each slot begins, and Z. Its result is
    ``-L^-T (L^-1 a + sum Z y)`` (rows, size).
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, factor, forward, step, *given = arguments
        rows = code.integer(shape, 1)
        groups = [
            _Group(
                code,
                kind,
                k,
                size,
                given[3 * i],
                given[3 * i + 1],
                "",
                "",
                given[3 * i + 2],
            )
            for i, k in enumerate(kinds)
        ]
        with code.loop(0, rows) as row:
            base = code.index("mul", row, size)
            start = code.load(kind, forward, base, size)
            code.store(kind, results[0], base, start, size)
            for group in groups:
                with code.loop(*group.blocks_of(row)) as k:
                    at = group.places_of(k)
                    for i in range(size):
                        here = code.index("add", base, i)
                        total = code.load(kind, results[0], here)
                        for s in group.outer:
                            s0, s1 = group.spans[s]
                            y = code.load(kind, step, at[s], s1 - s0)
                            row_of_z = code.load(
                                kind, group.z, group.z_at(k, i, s0), s1 - s0
                            )
                            dot = code.dot(kind, row_of_z, y, s1 - s0)
                            total = code.binary("fadd", kind, total, dot)
                        code.store(kind, results[0], here, total)
            matrix = code.index("mul", row, size * size)
            found: dict[int, str] = {}
            for i in reversed(range(size)):
                here = code.index("add", base, i)
                number = code.load(kind, results[0], here)
                number = code.let(f"fneg {kind} {number}")
                for m in range(i + 1, size):
                    entry = code.index("add", matrix, m * size + i)
                    product = code.binary(
                        "fmul", kind, code.load(kind, factor, entry), found[m]
                    )
                    number = code.binary("fsub", kind, number, product)
                entry = code.index("add", matrix, i * size + i)
                diagonal = code.load(kind, factor, entry)
                found[i] = code.binary("fdiv", kind, number, diagonal)
                code.store(kind, results[0], here, found[i])

    return function(body, 4 + 3 * len(kinds), 1)
