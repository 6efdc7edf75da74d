"""Where programs write the reduced matrix: a lower triangle, dense or in blocks.

Products of two slots are written a vector at a time: one slot gives the vector, the
other a number per vector.
"""

from lmjax._linalg.blocks.loops import Loops


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
