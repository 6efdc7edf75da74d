"""One fit of a batch as functions of scalars, traced by jax from the loop's own source.

What has loops of its own stands apart as a primitive, ``routine``: a pass over the
points, or the algebra of a small matrix (`lmjax._fused.algebra`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive
from jaxtyping import Array

from lmjax._block import Lanes
from lmjax._linearize import (
    UNROLL_UP_TO,
    DenseLinearization,
    NormalLinearization,
    gram_pairs,
)
from lmjax._projection import cutoff

routine_p = Primitive("routine")
routine_p.multiple_results = True
routine_p.def_abstract_eval(
    lambda *values, name, sizes, count: [ShapedArray((), values[0].dtype)] * count
)


def routine(name: str, values: list, count: int, sizes: tuple[int, ...] = ()) -> list:
    """Return the results of a routine, scalars of the dtype of the first value."""
    return routine_p.bind(*values, name=name, sizes=sizes, count=count)


class Lane(Lanes):
    """A single fit that is known by its sums only.

    Attributes:
        twice: Whether the residual has second derivatives.
    """

    twice: bool

    def visit(self, p: Array) -> tuple[NormalLinearization, Array]:
        """Return the normal equations and the cost at ``p``."""
        pairs = gram_pairs(self.n)
        robust = self.data.term is not None
        found = routine("rows", list(p), len(pairs) + robust)
        gram = found[: len(pairs)]
        cost = found[-1] if robust else 0.5 * gram[-1]
        return NormalLinearization(tuple(gram), self.n), cost

    def squared_bends(self, p: Array) -> list[Array]:
        """Return the square of each second derivative, summed over the points."""
        if not self.twice:
            raise NotImplementedError
        return routine("bends", list(p), self.n)

    def look(self, p: Array) -> tuple[Array, Array, DenseLinearization]:
        """Return the cost, the residual and J after a rotation that left n + 1 rows."""
        pairs = gram_pairs(self.n)
        robust = self.data.term is not None
        found = routine("triangle", list(p), len(pairs) + robust)
        entries = dict(zip(pairs, found, strict=False))
        rows, zero = range(self.n + 1), jnp.zeros_like(found[0])
        column = lambda j: jnp.stack([entries.get((i, j), zero) for i in rows])
        *columns, r = map(column, rows)
        cost = found[-1] if robust else 0.5 * jnp.sum(r * r)
        return cost, r, DenseLinearization(r, jnp.stack(columns))

    def solve(self, linearization: NormalLinearization, lam) -> tuple[Array, Array]:
        """Return the damped step by Cholesky's factorisation, and its pivots."""
        if self.n <= UNROLL_UP_TO:
            return super().solve(linearization, lam)
        matrix = linearization.normal_matrix() + lam * np.eye(self.n, dtype=lam.dtype)
        step, pivots = solve_positive(matrix, jnp.stack(linearization.grad())[None])
        return -step[0], pivots

    def eliminate(self, columns: Array, r: Array) -> tuple[Array, Array, Array]:
        """Return what `Problem.eliminate` does; ``columns`` are those of `look`."""
        n, m = columns.shape
        least = np.asarray(cutoff(r.dtype, max(self.m, n)), r.dtype)
        values = [*jnp.ravel(columns), *r, least]
        found = routine("eliminate", values, 2 * n + m, (m, n))
        weights, rest, change = found[:n], found[n : n + m], found[n + m :]
        return jnp.stack(weights), jnp.stack(rest), jnp.stack(change)

    def stage(self, fn: Any) -> Any:
        """Return ``fn()``."""
        return fn()


def solve_positive(matrix: Array, rows: Array) -> tuple[Array, Array]:
    """Solve with a symmetric positive definite matrix for the rows of another.

    NaN if it is not. And the pivots of Cholesky's factorisation.
    """
    k, n = rows.shape
    values = [*jnp.ravel(matrix), *jnp.ravel(rows)]
    found = routine("solve", values, k * n + n, (n, k))
    return jnp.stack(found[: k * n]).reshape(k, n), jnp.stack(found[k * n :])


def singular_values(matrix: Array) -> tuple[Array, Array]:
    """Return singular values in any order, and the right vectors as rows."""
    m, n = matrix.shape
    found = routine("svd", list(jnp.ravel(matrix.T)), n + n * n, (m, n))
    return jnp.stack(found[:n]), jnp.stack(found[n:]).reshape(n, n)


def gram(matrix: Array) -> Array:
    """Return ``A^T A``."""
    k, n = matrix.shape
    found = routine("gram", list(jnp.ravel(matrix)), n * n, (k, n))
    return jnp.stack(found).reshape(n, n)


class Loop(NamedTuple):
    """A loop of one fit: functions of its state and of what goes with it.

    Attributes:
        begin: From what goes with it to the state before the first turn.
        going: From the state to whether there is another turn.
        turn: From the state and what goes with it to the next state.
        finish: From the state and what goes with it to the result.
        state: Shapes and dtypes of the state.
    """

    begin: ClosedJaxpr
    going: ClosedJaxpr
    turn: ClosedJaxpr
    finish: ClosedJaxpr
    state: list[jax.ShapeDtypeStruct]


class Pass(NamedTuple):
    """A loop over the points.

    Attributes:
        rows: From the arrays of one fit, the parameters and the unit vectors to a list
            of arrays over the points.
        adds: What becomes of them: "sums", sums of "squares", sums of "products" of all
            pairs of the first n + 1, or the "triangle" to which these are rotated; what
            comes after the first n + 1 is summed.
    """

    rows: ClosedJaxpr
    adds: str

    def count(self, n: int) -> int:
        """Return how many numbers it leaves."""
        arrays = len(self.rows.out_avals)
        if self.adds in ("sums", "squares"):
            return arrays
        return len(gram_pairs(n)) + arrays - n - 1


class Plan(NamedTuple):
    """What a machine program does with each fit.

    Attributes:
        name: What it is for.
        loops: One after the other. Each goes with the results of the one before and
            with the arrays of the fit.
        passes: Loops over the points that they ask for, by name.
        results: Shapes and dtypes of the results of the last loop, a pytree.
        start: Shape and dtype of the parameters.
        points: Number of residuals.
    """

    name: str
    loops: list[Loop]
    passes: dict[str, Pass]
    results: Any
    start: jax.ShapeDtypeStruct
    points: int


def loop(begin: Any, going: Any, turn: Any, finish: Any, *given: Any):
    """Trace a loop; return it and the shapes of its results.

    Args:
        begin: From ``*given`` to the state.
        going: From the state to a flag.
        turn: From the state and ``*given`` to the state.
        finish: From the state and ``*given`` to the results.
        given: Shapes of what goes with it.
    """
    trace = lambda fn: jax.make_jaxpr(fn, return_shape=True)
    first, state = trace(begin)(*given)
    last, results = trace(finish)(state, *given)
    goes = jax.make_jaxpr(going)(state)
    turns = jax.make_jaxpr(turn)(state, *given)
    return Loop(first, goes, turns, last, jax.tree.leaves(state)), results


def rows_of(fn: Any, arrays: Any, start: jax.ShapeDtypeStruct) -> ClosedJaxpr:
    """Trace what a pass adds up, a function of arrays, parameters and unit vectors."""
    units = jax.ShapeDtypeStruct((*start.shape, *start.shape), start.dtype)
    return jax.make_jaxpr(fn)(arrays, start, units)
