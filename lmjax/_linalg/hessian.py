"""The Hessian of the cost over the parameters that may move, and its inverse."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax.types import Flag, Scalar
from lmjax._linalg import symmetric
from lmjax._linalg.algebra import PLAIN, Algebra
from lmjax._linalg.linearization import identity
from lmjax._linalg.symmetric import Inverse


class Place(NamedTuple):
    """Where a Hessian is asked for.

    Attributes:
        p: The parameters.
        free: Which of them may move.
        norms: Norms of the columns of J near there.
        cost: The cost near there.
    """

    p: Float[Array, " n"]
    free: Bool[Array, " n"]
    norms: Float[Array, " n"]
    cost: Scalar


class Hessian(NamedTuple):
    """The second derivatives of the cost at a place.

    Attributes:
        grad: Gradient there, zero for parameters that are not free.
        matrix: The Hessian, the identity where not free.
        inverse: Its inverse, zero where not free.
        doubtful: Whether the inverse is to be found by singular values yet.
    """

    grad: Float[Array, " n"]
    matrix: Float[Array, "n n"]
    inverse: Inverse
    doubtful: Flag


def both(free: Bool[Array, " n"]) -> Bool[Array, "n n"]:
    """Return which entries of a matrix are about two free parameters."""
    return free[:, None] & free[None, :]


def over_free(
    grad: Float[Array, " n"], matrix: Float[Array, "n n"], free: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Return gradient and Hessian of the free parameters."""
    eye = identity(len(grad), len(grad), grad.dtype)
    return jnp.where(free, grad, 0.0), jnp.where(both(free), matrix, eye)


def by_factor(
    grad: Float[Array, " n"],
    matrix: Float[Array, "n n"],
    place: Place,
    algebra: Algebra = PLAIN,
) -> Hessian:
    """Return the Hessian with the inverse that Cholesky's factorisation gives."""
    grad, matrix = over_free(grad, matrix, place.free)
    inverse = symmetric.by_factor(matrix, *units(grad, place), algebra)
    return Hessian(grad, matrix, inverse, ~inverse.well_conditioned)


def by_singular_values(
    known: Hessian, place: Place, algebra: Algebra = PLAIN
) -> Hessian:
    """Return the Hessian with its inverse of least norm."""
    given = known.matrix, *units(known.grad, place)
    inverse = symmetric.by_singular_values(*given, algebra)
    return known._replace(inverse=inverse, doubtful=jnp.array(False))


def finish(known: Hessian, place: Place) -> Hessian:
    """Return the Hessian, its inverse over the free parameters."""
    return known._replace(inverse=over_free_inverse(known.inverse, place.free))


def over_free_inverse(inverse: Inverse, free: Bool[Array, " n"]) -> Inverse:
    """Return the inverse without the parameters that are not free."""
    held = jnp.sum(~free, dtype=jnp.int32)
    matrix = jnp.where(both(free), inverse.matrix, 0.0)
    return Inverse(
        matrix, jnp.maximum(inverse.rank - held, 0), inverse.well_conditioned
    )


def units(grad: Float[Array, " n"], place: Place) -> tuple[Array, Scalar]:
    """Return the least size of each diagonal entry, and how well the matrix is known.

    The latter given that ``p`` is known to ``H^-1 g``: the part of the residual that J
    could still remove, relative to the size of the model. Second derivatives change by
    about that much on the way to the minimum. Where J is singular (two parameters that
    enter as a product) the least eigenvalue of H is nothing but this.
    """
    norms = place.norms
    present = norms > 0.0
    left = jnp.max(jnp.where(present, jnp.abs(grad) / jnp.where(present, norms, 1), 0))
    size = jnp.sum(norms * jnp.abs(place.p)) + jnp.sqrt(2.0 * jnp.abs(place.cost))
    noise = left / jnp.where(size > 0.0, size, 1.0)
    noise = jnp.minimum(noise, jnp.finfo(grad.dtype).eps ** 0.5)
    return jnp.where(place.free, norms**2, 1.0), noise
