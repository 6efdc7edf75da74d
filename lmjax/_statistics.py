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
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from lmjax import _varying
from lmjax._linear_solvers.dense import singular_values, solve_positive
from lmjax._linearize import PRECISION, identity
from lmjax._rarely import in_blocks, rarely
from lmjax._status import ParamStatus
from lmjax._types import Flag, Scalar


def unscaled_covariance(
    normal_matrix: Float[Array, "n n"],
    jac_of: Callable,
    operands: Any,
    m: int,
    squares: Float[Array, " n"],
) -> tuple[Float[Array, "n n"], Int[Array, ""], Bool[Array, " n"]]:
    """Return the (pseudo-)inverse of ``J^T J``, the rank of J and what it leaves open.

    The last are flags of the parameters that take part in a direction without effect.

    Columns are scaled to unit norm first, so the rank does not depend on units;
    ``squares`` are their squared norms, or zero where a column is to count as absent.
    (After a projection, of what they were before it, which set the rounding of what it
    left.) A well-conditioned normal matrix is inverted as it is. Otherwise the singular
    values of ``J = jac_of(operands)`` (m rows) decide, which do not suffer from
    squaring the condition number, and a deficient J gets the inverse of least norm: the
    right one for whatever the data do determine.

    Its derivative is ``dC = -C dN C`` with ``N = J^T J``, at constant rank.
    """
    arrays, rest = eqx.partition(operands, eqx.is_array)

    def inverse(normal_matrix, squares, arrays):
        operands = eqx.combine(arrays, rest)
        return _inverse(normal_matrix, squares, jac_of, operands, m)

    def rule(_, tangents, found):
        cov, rank, open_ = found
        none = _varying.no_tangent
        if isinstance(tangents[0], SymbolicZero):
            return jnp.zeros_like(cov), none(rank), none(open_)
        # a failed fit passes nothing on
        finite = jnp.all(jnp.isfinite(cov))
        safe = jnp.where(finite, cov, 0.0)
        change = jnp.where(finite, tangents[0], 0.0)
        change = jnp.dot(safe, change, precision=PRECISION)
        change = -jnp.dot(change, safe, precision=PRECISION)
        change = jnp.where(finite, change, 0.0)
        return change, none(rank), none(open_)

    return _varying.custom_jvp(inverse, rule, normal_matrix, squares, arrays)


def _inverse(normal_matrix, squares, jac_of, operands, m: int):
    def through_matrix(normal_matrix, squares):
        scale, both, scaled = unit_columns(normal_matrix, squares)
        return scale, both, *healthy_inverse(scaled)

    def through_jacobian(given):
        squares, scale, operands = given
        jac = jac_of(operands) / scale[None, :]
        jac = jnp.where((squares > 0.0)[None, :], jac, 0.0)
        root, rank, open_ = root_of_inverse(jac, m)
        inverse = jnp.dot(root.T, root, precision=PRECISION)
        return inverse, rank, open_ & (squares > 0.0)

    scale, both, inverse, healthy = in_blocks(through_matrix)(normal_matrix, squares)
    rank = jnp.sum(squares > 0.0, dtype=jnp.int32)
    usual = inverse, rank, jnp.zeros_like(squares > 0.0)
    inverse, rank, open_ = rarely(
        ~healthy, through_jacobian, usual, (squares, scale, operands)
    )
    inverse = inverse / (scale[:, None] * scale[None, :])
    return jnp.where(both, inverse, 0.0), rank, open_


def unit_columns(
    normal_matrix: Float[Array, "n n"], squares: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Bool[Array, "n n"], Float[Array, "n n"]]:
    """Return the norms of the columns, which entries count, and the matrix scaled.

    Absent columns become unit vectors of norm 1.
    """
    present = squares > 0.0
    scale = jnp.sqrt(jnp.where(present, squares, 1.0))
    both = present[:, None] & present[None, :]
    eye = identity(squares.size, squares.size, squares.dtype)
    scaled = normal_matrix / (scale[:, None] * scale[None, :])
    return scale, both, jnp.where(both, scaled, eye)


def healthy_inverse(scaled: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Flag]:
    """Return the inverse of a matrix of unit columns, and whether it can be trusted.

    The diagonal of the inverse of a matrix with unit diagonal is the variance inflation
    ``1 / (1 - R_j^2)``: above 1/sqrt(eps), half of the digits are gone. Every entry is
    compared: a maximum over NaN may be anything (-inf in large arrays, XLA on CPU).
    """
    eye = identity(len(scaled), len(scaled), scaled.dtype)
    inverse = solve_positive(scaled, eye)
    limit = jnp.finfo(scaled.dtype).eps ** -0.5
    return inverse, jnp.all(jnp.diagonal(inverse) < limit)


