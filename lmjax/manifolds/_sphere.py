"""Directions: unit vectors of any number of components."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax.manifolds import _functions
from lmjax.manifolds._functions import split
from lmjax.manifolds._quaternion import unit


def _swap(x: Float[Array, " n"], p: Float[Array, " n"]) -> Float[Array, " n"]:
    """Apply the orthogonal map to p that swaps the unit vector x and the last axis e.

    Up to a sign it is Householder's reflection along ``x + e`` or ``x - e``, whichever
    is longer, so that no digits are lost at any x. It is its own inverse, and its first
    n-1 columns span the tangent plane.
    """
    rest, last = split(x, x.size - 1, x.size)
    sign = jnp.where(last < 0.0, -1.0, 1.0).astype(x.dtype)
    axis = jnp.concatenate([rest, last + sign])
    onto_axis = jnp.sum(axis * p) / jnp.sum(axis * axis)
    return sign * (2.0 * onto_axis * axis - p)


class Sphere(eqx.Module):
    """Unit vectors of R^n: directions, shape (n,).

    A step has shape (n-1,): angles in radians along an orthonormal basis of the tangent
    plane at x, which a Householder reflection makes, a different one at each x, as in
    Ceres' SphereManifold. ``retract`` goes along a great circle by ``|v|``, ``local``
    returns the shortest way, at most pi long: Hertzberg et al. (2013), "Integrating
    generic sensor fusion algorithms with sound state representations through
    encapsulation of manifolds", arXiv:1107.1119, (106) to (108). To the opposite point
    all ways are equally long, and ``local`` takes one of them.

    Args:
        size: the number n of components, at least 2.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> direction = lmjax.manifolds.Sphere(3)
        >>> north = jnp.array([0.0, 0.0, 1.0])
        >>> step = direction.local(north, jnp.array([0.0, 0.6, 0.8]))
        >>> print(f"{jnp.linalg.norm(step):.4f}")
        0.6435
    """

    size: int = eqx.field(static=True, default=3)

    def __check_init__(self):
        if self.size < 2:
            raise ValueError(f"A direction has at least 2 components, not {self.size}.")

    @property
    def tangent_size(self) -> int:
        """The number of components of a step: n - 1."""
        return self.size - 1

    def retract(
        self, x: Float[Array, " n"], v: Float[Array, " n-1"]
    ) -> Float[Array, " n"]:
        """Return the direction at v from x."""
        z = jnp.sum(v * v, keepdims=True)
        # the sign makes the basis at e that of the first axes
        p = jnp.concatenate([-_functions.sinc(z) * v, _functions.cos(z)])
        return unit(_swap(x, p))

    def local(
        self, x: Float[Array, " n"], y: Float[Array, " n"]
    ) -> Float[Array, " n-1"]:
        """Return the step from x to y, at most pi long."""
        sine, cosine = split(_swap(x, y), self.size - 1, self.size)
        acute = _functions.halfway(jnp.abs(cosine), -sine)
        # Beyond a right angle: pi less than the angle to the opposite point. Very close
        # to it every direction is as good.
        squared = jnp.sum(sine * sine)
        known = squared > np.finfo(sine.dtype).eps ** 2
        some = jnp.zeros_like(sine).at[0].set(1.0)
        way = jnp.where(known, -sine / jnp.sqrt(jnp.where(known, squared, 1.0)), some)
        return jnp.where(cosine < 0.0, jnp.pi * way - acute, acute)
