"""The linear model ``r(p + dp) ~ r + J dp`` at a point.

Solvers see it in scaled variables ``q = scale * dp``, restricted to the parameters that
are free to move, so that the damping is a plain multiple of the identity there.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._jax.types import Scalar

# TF32 would turn float32 normal equations into three-digit ones on a GPU.
PRECISION = jax.lax.Precision.HIGHEST


# Sums in float64 for which every GPU has shared memory, 33 x 32 numbers each in 64 kB.
FIT_ANY_GPU = 7
UNROLL_UP_TO = 8  # a matrix of up to this many columns is handled column by column


def identity(rows: int, columns: int, dtype) -> Any:
    """Return ones on the diagonal: small, as a constant, which costs no kernel."""
    small = max(rows, columns) <= UNROLL_UP_TO + 1
    return (np if small else jnp).eye(rows, columns, dtype=dtype)


@jax.custom_jvp
def sums(*terms: Float[Array, "k *f"]) -> tuple[Float[Array, "*f"], ...]:
    """Return the sum of each array over its first axis, all in one pass.

    XLA has no multi-output fusion on CPU: separate sums are separate kernels, which
    costs more than the arithmetic for a fit of fifty points. On a GPU it has, and
    splits what does not fit into shared memory: it does not split one pass, so that 28
    sums in float64 do not compile on an H100 (jaxlib 0.11.2).
    """
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    both = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))
    one_pass = lambda *terms: jax.lax.reduce(terms, zeros, both, (0,))
    if len(terms) <= FIT_ANY_GPU:
        return one_pass(*terms)
    separate = lambda *terms: tuple(jnp.sum(term, axis=0) for term in terms)
    return sharded.platform_dependent(*terms, cpu=one_pass, default=separate)


@sums.defjvp
def _(terms, tangents):
    """Sums of the tangents: jax's own rule fails where one of them is zero."""
    return sums(*terms), tuple(jnp.sum(tangent, axis=0) for tangent in tangents)


