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

from lmjax._arrow import ArrowMatrix
from lmjax._linear_solvers.dense import singular_values, solve_positive
from lmjax._linearize import PRECISION
from lmjax._rarely import rarely
from lmjax._types import Scalar


def unscaled_covariance(
    normal_matrix: Float[Array, "n n"],
    jac_of: Callable,
    operands: Any,
    m: int,
    squares: Float[Array, " n"] | None = None,
) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
    """Return the (pseudo-)inverse of ``J^T J`` and the rank of J.

    Columns are scaled to unit norm first, so the rank does not depend on units; columns
    of zeros count as absent. ``squares`` are their squared norms, if the diagonal is
    not: where J is what a projection left of other columns, which rounding knows best. A well-conditioned normal matrix is inverted as it is.
    Otherwise the singular values of ``J = jac_of(operands)`` (m rows) decide, which do
    not suffer from squaring the condition number, and a deficient J gets the inverse of
    least norm: what the data do not determine has no error.

    Its derivative is ``dC = -C dN C`` with ``N = J^T J``, at constant rank.
    """
    arrays, rest = eqx.partition(operands, eqx.is_array)
    if squares is None:
        squares = jnp.diagonal(normal_matrix)

    @jax.custom_jvp
    def inverse(normal_matrix, squares, arrays):
        operands = eqx.combine(arrays, rest)
        return _inverse(normal_matrix, squares, jac_of, operands, m)

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

    return inverse(normal_matrix, squares, arrays)


def _inverse(normal_matrix, squares, jac_of, operands, m: int):
    n = normal_matrix.shape[0]
    dtype = normal_matrix.dtype
    present = squares > 0.0
    scale = jnp.sqrt(jnp.where(present, squares, 1.0))
    outer = scale[:, None] * scale[None, :]
    both = present[:, None] & present[None, :]
    eye = jnp.eye(n, dtype=dtype)
    eps = jnp.finfo(dtype).eps

    def through_jacobian(given):
        scale, operands = given
        _, s, vt = singular_values(jac_of(operands) / scale[None, :])
        kept = s > eps * max(m, n) * jnp.maximum(jnp.max(s), 1.0)
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


class CovarianceBlocks(eqx.Module):
    """Covariance of a global fit, by its blocks.

    Parameters are in ravel order, a curve's own ones and the shared ones apart. Own
    parameters of two curves covary through the shared ones alone: their block is
    ``cross_g shared^-1 cross_h^T``.

    Attributes:
        own: Covariance of each curve's own parameters.
        cross: Covariance of own with shared parameters.
        shared: Covariance of the shared parameters.
    """

    own: Float[Array, "*batch g k k"]
    cross: Float[Array, "*batch g k s"]
    shared: Float[Array, "*batch s s"]


def unscaled_blocks(
    matrix: ArrowMatrix, columns: Float[Array, "c m g"]
) -> tuple[CovarianceBlocks, Int[Array, ""]]:
    """Return the blocks of the inverse of ``J^T J`` and the rank of J.

    With ``X = V^-1 W`` in each curve and ``C = (U - sum W^T X)^-1`` the blocks are
    ``V^-1 + X C X^T``, ``-X C`` and ``C``. Own parameters that a curve does not
    determine get the inverse of least norm; a shared parameter that nothing tells from
    the own ones gets zeros and lowers the rank.

    Args:
        matrix: Zero in rows and columns of parameters that have no error.
        columns: Those of J, own before shared, curves last, zero likewise.
    """
    k, m, s = matrix.arrow.own, columns.shape[1], matrix.arrow.shared
    dot = lambda *args: jnp.einsum(*args, precision=PRECISION)
    own, cross = jnp.moveaxis(matrix.own, -1, 0), jnp.moveaxis(matrix.cross, -1, 0)
    one = lambda normal, jac: unscaled_covariance(normal, lambda j: j.T, jac, m)
    own, rank = jax.vmap(one)(own, jnp.moveaxis(columns[:k], -1, 0))
    x = dot("gij,gja->gia", own, cross)

    def projected(operands):
        columns, x = operands
        rest = columns[k:] - dot("img,gia->amg", columns[:k], x)
        return rest.reshape(s, -1).T

    squares = jnp.diagonal(matrix.shared)
    reduced = matrix.shared - dot("gia,gib->ab", cross, x)
    shared, shared_rank = unscaled_covariance(
        reduced, projected, (columns, x), m, squares
    )
    # beside a determined one, squares * variance is at least 1
    told = jnp.diagonal(shared) * squares > 0.5
    shared = jnp.where(told[:, None] & told[None, :], shared, 0.0)
    xc = dot("gia,ab->gib", x, shared)
    blocks = CovarianceBlocks(own + dot("gia,gja->gij", xc, x), -xc, shared)
    return blocks, jnp.sum(rank) + shared_rank


def scaled(unscaled: Any, cost: Scalar, dof: Int[Array, ""]) -> Any:
    """Return covariances times the reduced chi-square; infinite without freedom."""
    scale = 2.0 * cost / jnp.maximum(dof, 1).astype(cost.dtype)

    def one(block):
        infinite = jnp.where(block != 0.0, jnp.inf, 0.0).astype(block.dtype)
        return jnp.where(dof > 0, block * scale, infinite)

    return jax.tree.map(one, unscaled)


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
