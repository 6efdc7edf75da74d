"""Cholesky's factorisation of a dense matrix of moderate size, by machine code.

LAPACK works with threads of its own, which take turns with those of XLA: where other
programs run, too, a factorisation that takes 3 ms may take 500. This one runs where it
is called. Tiles of 4 x 4 numbers are sums over rows in memory, with 16 sums at a time.

References:
    Golub and Van Loan, Matrix Computations, 4th edition, algorithm 4.2.2 (by rows).
"""

from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._linalg.blocks.loops import KINDS, Loops, call, function

# Beyond, rows no longer stay in the cache, and LAPACK's blocks win.
MOST = 2000
TILE = LANES = 4


def padded(n: int) -> int:
    """Return the size of the factor: whole vectors, with ones on the diagonal."""
    return -(-n // LANES) * LANES


def factor(
    lower: Float[Array, "n n"], added: Float[Array, " n"]
) -> Float[Array, "size size"]:
    """Return the factor of a positive definite matrix; NaN if it is not.

    Args:
        lower: Its lower triangle; what stands above is not read.
        added: What is to be added to its diagonal.
    """
    n, dtype = len(added), added.dtype
    size = padded(n)
    shape = jnp.array([n, size], jnp.int32)
    added = jnp.full((size,), 1.0, dtype).at[:n].set(added)
    result = jax.ShapeDtypeStruct((size, size), dtype)
    return call(_factorization(str(dtype)), result, shape, lower, added)


def substitute(
    lower: Float[Array, "size size"], rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Solve with a factor."""
    n, size, dtype = len(rhs), len(lower), rhs.dtype
    given = lower, jnp.zeros((size,), dtype).at[:n].set(rhs)
    result, shape = jax.ShapeDtypeStruct((size,), dtype), jnp.array([size], jnp.int32)
    return call(_substitution(str(dtype)), result, shape, *given)[:n]


@cache
def _factorization(dtype: str) -> str:
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, matrix, added = arguments
        factor = results[0]
        n, size = code.integer(shape, 0), code.integer(shape, 1)
        code.clear(kind, factor, code.index("mul", size, size))
        with code.loop(0, n) as i, code.loop(0, code.index("add", i, 1)) as j:
            number = code.load(kind, matrix, code.affine(i, n, j))
            code.store(kind, factor, code.affine(i, size, j), number)
        with code.loop(0, size) as i:
            at = code.affine(i, size, i)
            number = code.load(kind, factor, at)
            number = code.binary("fadd", kind, number, code.load(kind, added, i))
            code.store(kind, factor, at, number)
        tiles = code.let(f"sdiv i64 {size}, {TILE}")
        with code.loop(0, tiles) as p:
            i = code.index("mul", p, TILE)
            with code.loop(0, p) as q:
                _tile(code, kind, factor, size, i, code.index("mul", q, TILE), False)
            _tile(code, kind, factor, size, i, i, True)

    return function(body, 3, 1)


@cache
def _substitution(dtype: str) -> str:
    kind = KINDS[dtype]

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, factor, rhs = arguments
        x, size = results[0], code.integer(shape, 0)
        with code.loop(0, size) as i:
            code.store(kind, x, i, code.load(kind, rhs, i))
        _substitute(code, kind, factor, x, size)

    return function(body, 3, 1)


def _tile(code: Loops, kind, factor, size, i, j, diagonal: bool) -> None:
    """Write one tile of the factor, the tiles to its left and above being known."""
    at = lambda base, k, m: code.affine(code.index("add", base, k), size, m)
    sums = _products(code, kind, factor, size, i, j)
    values: dict[tuple[int, int], str] = {}
    known: dict[tuple[int, int], str] = {}
    for r in range(TILE):
        for c in range(r + 1 if diagonal else TILE):
            place = at(i, r, code.index("add", j, c))
            number = code.load(kind, factor, place)
            number = code.binary("fsub", kind, number, sums[r, c])
            for m in range(c):
                above = values if diagonal else known
                if (c, m) not in above:
                    column = code.index("add", j, m)
                    known[c, m] = code.load(kind, factor, at(j, c, column))
                term = code.binary("fmul", kind, values[r, m], above[c, m])
                number = code.binary("fsub", kind, number, term)
            if diagonal and r == c:
                number = code.root(kind, number)
            else:
                if diagonal:
                    divisor = values[c, c]
                else:
                    column = code.index("add", j, c)
                    divisor = code.load(kind, factor, at(j, c, column))
                number = code.binary("fdiv", kind, number, divisor)
            values[r, c] = number
            code.store(kind, factor, place, number)


def _products(code: Loops, kind, factor, size, i, j) -> dict[tuple[int, int], str]:
    """Write the sums of products of rows i.. and j.. over the columns before j."""
    vector = code.type(kind, LANES)
    places = [(r, c) for r in range(TILE) for c in range(TILE)]
    rows = [code.index("mul", code.index("add", i, r), size) for r in range(TILE)]
    others = [code.index("mul", code.index("add", j, c), size) for c in range(TILE)]
    turns = code.let(f"sdiv i64 {j}, {LANES}")
    with code.sums(0, turns, vector, len(places)) as (k, totals):
        start = code.index("mul", k, LANES)
        left = [
            code.load(kind, factor, code.index("add", row, start), LANES)
            for row in rows
        ]
        right = [
            code.load(kind, factor, code.index("add", row, start), LANES)
            for row in others
        ]
        for place, (r, c) in enumerate(places):
            term = code.binary("fmul", kind, left[r], right[c], LANES)
            totals[place] = code.binary("fadd", kind, totals[place], term, LANES)
    return {
        place: code.total(kind, total, LANES)
        for place, total in zip(places, totals, strict=True)
    }


def _substitute(code: Loops, kind, factor, x, size) -> None:
    """Write the solution of both triangular systems."""
    with code.loop(0, size) as i:
        row = code.index("mul", i, size)
        turns = code.let(f"sdiv i64 {code.index('add', i, LANES - 1)}, {LANES}")
        with code.sums(0, turns, code.type(kind, LANES), 1) as (k, totals):
            start = code.index("mul", k, LANES)
            left = code.load(kind, factor, code.index("add", row, start), LANES)
            known = code.load(kind, x, start, LANES)
            # numbers of x from i on stand beside zeros, except the diagonal
            term = code.binary("fmul", kind, left, known, LANES)
            totals[0] = code.binary("fadd", kind, totals[0], term, LANES)
        total = code.total(kind, totals[0], LANES)
        number = code.load(kind, x, i)
        diagonal = code.load(kind, factor, code.index("add", row, i))
        # the last vector holds the diagonal itself unless i is a multiple of its size
        own = code.binary("fmul", kind, diagonal, number)
        rest = code.let(f"srem i64 {i}, {LANES}")
        apart = code.let(f"icmp eq i64 {rest}, 0")
        own = code.let(f"select i1 {apart}, {kind} 0.0, {kind} {own}")
        total = code.binary("fsub", kind, total, own)
        number = code.binary("fsub", kind, number, total)
        code.store(kind, x, i, code.binary("fdiv", kind, number, diagonal))
    with code.loop(0, size) as k:
        i = code.index("sub", code.index("sub", size, 1), k)
        row = code.index("mul", i, size)
        diagonal = code.load(kind, factor, code.index("add", row, i))
        number = code.binary("fdiv", kind, code.load(kind, x, i), diagonal)
        code.store(kind, x, i, number)
        with code.loop(0, i) as m:
            entry = code.load(kind, factor, code.index("add", row, m))
            term = code.binary("fmul", kind, entry, number)
            old = code.load(kind, x, m)
            code.store(kind, x, m, code.binary("fsub", kind, old, term))
