r"""Least squares over groups of curves: own parameters per curve, others shared by all.

The rows of curve g depend on its own ``k`` parameters and on the ``s`` shared ones, so
``J^T J`` is an arrow, block diagonal but for its last rows and columns:

    [ V_1           W_1 ]
    [      ...      ... ]      V_g: k x k,  W_g: k x s,  U: s x s
    [           V_G W_G ]
    [ W_1^T ... W_G^T U ]

Blocks are kept as arrays with the curves on the last axis; nothing of size ``(G k)^2``
is ever formed. As curves do not see each other's parameters, one directional derivative
moves parameter j of *all* curves at once, and ``k + s`` of them give all of J.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax import sharded
from lmjax._jax.types import Scalar
from lmjax._linalg.linearization import PRECISION, UNROLL_UP_TO, sums


class Arrow(NamedTuple):
    """The pattern: flat parameters are own ones, curve by curve last, then shared.

    Attributes:
        curves: Number of curves G; they are the last axis of the residual.
        own: Parameters that each curve has to itself, k.
        shared: Parameters that all curves share, s.
    """

    curves: int
    own: int
    shared: int

    def split(self, v: Array) -> tuple[Array, Array]:
        """Return the own parameters (k, G) and the shared ones (s,) of a flat array."""
        head = self.own * self.curves
        return v[:head].reshape(self.own, self.curves), v[head:]

    def join(self, own: Array, shared: Array) -> Array:
        """Return the flat array; what `split` undoes."""
        return jnp.concatenate([own.ravel(), shared])

    def derivatives(self, linear: Callable, dtype) -> Float[Array, "c *out"]:
        """Return a linear function of each parameter, moved in all curves at once."""
        eye = jnp.eye(self.own + self.shared, dtype=dtype)
        own = jnp.repeat(eye[:, : self.own, None], self.curves, axis=2)
        return jax.vmap(linear)(jax.vmap(self.join)(own, eye[:, self.own :]))


class ArrowMatrix(eqx.Module):
    """A symmetric matrix in the pattern above, by its blocks."""

    own: Float[Array, "k k g"]
    cross: Float[Array, "k s g"]
    shared: Float[Array, "s s"]

    @property
    def arrow(self) -> Arrow:
        """The pattern."""
        own, shared, curves = self.cross.shape
        return Arrow(curves, own, shared)

    def diagonal(self) -> Float[Array, " n"]:
        """Return the diagonal."""
        own = jnp.moveaxis(jnp.diagonal(self.own), -1, 0)
        return self.arrow.join(own, jnp.diagonal(self.shared))

    def __matmul__(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        own, shared = self.arrow.split(v)
        dot = lambda *args: jnp.einsum(*args, precision=PRECISION)
        return self.arrow.join(
            dot("ijg,jg->ig", self.own, own) + dot("iag,a->ig", self.cross, shared),
            dot("iag,ig->a", self.cross, own) + dot("ab,b->a", self.shared, shared),
        )

    def rescale(self, factor: Float[Array, " n"]) -> "ArrowMatrix":
        """Return the matrix with row and column j multiplied by ``factor[j]``."""
        own, shared = self.arrow.split(factor)
        return ArrowMatrix(
            self.own * (own[:, None] * own[None, :]),
            self.cross * (own[:, None] * shared[None, :, None]),
            self.shared * (shared[:, None] * shared[None, :]),
        )

    def plus_diagonal(self, diagonal: Float[Array, " n"]) -> "ArrowMatrix":
        """Return the matrix with ``diagonal`` added to its diagonal."""
        own, shared = self.arrow.split(diagonal)
        eye = jnp.eye(self.arrow.own, dtype=own.dtype)
        return ArrowMatrix(
            self.own + eye[:, :, None] * own[None],
            self.cross,
            self.shared + jnp.diag(shared),
        )

    def kept(self, keep: Bool[Array, " n"]) -> "ArrowMatrix":
        """Return the matrix with zeros in the other rows and columns."""
        own, shared = self.arrow.split(keep)
        return ArrowMatrix(
            jnp.where(own[:, None] & own[None, :], self.own, 0.0),
            jnp.where(own[:, None] & shared[None, :, None], self.cross, 0.0),
            jnp.where(shared[:, None] & shared[None, :], self.shared, 0.0),
        )


def matrix_of(arrow: Arrow, product: Callable, dtype) -> ArrowMatrix:
    """Return the symmetric matrix whose product with a vector is ``product``."""
    columns = arrow.derivatives(product, dtype)
    own, shared = jax.vmap(arrow.split)(columns)  # (c, k, G) and (c, s)
    upper, square = own[: arrow.own], shared[arrow.own :]
    return ArrowMatrix(
        0.5 * (upper + jnp.swapaxes(upper, 0, 1)),
        jnp.swapaxes(own[arrow.own :], 0, 1),
        0.5 * (square + square.T),
    )


class ArrowLinearization(eqx.Module):
    """Residual, the columns of J by curve, and the normal equations made from them.

    Attributes:
        residual: Residual, the curves on its last axis before it was flattened.
        columns: Derivative of each curve by its own parameters, then by the shared.
        matrix: ``J^T J``.
        grad: ``J^T r``.
    """

    residual: Float[Array, " m"]
    columns: Float[Array, "c rows g"]
    matrix: ArrowMatrix
    grad: Float[Array, " n"]

    @property
    def arrow(self) -> Arrow:
        """The pattern."""
        return self.matrix.arrow

    def _per_curve(self, v: Float[Array, " n"]) -> Float[Array, "c g"]:
        """Return what a flat vector holds for each curve, shared values repeated."""
        own, shared = self.arrow.split(v)
        repeated = jnp.repeat(shared[:, None], self.arrow.curves, axis=1)
        return jnp.concatenate([own, repeated])

    def mv(self, v: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return ``J v``."""
        each = self._per_curve(v)
        if len(each) > UNROLL_UP_TO:
            return jnp.einsum("cmg,cg->mg", self.columns, each).ravel()
        terms = (column * x[None] for column, x in zip(self.columns, each, strict=True))
        return reduce(add, terms).ravel()

    def rmv(self, u: Float[Array, " m"]) -> Float[Array, " n"]:
        """Return ``J^T u``."""
        each = jnp.sum(self.columns * u.reshape(1, *self.columns.shape[1:]), axis=1)
        own, shared = jnp.split(each, [self.arrow.own])
        return self.arrow.join(own, jnp.sum(shared, axis=1))

    def normal_matrix(self) -> ArrowMatrix:
        """Return ``J^T J``."""
        return self.matrix

    def moments(self) -> tuple[Float[Array, " n"], Float[Array, " n"], Scalar]:
        """Return the gradient ``J^T r``, the column norms of J, the norm of r."""
        norms = jnp.sqrt(self.matrix.diagonal())
        return self.grad, norms, jnp.linalg.norm(self.residual)

    def rescale(self, factor: Float[Array, " n"]) -> "ArrowLinearization":
        """Return the model with its columns multiplied by ``factor``."""
        columns = self.columns * self._per_curve(factor)[:, None]
        matrix, grad = self.matrix.rescale(factor), self.grad * factor
        return ArrowLinearization(self.residual, columns, matrix, grad)

    def with_residual(self, residual: Float[Array, " m"]) -> "ArrowLinearization":
        """Return the model with another right-hand side."""
        grad = self.rmv(residual)
        return ArrowLinearization(residual, self.columns, self.matrix, grad)

    def shifted(self, dp: Float[Array, " n"]) -> "ArrowLinearization":
        """Return the model seen from ``p + dp``."""
        return self.with_residual(self.residual + self.mv(dp))