class DenseLinearization(eqx.Module):
    """Residual and Jacobian as arrays.

    Attributes:
        residual: Residual.
        columns: J column by column: all that is done to J goes along its columns, and
            LAPACK wants them contiguous.
    """

    residual: Float[Array, " m"]
    columns: Float[Array, "n m"]

    @property
    def jac(self) -> Float[Array, "m n"]:
        """The Jacobian."""
        return self.columns.T

    def mv(self, v: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return ``J v``."""
        n = v.shape[0]
        if n > UNROLL_UP_TO:
            return jnp.dot(v, self.columns, precision=PRECISION)
        return reduce(add, (self.columns[j] * v[j] for j in range(n)))

    def rmv(self, u: Float[Array, " m"]) -> Float[Array, " n"]:
        """Return ``J^T u``."""
        return jnp.dot(self.columns, u, precision=PRECISION)

    def normal_matrix(self) -> Float[Array, "n n"]:
        """Return ``J^T J``."""
        return jnp.dot(self.columns, self.columns.T, precision=PRECISION)

    def moments(self) -> tuple[Float[Array, " n"], Float[Array, " n"], Scalar]:
        """Return the gradient ``J^T r``, the column norms of J, the norm of r."""
        n = self.columns.shape[0]
        if n > UNROLL_UP_TO:
            norms = jnp.sqrt(jnp.sum(self.columns**2, axis=1))
            return self.rmv(self.residual), norms, jnp.linalg.norm(self.residual)
        columns = [self.columns[j] for j in range(n)]
        r = self.residual
        moments = sums(*(c * r for c in columns), *(c * c for c in columns), r * r)
        return (
            jnp.stack(moments[:n]),
            jnp.sqrt(jnp.stack(moments[n : 2 * n])),
            jnp.sqrt(moments[-1]),
        )

    def rescale(self, factor: Float[Array, " n"]) -> "DenseLinearization":
        """Return the model with its columns multiplied by ``factor``."""
        return DenseLinearization(self.residual, self.columns * factor[:, None])

    def with_residual(self, residual: Float[Array, " m"]) -> "DenseLinearization":
        """Return the model with another right-hand side."""
        return DenseLinearization(residual, self.columns)

    def shifted(self, dp: Float[Array, " n"]) -> "DenseLinearization":
        """Return the model seen from ``p + dp``."""
        return self.with_residual(self.residual + self.mv(dp))

    def predicted_reduction(self, dp: Float[Array, " n"]) -> Scalar:
        """Return the reduction of the cost that the model expects of ``dp``."""
        jdp = self.mv(dp)
        return -jnp.sum(jdp * (self.residual + 0.5 * jdp))


class MatrixFreeLinearization(eqx.Module):
    """Products with J through autodiff; J itself is never formed.

    ``J = diag(rows) J_f diag(columns)`` with ``J_f`` the Jacobian of ``fn`` at ``p``.
    """

    residual: Float[Array, " m"]
    p: Float[Array, " n"]
    rows: Float[Array, " m"]
    columns: Float[Array, " n"]
    fn: Callable

    def _linear(self):
        return sharded.linearize(self.fn, self.p)[1]

    def operators(self):
        """Return the functions ``v -> J v`` and ``u -> J^T u``, linearised once."""
        linear = self._linear()
        transposed = jax.linear_transpose(linear, self.p)
        return (
            lambda v: self.rows * linear(self.columns * v),
            lambda u: self.columns * transposed(self.rows * u)[0],
        )

    def mv(self, v: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return ``J v``."""
        return self.operators()[0](v)

    def rmv(self, u: Float[Array, " m"]) -> Float[Array, " n"]:
        """Return ``J^T u``."""
        return self.operators()[1](u)

    def normal_matrix(self) -> Float[Array, "n n"]:
        """Return ``J^T J``, one product per column."""
        mv, rmv = self.operators()
        eye = jnp.eye(self.p.size, dtype=self.p.dtype)
        return jax.lax.map(lambda e: rmv(mv(e)), eye)

    def moments(self) -> tuple[Float[Array, " n"], Float[Array, " n"], Scalar]:
        """Return the gradient ``J^T r``, the column norms of J, the norm of r.

        The norms take one product per column, but J is never held.
        """
        mv, rmv = self.operators()

        def norm(j):
            unit = jnp.zeros_like(self.p).at[j].set(1.0)
            return jnp.sqrt(jnp.sum(mv(unit) ** 2))

        norms = jax.lax.map(norm, jnp.arange(self.p.size), batch_size=32)
        return rmv(self.residual), norms, jnp.linalg.norm(self.residual)

    def rescale(self, factor: Float[Array, " n"]) -> "MatrixFreeLinearization":
        """Return the model with its columns multiplied by ``factor``."""
        return MatrixFreeLinearization(
            self.residual, self.p, self.rows, self.columns * factor, self.fn
        )

    def with_residual(self, residual: Float[Array, " m"]) -> "MatrixFreeLinearization":
        """Return the model with another right-hand side."""
        return MatrixFreeLinearization(
            residual, self.p, self.rows, self.columns, self.fn
        )

    def shifted(self, dp: Float[Array, " n"]) -> "MatrixFreeLinearization":
        """Return the model seen from ``p + dp``."""
        return self.with_residual(self.residual + self.mv(dp))


class NormalLinearization(eqx.Module):
    """Normal equations alone, for a batch of fits on the last axis.

    J is gone. What is left of ``[J r]`` is the upper triangle of its Gram matrix: an
    array of the entries, or a tuple of them. One array is chosen from by one kernel.
    """

    gram: Float[Array, "q f"] | tuple[Float[Array, " f"], ...]
    n: int = eqx.field(static=True)

    def entry(self, i: int, j: int) -> Float[Array, " f"]:
        """Return the product of columns i and j; column n is the residual."""
        return self.gram[gram_index(self.n, i, j)]

    def moments(self) -> tuple[Float[Array, "n f"], Float[Array, "n f"], Array]:
        """Return the gradient ``J^T r``, the column norms of J, the norm of r."""
        n = self.n
        # stacked for good: inside a fusion, stacking costs a branch per element
        grad, squares = jax.lax.optimization_barrier(
            (
                jnp.stack(self.grad()),
                jnp.stack([self.entry(j, j) for j in range(n)]),
            )
        )
        return grad, jnp.sqrt(squares), jnp.sqrt(self.entry(n, n))

    def rows(self) -> list[list[Float[Array, " f"]]]:
        """Return ``J^T J``, entry by entry."""
        n, entry = self.n, self.entry  # looking up a method takes equinox 0.1 ms
        return [[entry(i, j) for j in range(n)] for i in range(n)]

    def grad(self) -> list[Float[Array, " f"]]:
        """Return ``J^T r``, entry by entry."""
        n, entry = self.n, self.entry
        return [entry(j, n) for j in range(n)]

    def normal_matrix(self) -> Float[Array, "n n f"]:
        """Return ``J^T J``."""
        return jnp.stack([jnp.stack(row) for row in self.rows()])

    def rescale(self, factor: Float[Array, "n f"]) -> "NormalLinearization":
        """Return the model with its columns multiplied by ``factor``."""
        n, entry = self.n, self.entry
        gram = []
        for i, j in gram_pairs(n):
            product = entry(i, j)
            if i < n:
                product = product * (factor[i] if j == n else factor[i] * factor[j])
            gram.append(product)
        return NormalLinearization(tuple(gram), n)

    def shifted(self, dp: Float[Array, "n f"]) -> "NormalLinearization":
        """Return the model seen from ``p + dp``; the norm of r stays behind."""
        n, entry = self.n, self.entry
        gram = list(self.gram)
        for j in range(n):
            ndp = reduce(add, (entry(j, k) * dp[k] for k in range(n)))
            gram[gram_index(n, j, n)] = entry(j, n) + ndp
        return NormalLinearization(tuple(gram), n)

    def curvature(self, dp: Float[Array, "n f"]) -> Float[Array, " f"]:
        """Return ``|J dp|^2``."""
        n, entry = self.n, self.entry
        terms = [
            (1.0 if i == j else 2.0) * entry(i, j) * (dp[i] * dp[j])
            for i, j in gram_pairs(n)
            if j < n
        ]
        return reduce(add, terms)


def gram_pairs(n: int) -> list[tuple[int, int]]:
    """Return the index pairs of the upper triangle of an (n+1) x (n+1) matrix."""
    return [(i, j) for i in range(n + 1) for j in range(i, n + 1)]


def gram_index(n: int, i: int, j: int) -> int:
    """Return where ``gram_pairs(n)`` holds the pair (i, j)."""
    i, j = min(i, j), max(i, j)
    return i * (n + 1) - i * (i - 1) // 2 + (j - i)


Linearization = DenseLinearization | MatrixFreeLinearization | NormalLinearization
