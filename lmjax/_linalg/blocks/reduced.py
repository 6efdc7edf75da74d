r"""Elimination of a leaf by machine code: the reduced system of the others.

For each eliminated row, whose blocks lie side by side: its own part of ``J^T J`` is
``V = L L^T``; each block has ``Z = L^-1 W``, W being the product with the other
columns. They take ``Z_i^T Z_j`` off the matrix of the others, for every pair of blocks
of the row. Solving, they take ``Z^T L^-1 a`` off the right-hand side of the others.
"""

from functools import cache

from lmjax._linalg.blocks.loops import KINDS, Loops, function
from lmjax._linalg.blocks.reduced_parts import GroupBlocks, Kind, OwnRow, subtract
from lmjax._linalg.blocks.storage import Blocks, Dense

# Arguments of a group of blocks.
GIVEN: tuple[str, ...] = ("starts", "nodes", "jac")


@cache
def elimination(kinds: tuple[Kind, ...], size: int, block: int, dtype: str) -> str:
    """Return the function that eliminates the rows of a leaf.

    Its arguments: size of the matrix, number of rows and of blocks of the matrix
    (int32), the damping, the arrays of `Blocks` if there are blocks, and for each group
    where each row begins among its blocks (rows + 1), the node of each slot (blocks,
    slots), and J (blocks, outputs, width). Its results: the lower triangle of the
    reduced matrix without damping, L (rows, size, size), and Z of each group (blocks,
    size, width).

    Args:
        kinds: The groups that see the leaf.
        size: Unknowns of an eliminated row.
        block: Size of the blocks of the reduced matrix; 0 if it is dense.
        dtype: Of the numbers.
    """
    kind, storage = KINDS[dtype], Blocks if block else Dense
    first = 2 + storage.arrays

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, damping = arguments[:2]
        factor, *z = results[1:]
        rows = code.integer(shape, 1)
        matrix = storage(code, kind, results[0], shape, block, *arguments[2:first])
        matrix.clear()
        code.clear(kind, factor, code.index("mul", rows, size * size))
        lam = code.load(kind, damping, 0)
        groups = []
        for i, k in enumerate(kinds):
            begin = first + len(GIVEN) * i
            given = arguments[begin : begin + len(GIVEN)]
            named = dict(zip(GIVEN, given, strict=True))
            groups.append(GroupBlocks(code, kind, k, size, named, z[i]))
        with code.loop(0, rows) as row:
            own = OwnRow(code, kind, size, factor, row)
            ends = [group.blocks_of(row) for group in groups]
            for group, (start, end) in zip(groups, ends, strict=True):
                with code.loop(start, end) as k:
                    own.add(group, k)
            own.finish(lam)
            for group, (start, end) in zip(groups, ends, strict=True):
                with code.loop(start, end) as k:
                    group.solve(own, k, matrix)
            for a, (start_a, end_a) in zip(groups, ends, strict=True):
                with code.loop(start_a, end_a) as i:
                    nodes = a.nodes_of(i)
                    for b, (start_b, end_b) in zip(groups, ends, strict=True):
                        with code.loop(start_b, end_b) as j:
                            subtract(a, i, nodes, b, j, matrix)

    return function(body, first + len(GIVEN) * len(kinds), 2 + len(kinds))


@cache
def product(kind_of: Kind, block: int, dtype: str) -> str:
    """Return the function that adds up ``J^T J`` of a group.

    Its arguments: size of the matrix, number of blocks of the group and of the matrix,
    the arrays of `Blocks` if there are blocks, the node of each slot (blocks, slots),
    and J (blocks, outputs, width). Its result: the lower triangle.
    """
    kind, storage = KINDS[dtype], Blocks if block else Dense
    first = 1 + storage.arrays

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape = arguments[0]
        blocks = code.integer(shape, 1)
        matrix = storage(code, kind, results[0], shape, block, *arguments[1:first])
        matrix.clear()
        named = dict(zip(GIVEN[1:], arguments[first:], strict=True))
        group = GroupBlocks(code, kind, kind_of, 0, named, "")
        with code.loop(0, blocks) as k:
            group.add_product(k, matrix)

    return function(body, first + len(GIVEN) - 1, 1)


@cache
def forward(kinds: tuple[Kind, ...], size: int, dtype: str) -> str:
    """Return the function that takes the eliminated rows off a right-hand side.

    Its arguments: size of the matrix and number of rows (int32), L, the right-hand
    sides a of the rows (rows, size) and b of the others, and for each group where each
    row begins, where each slot begins in a flat vector (blocks, slots), and Z. Its
    results: ``L^-1 a`` (rows, size) and ``b - sum Z^T L^-1 a``.
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, factor, own, other, *given = arguments
        solved, rhs = results
        with code.loop(0, code.integer(shape, 0)) as i:
            code.store(kind, rhs, i, code.load(kind, other, i))
        groups = _solving(code, kind, kinds, size, given)
        with code.loop(0, code.integer(shape, 1)) as row:
            base = code.index("mul", row, size)
            matrix = code.index("mul", row, size * size)
            numbers = [
                code.load(kind, own, code.index("add", base, i)) for i in range(size)
            ]
            entry = lambda i, m: code.load(
                kind, factor, code.index("add", matrix, i * size + m)
            )
            found = code.triangular(kind, numbers, range(size), entry)
            for i, number in found.items():
                code.store(kind, solved, code.index("add", base, i), number)
            for group in groups:
                with code.loop(*group.blocks_of(row)) as k:
                    group.take_off(k, found, rhs)

    return function(body, 4 + 3 * len(kinds), 2)


@cache
def backward(kinds: tuple[Kind, ...], size: int, dtype: str) -> str:
    """Return the function that solves for the eliminated rows.

    Its arguments: as for `forward`, L, ``L^-1 a``, the solution y of the others, and
    the arrays of each group. Its result is ``L^-T (L^-1 a - sum Z y)`` (rows, size).
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, factor, solved, others, *given = arguments
        groups = _solving(code, kind, kinds, size, given)
        with code.loop(0, code.integer(shape, 1)) as row:
            base = code.index("mul", row, size)
            matrix = code.index("mul", row, size * size)
            places = [code.index("add", base, i) for i in range(size)]
            first = code.load(kind, solved, base, size)
            code.store(kind, results[0], base, first, size)
            for group in groups:
                with code.loop(*group.blocks_of(row)) as k:
                    group.take_off_own(k, others, results[0], places)
            numbers = [code.load(kind, results[0], at) for at in places]
            entry = lambda i, m: code.load(
                kind, factor, code.index("add", matrix, m * size + i)
            )
            found = code.triangular(kind, numbers, range(size)[::-1], entry)
            for i, number in found.items():
                code.store(kind, results[0], places[i], number)

    return function(body, 4 + 3 * len(kinds), 1)


def _solving(code: Loops, kind: str, kinds, size: int, given: list[str]) -> list:
    """Return the groups of a program that solves."""
    groups = []
    for i, k in enumerate(kinds):
        starts, places, z = given[3 * i : 3 * i + 3]
        named = {"starts": starts, "places": places}
        groups.append(GroupBlocks(code, kind, k, size, named, z))
    return groups
