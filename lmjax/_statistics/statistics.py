"""From a solution to what a scientist quotes: covariance, errors, bands, criteria.

With J the weighted Jacobian at the solution, ``covariance = s^2 (J^T J)^-1`` where
``s^2`` is the reduced chi-square, or 1 when sigma is absolute. Parameters that are
fixed, held by a bound or without effect are constants here: their rows and columns are
zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lmjax._jax import sharded
from lmjax._jax.types import Scalar
from lmjax._solver.status import ParamStatus


def scaled(unscaled: Any, cost: Scalar, dof: Int[Array, ""]) -> Any:
    """Return covariances times the reduced chi-square; infinite without freedom."""
    scale = 2.0 * cost / jnp.maximum(dof, 1).astype(cost.dtype)

    def one(block):
        infinite = jnp.where(block != 0.0, jnp.inf, jnp.zeros_like(block))
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
    low, high = sharded.fori_loop(0, steps, halve, (zeros, ones))
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
