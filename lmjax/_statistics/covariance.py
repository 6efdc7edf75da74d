"""The covariance of a fit, up to the scale of the noise, and its derivative."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from lmjax._engines.fused import engine as fused
from lmjax._engines.fused.inverse import plan
from lmjax._jax import sharded
from lmjax._linalg.linearization import PRECISION
from lmjax._linalg.normal_inverse import Inverse, inverse
from lmjax._problem.problem import Problem


def unscaled_covariance(
    normal_matrix: Float[Array, "n n"],
    squares: Float[Array, " n"],
    operands: Any,
    inverse: Callable,
) -> Inverse:
    """Return ``inverse(normal_matrix, squares, operands)`` with its derivative.

    That of the (pseudo-)inverse C of ``N = J^T J`` is ``dC = -C dN C``, at constant
    rank.
    """
    arrays, rest = eqx.partition(operands, eqx.is_array)

    def found(normal_matrix, squares, arrays):
        return inverse(normal_matrix, squares, eqx.combine(arrays, rest))

    def rule(_, tangents, results):
        cov = results.matrix
        others = jax.tree.map(sharded.no_tangent, results)
        if isinstance(tangents[0], SymbolicZero):
            return others._replace(matrix=jnp.zeros_like(cov))
        # a failed fit passes nothing on
        finite = jnp.all(jnp.isfinite(cov))
        safe = jnp.where(finite, cov, 0.0)
        change = jnp.where(finite, tangents[0], 0.0)
        change = jnp.dot(safe, change, precision=PRECISION)
        change = -jnp.dot(change, safe, precision=PRECISION)
        return others._replace(matrix=jnp.where(finite, change, 0.0))

    return sharded.custom_jvp(found, rule, normal_matrix, squares, arrays)


def covariance_of_fit(
    problem: Problem,
    p: Float[Array, " n"],
    normal_matrix: Float[Array, "n n"],
    squares: Float[Array, " n"],
    engine: str | None,
) -> Inverse:
    """Return the unscaled covariance of a fit, or of all fits of a batch at once.

    Args:
        problem: The problem.
        p: The solution.
        normal_matrix: ``J^T J`` there.
        squares: As for `lmjax._linalg.normal_inverse.inverse`.
        engine: What the solver asks for.
    """

    def one(normal_matrix, squares, operands):
        problem, p = operands
        given = problem, p, normal_matrix, squares
        arrays, rest = eqx.partition(given, eqx.is_array)
        alone = lambda arrays: _alone(*eqx.combine(arrays, rest))
        by_jax = engine in ("xla", "loop") or problem.arrow is not None
        if by_jax or p.size > fused.MOST_PARAMETERS:
            return alone(arrays)
        return fused.with_program(lambda shapes: plan(shapes, rest), alone, arrays)

    return unscaled_covariance(normal_matrix, squares, (problem, p), one)


def _alone(problem: Problem, p, normal_matrix, squares) -> Inverse:
    def jac_of(operands):
        problem, p = operands
        return problem.linearize(p, problem.residual_fn(p), False).jac

    return inverse(normal_matrix, squares, jac_of, (problem, p), problem.m)
