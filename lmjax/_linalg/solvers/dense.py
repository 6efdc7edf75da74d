"""Dense solvers: Cholesky of ``J^T J``, QR of the augmented J, SVD of J."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._jax.batched_cond import with_batched_implementation
from lmjax._jax.types import Scalar
from lmjax._linalg.linearization import (
    PRECISION,
    UNROLL_UP_TO,
    DenseLinearization,
    identity,
)
from lmjax._linalg.rank import inverse_singular_values, rounding_share
from lmjax._linalg.singular_values import singular_values


class Cholesky(eqx.Module):
    """Normal equations ``(J^T J + damping I) dp = -J^T r`` by Cholesky.

    The fastest, and the one that batches best. It squares the condition number: in
    float64 trust it up to ``cond(J)`` of about 1e7, in float32 up to 1e3.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.Cholesky())
    """

    matrix_free: ClassVar[bool] = False
    squares_condition: ClassVar[bool] = True

    def __call__(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step."""
        return self.solve(linearization, damping)[0]

    def solve(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Return the step and the pivots of the damped normal matrix."""
        grad = linearization.rmv(linearization.residual)
        matrix = linearization.normal_matrix()
        matrix = matrix + damping * jnp.eye(grad.size, dtype=grad.dtype)
        step, pivots = _solve_with_pivots(matrix, grad)
        return -step, pivots


def solve_positive(
    matrix: Float[Array, "n n"], rhs: Float[Array, "n *k"]
) -> Float[Array, "n *k"]:
    """Solve a symmetric positive definite system; NaN if it is not."""
    return _solve_with_pivots(matrix, rhs)[0]


def _solve_with_pivots(matrix, rhs):
    if rhs.shape[0] <= UNROLL_UP_TO:
        step, pivots = solve_written_out(matrix, rhs)
        return jnp.stack(step), jnp.stack(pivots)
    return _solve_positive(matrix, rhs)


def _lapack_solve(matrix, rhs):
    factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    solution = jax.scipy.linalg.cho_solve((factor, True), rhs)
    return solution, jnp.diagonal(factor) ** 2


def _solve_by_columns(matrix, rhs):
    """Solve as LAPACK does, a column of the factor per turn, in plain array code."""
    n = rhs.shape[0]
    index = jnp.arange(n)

    def column(j, factor):
        row = jnp.where(index < j, factor[j], 0.0)
        s = matrix[:, j] - jnp.dot(factor, row, precision=PRECISION)
        return factor.at[:, j].set(jnp.where(index < j, 0.0, s / jnp.sqrt(s[j])))

    factor = sharded.fori_loop(0, n, column, jnp.zeros_like(matrix))

    def forward(j, z):
        row = jnp.where(index < j, factor[j], 0.0)
        return z.at[j].set((z[j] - jnp.dot(row, z, precision=PRECISION)) / factor[j, j])

    def backward(k, z):
        j = n - 1 - k
        row = jnp.where(index > j, factor[:, j], 0.0)
        return z.at[j].set((z[j] - jnp.dot(row, z, precision=PRECISION)) / factor[j, j])

    solution = sharded.fori_loop(0, n, forward, rhs)
    solution = sharded.fori_loop(0, n, backward, solution)
    return solution, jnp.diagonal(factor) ** 2


_solve_positive = with_batched_implementation(_lapack_solve, _solve_by_columns)


def solve_written_out(
    matrix: Any, rhs: Any, damping: Any = 0.0
) -> tuple[list[Any], list[Any]]:
    """Solve a small symmetric positive definite system entry by entry.

    Written out, XLA fuses it into few kernels; a library call costs a launch per fit
    and loops over a batch on a GPU.

    ``matrix + damping I = L L^T`` by the Cholesky-Banachiewicz recursion, then two
    substitutions. A pivot that is not positive gives NaN, which the loop treats as a
    rejected step.

    Args:
        matrix: Rows of the matrix; entries may be arrays of any one shape.
        rhs: Entries of the right-hand side.
        damping: What is added to the diagonal.

    Returns:
        The entries of the solution, and the pivots ``L_ii^2``.
    """
    n = len(rhs)
    low: list[list[Any]] = [[None] * n for _ in range(n)]
    inv: list[Any] = [None] * n
    pivots: list[Any] = [None] * n
    z: list[Any] = [None] * n
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i][j] + damping if i == j else matrix[i][j]
            for k in range(j):
                s = s - low[i][k] * low[j][k]
            if i == j:
                pivots[i] = s
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
    return z, pivots


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
        return self.solve(linearization, damping)[0]

    def solve(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Return the step and the squared diagonal of the triangle."""
        columns, r = linearization.columns, linearization.residual
        n = columns.shape[0]
        top = jnp.concatenate([columns, r[None, :]])
        bottom = jnp.sqrt(damping) * identity(n + 1, n, r.dtype)
        upper = triangularize(jnp.concatenate([top, bottom], axis=1).T)
        square = upper[:n, :n]
        return -back_substitute(square, upper[:n, n]), jnp.diagonal(square) ** 2


def back_substitute(
    upper: Float[Array, "n n"], rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Solve an upper triangular system, a large one in a loop."""
    n = rhs.size
    if n > UNROLL_UP_TO:
        index = jnp.arange(n)

        def row(k, x):
            j = n - 1 - k
            s = rhs[j] - jnp.sum(jnp.where(index > j, upper[j] * x, 0.0))
            return x.at[j].set(s / upper[j, j])

        return sharded.fori_loop(0, n, row, jnp.zeros_like(rhs))
    x: list[Any] = [None] * n
    for i in reversed(range(n)):
        s = rhs[i]
        for k in range(i + 1, n):
            s = s - upper[i, k] * x[k]
        x[i] = s / upper[i, i]
    return jnp.stack(x)


def _householder(matrix: Float[Array, "m k"]) -> Float[Array, "j k"]:
    """Return R of a QR factorisation by Householder reflections in plain array code.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, algorithm 5.2.1.
    """
    m, k = matrix.shape
    index = jnp.arange(m)

    def reflect(j, a):
        x = jnp.where(index >= j, a[:, j], 0.0)
        # against overflow and underflow of the squares
        biggest = jnp.max(jnp.abs(x))
        v = x / jnp.where(biggest > 0.0, biggest, 1.0)
        size = jnp.sqrt(jnp.sum(v * v))
        head = v[j]
        v = v.at[j].add(jnp.where(head < 0.0, -size, size))
        squared = jnp.sum(v * v)
        v = v * jnp.sqrt(2.0 / jnp.where(squared > 0.0, squared, 1.0))
        return a - v[:, None] * jnp.sum(v[:, None] * a, axis=0)[None, :]

    turns = min(m, k)
    upper = sharded.fori_loop(0, turns, reflect, matrix)[:turns]
    return jnp.triu(upper)


triangularize = with_batched_implementation(
    lambda a: jnp.linalg.qr(a, mode="r"), _householder
)


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
        return self.solve(linearization, damping)[0]

    def solve(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Return the step and the least squared singular value that was kept."""
        jac = linearization.jac
        if jac.shape[0] > jac.shape[1]:
            # the triangle of [J r] holds all that matters of a tall problem
            stacked = jnp.concatenate([jac, linearization.residual[:, None]], axis=1)
            upper = triangularize(stacked)[: jac.shape[1]]
            core, rhs = upper[:, :-1], upper[:, -1]
        else:
            core, rhs = jac, linearization.residual
        u, s, vt = singular_values(core)
        _, kept = inverse_singular_values(s, rounding_share(jac.dtype, max(jac.shape)))
        safe = jnp.where(kept, s, 1.0)
        weights = jnp.where(kept, safe / (safe**2 + damping), 0.0)
        projected = jnp.dot(rhs, u, precision=PRECISION)
        step = -jnp.dot(weights * projected, vt, precision=PRECISION)
        least = jnp.min(jnp.where(kept, s, jnp.inf)) ** 2 + damping
        return step, jnp.full_like(step, least)
