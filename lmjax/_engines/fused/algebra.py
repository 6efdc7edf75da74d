"""Algebra of small matrices in LLVM IR, by loops over vectors in memory.

Written out, the algebra of 24 parameters is tens of thousands of instructions, most of
the time that LLVM needs. A matrix is stored element by element; element e of all fits
of a block is one vector.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lmjax._engines.fused.routine import Index, Routine
from lmjax._engines.fused.values import Name
from lmjax._linalg.singular_values import SWEEPS


def _factor(code: Routine, n: int, pivots: int) -> None:
    """Write Cholesky's factorisation, which takes the place of the lower triangle.

    The diagonal is that of the inverse of the factor. A pivot that is not positive
    makes NaN.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 4.2.
    """
    low = lambda i, j: code.at(i, n, j)
    with code.loop(0, n) as (i, _):
        with code.loop(0, i) as (j, _):
            dot = code.dot(0, j, lambda t: low(i, t), lambda t: low(j, t))
            rest = code.op("sub", code.load(low(i, j)), dot)
            code.store(low(i, j), code.op("mul", rest, code.load(low(j, j))))
        dot = code.dot(0, i, lambda t: low(i, t), lambda t: low(i, t))
        pivot = code.op("sub", code.load(low(i, i)), dot)
        code.store(code.index("add", pivots, i), pivot)
        one = code.dtype.type(1)
        code.store(low(i, i), code.op("div", one, code.op("sqrt", pivot)))


def _substitute(code: Routine, n: int, rhs: Callable, out: Callable) -> None:
    """Write the two substitutions that follow, from one place to another."""
    low = lambda i, j: code.at(i, n, j)
    with code.loop(0, n) as (i, _):
        dot = code.dot(0, i, lambda t: low(i, t), out)
        rest = code.op("sub", rhs(i), dot)
        code.store(out(i), code.op("mul", rest, code.load(low(i, i))))
    with code.loop(0, n) as (back, _):
        i = code.index("sub", n - 1, back)
        dot = code.dot(code.index("add", i, 1), n, lambda t: low(t, i), out)
        rest = code.op("sub", code.load(out(i)), dot)
        code.store(out(i), code.op("mul", rest, code.load(low(i, i))))


def solve(code: Routine, n: int) -> None:
    """Write the solution of a symmetric positive definite system.

    Memory: an (n, n) matrix, the right-hand side; the solution, n pivots.
    """
    _factor(code, n, n * n + 2 * n)
    at = lambda base: lambda i: code.index("add", base, i)
    rhs = lambda i: code.load(at(n * n)(i))
    _substitute(code, n, rhs, at(n * n + n))


def inverse(code: Routine, n: int) -> None:
    """Write the inverse of a symmetric positive definite matrix.

    Memory: an (n, n) matrix; its inverse; pivots.
    """
    _factor(code, n, 2 * n * n)
    zero, one = code.dtype.type(0), code.dtype.type(1)
    with code.loop(0, n) as (j, _):

        def unit(i: Index) -> Name:
            here = code.scalar(f"icmp eq i64 {i}, {j}")
            vector = code.vector(code.dtype)
            ones, zeros = code.text(one), code.text(zero)
            choice = f"select i1 {here}, {vector} {ones}, {vector} {zeros}"
            return code.add(choice, code.dtype)

        _substitute(code, n, unit, lambda i: code.at(j, n, i, n * n))


def svd(code: Routine, m: int, n: int) -> None:
    """Write Jacobi's method for the singular values and right vectors of a matrix.

    Plane rotations from the right until the columns of all fits are orthogonal to
    rounding. Where they are, a rotation changes nothing: a fit does not notice how long
    the others take. Memory: the n columns of m elements, then n singular values, then
    the vectors, one per row, then how many rotations a sweep made.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 8.6.3.
    """
    a = lambda j, i: code.at(j, m, i)
    v = lambda j, i: code.at(j, n, i, m * n + n)
    zero, one, two = map(code.dtype.type, (0, 1, 2))
    orthogonal = code.dtype.type(np.finfo(code.dtype).eps * m**0.5)
    rotations = m * n + n + n * n
    with code.loop(0, n) as (j, _):
        with code.loop(0, n) as (i, _):
            code.store(v(j, i), zero)
        code.store(v(j, j), one)
    code.store(rotations, one)
    with code.loop(0, SWEEPS) as (_, _):
        last = code.while_any(rotations, n)
        code.store(rotations, zero)
        with (
            code.loop(0, last) as (p, _),
            code.loop(code.index("add", p, 1), n) as (q, _),
        ):
            product = lambda x, y: lambda i: code.op("mul", x(i), y(i))
            of_p, of_q = (lambda i, j=j: code.load(a(j, i)) for j in (p, q))
            pairs = product(of_p, of_p), product(of_q, of_q), product(of_p, of_q)
            alpha, beta, gamma = code.total(0, m, *pairs)
            sizes = code.op("mul", code.op("sqrt", alpha), code.op("sqrt", beta))
            limit = code.op("mul", sizes, orthogonal)
            turn = code.emit("gt", [code.op("abs", gamma), limit], bool)
            made = code.emit("select_n", [turn, zero, one], code.dtype)
            code.store(rotations, code.op("add", code.load(rotations), made))
            safe = code.emit("select_n", [turn, one, gamma], code.dtype)
            zeta = code.op("sub", beta, alpha)
            zeta = code.op("div", zeta, code.op("mul", two, safe))
            root = code.op("sqrt", code.op("add", one, code.op("mul", zeta, zeta)))
            tangent = code.op("add", code.op("abs", zeta), root)
            tangent = code.op("div", one, tangent)
            negative = code.emit("lt", [zeta, zero], bool)
            flipped = code.op("neg", tangent)
            tangent = code.emit("select_n", [negative, tangent, flipped], code.dtype)
            tangent = code.emit("select_n", [turn, zero, tangent], code.dtype)
            root = code.op("add", one, code.op("mul", tangent, tangent))
            cosine = code.op("div", one, code.op("sqrt", root))
            sine = code.op("mul", cosine, tangent)
            _rotate(code, m, a, p, q, cosine, sine)
            _rotate(code, n, v, p, q, cosine, sine)
    with code.loop(0, n) as (j, _):
        square = code.dot(0, m, lambda i: a(j, i), lambda i: a(j, i))
        code.store(code.index("add", m * n, j), code.op("sqrt", square))


def _rotate(code: Routine, size: int, place: Callable, p, q, cosine, sine) -> None:
    with code.loop(0, size) as (i, _):
        x, y = code.load(place(p, i)), code.load(place(q, i))
        mul = lambda c, value: code.op("mul", c, value)
        code.store(place(p, i), code.op("sub", mul(cosine, x), mul(sine, y)))
        code.store(place(q, i), code.op("add", mul(sine, x), mul(cosine, y)))


def eliminate(code: Routine, m: int, k: int) -> None:
    """Write the modified Gram-Schmidt method of `lmjax._linalg.projection`.

    Memory: k columns of m elements, the right-hand side, and the share of a squared
    norm that is rounding; then k weights, the rest of the right-hand side, and k
    coefficients; then what it needs for itself, k rows of k + 1 and k squared norms.
    """
    a = lambda j, i: code.at(j, m, i)
    least, weights = m * (k + 1), m * (k + 1) + 1
    rest, found = weights + k, weights + k + m
    upper, squares = found + k, found + k + k * (k + 1)
    u = lambda i, j: code.at(i, k + 1, j, upper)
    zero, one = code.dtype.type(0), code.dtype.type(1)
    norm = lambda j: code.dot(0, m, lambda i: a(j, i), lambda i: a(j, i))
    with code.loop(0, k) as (j, _):
        code.store(code.index("add", squares, j), norm(j))
    with code.loop(0, k) as (j, _):
        square, before = norm(j), code.load(code.index("add", squares, j))
        limit = code.op("mul", code.load(least), before)
        gone = code.emit("le", [square, limit], bool)
        safe = code.emit("select_n", [gone, square, one], code.dtype)
        weight = code.op("div", one, safe)
        weight = code.emit("select_n", [gone, weight, zero], code.dtype)
        code.store(code.index("add", weights, j), weight)
        with code.loop(code.index("add", j, 1), k + 1) as (other, _):
            dot = code.dot(0, m, lambda i: a(j, i), lambda i: a(other, i))
            share = code.op("mul", dot, weight)
            code.store(u(j, other), share)
            with code.loop(0, m) as (i, _):
                taken = code.op("mul", code.load(a(j, i)), share)
                left = code.op("sub", code.load(a(other, i)), taken)
                code.store(a(other, i), left)
    with code.loop(0, m) as (i, _):
        code.store(code.index("add", rest, i), code.load(a(k, i)))
    c = lambda i: code.index("add", found, i)
    with code.loop(0, k) as (back, _):
        i = code.index("sub", k - 1, back)
        dot = code.dot(code.index("add", i, 1), k, lambda t: u(i, t), c)
        code.store(c(i), code.op("sub", code.load(u(i, k)), dot))


def product(code: Routine, k: int, n: int) -> None:
    """Write ``A^T B``. Memory: twice k rows of n elements, then the (n, n) product."""
    a = lambda t, j: code.at(t, n, j)
    b = lambda t, j: code.at(t, n, j, k * n)
    with code.loop(0, n) as (i, _), code.loop(0, n) as (j, _):
        dot = code.dot(0, k, lambda t: a(t, i), lambda t: b(t, j))
        code.store(code.at(i, n, j, 2 * k * n), dot)


def rotate(code: Routine, n: int) -> None:
    """Write Givens' rotations of a row into a triangle.

    Memory: n elements of the row, then the rows of the upper triangle, then a number
    for whoever wants one.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 5.1.8.
    """
    zero, one = code.dtype.type(0), code.dtype.type(1)
    with code.loop(0, n) as (j, _):
        # rows before this one, which are as long as n, n - 1, ...
        before = code.index("mul", j, code.index("sub", 2 * n - 1, j))
        before = code.scalar(f"lshr i64 {before}, 1")
        here = lambda k: code.index("add", code.index("add", before, k), n)
        a, b = code.load(here(j)), code.load(j)
        squares = code.op("add", code.op("mul", a, a), code.op("mul", b, b))
        norm = code.op("sqrt", squares)
        some = code.emit("ne", [norm, zero], bool)
        share = lambda x, other: code.emit(
            "select_n", [some, other, code.op("div", x, norm)], code.dtype
        )
        cosine, sine = share(a, one), share(b, zero)
        code.store(here(j), norm)
        with code.loop(code.index("add", j, 1), n) as (k, _):
            old, new = code.load(here(k)), code.load(k)
            mul = lambda x, y: code.op("mul", x, y)
            code.store(here(k), code.op("add", mul(cosine, old), mul(sine, new)))
            code.store(k, code.op("sub", mul(cosine, new), mul(sine, old)))


class Layout(NamedTuple):
    """How a routine uses its memory, in numbers.

    Attributes:
        write: Writes it.
        results: From its sizes to where its results begin.
        length: From its sizes to how many numbers it needs in all.
        lower: Whether it reads only the lower triangle of its first argument.
    """

    write: Callable
    results: Callable
    length: Callable
    lower: bool = False


ROUTINES = {
    "solve": Layout(solve, lambda n: n * n + n, lambda n: n * n + 3 * n, True),
    "inverse": Layout(inverse, lambda n: n * n, lambda n: 2 * n * n + n, True),
    "svd": Layout(svd, lambda m, n: m * n, lambda m, n: m * n + n + n * n + 1),
    "rotate": Layout(rotate, lambda n: n, lambda n: n + n * (n + 1) // 2 + 1),
    "product": Layout(product, lambda k, n: 2 * k * n, lambda k, n: (2 * k + n) * n),
    "eliminate": Layout(
        eliminate,
        lambda m, k: m * (k + 1) + 1,
        lambda m, k: m * (k + 1) + 1 + 2 * k + m + k * (k + 1) + k,
    ),
}
