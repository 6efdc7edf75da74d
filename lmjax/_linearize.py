"""The linear model ``r(p + dp) ~ r + J dp`` at a point.

Solvers see it in scaled variables ``q = scale * dp``, restricted to the parameters that
are free to move, so that the damping is a plain multiple of the identity there.
"""

from collections.abc import Callable
from functools import reduce
from operator import add

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._types import Scalar

# TF32 would turn float32 normal equations into three-digit ones on a GPU.
PRECISION = jax.lax.Precision.HIGHEST


UNROLL_UP_TO = 8  # a matrix of up to this many columns is handled column by column


def sums(*terms: Float[Array, " k"]) -> tuple[Scalar, ...]:
    """Return the sum of each array, all in one pass.

    XLA has no multi-output fusion on CPU: separate sums are separate kernels, which
    costs more than the arithmetic for a fit of fifty points.
    """
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    both = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))
    return jax.lax.reduce(terms, zeros, both, (0,))


class DenseLinearization(eqx.Module):
    """Residual and Jacobian as arrays."""

    residual: Float[Array, " m"]
    jac: Float[Array, "m n"]

    def mv(self, v: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return ``J v``."""
        n = v.shape[0]
        if n > UNROLL_UP_TO:
            return jnp.dot(self.jac, v, precision=PRECISION)
        return reduce(add, (self.jac[:, j] * v[j] for j in range(n)))

    def rmv(self, u: Float[Array, " m"]) -> Float[Array, " n"]:
        """Return ``J^T u``."""
        return jnp.dot(u, self.jac, precision=PRECISION)

    def normal_matrix(self) -> Float[Array, "n n"]:
        """Return ``J^T J``."""
        return jnp.dot(self.jac.T, self.jac, precision=PRECISION)

    def moments(self) -> tuple[Float[Array, " n"], Float[Array, " n"], Scalar]:
        """Return the gradient ``J^T r``, the column norms of J, the norm of r."""
        n = self.jac.shape[1]
        if n > UNROLL_UP_TO:
            norms = jnp.sqrt(jnp.sum(self.jac**2, axis=0))
            return self.rmv(self.residual), norms, jnp.linalg.norm(self.residual)
        columns = [self.jac[:, j] for j in range(n)]
        r = self.residual
        moments = sums(*(c * r for c in columns), *(c * c for c in columns), r * r)
        return (
            jnp.stack(moments[:n]),
            jnp.sqrt(jnp.stack(moments[n : 2 * n])),
            jnp.sqrt(moments[-1]),
        )

    def rescale(self, factor: Float[Array, " n"]) -> "DenseLinearization":
        """Return the model with its columns multiplied by ``factor``."""
        return DenseLinearization(self.residual, self.jac * factor[None, :])

    def with_residual(self, residual: Float[Array, " m"]) -> "DenseLinearization":
        """Return the model with another right-hand side."""
        return DenseLinearization(residual, self.jac)


class MatrixFreeLinearization(eqx.Module):
    """Products with J through autodiff; J itself is never formed.

    ``J = diag(rows) J_f diag(columns)`` with ``J_f`` the Jacobian of ``fn`` at ``p``.
    """

    residual: Float[Array, " m"]
    p: Float[Array, " n"]
    rows: Float[Array, " m"]
    columns: Float[Array, " n"]
    fn: Callable = eqx.field(static=True)

    def _linear(self):
        return jax.linearize(self.fn, self.p)[1]

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


Linearization = DenseLinearization | MatrixFreeLinearization
