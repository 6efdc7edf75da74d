"""Solve ``H x = b`` for a symmetric H that may be singular, so that autodiff may pass.

``lax.custom_linear_solve`` differentiates the equation, not the algorithm:
``dx = H^-1 (db - dH x)``, and a symmetric H serves both modes of differentiation. So
the algorithms below need no derivative of their own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax import sharded
from lmjax._jax.batched_cond import batched_cond
from lmjax._jax.types import Flag, Scalar
from lmjax._linalg.algebra import PLAIN, Algebra
from lmjax._linalg.arrowhead import ArrowMatrix
from lmjax._linalg.linearization import PRECISION, identity
from lmjax._linalg.rank import inverse_singular_values, rounding_share
from lmjax._linalg.solvers.schur import solve_arrow, solve_blocks


class Inverse(NamedTuple):
    """A (pseudo-)inverse and what is known about it.

    Attributes:
        matrix: The inverse; rows and columns of absent parameters are zero.
        rank: Rank of what was inverted.
        healthy: Whether it was positive definite beyond doubt.
    """

    matrix: Float[Array, "n n"]
    rank: Int[Array, ""]
    well_conditioned: Flag

    def times(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        return jnp.dot(self.matrix, v, precision=PRECISION)


class ArrowInverse(NamedTuple):
    """The inverse of a positive definite arrow, by elimination.

    Attributes:
        arrow: What is inverted.
        healthy: True.
    """

    arrow: ArrowMatrix
    well_conditioned: Flag

    def times(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        return solve_arrow(self.arrow, v)


def arrow_inverse(matrix: ArrowMatrix, squares: Float[Array, " n"]) -> ArrowInverse:
    """Return the inverse of an arrow, where it is positive definite beyond doubt.

    A curve whose own block is not is replaced by its diagonal and parted from the
    shared parameters; if what is left does not determine those, every curve is. What
    comes out is close to the inverse, and always positive definite.

    Args:
        matrix: The matrix.
        squares: Least size of each diagonal entry.
    """
    squares = jnp.maximum(jnp.abs(matrix.diagonal()), squares)
    squares = jnp.where(squares > 0.0, squares, 1.0)
    absent = (matrix.diagonal() == 0.0).astype(squares.dtype)
    matrix = matrix.plus_diagonal(absent * squares)
    scaled, arrow = matrix.rescale(1.0 / jnp.sqrt(squares)), matrix.arrow
    eye = jnp.eye(arrow.own, dtype=squares.dtype)[:, :, None]
    inverse = solve_blocks(scaled.own, jnp.repeat(eye, arrow.curves, axis=2))
    well_conditioned = _beyond_doubt(jnp.diagonal(inverse))[None, None]
    own_squares, shared_squares = arrow.split(squares)
    matrix = ArrowMatrix(
        jnp.where(well_conditioned, matrix.own, eye * own_squares[None]),
        jnp.where(well_conditioned, matrix.cross, 0.0),
        matrix.shared,
    )
    scaled = matrix.rescale(1.0 / jnp.sqrt(squares))
    zeros = jnp.zeros((arrow.own, arrow.curves), squares.dtype)
    column = lambda e: arrow.split(solve_arrow(scaled, arrow.join(zeros, e)))[1]
    inverse = jax.vmap(column)(jnp.eye(arrow.shared, dtype=squares.dtype))
    well_conditioned = _beyond_doubt(jnp.diagonal(inverse))
    matrix = ArrowMatrix(
        matrix.own,
        jnp.where(well_conditioned, matrix.cross, 0.0),
        jnp.where(well_conditioned, matrix.shared, jnp.diag(shared_squares)),
    )
    return ArrowInverse(matrix, jnp.array(True))


def _beyond_doubt(variances: Float[Array, "*g n"]) -> Bool[Array, "*g"]:
    """Return whether the diagonal of the inverse of a scaled matrix is a healthy one.

    The same test as in `pseudo_inverse`, of every entry: NaN compares false, and a
    maximum over NaN may be anything.
    """
    n = variances.shape[-1]
    cutoff = 8.0 * rounding_share(variances.dtype, n)
    return jnp.all(variances * cutoff < 0.1 / n, axis=-1)


def pseudo_inverse(
    matrix: Float[Array, "n n"], squares: Float[Array, " n"], noise: Scalar
) -> Inverse:
    """Return the inverse of a symmetric matrix, of least norm if it is singular.

    Columns are measured in units of the larger of ``squares`` and the diagonal, so that
    neither the rank nor the norm depends on units. Cholesky's factorisation serves
    matrices that are positive definite beyond doubt; the others, indefinite ones
    included, go through their singular values, and those that cannot be told from
    rounding or from ``noise`` are left out.

    Args:
        matrix: The matrix.
        squares: Least size of each diagonal entry.
        noise: Relative uncertainty of the matrix, beyond rounding.
    """
    usual = by_factor(matrix, squares, noise)
    rare = lambda operands: by_singular_values(*operands)
    return batched_cond(~usual.well_conditioned, rare, usual, (matrix, squares, noise))


def by_factor(
    matrix: Float[Array, "n n"],
    squares: Float[Array, " n"],
    noise: Scalar,
    algebra: Algebra = PLAIN,
) -> Inverse:
    """Return the inverse by Cholesky's factorisation, and whether that is beyond doubt.

    The largest entry of the inverse is at least the inverse of the least eigenvalue
    divided by n. NaN compares false, in `all` and not in a maximum.
    """
    scaled, outer, present = _scaled(matrix, squares)
    inverse = algebra.inverse(scaled)
    n = len(matrix)
    off = identity(n, n, matrix.dtype) == 0.0
    well_conditioned = jnp.all((inverse * _cutoff(matrix, noise) < 0.1 / n) | off)
    return _in_units(inverse, outer, present, n, well_conditioned)


def by_singular_values(
    matrix: Float[Array, "n n"],
    squares: Float[Array, " n"],
    noise: Scalar,
    algebra: Algebra = PLAIN,
) -> Inverse:
    """Return the inverse of least norm, by ``A V = U S`` with the smallest left out."""
    scaled, outer, present = _scaled(matrix, squares)
    s, vt = algebra.singular_values(scaled)
    weights, kept = inverse_singular_values(s, _cutoff(matrix, noise))
    images = algebra.product(vt.T, scaled)
    inverse = algebra.product(weights[:, None] ** 2 * vt, images)
    rank = jnp.sum(kept, dtype=jnp.int32)
    return _in_units(inverse, outer, present, rank, jnp.array(False))


def _cutoff(matrix: Float[Array, "n n"], noise: Scalar) -> Scalar:
    """Return the share of the largest singular value that may be rounding.

    8 n eps is what the products behind the matrix round to, with a margin.
    """
    return 8.0 * rounding_share(matrix.dtype, len(matrix)) + noise


def _scaled(matrix: Float[Array, "n n"], squares: Float[Array, " n"]):
    """Return a matrix in units of its columns, these units, and which are present."""
    eye = identity(len(matrix), len(matrix), matrix.dtype)
    diagonal = jnp.sum(jnp.where(eye == 1.0, matrix, 0.0), axis=0)
    squares = jnp.maximum(jnp.abs(diagonal), squares)
    present = squares > 0.0
    scale = jnp.sqrt(jnp.where(present, squares, 1.0))
    outer = scale[:, None] * scale[None, :]
    both = present[:, None] & present[None, :]
    return jnp.where(both, matrix / outer, eye), outer, present


def _in_units(inverse, outer, present, rank, well_conditioned) -> Inverse:
    # of a matrix of NaN nothing is left
    rank = jnp.maximum(rank - jnp.sum(~present, dtype=jnp.int32), 0)
    both = present[:, None] & present[None, :]
    inverse = jnp.where(both, 0.5 * (inverse + inverse.T) / outer, 0.0)
    return Inverse(inverse, rank, well_conditioned)


def solve_dense(
    matrix: Float[Array, "n n"],
    inverse: Float[Array, "n n"],
    rhs: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Return ``inverse @ rhs``, with the derivatives of a solve with ``matrix``."""
    return jax.lax.custom_linear_solve(
        lambda x: jnp.dot(matrix, x, precision=PRECISION),
        rhs,
        lambda _, b: jnp.dot(inverse, b, precision=PRECISION),
        symmetric=True,
    )


