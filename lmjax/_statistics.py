"""From a solution to what a scientist quotes: covariance, errors, bands, criteria.

With J the weighted Jacobian at the solution, ``covariance = s^2 (J^T J)^-1`` where ``s^2`` is
the reduced chi-square, or 1 when sigma is absolute. Parameters that are fixed, held by a bound
or without effect are constants here: their rows and columns are zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmjax._linearize import PRECISION, UNROLL_UP_TO
from lmjax._types import Scalar


def unscaled_covariance(
    jac: Float[Array, "m n"],
) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
    """Return the (pseudo-)inverse of ``J^T J`` and the rank of J.

    Through J, not ``J^T J``, which would square the condition number. Columns are scaled to
    unit norm first, so the rank does not depend on units; columns of zeros count as absent.
    A deficient J gets the inverse of least norm: what the data do not determine has no error.
    """
    n = jac.shape[1]
    norms = jnp.linalg.norm(jac, axis=0)
    present = norms > 0.0
    scale = jnp.where(present, norms, 1.0)
    scaled = jac / scale
    eps = jnp.finfo(jac.dtype).eps
    # an absent column becomes a unit vector of its own below J: a diagonal one in R
    padding = jnp.diag(jnp.where(present, 0.0, 1.0)).astype(jac.dtype)
    triangle = jnp.linalg.qr(jnp.concatenate([scaled, padding]), mode="r")
    cutoff = eps * max(jac.shape) * 10.0

    def full():
        inverse = _invert_upper(triangle)
        return jnp.dot(inverse, inverse.T, precision=PRECISION), jnp.sum(present)

    def deficient():
        _, s, vt = jnp.linalg.svd(triangle)
        kept = s > cutoff * s[0]
        weighted = jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0)[:, None] * vt
        rank = jnp.sum(kept) - jnp.sum(~present)
        return jnp.dot(weighted.T, weighted, precision=PRECISION), rank

    smallest = jnp.min(jnp.abs(jnp.diagonal(triangle)))
    usable = jnp.isfinite(smallest) & (smallest > cutoff)
    inverse, rank = jax.lax.cond(usable, full, deficient)
    inverse = jnp.where(present[:, None] & present[None, :], inverse, 0.0)
    return inverse / (scale[:, None] * scale[None, :]), rank.astype(jnp.int32)


def _invert_upper(upper: Float[Array, "n n"]) -> Float[Array, "n n"]:
    n = upper.shape[0]
    if n > UNROLL_UP_TO:
        return jax.scipy.linalg.solve_triangular(upper, jnp.eye(n, dtype=upper.dtype))
    rows = [None] * n
    eye = jnp.eye(n, dtype=upper.dtype)
    for i in reversed(range(n)):
        row = eye[i]
        for k in range(i + 1, n):
            row = row - upper[i, k] * rows[k]
        rows[i] = row / upper[i, i]
    return jnp.stack(rows)


def student_t_quantile(level: Scalar, dof: Scalar) -> Scalar:
    """Return t such that a Student variable lies within (-t, t) with probability ``level``.

    Bisection on ``P(|T| > t) = I_x(dof/2, 1/2)`` with ``x = dof / (dof + t^2)`` (Abramowitz
    and Stegun 26.7.1), in the bounded variable x. Infinite ``dof`` gives the normal quantile.
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