def root_of_inverse(
    jac: Float[Array, "m n"], m: int
) -> tuple[Float[Array, "n n"], Int[Array, ""], Bool[Array, " n"]]:
    """Return L with ``L^T L`` the pseudo-inverse of ``J^T J``, and the rank of J.

    By singular values; those that cannot be told from rounding are left out. ``J L^T``
    has orthonormal columns. The last result flags the parameters that take part in a
    direction left out: its component is above the rounding of a sum of n squares.
    """
    eps = jnp.finfo(jac.dtype).eps
    _, s, vt = singular_values(jac)
    # the largest is 1 at least, unless J is rounding and nothing else
    kept = s > eps * max(m, jac.shape[1]) * jnp.maximum(jnp.max(s), 1.0)
    root = jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0)[:, None] * vt
    share = jnp.sum(jnp.where(kept[:, None], vt**2, 0.0), axis=0)
    open_ = share < 1.0 - 10.0 * jac.shape[1] * eps
    return root, jnp.sum(kept, dtype=jnp.int32), open_


def scaled(unscaled: Any, cost: Scalar, dof: Int[Array, ""]) -> Any:
    """Return covariances times the reduced chi-square; infinite without freedom."""
    scale = 2.0 * cost / jnp.maximum(dof, 1).astype(cost.dtype)

    def one(block):
        infinite = jnp.where(block != 0.0, jnp.inf, 0.0).astype(block.dtype)
        return jnp.where(dof > 0, block * scale, infinite)

    return jax.tree.map(one, unscaled)


@jax.jit
def student_t_quantile(level: Scalar, dof: Scalar) -> Scalar:
    """Return t such that P(-t < T < t) equals ``level`` for Student's T.

    Bisection on ``P(|T| > t) = I_x(dof/2, 1/2)`` with ``x = dof / (dof + t^2)``
    (Abramowitz and Stegun 26.7.1), in the bounded variable x. For many degrees of
    freedom, where x is too close to 1 to be resolved, by the expansion around the
    normal quantile (26.7.5), whose next term is then below the rounding.
    """
    dof = jnp.asarray(dof, dtype=jnp.result_type(float))
    many = dof > (1000.0 if dof.dtype == jnp.float64 else 50.0)
    finite = jnp.where((dof > 0) & ~many, dof, 1.0)
    tail = 1.0 - jnp.asarray(level, dof.dtype)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        above = jax.scipy.special.betainc(0.5 * finite, 0.5, middle) > tail
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    steps = 60 if dof.dtype == jnp.float64 else 30
    zeros, ones = jnp.zeros_like(tail * finite), jnp.ones_like(tail * finite)
    low, high = _varying.fori_loop(0, steps, halve, (zeros, ones))
    x = 0.5 * (low + high)
    t = jnp.sqrt(finite * (1.0 - x) / x)
    z = jax.scipy.special.ndtri(0.5 * (1.0 + jnp.asarray(level, dof.dtype)))
    terms = (
        z**3 + z,
        5 * z**5 + 16 * z**3 + 3 * z,
        3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z,
        79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z,
    )
    per_dof = 1.0 / jnp.where(many, dof, jnp.inf)
    scaled = zip(terms, (4, 96, 384, 92160), (1, 2, 3, 4), strict=True)
    expansion = z + sum(term / size * per_dof**k for term, size, k in scaled)
    t = jnp.where(many, expansion, t)
    return jnp.where(dof > 0, t, jnp.inf)


def has_error(param_status):
    """Return which parameters have an error bar."""
    return (param_status == ParamStatus.FREE) | (param_status == ParamStatus.UNMOVED)


def is_free(param_status):
    """Return which parameters the covariance is about."""
    return has_error(param_status) | (param_status == ParamStatus.UNDETERMINED)


def marked(param_status, undetermined):
    """Return the status with the flagged ones of the free parameters undetermined."""
    open_ = is_free(param_status) & undetermined
    code = jnp.asarray(ParamStatus.UNDETERMINED, param_status.dtype)
    return jnp.where(open_, code, param_status)


def dof_of(num_points, param_status):
    """Return the degrees of freedom."""
    unfixed = jnp.sum(param_status != ParamStatus.FIXED, axis=-1, dtype=jnp.int32)
    return num_points - unfixed