def solve_by_products(
    product: Callable, preconditioner: Callable, rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Solve with a positive semidefinite matrix that is known by its products only.

    Args:
        product: ``v -> H v``, linear.
        preconditioner: Returns ``v -> M v`` with M close to the inverse of H. What it
            works out is worked out once per solve, and needs no derivative.
        rhs: Right-hand side.
    """
    return jax.lax.custom_linear_solve(
        product,
        rhs,
        lambda product, b: conjugate_gradients(product, preconditioner(), b),
        symmetric=True,
    )


def conjugate_gradients(
    product: Callable, precondition: Callable, rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Return the solution of ``H x = rhs`` by preconditioned conjugate gradients.

    ``sqrt(r . M r)`` of what is left, r, estimates the error in the norm of H, whatever
    the units of the unknowns; the loop ends when it has shrunk to ``eps^(2/3)``. That
    is a digit or two short of rounding, where a tighter test may never be met (bundle
    adjustments: estimate and error of a derivative agree within a factor of two down to
    1e-11 of it). From zero it stays in the range of H, so a
    consistent singular system gets the solution of least norm (in the metric of the
    preconditioner). A direction without positive curvature, of which a minimum has
    none, ends it.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 11.5.
    """
    z = precondition(rhs)
    gamma = jnp.sum(rhs * z)
    target = (jnp.finfo(rhs.dtype).eps ** (2 / 3)) ** 2 * gamma
    limit = 4 * rhs.size

    def unfinished(carry):
        _, _, _, gamma, curved, k = carry
        return (gamma > target) & curved & (k < limit)

    def body(carry):
        x, r, d, gamma, _, k = carry
        w = product(d)
        curvature = jnp.sum(d * w)
        curved = curvature > 0.0
        alpha = jnp.where(curved, gamma / jnp.where(curved, curvature, 1.0), 0.0)
        x, r = x + alpha * d, r - alpha * w
        z = precondition(r)
        gamma_new = jnp.sum(r * z)
        return x, r, z + (gamma_new / gamma) * d, gamma_new, curved, k + 1

    start = jnp.zeros_like(rhs), rhs, z, gamma, jnp.array(True), 0
    return sharded.while_loop(unfinished, body, start)[0]
