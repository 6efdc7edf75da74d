"""Pieces of the programs that eliminate a leaf: what they read, and where they write.

The matrix of what is left is stored as a lower triangle, dense or in blocks. Products
of two slots are written a vector at a time: one slot gives the vector, the other a
number per vector.
"""

from typing import NamedTuple

from lmjax._linalg.blocks.loops import Loops, spans


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


class Dense:
    """A dense matrix, row by row: vectors are parts of rows.

    Nodes are places in the matrix.
    """

    arrays = 0  # arguments beside those of the groups

    def __init__(self, code: Loops, kind: str, matrix: str, shape: str, size: int):
        del size
        self.code, self.kind, self.matrix = code, kind, matrix
        self.n = code.integer(shape, 0)

    def clear(self) -> None:
        """Write zeros."""
        self.code.clear(self.kind, self.matrix, self.code.index("mul", self.n, self.n))

    def admits(self, scalar: str, vector: str) -> str:
        """Return whether the product of two nodes belongs into the lower triangle."""
        return self.code.let(f"icmp sge i64 {scalar}, {vector}")

    def base(self, scalar: str, vector: str) -> str:
        """Return where it begins."""
        return self.code.affine(scalar, self.n, vector)

    def at(self, base: str, number: int) -> str:
        """Return where one of its vectors begins."""
        return self.code.index("add", base, self.code.index("mul", self.n, number))


class Blocks:
    """Square blocks of the lower triangle, by columns: vectors are parts of columns.

    Nodes are numbers in the order of elimination.
    """

    arrays = 2  # where columns of blocks begin, and the row of each block

    def __init__(
        self,
        code: Loops,
        kind: str,
        matrix: str,
        shape: str,
        size: int,
        starts: str,
        rows: str,
    ):
        self.code, self.kind, self.matrix, self.size = code, kind, matrix, size
        self.starts, self.rows = starts, rows
        self.count = code.integer(shape, 2)
        self.low, self.high = code.variable("0"), code.variable("0")

    def clear(self) -> None:
        """Write zeros."""
        many = self.code.index("mul", self.count, self.size * self.size)
        self.code.clear(self.kind, self.matrix, many)

    def admits(self, scalar: str, vector: str) -> str:
        """Return whether the product of two nodes belongs into the lower triangle."""
        return self.code.let(f"icmp sle i64 {scalar}, {vector}")

    def base(self, scalar: str, vector: str) -> str:
        """Return where it begins: the block is found by bisection of its column."""
        code = self.code
        first = code.integer(self.starts, scalar)
        end = code.integer(self.starts, code.index("add", scalar, 1))
        code.lines.append(f"  store i64 {first}, ptr {self.low}")
        code.lines.append(f"  store i64 {end}, ptr {self.high}")
        label = code.fresh("bisect")
        code.go(label)
        code.label(label)
        low = code.let(f"load i64, ptr {self.low}")
        high = code.let(f"load i64, ptr {self.high}")
        middle = code.let(f"lshr i64 {code.index('add', low, high)}, 1")
        found = code.integer(self.rows, middle)
        beyond = code.let(f"icmp sgt i64 {found}, {vector}")
        new_low = code.let(f"select i1 {beyond}, i64 {low}, i64 {middle}")
        new_high = code.let(f"select i1 {beyond}, i64 {middle}, i64 {high}")
        code.lines.append(f"  store i64 {new_low}, ptr {self.low}")
        code.lines.append(f"  store i64 {new_high}, ptr {self.high}")
        same = code.let(f"icmp eq i64 {found}, {vector}")
        code.lines.append(f"  br i1 {same}, label %found{label}, label %{label}")
        code.label(f"found{label}")
        return code.index("mul", middle, self.size * self.size)

    def at(self, base: str, number: int) -> str:
        """Return where one of its vectors begins."""
        return self.code.index("add", base, number * self.size)


Storage = Dense | Blocks


