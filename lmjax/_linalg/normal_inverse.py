"""The inverse of ``J^T J``, the rank of J, and which parameters J leaves open.

Columns are scaled to unit norm first, so the rank does not depend on units. A
well-conditioned normal matrix is inverted as it is. Otherwise the singular values of J
decide, which do not suffer from squaring the condition number, and a deficient J gets
the inverse of least norm: the right one for whatever the data do determine.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax.batched_cond import batched_cond, in_blocks
from lmjax._jax.types import Flag
from lmjax._linalg.algebra import PLAIN, Algebra
from lmjax._linalg.linearization import identity
from lmjax._linalg.rank import inverse_singular_values, rounding_share


class Inverse(NamedTuple):
    """The inverse for columns of unit norm.

    Attributes:
        matrix: The inverse.
        rank: Rank of J.
        open: Which parameters take part in a direction without effect.
        healthy: Whether it can be trusted.
    """

    matrix: Float[Array, "n n"]
    rank: Int[Array, ""]
    open: Bool[Array, " n"]
    well_conditioned: Flag

    def in_units(self, squares: Float[Array, " n"]) -> "Inverse":
        """Return the same in the units of the parameters."""
        scale, both = _units(squares)
        matrix = self.matrix / (scale[:, None] * scale[None, :])
        return self._replace(matrix=jnp.where(both, matrix, 0.0))


def inverse(
    normal_matrix: Float[Array, "n n"],
    squares: Float[Array, " n"],
    jac_of: Callable,
    operands: Any,
    m: int,
) -> Inverse:
    """Return the (pseudo-)inverse of ``J^T J``, the rank of J and what it leaves open.

    Args:
        normal_matrix: ``J^T J``.
        squares: Squared norms of the columns, zero where one is to count as absent.
            (After a projection, of what they were before it, which set the rounding of
            what it left.)
        jac_of: From ``operands`` to J.
        operands: What it needs.
        m: Number of rows of J.
    """

    def through_jacobian(given):
        squares, operands = given
        return from_jacobian(jac_of(operands), squares, m)

    usual = in_blocks(from_matrix)(normal_matrix, squares)
    operands = squares, operands
    found = batched_cond(~usual.well_conditioned, through_jacobian, usual, operands)
    return found.in_units(squares)


def from_matrix(
    normal_matrix: Float[Array, "n n"],
    squares: Float[Array, " n"],
    algebra: Algebra = PLAIN,
) -> Inverse:
    """Return the inverse of a normal matrix."""
    _, _, scaled = unit_columns(normal_matrix, squares)
    matrix, well_conditioned = trusted_inverse(scaled, algebra)
    rank = jnp.sum(squares > 0.0, dtype=jnp.int32)
    return Inverse(matrix, rank, jnp.zeros_like(squares > 0.0), well_conditioned)


def from_jacobian(
    jac: Float[Array, "k n"],
    squares: Float[Array, " n"],
    m: int,
    algebra: Algebra = PLAIN,
) -> Inverse:
    """Return the inverse of a J of m rows, perhaps after a rotation that left k."""
    scale, _ = _units(squares)
    jac = jnp.where((squares > 0.0)[None, :], jac / scale[None, :], 0.0)
    root, rank, open_ = root_of_inverse(jac, m, algebra)
    open_ &= squares > 0.0
    return Inverse(algebra.product(root, root), rank, open_, jnp.array(True))


def _units(squares: Float[Array, " n"]) -> tuple[Array, Array]:
    """Return the norms of the columns, and which entries of the inverse count."""
    present = squares > 0.0
    scale = jnp.sqrt(jnp.where(present, squares, 1.0))
    return scale, present[:, None] & present[None, :]


def unit_columns(
    normal_matrix: Float[Array, "n n"], squares: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Bool[Array, "n n"], Float[Array, "n n"]]:
    """Return the norms of the columns, which entries count, and the matrix scaled.

    Absent columns become unit vectors of norm 1.
    """
    scale, both = _units(squares)
    eye = identity(squares.size, squares.size, squares.dtype)
    scaled = normal_matrix / (scale[:, None] * scale[None, :])
    return scale, both, jnp.where(both, scaled, eye)


def trusted_inverse(
    scaled: Float[Array, "n n"], algebra: Algebra = PLAIN
) -> tuple[Float[Array, "n n"], Flag]:
    """Return the inverse of a matrix of unit columns, and whether it can be trusted.

    The diagonal of the inverse of a matrix with unit diagonal is the variance inflation
    ``1 / (1 - R_j^2)``: above 1/sqrt(eps), half of the digits are gone. Every entry is
    compared: a maximum over NaN may be anything (-inf in large arrays, XLA on CPU).
    """
    eye = identity(len(scaled), len(scaled), scaled.dtype)
    inverse = algebra.inverse(scaled)
    limit = jnp.finfo(scaled.dtype).eps ** -0.5
    return inverse, jnp.all((inverse < limit) | (eye == 0.0))


def root_of_inverse(
    jac: Float[Array, "k n"], m: int, algebra: Algebra = PLAIN
) -> tuple[Float[Array, "n n"], Int[Array, ""], Bool[Array, " n"]]:
    """Return L with ``L^T L`` the pseudo-inverse of ``J^T J``, and the rank of J.

    By singular values; those that cannot be told from rounding are left out. ``J L^T``
    has orthonormal columns. The last result flags the parameters that take part in a
    direction left out: its component is above the rounding of a sum of n squares.
    """
    eps = jnp.finfo(jac.dtype).eps
    s, vt = algebra.singular_values(jac)
    share = rounding_share(jac.dtype, max(m, jac.shape[1]))
    # columns had norm 1 before any projection: the largest was 1 at least
    weights, kept = inverse_singular_values(s, share, at_least=1.0)
    root = weights[:, None] * vt
    determined = jnp.sum(jnp.where(kept[:, None], vt**2, 0.0), axis=0)
    open_ = determined < 1.0 - 10.0 * jac.shape[1] * eps
    return root, jnp.sum(kept, dtype=jnp.int32), open_
