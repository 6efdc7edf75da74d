"""How far to trust the derivative of a fit."""

import equinox as eqx
import jax
import jax.numpy as jnp

from lmjax._derivatives.curvature import at as curvature_at
from lmjax._derivatives.curvature import inverse_at, without_user_jacobian
from lmjax._jax import sharded
from lmjax._jax.types import Scalar
from lmjax._linalg.hessian import Place, both
from lmjax._linalg.linearization import PRECISION
from lmjax._linalg.symmetric import Inverse
from lmjax._problem.problem import Problem
from lmjax._solver.outcome import Outcome
from lmjax._solver.solution import DerivativeCheck


def check(problem: Problem, outcome: Outcome) -> DerivativeCheck:
    """Return the check of a fit, from the full Hessian at its solution."""
    arrays, rest = eqx.partition((problem, outcome), eqx.is_array)
    problem, outcome = eqx.combine(jax.lax.stop_gradient(arrays), rest)
    problem = without_user_jacobian(problem, outcome.norms.size)
    curvature = curvature_at(problem, outcome.p, outcome, "full")
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
    inverse = inverse_at(normal, jnp.zeros_like(outcome.norms), place).matrix
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
