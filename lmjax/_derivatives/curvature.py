"""Second derivatives of the cost at a solution, and what they are good for.

The cost is ``F(p) = 1/2 sum_i r_i^2``, or a sum of robust losses or half deviances;
``H`` below is its Hessian over the parameters that are free to move, or the
Gauss-Newton part of it, ``J^T J``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from lmjax._derivatives.block_inverse import block_inverse
from lmjax._engines.fused import engine as fused
from lmjax._engines.fused.hessian import plan
from lmjax._jax import sharded
from lmjax._linalg.arrowhead import ArrowMatrix, matrix_of
from lmjax._linalg.hessian import (
    Hessian,
    Place,
    over_free,
    over_free_inverse,
    units,
)
from lmjax._linalg.linearization import PRECISION, MatrixFreeLinearization
from lmjax._linalg.symmetric import (
    ArrowInverse,
    Inverse,
    arrow_inverse,
    pseudo_inverse,
    solve_by_products,
    solve_dense,
)
from lmjax._problem.block_problem import BlockProblem
from lmjax._problem.problem import Problem
from lmjax._solver.outcome import Outcome

# Up to here H is built and factored; beyond, products with it cost less.
DENSE_UP_TO = 128


class Curvature(eqx.Module):
    """The Hessian at a point, ready to be solved with.

    Attributes:
        p: The point.
        grad: Gradient there, zero for parameters that are not free.
        matrix: H as a matrix, the identity where not free; None where it is too large
            or an arrow, of which ``inverse`` knows the blocks.
        inverse: Its inverse, or one of a matrix close to H for a preconditioner; or a
            function without arguments that makes it, of numbers that have no
            derivative.
        product: ``v -> H v``.
        norms: Norms of the columns of J.
    """

    p: Float[Array, " n"]
    grad: Float[Array, " n"]
    matrix: Float[Array, "n n"] | None
    inverse: Any
    product: Callable
    norms: Float[Array, " n"]

    def solve(self, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return ``H^-1 rhs`` for a right-hand side that is zero where not free."""
        if self.matrix is not None and isinstance(self.inverse, Inverse):
            return solve_dense(self.matrix, self.inverse.matrix, rhs)
        return solve_by_products(self.product, self._preconditioner, rhs)

    def newton_step(self) -> Float[Array, " n"]:
        """Return ``-H^-1 g``."""
        return -self.solve(self.grad)

    def _preconditioner(self) -> Callable:
        squares = jax.lax.stop_gradient(self.norms**2)
        jacobi = lambda v: v / jnp.where(squares > 0.0, squares, 1.0)
        inverse: Any = self.inverse
        if callable(inverse):
            inverse = inverse()
        if inverse is None:
            return jacobi
        return lambda v: jnp.where(
            inverse.well_conditioned, inverse.times(v), jacobi(v)
        )


def without_user_jacobian(problem: Problem, n: int) -> Problem:
    """Return the problem with J worked out by autodiff."""
    if problem.user_jac is None:
        return problem
    jacobian = "rev" if n > problem.m else "fwd"
    return dataclasses.replace(problem, user_jac=None, jacobian=jacobian)


def gradient(
    problem: Problem | BlockProblem,
    p: Float[Array, " a"],
    v: Float[Array, " n"] | None = None,
) -> Float[Array, " n"]:
    """Return the gradient of the cost; on manifolds by the step ``v`` from ``p``."""
    fn, start = problem.along(p)
    cost = lambda v: jnp.sum(problem.half_terms(fn(v)))
    return jax.grad(cost)(start if v is None else v)


def recompute_outputs(
    problem: Problem, p: Float[Array, " n"], outcome: Outcome
) -> dict[str, Any]:
    """Return what the outcome says about the point ``p``, computed again."""
    r = problem.residual_fn(p)
    again = {"r": r, "cost": jnp.sum(problem.half_terms(r))}
    if outcome.normal_matrix is not None:
        again["normal_matrix"] = problem.linearize(p, r, False).normal_matrix()
    return again


def at(
    problem: Problem,
    p: Float[Array, " n"],
    outcome: Outcome,
    hessian: str,
    engine: str | None = None,
) -> Curvature:
    """Return the curvature of the cost at ``p``, near the outcome of a fit."""
    free = outcome.free
    norms = jax.lax.stop_gradient(outcome.norms)
    cost = jax.lax.stop_gradient(outcome.cost)
    place = Place(problem.constraints.coordinates(p), free, norms, cost)
    if isinstance(problem, BlockProblem):
        return _of_blocks(problem, p, place, hessian)
    small = norms.size <= DENSE_UP_TO and problem.arrow is None
    if small and hessian == "full":
        known = _dense(problem, p, place, engine)
        matrix = known.matrix
        times = lambda v: jnp.dot(matrix, v, precision=PRECISION)
        return Curvature(p, known.grad, matrix, known.inverse, times, norms)
    grad, matrix, product = _second_derivatives(problem, p, hessian)
    inverse = None
    if isinstance(matrix, ArrowMatrix):
        inverse = _arrow_inverse(matrix, norms, free)
        grad, matrix = jnp.where(free, grad, 0.0), None
    elif matrix is not None:
        grad, matrix = over_free(grad, matrix, free)
        inverse = inverse_at(matrix, grad, place)
    else:
        grad = jnp.where(free, grad, 0.0)
        if outcome.normal_matrix is not None:
            _, close = over_free(grad, outcome.normal_matrix, free)
            inverse = inverse_at(close, jnp.zeros_like(grad), place)

    def masked(v):
        return jnp.where(free, product(jnp.where(free, v, 0.0)), v)

    return Curvature(p, grad, matrix, inverse, masked, norms)


