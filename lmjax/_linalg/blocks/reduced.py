r"""Elimination of a leaf by machine code: the reduced system of the others.

For each eliminated row, whose blocks lie side by side: its own part of ``J^T J`` is
``V = L L^T``, its gradient a; each block has ``Z = L^-1 W``, W being the product with
the other columns. They take ``Z_i^T Z_j`` off the matrix of the others, for every pair
of blocks of the row, and ``Z^T L^-1 a`` off their gradient.
"""

from functools import cache

from lmjax._linalg.blocks.loops import KINDS, Loops, function
from lmjax._linalg.blocks.reduced_parts import GroupBlocks, Kind, OwnRow, subtract
from lmjax._linalg.blocks.storage import Blocks, Dense

# Arguments of a group of blocks.
GIVEN: tuple[str, ...] = ("starts", "places", "nodes", "jac", "residual")


@cache
def elimination(kinds: tuple[Kind, ...], size: int, block: int, dtype: str) -> str:
    """Return the function that eliminates the rows of a leaf.

    Its arguments: size of the matrix, number of rows and of blocks of the matrix
    (int32), the damping, what is added to the gradient of the rows (rows, size), the
    arrays of `Blocks` if there are blocks, and for each group where each row begins
    among its blocks (rows + 1), where each slot begins in a flat vector and its node
    (blocks, slots), J (blocks, outputs, width) and the residual (blocks, outputs). Its
    results: the lower triangle of the reduced matrix without damping, the right-hand
    side, L (rows, size, size), ``L^-1 a`` (rows, size), and Z of each group (blocks,
    size, width).

    Args:
        kinds: The groups that see the leaf.
        size: Unknowns of an eliminated row.
        block: Size of the blocks of the reduced matrix; 0 if it is dense.
        dtype: Of the numbers.
    """
    kind, storage = KINDS[dtype], Blocks if block else Dense
    first = 3 + storage.arrays

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, damping, extra = arguments[:3]
        rhs, factor, forward, *z = results[1:]
        rows = code.integer(shape, 1)
        matrix = storage(code, kind, results[0], shape, block, *arguments[3:first])
        matrix.clear()
        code.clear(kind, rhs, code.integer(shape, 0))
        code.clear(kind, factor, code.index("mul", rows, size * size))
        with code.loop(0, rows) as row:
            at = code.index("mul", row, size)
            code.store(kind, forward, at, code.load(kind, extra, at, size), size)
        lam = code.load(kind, damping, 0)
        groups = []
        for i, k in enumerate(kinds):
            begin = first + len(GIVEN) * i
            given = arguments[begin : begin + len(GIVEN)]
            named = dict(zip(GIVEN, given, strict=True))
            groups.append(GroupBlocks(code, kind, k, size, named, z[i]))
        with code.loop(0, rows) as row:
            own = OwnRow(code, kind, size, factor, forward, row)
            ends = [group.blocks_of(row) for group in groups]
            for group, (start, end) in zip(groups, ends, strict=True):
                with code.loop(start, end) as k:
                    own.add(group, k)
            own.finish(lam)
            for group, (start, end) in zip(groups, ends, strict=True):
                with code.loop(start, end) as k:
                    group.solve(own, k, matrix, rhs)
            for a, (start_a, end_a) in zip(groups, ends, strict=True):
                with code.loop(start_a, end_a) as i:
                    nodes = a.nodes_of(i)
                    for b, (start_b, end_b) in zip(groups, ends, strict=True):
                        with code.loop(start_b, end_b) as j:
                            subtract(a, i, nodes, b, j, matrix)

    return function(body, first + len(GIVEN) * len(kinds), 4 + len(kinds))


@cache
def product(kind_of: Kind, block: int, dtype: str) -> str:
    """Return the function that adds up ``J^T J`` and ``-J^T r`` of a group.

    Its arguments: size of the matrix, number of blocks of the group and of the matrix,
    the arrays of `Blocks` if there are blocks, where each slot begins and its node
    (blocks, slots), J (blocks, outputs, width) and the residual. Its results: the lower
    triangle, and the right-hand side.
    """
    kind, storage = KINDS[dtype], Blocks if block else Dense
    first = 1 + storage.arrays

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, rhs = arguments[0], results[1]
        blocks = code.integer(shape, 1)
        matrix = storage(code, kind, results[0], shape, block, *arguments[1:first])
        matrix.clear()
        code.clear(kind, rhs, code.integer(shape, 0))
        named = dict(zip(GIVEN[1:], arguments[first:], strict=True))
        group = GroupBlocks(code, kind, kind_of, 0, named, "")
        with code.loop(0, blocks) as k:
            at = group.places_of(k)
            group.add_product(k, matrix)
            for s in kind_of.outer:
                group.add_gradient(k, s, at[s], rhs, [])

    return function(body, first + len(GIVEN) - 1, 2)


@cache
def substitution(kinds: tuple[Kind, ...], size: int, dtype: str) -> str:
    """Return the function that finds the step of the eliminated rows.

    Its arguments: how many rows and blocks there are, as for `elimination`, L,
    ``L^-1 a``, the step of the others, and for each group where each row begins, where
    each slot begins, and Z. Its result is ``-L^-T (L^-1 a + sum Z y)`` (rows, size).
    """
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, factor, forward, step, *given = arguments
        rows = code.integer(shape, 1)
        groups = []
        for i, k in enumerate(kinds):
            starts, places, z = given[3 * i : 3 * i + 3]
            named = {"starts": starts, "places": places}
            groups.append(GroupBlocks(code, kind, k, size, named, z))
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