class GroupBlocks:
    """Reads and writes what belongs to the blocks of one group."""

    def __init__(self, code, kind, kind_of, size, given: dict[str, str], z: str):
        self.code, self.kind, self.size, self.z = code, kind, size, z
        self.starts, self.places = given.get("starts", ""), given["places"]
        self.nodes = given.get("nodes", "")
        self.jac, self.residual = given.get("jac", ""), given.get("residual", "")
        self.spans, self.outer = spans(kind_of.sizes), kind_of.outer
        self.width, self.outputs = kind_of.width, kind_of.outputs
        self.inner = kind_of.inner

    def blocks_of(self, row: str) -> tuple[str, str]:
        """Return where the blocks of a row begin and end."""
        following = self.code.index("add", row, 1)
        integer = self.code.integer
        return integer(self.starts, row), integer(self.starts, following)

    def places_of(self, k: str) -> dict[int, str]:
        """Return where the slots of a block begin in a flat vector."""
        return self._each_slot(self.places, k)

    def nodes_of(self, k: str) -> dict[int, str]:
        """Return the nodes of the slots of a block, which tell places in the matrix."""
        return self._each_slot(self.nodes, k)

    def _each_slot(self, array: str, k: str) -> dict[int, str]:
        first = self.code.index("mul", k, len(self.spans))
        at = {s: self.code.index("add", first, s) for s in self.outer}
        return {s: self.code.integer(array, at[s]) for s in self.outer}

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

    def solve(self, own: "OwnRow", k: str, matrix: Storage, rhs: str) -> None:
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
        self.add_product(k, matrix)

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

    def add_product(self, k: str, matrix: Storage) -> None:
        """Write ``J^T J`` of a block into the lower triangle."""
        nodes = self.nodes_of(k)
        for t in self.outer:
            t0, t1 = self.spans[t]
            columns = [self.column(k, o, t) for o in range(self.outputs)]
            for s in self.outer:
                s0, s1 = self.spans[s]
                with self.code.when(matrix.admits(nodes[s], nodes[t])):
                    base = matrix.base(nodes[s], nodes[t])
                    for i in range(s1 - s0):
                        numbers = [
                            self.number(k, o, s0 + i) for o in range(self.outputs)
                        ]
                        place = matrix.at(base, i)
                        terms = list(zip(numbers, columns, strict=True))
                        self.accumulate("fadd", matrix.matrix, place, terms, t1 - t0)

    def accumulate(
        self, operation: str, array: str, at: str, terms: list, size: int
    ) -> None:
        """Write multiples of vectors onto, or off, a vector in memory."""
        total = self.code.load(self.kind, array, at, size)
        for number, vector in terms:
            total = self.times(operation, total, number, vector, size)
        self.code.store(self.kind, array, at, total, size)


class OwnRow:
    """The part of one eliminated row: V, its factor, its gradient."""

    def __init__(self, code, kind, size, factor, forward, row):
        self.code, self.kind, self.size = code, kind, size
        self.factor, self.forward = factor, forward
        self.matrix_at = code.index("mul", row, size * size)
        self.vector_at = code.index("mul", row, size)
        self.lower: dict[tuple[int, int], str] = {}
        self.inverses: list[str] = []
        self.solved: list[str] = []

    def add(self, group: GroupBlocks, k: str) -> None:
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


def subtract(
    a: GroupBlocks, i: str, nodes: dict, b: GroupBlocks, j: str, matrix: Storage
) -> None:
    """Write ``S -= Z_i^T Z_j`` where it belongs into the lower triangle."""
    code, kind = a.code, a.kind
    others = b.nodes_of(j)
    for t in b.outer:
        t0, t1 = b.spans[t]
        for s in a.outer:
            s0, s1 = a.spans[s]
            with code.when(matrix.admits(nodes[s], others[t])):
                base = matrix.base(nodes[s], others[t])
                rows = [
                    code.load(kind, b.z, b.z_at(j, c, t0), t1 - t0)
                    for c in range(b.size)
                ]
                for r in range(s1 - s0):
                    numbers = [
                        code.load(kind, a.z, a.z_at(i, c, s0 + r))
                        for c in range(a.size)
                    ]
                    terms = list(zip(numbers, rows, strict=True))
                    place = matrix.at(base, r)
                    a.accumulate("fsub", matrix.matrix, place, terms, t1 - t0)
