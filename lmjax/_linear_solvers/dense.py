"""Dense solvers: Cholesky of ``J^T J``, QR of the augmented J, SVD of J."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._linearize import PRECISION, UNROLL_UP_TO, DenseLinearization, sums
from lmjax._types import Scalar


class Cholesky(eqx.Module):
    """Normal equations ``(J^T J + damping I) dp = -J^T r`` by Cholesky.

    The fastest, and the one that batches best. It squares the condition number: in
    float64 trust it up to ``cond(J)`` of about 1e7, in float32 up to 1e3.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.Cholesky())
    """

    matrix_free: ClassVar[bool] = False

    def __call__(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step."""
        grad = linearization.rmv(linearization.residual)
        matrix = linearization.normal_matrix()
        n = grad.size
        matrix = matrix + damping * jnp.eye(n, dtype=grad.dtype)
        if n <= UNROLL_UP_TO:
            return -solve_written_out(matrix, grad)
        factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
        return -jax.scipy.linalg.cho_solve((factor, True), grad)


def solve_written_out(
    matrix: Float[Array, "n n *batch"], rhs: Float[Array, "n *batch"]
) -> Float[Array, "n *batch"]:
    """Solve a small symmetric positive definite system entry by entry.

    Written out, XLA fuses it into one kernel; a library call costs a launch per fit and
    loops over a batch on a GPU.

    ``matrix = L L^T`` by the Cholesky-Banachiewicz recursion, then two substitutions.
    A pivot that is not positive gives NaN, which the loop treats as a rejected step.
    """
    n = rhs.shape[0]
    low: list[list[Any]] = [[None] * n for _ in range(n)]
    inv: list[Any] = [None] * n
    z: list[Any] = [None] * n
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i, j]
            for k in range(j):
                s = s - low[i][k] * low[j][k]
            if i == j:
                inv[i] = 1.0 / jnp.sqrt(s)
            else:
                low[i][j] = s * inv[j]
        s = rhs[i]
        for k in range(i):
            s = s - low[i][k] * z[k]
        z[i] = s * inv[i]
    for i in reversed(range(n)):
        s = z[i]
        for k in range(i + 1, n):
            s = s - low[k][i] * z[k]
        z[i] = s * inv[i]
    return jnp.stack(z)


class QR(eqx.Module):
    """Orthogonal triangularisation of ``[J; sqrt(damping) I]``.

    The accurate default: it works on J itself, so it resolves condition numbers up to
    ``1/eps``. Only the triangle is formed; ``Q^T r`` is its last column.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.QR())
    """

    matrix_free: ClassVar[bool] = False

    def __call__(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step."""
        jac, r = linearization.jac, linearization.residual
        n = jac.shape[1]
        top = jnp.concatenate([jac, r[:, None]], axis=1)
        bottom = jnp.sqrt(damping) * jnp.eye(n, n + 1, dtype=jac.dtype)
        stacked = jnp.concatenate([top, bottom])
        if n > UNROLL_UP_TO:
            triangle = jnp.linalg.qr(stacked, mode="r")
            return -jax.scipy.linalg.solve_triangular(triangle[:n, :n], triangle[:n, n])
        upper = triangularize(stacked, n)
        x: list[Any] = [None] * n
        for i in reversed(range(n)):
            s = upper[i][n]
            for k in range(i + 1, n):
                s = s - upper[i][k] * x[k]
            x[i] = s / upper[i][i]
        return -jnp.stack(x)


def triangularize(matrix: Float[Array, "m k"], n: int) -> list[list[Any]]:
    """Return the first n rows of R of a QR factorisation, entry by entry.

    Modified Gram-Schmidt, one pass over the data per row. With the right-hand side as
    one more column it is as stable as Householder's method for least squares (Björck
    1967, BIT 7, 1-21). Like `solve_written_out` it fuses and batches. The library's
    batched QR and SVD do not only loop on a GPU: inside a vmapped loop on CPU they hung
    4 of 16 runs of ``lmjax demo`` with jaxlib 0.10.2 on two cores; this never did.
    """
    columns = [matrix[:, j] for j in range(matrix.shape[1])]
    rows: list[list[Any]] = []
    for j in range(n):
        dots = sums(*(columns[j] * column for column in columns[j:]))
        root = jnp.sqrt(dots[0])
        # a column of zeros has nothing to take from the others
        safe = jnp.where(root > 0.0, root, 1.0)
        unit = columns[j] / safe
        row = [dot / safe for dot in dots[1:]]
        for k, share in enumerate(row, j + 1):
            columns[k] = columns[k] - share * unit
        # once more: in float32 the first pass leaves what rounding of the dots misses
        rest = [unit * column for column in columns[j + 1 :]]
        missed = sums(*rest) if rest else ()
        for k, share in enumerate(missed, j + 1):
            columns[k] = columns[k] - share * unit
        row = [share + more for share, more in zip(row, missed, strict=True)]
        rows.append([jnp.zeros_like(root)] * j + [root, *row])
    return rows


class SVD(eqx.Module):
    """Singular value decomposition of J, with tiny singular values left out.

    The default when there are fewer residuals than parameters: directions that the data
    do not determine stay where they are, which makes the step the one of least norm.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.SVD())
    """

    matrix_free: ClassVar[bool] = False

    def __call__(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step of least norm."""
        jac = linearization.jac
        u, s, vt = jnp.linalg.svd(jac, full_matrices=False)
        cutoff = jnp.finfo(jac.dtype).eps * max(jac.shape) * s[0]
        kept = s > cutoff
        safe = jnp.where(kept, s, 1.0)
        weights = jnp.where(kept, safe / (safe**2 + damping), 0.0)
        projected = jnp.dot(linearization.residual, u, precision=PRECISION)
        return -jnp.dot(weights * projected, vt, precision=PRECISION)
