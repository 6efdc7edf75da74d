r"""Covariance of a global fit, by the blocks of its arrowhead matrix.

With V, W, U the blocks of ``J^T J`` (see `lmjax._linalg.arrowhead`), ``X = V^-1 W`` in
each curve and ``C = (U - sum W^T X)^-1``, the blocks of the inverse are

    shared: C,    cross: -X C,    own: V^-1 + X C X^T.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax.batched_cond import batched_cond
from lmjax._linalg import normal_inverse
from lmjax._linalg.arrowhead import ArrowMatrix
from lmjax._linalg.linearization import PRECISION
from lmjax._linalg.normal_inverse import root_of_inverse, trusted_inverse, unit_columns
from lmjax._statistics.covariance import unscaled_covariance


class CovarianceBlocks(eqx.Module):
    """Covariance of a global fit, by its blocks.

    Parameters are in ravel order, a curve's own ones and the shared ones apart. Own
    parameters of two curves g and h covary through the shared ones alone: their block
    is ``cross_g shared^-1 cross_h^T``.

    Attributes:
        own: Covariance of each curve's own parameters.
        cross: Covariance of own with shared parameters.
        shared: Covariance of the shared parameters.
    """

    own: Float[Array, "*batch g k k"]
    cross: Float[Array, "*batch g k s"]
    shared: Float[Array, "*batch s s"]


def unscaled_blocks(
    matrix: ArrowMatrix, columns: Float[Array, "c m g"]
) -> tuple[CovarianceBlocks, Int[Array, ""], Bool[Array, " n"]]:
    """Return the blocks of the inverse of ``J^T J``, the rank of J, what is left open.

    The last are flags of the parameters that take part in a direction without effect.

    Own parameters that a curve does not determine get the inverse of least norm; a
    shared parameter that nothing tells from the own ones gets zeros and lowers the
    rank. The derivative is that of the inverse, at constant rank.

    Args:
        matrix: Zero in rows and columns of parameters that have no error.
        columns: Those of J, own before shared, curves last, zero likewise.
    """
    k, m = matrix.arrow.own, columns.shape[1]
    first = lambda block: jnp.moveaxis(block, -1, 0)
    own, shared = jnp.split(columns, [k])
    blocks = matrix.own, matrix.cross, own, shared
    curves = jax.vmap(_eliminate)(*map(first, blocks))

    def projected(operands):
        own, shared, x = operands
        fitted = jnp.einsum("img,gia->amg", own, x, precision=PRECISION)
        return (shared - fitted).reshape(len(shared), -1).T

    squares = jnp.diagonal(matrix.shared)
    reduced = matrix.shared - jnp.sum(curves.schur_term, axis=0)
    given = own, shared, curves.x
    invert = lambda matrix, squares, given: normal_inverse.inverse(
        matrix, squares, projected, given, m
    )
    found, rank, together, _ = unscaled_covariance(reduced, squares, given, invert)
    # for a determined parameter, the product is its variance inflation: at least 1
    determined = jnp.diagonal(found) * squares > 0.5
    open_ = ((~determined & (squares > 0.0)) | together).astype(squares.dtype)
    # own parameters that compensate an open shared one are open, too
    shares = (curves.x * curves.norms[:, :, None]) ** 2
    partners = jnp.dot(shares, open_, precision=PRECISION)
    eps = jnp.finfo(squares.dtype).eps
    partners = partners > eps * jnp.sum(squares * open_)
    partners = (partners | curves.open).T
    found = jnp.where(determined[:, None] & determined[None, :], found, 0.0)
    xc = jnp.einsum("gia,ab->gib", curves.x, found, precision=PRECISION)
    spread = jnp.einsum("gia,gja->gij", xc, curves.x, precision=PRECISION)
    blocks = CovarianceBlocks(curves.inverse + spread, -xc, found)
    rank = jnp.sum(curves.rank, dtype=jnp.int32) + rank
    return blocks, rank, matrix.arrow.join(partners, open_ > 0.0)


class _Eliminated(NamedTuple):
    """One curve without its own parameters.

    Attributes:
        inverse: ``V^-1``, or the inverse of least norm.
        x: ``V^-1 W``.
        schur_term: ``W^T V^-1 W``, what elimination subtracts from U.
        rank: Rank of the columns of the own parameters.
        norms: Norms of these columns.
        open: Which own parameters take part in a direction without effect.
    """

    inverse: Float[Array, "k k"]
    x: Float[Array, "k s"]
    schur_term: Float[Array, "s s"]
    rank: Int[Array, ""]
    norms: Float[Array, " k"]
    open: Bool[Array, " k"]


@jax.custom_jvp
def _eliminate(normal, cross, own, shared) -> _Eliminated:
    """Eliminate the own parameters of one curve.

    From the normal equations, or where those have lost half of their digits from the
    singular values of the columns themselves, with the curve on the first axis.
    """
    dot = lambda a, b: jnp.dot(a, b, precision=PRECISION)
    squares = jnp.diagonal(normal)
    scale, both, scaled = unit_columns(normal, squares)

    def through_columns(operands):
        scale, own, shared = operands
        own = own.T / scale[None, :]
        root, rank, open_ = root_of_inverse(own, own.shape[0])
        along = dot(dot(own, root.T).T, shared.T)
        x, schur_term = dot(root.T, along), dot(along.T, along)
        open_ &= jnp.any(own != 0.0, axis=0)
        return _Eliminated(dot(root.T, root), x, schur_term, rank, scale, open_)

    inverse, well_conditioned = trusted_inverse(scaled)
    cross = cross / scale[:, None]
    x = dot(inverse, cross)
    rank = jnp.sum(squares > 0.0, dtype=jnp.int32)
    none = jnp.zeros_like(squares > 0.0)
    usual = _Eliminated(inverse, x, dot(cross.T, x), rank, scale, none)
    found = batched_cond(
        ~well_conditioned, through_columns, usual, (scale, own, shared)
    )
    inverse = found.inverse / (scale[:, None] * scale[None, :])
    return found._replace(
        inverse=jnp.where(both, inverse, 0.0), x=found.x / scale[:, None]
    )


@_eliminate.defjvp
def _(primals, tangents):
    """``dV^-1 = -V^-1 dV V^-1``; what failed passes nothing on."""
    found = _eliminate(*primals)
    dot = lambda a, b: jnp.dot(a, b, precision=PRECISION)
    finite = jnp.all(jnp.isfinite(found.inverse)) & jnp.all(jnp.isfinite(found.x))
    guard = lambda a: jnp.where(finite, a, 0.0)
    inverse, x, dv, dw = map(guard, (found.inverse, found.x, *tangents[:2]))
    half = dw - 0.5 * dot(dv, x)
    schur_term = dot(half.T, x)
    change = _Eliminated(
        -dot(dot(inverse, dv), inverse),
        dot(inverse, dw - dot(dv, x)),
        schur_term + schur_term.T,
        np.zeros((), jax.dtypes.float0),  # pyright: ignore[reportArgumentType]
        jnp.zeros_like(found.norms),
        np.zeros(found.open.shape, jax.dtypes.float0),  # pyright: ignore[reportArgumentType]
    )
    return found, change
