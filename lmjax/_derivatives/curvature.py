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

from lmjax._engines.fused import engine as fused
from lmjax._engines.fused.hessian import plan
from lmjax._jax import sharded
from lmjax._jax.types import Flag, Scalar
from lmjax._linalg.arrowhead import ArrowMatrix, matrix_of
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.hessian import (
    Hessian,
    Place,
    both,
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
from lmjax._solver.solution import DerivativeCheck

# Up to here H is built and factored; beyond, products with it cost less.
DENSE_UP_TO = 128


class Curvature(eqx.Module):
    """The Hessian at a point, ready to be solved with.

    Attributes:
        p: The point.
        grad: Gradient there, zero for parameters that are not free.
        matrix: H as a matrix, the identity where not free; None where it is too large
            or an arrow, of which ``inverse`` knows the blocks.
        inverse: Its inverse, or one of a matrix close to H for a preconditioner.
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
        return solve_by_products(self.product, self._precondition, rhs)

    def newton_step(self) -> Float[Array, " n"]:
        """Return ``-H^-1 g``."""
        return -self.solve(self.grad)

    def _precondition(self, v):
        squares = jax.lax.stop_gradient(self.norms**2)
        jacobi = v / jnp.where(squares > 0.0, squares, 1.0)
        if self.inverse is None:
            return jacobi
        return jnp.where(self.inverse.well_conditioned, self.inverse.times(v), jacobi)


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
        inverse = _inverse(matrix, grad, place)
    else:
        grad = jnp.where(free, grad, 0.0)
        if outcome.normal_matrix is not None:
            _, close = over_free(grad, outcome.normal_matrix, free)
            inverse = _inverse(close, jnp.zeros_like(grad), place)

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
    fixed = jax.lax.stop_gradient((linearization.rescale(inverse_norms), inverse_norms))
    inverse = BlockInverse(*fixed, problem.linear_solver, jnp.array(True))

    def masked(v):
        return jnp.where(usable, product(jnp.where(usable, v, 0.0)), v)

    return Curvature(p, jnp.where(usable, grad, 0.0), None, inverse, masked, norms)


class BlockInverse(eqx.Module):
    """The inverse of ``J^T J`` of a problem of blocks, nearly undamped.

    Attributes:
        linearization: The linear model in units of its columns.
        inverse_norms: Inverse norms of the columns, zero where not free.
        linear_solver: The linear solver.
        well_conditioned: True.
    """

    linearization: BlockLinearization
    inverse_norms: Float[Array, " n"]
    linear_solver: Any
    well_conditioned: Flag

    def times(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        scale = self.inverse_norms
        model = self.linearization.with_gradient(-scale * v)
        # what moves the whole world costs nothing: a trace of damping keeps it in place
        damping = jnp.asarray(jnp.finfo(v.dtype).eps ** 0.5, v.dtype)
        step = scale * self.linear_solver(model, damping)
        return jnp.where(scale > 0.0, step, v)


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
        inverse = _inverse(matrix, grad, rebuild(leaves)[1])
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


def _linearized(problem: Problem, p: Float[Array, " n"]):
    """Return the gradient and ``v -> H v``."""
    start = problem.along(p)[1]
    return sharded.linearize(lambda v: gradient(problem, p, v), start)


def _matrix(product: Callable, like: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Return H from its products with vectors like one."""
    matrix = jax.vmap(product)(jnp.eye(like.size, dtype=like.dtype))
    return 0.5 * (matrix + matrix.T)


def _inverse(matrix, grad, place: Place) -> Inverse:
    matrix, grad, place = jax.lax.stop_gradient((matrix, grad, place))
    inverse = pseudo_inverse(matrix, *units(grad, place))
    return over_free_inverse(inverse, place.free)


def _arrow_inverse(matrix: ArrowMatrix, norms, free) -> ArrowInverse:
    matrix, norms = jax.lax.stop_gradient((matrix, norms))
    matrix = matrix.kept(free).plus_diagonal((~free).astype(norms.dtype))
    return arrow_inverse(matrix, jnp.where(free, norms**2, 1.0))


def check(problem: Problem, outcome: Outcome) -> DerivativeCheck:
    """Return the check of a fit, from the full Hessian at its solution."""
    arrays, rest = eqx.partition((problem, outcome), eqx.is_array)
    problem, outcome = eqx.combine(jax.lax.stop_gradient(arrays), rest)
    problem = without_user_jacobian(problem, outcome.norms.size)
    curvature = at(problem, outcome.p, outcome, "full")
    norm = lambda v: jnp.sqrt(jnp.sum((outcome.norms * v) ** 2))
    size = norm(problem.constraints.coordinates(outcome.p))
    error = norm(curvature.newton_step()) / jnp.where(size > 0.0, size, 1.0)
    num_free = jnp.sum(outcome.free & ~outcome.idle, dtype=jnp.int32)
    rank, definite = jnp.full_like(num_free, -1), jnp.array(False)
    rho = jnp.full_like(error, jnp.nan)
    matrix, inverse = curvature.matrix, curvature.inverse
    if matrix is not None and isinstance(inverse, Inverse):
        rank, definite = inverse.rank, inverse.well_conditioned
        rho = _rho(matrix, outcome.normal_matrix, outcome)
    return DerivativeCheck(error, rho, rank, num_free, definite)


def _rho(matrix, normal, outcome: Outcome) -> Scalar:
    """Return the spectral radius of ``N^-1 (H - N)`` by power iteration in the N norm.

    A hundred turns settle it to a percent unless eigenvalues are closer than that, when
    any of them will do.
    """
    free = outcome.free
    eye = jnp.eye(free.size, dtype=matrix.dtype)
    normal = jnp.where(both(free), normal, eye)
    zero = jnp.zeros((), matrix.dtype)
    place = Place(outcome.norms, free, outcome.norms, outcome.cost)
    inverse = _inverse(normal, jnp.zeros_like(outcome.norms), place).matrix
    rest = jnp.where(both(free), matrix - normal, 0.0)
    dot = lambda a, b: jnp.dot(a, b, precision=PRECISION)
    norm = lambda v: jnp.sqrt(jnp.abs(dot(v, dot(normal, v))))

    def turn(_, carry):
        x, _ = carry
        y = dot(inverse, dot(rest, x))
        length = norm(y)
        return y / jnp.where(length > 0.0, length, 1.0), length

    scale = jnp.where(outcome.norms > 0.0, outcome.norms, 1.0)
    start = jnp.where(free, 1.0 + jnp.arange(free.size) / free.size, 0.0) / scale
    start = start.astype(matrix.dtype)
    length = norm(start)
    start = start / jnp.where(length > 0.0, length, 1.0)
    return sharded.fori_loop(0, 100, turn, (start, zero))[1]
