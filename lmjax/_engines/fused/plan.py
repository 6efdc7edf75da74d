"""What a machine program does with a fit: functions of scalars, traced by jax.

The functions are those of the loop itself, for one fit of a batch. What has loops of
its own stands apart as a primitive, ``routine``: a pass over the points, or the algebra
of a small matrix (`lmjax._engines.fused.algebra`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive
from jaxtyping import Array

from lmjax._engines.block import FitBlock
from lmjax._linalg.algebra import Algebra
from lmjax._linalg.linearization import (
    UNROLL_UP_TO,
    DenseLinearization,
    NormalLinearization,
    gram_pairs,
)
from lmjax._linalg.projection import cutoff

routine_p = Primitive("routine")
routine_p.multiple_results = True
routine_p.def_abstract_eval(
    lambda *arrays, name, sizes, shapes: [
        ShapedArray(shape, arrays[0].dtype) for shape in shapes
    ]
)

# Fields of states and results that hold a symmetric matrix: half of it is enough.
SYMMETRIC = ("normal_matrix", "matrix")


def routine(name: str, arrays: list, shapes: Any, sizes: tuple[int, ...] = ()) -> list:
    """Return the results of a routine, of the dtype of its arguments.

    Args:
        name: Name of a pass, or of a routine of `lmjax._engines.fused.algebra`.
        arrays: Its arguments.
        shapes: Shapes of its results.
        sizes: Sizes for which it is written.
    """
    shapes = tuple(map(tuple, shapes))
    return routine_p.bind(*arrays, name=name, sizes=sizes, shapes=shapes)


class Triangle(DenseLinearization):
    """A linear model whose J was rotated until n + 1 rows were left."""

    def normal_matrix(self) -> Array:
        """Return ``J^T J``."""
        return product(self.jac, self.jac)


class ScalarFit(FitBlock):
    """One fit of a batch, of which a program knows only sums over the points.

    Attributes:
        twice: Whether the residual has second derivatives.
    """

    twice: bool

    def _sums(self, name: str, p: Array) -> tuple[list[Array], Array | None]:
        """Return what a pass leaves for each pair of columns, and the cost if known."""
        pairs = len(gram_pairs(self.n))
        robust = self.data.term is not None
        found = routine(name, [p], [()] * (pairs + robust))
        return found[:pairs], (found[-1] if robust else None)

    def evaluate(self, p: Array) -> tuple[NormalLinearization, Array]:
        """Return the normal equations and the cost at ``p``."""
        gram, cost = self._sums("rows", p)
        cost = 0.5 * gram[-1] if cost is None else cost
        return NormalLinearization(tuple(gram), self.n), cost

    def squared_bends(self, p: Array) -> list[Array]:
        """Return the square of each second derivative, summed over the points."""
        if not self.twice:
            raise NotImplementedError
        return routine("bends", [p], [()] * self.n)

    def cost_and_linearization(self, p: Array) -> tuple[Array, Array, Triangle]:
        """Return the cost, the residual and J after a rotation that left n + 1 rows."""
        found, cost = self._sums("triangle", p)
        entries = dict(zip(gram_pairs(self.n), found, strict=True))
        rows, zero = range(self.n + 1), jnp.zeros_like(found[0])
        column = lambda j: jnp.stack([entries.get((i, j), zero) for i in rows])
        *columns, r = map(column, rows)
        cost = 0.5 * jnp.sum(r * r) if cost is None else cost
        return cost, r, Triangle(r, jnp.stack(columns))

    def solve(self, linearization: NormalLinearization, lam) -> tuple[Array, Array]:
        """Return the damped step by Cholesky's factorisation, and its pivots."""
        n = self.n
        if n <= UNROLL_UP_TO:
            return super().solve(linearization, lam)
        matrix = linearization.normal_matrix() + lam * np.eye(n, dtype=lam.dtype)
        rhs = jnp.stack(linearization.grad())
        step, pivots = routine("solve", [matrix, rhs], [(n,), (n,)], (n,))
        return -step, pivots

    def largest(self, p: Array, v: Array) -> list[Array]:
        """Return what `Problem.largest` does."""
        return routine("largest", [p, v], [(), ()])

    def eliminate(self, columns: Array, r: Array) -> list[Array]:
        """Return what `Problem.eliminate` does; ``columns`` are those of J."""
        n, m = columns.shape
        least = np.asarray(cutoff(r.dtype, max(self.m, n)), r.dtype)
        return routine("eliminate", [columns, r, least], [(n,), (m,), (n,)], (m, n))


