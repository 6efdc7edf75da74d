r"""Least squares on a few columns: an orthogonal basis of them, and what is outside.

Modified Gram-Schmidt without square roots, ``A = V U`` with orthogonal columns in V and
ones on the diagonal of U. The right-hand side is orthogonalised like one more column,
which makes the coefficients and the rest as accurate as Householder's method does
(Björck 1967, BIT 7, 1-21).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax import sharded
from lmjax._linalg.linearization import PRECISION, UNROLL_UP_TO
from lmjax._linalg.rank import inverse_singular_values, rounding_share
from lmjax._linalg.singular_values import singular_values
from lmjax._linalg.solvers.dense import back_substitute


class Basis(eqx.Module):
    """Orthogonal vectors, those that depend on the ones before them switched off.

    Attributes:
        vectors: In a list up to `UNROLL_UP_TO` of them, as columns of a matrix beyond.
        weights: The inverse of their squared norms; 0 switches one off.
        dropped: Which were switched off and are not zero.
    """

    vectors: Any
    weights: Float[Array, " k"]
    dropped: Bool[Array, " k"]

    def outside(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """Return the part of x orthogonal to the basis."""
        if isinstance(self.vectors, list):
            products = [_dot(v, x) for v in self.vectors]
            x, *products = in_memory(x, *products)
            for j, v in enumerate(self.vectors):
                x = x - v * (products[j] * self.weights[j])
            return x
        products = jnp.dot(x, self.vectors, precision=PRECISION)
        return x - jnp.dot(self.vectors, products * self.weights, precision=PRECISION)


def eliminate(
    columns: list[Float[Array, " m"]], x: Float[Array, " m"]
) -> tuple[Basis, Float[Array, " m"], Float[Array, " k"]]:
    """Return a basis of the columns, ``x - A c``, and the c that makes it smallest.

    A column that depends on those before it gets the coefficient 0. NaN stays NaN: a
    column counts as dependent only where it is known to be.

    Args:
        columns: The columns of A.
        x: The right-hand side.
    """
    k = len(columns)
    if k > UNROLL_UP_TO:
        return eliminate_in_turns(jnp.stack([*columns, x], axis=1))
    least = cutoff(x.dtype, max(x.size, k))
    squares = [_dot(column, column) for column in columns]
    vectors, weights, dropped, upper = [], [], [], []
    columns = [*columns, x]
    for j in range(k):
        products = [_dot(columns[0], column) for column in columns]
        products = in_memory(*products, *columns, *squares[j:])
        columns, squares[j:] = products[k + 1 - j : -(k - j)], products[-(k - j) :]
        weight, out = _weight(products[0], squares[j], least)
        row = [product * weight for product in products[1 : k + 1 - j]]
        v, *rest = columns
        columns = [a - v * b for a, b in zip(rest, row, strict=True)]
        vectors.append(v)
        weights.append(weight)
        dropped.append(out)
        upper.append(jnp.stack([jnp.zeros_like(weight)] * j + [weight * 0 + 1, *row]))
    upper = jnp.stack(upper)
    c = back_substitute(upper[:, :k], upper[:, k])
    return Basis(vectors, jnp.stack(weights), jnp.stack(dropped)), columns[0], c


def eliminate_in_turns(
    matrix: Float[Array, "m k+1"],
) -> tuple[Basis, Float[Array, " m"], Float[Array, " k"]]:
    """Do the same with a column per turn of a loop; the last of the matrix is x.

    For many columns, and where the program is to be short.
    """
    k = matrix.shape[1] - 1
    least = cutoff(matrix.dtype, max(matrix.shape[0], k))
    squares = jnp.sum(matrix**2, axis=0)
    index = jnp.arange(k + 1)

    def turn(j, carry):
        matrix, weights, dropped, upper = carry
        v = matrix[:, j]
        weight, out = _weight(_dot(v, v), squares[j], least)
        row = jnp.dot(v, matrix, precision=PRECISION) * weight
        row = jnp.where(index > j, row, 0.0)
        return (
            matrix - v[:, None] * row[None, :],
            weights.at[j].set(weight),
            dropped.at[j].set(out),
            upper.at[j].set(row),
        )

    upper = jnp.zeros((k, k + 1), matrix.dtype)
    start = matrix, upper[:, 0], jnp.zeros(k, bool), upper
    matrix, weights, dropped, upper = sharded.fori_loop(0, k, turn, start)
    c = back_substitute(upper[:, :k] + jnp.eye(k, dtype=upper.dtype), upper[:, k])
    return Basis(matrix[:, :k], weights, dropped), matrix[:, k], c


def cutoff(dtype, size: int) -> float:
    """Return the share of a squared norm below which a rest is rounding.

    Args:
        dtype: Of the numbers.
        size: The larger of the numbers of rows and columns.
    """
    return rounding_share(dtype, size) ** 2


def _dot(a, b):
    return jnp.dot(a, b, precision=PRECISION)


def _weight(square, before, least):
    """Return the inverse of a squared norm, and whether the vector is dependent."""
    gone = square <= least * before
    weight = jnp.where(gone, 0.0, 1.0 / jnp.where(gone, 1.0, square))
    return weight, gone & (before > 0.0)


def in_memory(*arrays: Array) -> list[Array]:
    """Return arrays that are in memory before anyone uses them.

    XLA would otherwise work a sum out again for every element of what follows it.
    """
    return list(jax.lax.optimization_barrier(arrays))


def least_norm(
    matrix: Float[Array, "m k"], x: Float[Array, " m"]
) -> Float[Array, " k"]:
    """Return the c of least norm (in units of the columns) that brings A c to x."""
    norms = jnp.sqrt(jnp.sum(matrix**2, axis=0))
    scale = jnp.where(norms > 0.0, norms, 1.0)
    u, s, vt = singular_values(matrix / scale[None, :])
    weights, _ = inverse_singular_values(s, rounding_share(s.dtype, max(matrix.shape)))
    products = jnp.dot(x, u, precision=PRECISION)
    return jnp.dot(weights * products, vt, precision=PRECISION) / scale
