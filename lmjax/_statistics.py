"""From a solution to what a scientist quotes: covariance, errors, bands, criteria.

With J the weighted Jacobian at the solution, ``covariance = s^2 (J^T J)^-1`` where
``s^2`` is the reduced chi-square, or 1 when sigma is absolute. Parameters that are
fixed, held by a bound or without effect are constants here: their rows and columns are
zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._linear_solvers.dense import solve_written_out, triangularize
from lmjax._linearize import PRECISION, UNROLL_UP_TO, sums
from lmjax._types import Scalar


def unscaled_covariance(
    jac: Float[Array, "m n"], normal_matrix: Float[Array, "n n"]
) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
    """Return the (pseudo-)inverse of ``J^T J`` and the rank of J.

    Columns are scaled to unit norm first, so the rank does not depend on units; columns
    of zeros count as absent. A well-conditioned normal matrix is inverted as it is.
    Otherwise the singular values of J decide, which do not suffer from squaring the
    condition number, and a deficient J gets the inverse of least norm: what the data do
    not determine has no error.
    """
    n = jac.shape[1]
    squares = jnp.diagonal(normal_matrix)
    present = squares > 0.0
    scale = jnp.sqrt(jnp.where(present, squares, 1.0))
    outer = scale[:, None] * scale[None, :]
    both = present[:, None] & present[None, :]
    eye = jnp.eye(n, dtype=jac.dtype)
    eps = jnp.finfo(jac.dtype).eps

    def through_jacobian():
        if n > UNROLL_UP_TO:
            _, s, vt = jnp.linalg.svd(jac / scale[None, :], full_matrices=False)
        else:
            s, vt = _singular_values(jac / scale[None, :], present)
        kept = s > eps * max(jac.shape) * jnp.max(s)
        weighted = jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0)[:, None] * vt
        inverse = jnp.dot(weighted.T, weighted, precision=PRECISION)
        absent = n - jnp.sum(present, dtype=jnp.int32) if n <= UNROLL_UP_TO else 0
        return inverse, jnp.sum(kept, dtype=jnp.int32) - absent

    if n > UNROLL_UP_TO:
        inverse, rank = through_jacobian()
    else:
        # Absent columns become unit vectors. The diagonal of the inverse of a matrix
        # with unit diagonal is the variance inflation 1 / (1 - R_j^2): above
        # 1/sqrt(eps), half of the digits are gone.
        inverse = solve_written_out(jnp.where(both, normal_matrix / outer, eye), eye)
        healthy = jnp.max(jnp.diagonal(inverse)) < eps**-0.5  # NaN compares false
        inverse, rank = jax.lax.cond(
            healthy,
            lambda: (inverse, jnp.sum(present, dtype=jnp.int32)),
            through_jacobian,
        )
    return jnp.where(both, inverse / outer, 0.0), rank


def _singular_values(
    jac: Float[Array, "m n"], present: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Return singular values and right vectors of a narrow J with unit columns.

    The triangle of J, then one-sided Jacobi rotations until its columns are orthogonal
    (Golub and Van Loan, Matrix Computations, section 8.6.3). Columns of zeros are given
    a direction, and a singular value, of their own.
    """
    n = jac.shape[1]
    eye = jnp.eye(n, dtype=jac.dtype)
    own = jnp.where(present[:, None], 0.0, eye)
    rows = triangularize(jnp.concatenate([jac, own]), n)
    triangle = jnp.stack([jnp.stack(row) for row in rows])

    def sweep(_, pair):
        a, v = pair
        for p in range(n):
            for q in range(p + 1, n):
                alpha, beta, gamma = sums(a[:, p] ** 2, a[:, q] ** 2, a[:, p] * a[:, q])
                zeta = (beta - alpha) / (2.0 * jnp.where(gamma == 0.0, 1.0, gamma))
                sign = jnp.where(zeta < 0.0, -1.0, 1.0)
                tangent = sign / (jnp.abs(zeta) + jnp.sqrt(1.0 + zeta**2))
                tangent = jnp.where(gamma == 0.0, 0.0, tangent)
                cosine = 1.0 / jnp.sqrt(1.0 + tangent**2)
                sine = cosine * tangent
                rotate = lambda m, c=cosine, s=sine, p=p, q=q: (
                    m.at[:, p]
                    .set(c * m[:, p] - s * m[:, q])
                    .at[:, q]
                    .set(s * m[:, p] + c * m[:, q])
                )
                a, v = rotate(a), rotate(v)
        return a, v

    # quadratic convergence: eight sweeps are ample up to eight columns
    a, v = jax.lax.fori_loop(0, 8, sweep, (triangle, eye))
    return jnp.sqrt(jnp.sum(a**2, axis=0)), v.T


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
