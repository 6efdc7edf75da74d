"""Singular values of a small matrix: LAPACK's, or Jacobi's rotations in a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._jax.batched_cond import with_batched_implementation

# Sweeps of Jacobi's rotations at most. 24 columns of condition 1e12 take some 30.
SWEEPS = 60


def _jacobi(matrix: Float[Array, "m n"]):
    """Return ``u, s, vt`` of a small matrix by one-sided Jacobi rotations.

    Sweeps of plane rotations until the columns are orthogonal to rounding.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 8.6.3.
    """
    m, n = matrix.shape
    if m < n:
        u, s, vt = _jacobi(matrix.T)
        return vt.T, s, u.T
    orthogonal = float(jnp.finfo(matrix.dtype).eps) * m**0.5
    pairs = jnp.array([(p, q) for p in range(n) for q in range(p + 1, n)] or [(0, 0)])

    def rotate(k, carry):
        both, turned = carry
        p, q = pairs[k]
        a, b = both[:, p], both[:, q]
        top_a, top_b = a[:m], b[:m]
        alpha, beta = jnp.sum(top_a**2), jnp.sum(top_b**2)
        gamma = jnp.sum(top_a * top_b)
        sizes = jnp.sqrt(alpha) * jnp.sqrt(beta)
        turn = jnp.abs(gamma) > orthogonal * sizes
        zeta = (beta - alpha) / (2.0 * jnp.where(turn, gamma, 1.0))
        tangent = 1.0 / (jnp.abs(zeta) + jnp.sqrt(1.0 + zeta**2))
        tangent = jnp.where(zeta < 0.0, -tangent, tangent)
        tangent = jnp.where(turn, tangent, 0.0)
        cosine = 1.0 / jnp.sqrt(1.0 + tangent**2)
        sine = cosine * tangent
        both = both.at[:, p].set(cosine * a - sine * b)
        return both.at[:, q].set(sine * a + cosine * b), turned | turn

    def sweep(carry):
        both, _, count = carry
        still = jnp.zeros((), bool)
        both, turned = sharded.fori_loop(0, len(pairs), rotate, (both, still))
        return both, turned, count + 1

    both = jnp.concatenate([matrix, jnp.eye(n, dtype=matrix.dtype)])
    unfinished = lambda carry: carry[1] & (carry[2] < SWEEPS)
    start = both, jnp.array(n > 1), jnp.int32(0)
    both, *_ = sharded.while_loop(unfinished, sweep, start)
    s = jnp.sqrt(jnp.sum(both[:m] ** 2, axis=0))
    u = both[:m] / jnp.where(s > 0.0, s, 1.0)[None, :]
    return u, s, both[m:].T


singular_values = with_batched_implementation(
    lambda a: tuple(jnp.linalg.svd(a, full_matrices=False)), _jacobi
)