def linearize(
    arrow: Arrow,
    residual_fn: Callable,
    p: Float[Array, " n"],
    r: Float[Array, " m"],
    row: Float[Array, " m"] | None,
) -> ArrowLinearization:
    """Return the linear model at ``p`` with residual ``r``, rows of J times ``row``."""
    linear = sharded.linearize(residual_fn, p)[1]
    columns = arrow.derivatives(linear, p.dtype)
    if row is not None:
        columns = columns * row[None]
    columns = columns.reshape(len(columns), -1, arrow.curves)
    gram = _gram(columns, r.reshape(columns.shape[1:]))
    k, c = arrow.own, len(columns)
    total = jnp.sum(gram[k:], axis=-1)
    matrix = ArrowMatrix(gram[:k, :k], gram[:k, k:c], total[:, k:c])
    grad = arrow.join(gram[:k, c], total[:, c])
    return ArrowLinearization(r, columns, matrix, grad)


def curvatures(
    arrow: Arrow, bend: Callable, linearization: ArrowLinearization
) -> Float[Array, " n"]:
    """Return ``|r| |d^2 r / dp_j^2|`` per parameter.

    An own parameter moves its own curve only, of which r is the residual then.

    Args:
        arrow: The pattern.
        bend: Returns the second derivative of the residual along a direction.
        linearization: Linear model at the point.
    """
    bends = arrow.derivatives(bend, linearization.residual.dtype)
    squares = jnp.sum(bends.reshape(len(bends), -1, arrow.curves) ** 2, axis=1)
    size = jnp.sum(linearization.residual.reshape(-1, arrow.curves) ** 2, axis=0)
    own = jnp.sqrt(squares[: arrow.own] * size)
    shared = jnp.sqrt(jnp.sum(squares[arrow.own :], axis=1) * jnp.sum(size))
    return arrow.join(own, shared)


def _gram(columns, r) -> Float[Array, "c c+1 g"]:
    """Return the products of the columns with each other and with ``r``, by curve."""
    if len(columns) > UNROLL_UP_TO:
        every = jnp.concatenate([columns, r[None]])
        return jnp.einsum("img,jmg->ijg", columns, every, precision=PRECISION)
    n = len(columns)
    pairs = [(i, j) for i in range(n) for j in range(i, n + 1)]
    every = [*columns, r]
    dots = dict(zip(pairs, sums(*(every[i] * every[j] for i, j in pairs)), strict=True))
    rows = range(n), range(n + 1)
    return jnp.stack(
        [jnp.stack([dots[min(i, j), max(i, j)] for j in rows[1]]) for i in rows[0]]
    )