def inverse(matrix: Array) -> Array:
    """Return the inverse of a symmetric positive definite matrix; NaN if it is not."""
    return routine("inverse", [matrix], [matrix.shape], matrix.shape[:1])[0]


def singular_values(matrix: Array) -> list[Array]:
    """Return singular values in any order, and the right vectors as rows."""
    m, n = matrix.shape
    return routine("svd", [matrix.T], [(n,), (n, n)], (m, n))


def product(a: Array, b: Array) -> Array:
    """Return ``A^T B`` of two matrices of the same shape."""
    k, n = a.shape
    return routine("product", [a, b], [(n, n)], (k, n))[0]


ALGEBRA = Algebra(inverse, singular_values, product)


class Loop(NamedTuple):
    """A loop of one fit: functions of its state and of what goes with it.

    Attributes:
        begin: From what goes with it to the state before the first turn.
        going: From the state to whether there is another turn.
        turn: From the state and what goes with it to the next state.
        finish: From the state and what goes with it to the result.
        state: Shapes and dtypes of the state.
        symmetric: Which of its arrays are symmetric matrices.
        results: Which of the results are.
    """

    begin: ClosedJaxpr
    going: ClosedJaxpr
    turn: ClosedJaxpr
    finish: ClosedJaxpr
    state: list[jax.ShapeDtypeStruct]
    symmetric: list[bool]
    results: list[bool]


class Pass(NamedTuple):
    """A loop over the points.

    Attributes:
        rows: From the arrays of one fit, the parameters and the unit vectors to a list
            of arrays over the points.
        adds: What becomes of them: "sums", sums of "squares", the "largest" sizes, sums
            of "products" of all pairs of the first n + 1, or the "triangle" to which
            these are rotated; what comes after the first n + 1 is summed.
        given: How many numbers it is given.
    """

    rows: ClosedJaxpr
    adds: str
    given: int

    def count(self, n: int) -> int:
        """Return how many numbers it leaves."""
        arrays = len(self.rows.out_avals)
        if self.adds in ("sums", "squares", "largest"):
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
        most: Up to how many instructions it is worth it, None for any number.
    """

    name: str
    loops: list[Loop]
    passes: dict[str, Pass]
    results: Any
    start: jax.ShapeDtypeStruct
    points: int
    most: int | None = None


def loop(begin: Any, going: Any, turn: Any, finish: Any, *given: Any):
    """Trace a loop; return it and the shapes of its results.

    Args:
        begin: From ``*given`` to the state.
        going: From the state to a flag.
        turn: From the state and ``*given`` to the state.
        finish: From the state and ``*given`` to the results.
        given: Shapes of what goes with it.
    """
    kinds = jax.eval_shape(begin, *given)
    # flags are held as numbers, which have an address each in memory
    held = lambda state: jax.tree.map(
        lambda x: x.astype(jnp.int32) if x.dtype == bool else x, state
    )
    back = lambda state: jax.tree.map(
        lambda x, kind: x.astype(kind.dtype), state, kinds
    )
    trace = lambda fn: jax.make_jaxpr(fn, return_shape=True)
    first, state = trace(lambda *given: held(begin(*given)))(*given)
    last, results = trace(lambda s, *given: finish(back(s), *given))(state, *given)
    goes = jax.make_jaxpr(lambda s: going(back(s)))(state)
    turns = jax.make_jaxpr(lambda s, *given: held(turn(back(s), *given)))(state, *given)
    halves = map(_symmetric, (state, results))
    return Loop(first, goes, turns, last, jax.tree.leaves(state), *halves), results


def elements(shape: tuple[int, ...], symmetric: bool) -> list[tuple[int, ...]]:
    """Return the elements of an array in order, of a symmetric matrix one half."""
    every = np.ndindex(*shape)
    return [at for at in every if not symmetric or at[0] <= at[1]]


def _symmetric(tree: Any) -> list[bool]:
    """Return which arrays of a pytree are symmetric by their names."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [getattr(path[-1], "name", "") in SYMMETRIC for path in paths]


def pass_of(fn: Any, adds: str, arrays: Any, start: jax.ShapeDtypeStruct) -> Pass:
    """Trace what a pass adds up, a function of arrays, parameters and unit vectors."""
    units = jax.ShapeDtypeStruct((*start.shape, *start.shape), start.dtype)
    return Pass(jax.make_jaxpr(fn)(arrays, start, units), adds, *start.shape)
