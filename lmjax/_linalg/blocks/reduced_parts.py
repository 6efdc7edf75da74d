"""Pieces of the programs that eliminate a leaf: groups of blocks, eliminated rows."""

from typing import NamedTuple

from lmjax._linalg.blocks.loops import spans
from lmjax._linalg.blocks.storage import Storage


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


class GroupBlocks:
    """Reads and writes what belongs to the blocks of one group."""

    def __init__(self, code, kind, kind_of, size, given: dict[str, str], z: str):
        self.code, self.kind, self.size, self.z = code, kind, size, z
        self.starts, self.places = given.get("starts", ""), given.get("places", "")
        self.nodes, self.jac = given.get("nodes", ""), given.get("jac", "")
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

    def z_at(self, k: str, i: int, column: int) -> str:
        """Return where a number of Z is."""
        return self.code.affine(k, self.size * self.width, i * self.width + column)

    def times(self, operation: str, total: str, number: str, vector: str, size: int):
        """Return a vector plus or minus a multiple of another."""
        splat = self.code.splat(self.kind, number, size)
        term = self.code.binary("fmul", self.kind, splat, vector, size)
        return self.code.binary(operation, self.kind, total, term, size)

    def solve(self, own: "OwnRow", k: str, matrix: Storage) -> None:
        """Write Z of a block, and its own part of the matrix."""
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
        self.add_product(k, matrix)

    def _rows_of_z(self, k: str, s: int) -> list[str]:
        """Return the part of Z of a slot, a vector per eliminated unknown."""
        s0, s1 = self.spans[s]
        places = [self.z_at(k, i, s0) for i in range(self.size)]
        return [self.code.load(self.kind, self.z, at, s1 - s0) for at in places]

    def take_off(self, k: str, numbers: dict[int, str], rhs: str) -> None:
        """Write ``rhs -= Z^T numbers``."""
        at = self.places_of(k)
        for s in self.outer:
            size = self.spans[s][1] - self.spans[s][0]
            rows = self._rows_of_z(k, s)
            terms = [(numbers[i], rows[i]) for i in range(self.size)]
            self.accumulate("fsub", rhs, at[s], terms, size)

    def take_off_own(self, k: str, vector: str, rhs: str, places: list[str]) -> None:
        """Write ``rhs -= Z vector``, at these places."""
        code, kind, at = self.code, self.kind, self.places_of(k)
        for s in self.outer:
            size = self.spans[s][1] - self.spans[s][0]
            y = code.load(kind, vector, at[s], size)
            for place, row in zip(places, self._rows_of_z(k, s), strict=True):
                dot = code.dot(kind, row, y, size)
                old = code.load(kind, rhs, place)
                code.store(kind, rhs, place, code.binary("fsub", kind, old, dot))

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
    """The part of one eliminated row: V and its factor."""

    def __init__(self, code, kind, size, factor, row):
        self.code, self.kind, self.size = code, kind, size
        self.factor = factor
        self.matrix_at = code.index("mul", row, size * size)
        self.lower: dict[tuple[int, int], str] = {}
        self.inverses: list[str] = []

    def add(self, group: GroupBlocks, k: str) -> None:
        """Write what a block adds to V."""
        code, kind, size = self.code, self.kind, self.size
        start = group.spans[group.inner][0]
        for o in range(group.outputs):
            vector = group.column(k, o, group.inner)
            for i in range(size):
                at = code.index("add", self.matrix_at, i * size)
                number = group.number(k, o, start + i)
                total = code.load(kind, self.factor, at, size)
                total = group.times("fadd", total, number, vector, size)
                code.store(kind, self.factor, at, total, size)

    def finish(self, lam: str) -> None:
        """Write the factor of V with damping."""
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
