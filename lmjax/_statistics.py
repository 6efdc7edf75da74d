"""From a solution to what a scientist quotes: covariance, errors, bands, criteria.

With J the weighted Jacobian at the solution, ``covariance = s^2 (J^T J)^-1`` where
``s^2`` is the reduced chi-square, or 1 when sigma is absolute. Parameters that are
fixed, held by a bound or without effect are constants here: their rows and columns are
zero.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._linear_solvers.dense import singular_values, solve_positive
from lmjax._linearize import PRECISION
from lmjax._rarely import rarely
from lmjax._types import Scalar


def unscaled_covariance(
    normal_matrix: Float[Array, "n n"], jac_of: Callable, operands: Any, m: int
) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
    """Return the (pseudo-)inverse of ``J^T J`` and the rank of J.

    Columns are scaled to unit norm first, so the rank does not depend on units; columns
    of zeros count as absent. A well-conditioned normal matrix is inverted as it is.
    Otherwise the singular values of ``J = jac_of(operands)`` (m rows) decide, which do
    not suffer from squaring the condition number, and a deficient J gets the inverse of
    least norm: what the data do not determine has no error.

    Its derivative is ``dC = -C dN C`` with ``N = J^T J``, at constant rank.
    """
    arrays, rest = eqx.partition(operands, eqx.is_array)

    @jax.custom_jvp
    def inverse(normal_matrix, arrays):
        return _inverse(normal_matrix, jac_of, eqx.combine(arrays, rest), m)

    @inverse.defjvp
    def _(primals, tangents):
        cov, rank = inverse(*primals)
        # a failed fit passes nothing on
        finite = jnp.all(jnp.isfinite(cov))
        safe = jnp.where(finite, cov, 0.0)
        change = jnp.where(finite, tangents[0], 0.0)
        change = jnp.dot(safe, change, precision=PRECISION)
        change = -jnp.dot(change, safe, precision=PRECISION)
        change = jnp.where(finite, change, 0.0)
        return (cov, rank), (change, np.zeros((), jax.dtypes.float0))

    return inverse(normal_matrix, arrays)


def _inverse(normal_matrix, jac_of, operands, m: int):
    n = normal_matrix.shape[0]
    dtype = normal_matrix.dtype
    squares = jnp.diagonal(normal_matrix)
    present = squares > 0.0
    scale = jnp.sqrt(jnp.where(present, squares, 1.0))
    outer = scale[:, None] * scale[None, :]
    both = present[:, None] & present[None, :]
    eye = jnp.eye(n, dtype=dtype)
    eps = jnp.finfo(dtype).eps

    def through_jacobian(given):
        scale, operands = given
        _, s, vt = singular_values(jac_of(operands) / scale[None, :])
        kept = s > eps * max(m, n) * jnp.max(s)
        weighted = jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0)[:, None] * vt
        inverse = jnp.dot(weighted.T, weighted, precision=PRECISION)
        return inverse, jnp.sum(kept, dtype=jnp.int32)

    # Absent columns become unit vectors. The diagonal of the inverse of a matrix with
    # unit diagonal is the variance inflation 1 / (1 - R_j^2): above 1/sqrt(eps), half
    # of the digits are gone.
    scaled = jnp.where(both, normal_matrix / outer, eye)
    inverse = solve_positive(scaled, eye)
    healthy = jnp.max(jnp.diagonal(inverse)) < eps**-0.5  # NaN compares false
    usual = inverse, jnp.sum(present, dtype=jnp.int32)
    inverse, rank = rarely(~healthy, through_jacobian, usual, (scale, operands))
    return jnp.where(both, inverse / outer, 0.0), rank


@jax.jit
def student_t_quantile(level: Scalar, dof: Scalar) -> Scalar:
    """Return t such that P(-t < T < t) equals ``level`` for Student's T.

    Bisection on ``P(|T| > t) = I_x(dof/2, 1/2)`` with ``x = dof / (dof + t^2)``
    (Abramowitz and Stegun 26.7.1), in the bounded variable x. Infinite ``dof`` gives
    the normal quantile.
    """
    dof = jnp.asarray(dof, dtype=jnp.result_type(float))
    finite = jnp.where(jnp.isfinite(dof) & (dof > 0), dof, 1.0)
    tail = 1.0 - jnp.asarray(level, dof.dtype)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        above = jax.scipy.special.betainc(0.5 * finite, 0.5, middle) > tail
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    steps = 60 if dof.dtype == jnp.float64 else 30
    zeros, ones = jnp.zeros_like(tail * finite), jnp.ones_like(tail * finite)
    low, high = jax.lax.fori_loop(0, steps, halve, (zeros, ones))
    x = 0.5 * (low + high)
    t = jnp.sqrt(finite * (1.0 - x) / x)
    normal = jax.scipy.special.ndtri(0.5 * (1.0 + jnp.asarray(level, dof.dtype)))
    t = jnp.where(jnp.isposinf(dof), normal, t)
    return jnp.where(dof > 0, t, jnp.inf)