def _of_blocks(
    problem: BlockProblem, p: Float[Array, " a"], place: Place, hessian: str
) -> Curvature:
    """Return the curvature of a problem of blocks, H known by its products.

    ``J^T J``, factored as in a step, preconditions them: it differs from H by the
    curvature of the residuals, so a few products solve with H.
    """
    r = problem.residual_fn(p)
    linearization = problem.linearize(p, r, False)
    grad, product = _linearized(problem, p)
    if hessian == "gauss_newton":
        model = linearization
        grad, product = model.grad, lambda v: model.rmv(model.mv(v))
    free, norms = place.free, place.norms
    usable = free & (norms > 0.0)
    inverse_norms = jnp.where(usable, 1.0 / jnp.where(usable, norms, 1.0), 0.0)
    known = jax.lax.stop_gradient((linearization, inverse_norms))
    inverse = lambda: block_inverse(*known, problem.linear_solver)

    def masked(v):
        return jnp.where(usable, product(jnp.where(usable, v, 0.0)), v)

    return Curvature(p, jnp.where(usable, grad, 0.0), None, inverse, masked, norms)


def _dense(
    problem: Problem, p: Float[Array, " a"], place: Place, engine: str | None
) -> Hessian:
    """Return the Hessian as a matrix; of a batch by one machine program.

    Gradient and matrix have derivatives, the inverse is a number.
    """
    arrays, rest = eqx.partition((problem, place, p), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def rebuild(leaves):
        return eqx.combine(jax.tree.unflatten(structure, leaves), rest)

    def derivatives(leaves):
        problem, place, p = rebuild(leaves)
        grad, product = _linearized(problem, p)
        return over_free(grad, _matrix(product, place.norms), place.free)

    def alone(leaves) -> Hessian:
        grad, matrix = derivatives(leaves)
        inverse = inverse_at(matrix, grad, rebuild(leaves)[1])
        return Hessian(grad, matrix, inverse, jnp.array(False))

    def found(leaves) -> Hessian:
        elsewhere = engine in ("xla", "loop") or problem.constraints.charts is not None
        if elsewhere or place.norms.size > fused.MOST_PARAMETERS:
            return alone(leaves)
        planned = lambda leaves: plan(jax.tree.unflatten(structure, leaves), rest)
        return fused.with_program(planned, alone, leaves)

    def rule(primals, tangents, known: Hessian) -> Hessian:
        leaves, dots = primals[0], tangents[0]
        live = [i for i, dot in enumerate(dots) if not isinstance(dot, SymbolicZero)]

        def moved(values):
            every = list(leaves)
            for i, value in zip(live, values, strict=True):
                every[i] = value
            return derivatives(every)

        values = [leaves[i] for i in live]
        _, (grad, matrix) = jax.jvp(moved, (values,), ([dots[i] for i in live],))
        still = jax.tree.map(sharded.zero_tangent, known)
        return still._replace(grad=grad, matrix=matrix)

    return sharded.custom_jvp(found, rule, leaves)


def _second_derivatives(problem: Problem, p: Float[Array, " n"], hessian: str):
    """Return gradient, H (None where too large) and ``v -> H v``."""
    arrow = problem.arrow
    n = problem.constraints.size(p)
    dense = n <= DENSE_UP_TO or arrow is not None
    if hessian == "gauss_newton":
        linearization = problem.linearize(p, problem.residual_fn(p), not dense)
        grad = gradient(problem, p)
        if not isinstance(linearization, MatrixFreeLinearization):
            matrix = linearization.normal_matrix()
            return grad, matrix, lambda v: matrix @ v
        mv, rmv = linearization.operators()
        return grad, None, lambda v: rmv(mv(v))
    grad, product = _linearized(problem, p)
    matrix = None if arrow is None else matrix_of(arrow, product, p.dtype)
    return grad, matrix, product


def _linearized(problem: Problem | BlockProblem, p: Float[Array, " n"]):
    """Return the gradient and ``v -> H v``."""
    start = problem.along(p)[1]
    return sharded.linearize(lambda v: gradient(problem, p, v), start)


def _matrix(product: Callable, like: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Return H from its products with vectors like one."""
    matrix = jax.vmap(product)(jnp.eye(like.size, dtype=like.dtype))
    return 0.5 * (matrix + matrix.T)


def inverse_at(matrix, grad, place: Place) -> Inverse:
    matrix, grad, place = jax.lax.stop_gradient((matrix, grad, place))
    inverse = pseudo_inverse(matrix, *units(grad, place))
    return over_free_inverse(inverse, place.free)


def _arrow_inverse(matrix: ArrowMatrix, norms, free) -> ArrowInverse:
    matrix, norms = jax.lax.stop_gradient((matrix, norms))
    matrix = matrix.kept(free).plus_diagonal((~free).astype(norms.dtype))
    return arrow_inverse(matrix, jnp.where(free, norms**2, 1.0))
