r"""Least squares on a few columns: an orthonormal basis of them, and what is outside.

``A = Q R`` by modified Gram-Schmidt. The part of x outside the span is ``x - Q Q^T x``,
the coefficients of the rest solve ``R c = Q^T x``; with both taken one column after the
other, as here, this is as stable as Householder's method (Björck 1967, BIT 7, 1-21).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._linear_solvers.dense import back_substitute, singular_values
from lmjax._linearize import PRECISION, UNROLL_UP_TO


class Basis(eqx.Module):
    """``A = Q R``; columns that depend on those before them are zero in Q.

    Attributes:
        q: Columns of Q, in a list up to `UNROLL_UP_TO` of them, as a matrix beyond.
        upper: R, with ones on the diagonal where a column was left out.
        dropped: Which columns other than zero were left out.
    """

    q: Any
    upper: Float[Array, "k k"]
    dropped: Bool[Array, " k"]

    def split(self, x: Float[Array, " m"]) -> tuple[Array, Array]:
        """Return the part of x outside the span, and ``Q^T x``."""
        if isinstance(self.q, list):
            products = []
            for unit in self.q:
                products.append(_dot(unit, x))
                x = x - unit * products[-1]
            return x, jnp.stack(products)
        total = jnp.zeros(self.q.shape[1], x.dtype)
        # Once more takes out what rounding left of a basis that is not quite
        # orthogonal.
        for _ in range(2):
            product = jnp.dot(x, self.q, precision=PRECISION)
            x = x - jnp.dot(self.q, product, precision=PRECISION)
            total = total + product
        return x, total

    def outside(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """Return ``x - Q Q^T x``."""
        return self.split(x)[0]

    def coefficients(self, x: Float[Array, " m"]) -> Float[Array, " k"]:
        """Return c such that ``A c`` is closest to x, 0 where a column was left out."""
        return back_substitute(self.upper, self.split(x)[1])


def basis_of(columns: list[Float[Array, " m"]]) -> Basis:
    """Return an orthonormal basis of the span of the columns.

    NaN stays NaN: a column counts as dependent only where it is known to be.
    """
    norms = [jnp.sqrt(_dot(column, column)) for column in columns]
    k, m = len(columns), columns[0].size
    cutoff = jnp.finfo(columns[0].dtype).eps * max(m, k)
    if k > UNROLL_UP_TO:
        return _basis_in_a_loop(jnp.stack(columns, 1), jnp.stack(norms), cutoff)
    q, upper, dropped = [], [], []
    for j in range(k):
        unit, length, out = _normalized(columns[j], norms[j], cutoff)
        row = [_dot(unit, column) for column in columns[j + 1 :]]
        rest = [a - unit * b for a, b in zip(columns[j + 1 :], row, strict=True)]
        columns = columns[: j + 1] + rest
        q.append(unit)
        upper.append(jnp.stack([jnp.zeros_like(length)] * j + [length, *row]))
        dropped.append(out)
    return Basis(q, jnp.stack(upper), jnp.stack(dropped))


def _basis_in_a_loop(matrix, norms, cutoff) -> Basis:
    """Return the basis of many columns: the same, a column per turn."""
    k = matrix.shape[1]
    index = jnp.arange(k)

    def turn(j, carry):
        matrix, upper, dropped = carry
        unit, length, out = _normalized(matrix[:, j], norms[j], cutoff)
        row = jnp.where(index > j, jnp.dot(unit, matrix, precision=PRECISION), 0.0)
        matrix = (matrix - unit[:, None] * row[None, :]).at[:, j].set(unit)
        return (
            matrix,
            upper.at[j].set(row.at[j].set(length)),
            dropped.at[j].set(out),
        )

    start = matrix, jnp.zeros((k, k), matrix.dtype), jnp.zeros(k, bool)
    return Basis(*jax.lax.fori_loop(0, k, turn, start))


def _normalized(column, norm, cutoff):
    """Return the unit vector, the length and whether the column is dependent."""
    length = jnp.sqrt(_dot(column, column))
    gone = length <= cutoff * norm
    length = jnp.where(gone, 1.0, length)
    return column * jnp.where(gone, 0.0, 1.0 / length), length, gone & (norm > 0.0)


def _dot(a, b):
    return jnp.sum(a * b)


def least_norm(
    matrix: Float[Array, "m k"], x: Float[Array, " m"]
) -> Float[Array, " k"]:
    """Return the c of least norm, in units of the columns, with ``A c`` closest to x."""
    norms = jnp.sqrt(jnp.sum(matrix**2, axis=0))
    scale = jnp.where(norms > 0.0, norms, 1.0)
    u, s, vt = singular_values(matrix / scale[None, :])
    kept = s > jnp.finfo(s.dtype).eps * max(matrix.shape) * jnp.max(s)
    weights = jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0)
    products = jnp.dot(x, u, precision=PRECISION)
    return jnp.dot(weights * products, vt, precision=PRECISION) / scale
