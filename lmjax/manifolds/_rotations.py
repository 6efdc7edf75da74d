"""Rotations of the plane and of space."""

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax.manifolds import _quaternion
from lmjax.manifolds._functions import split

Angle = Float[Array, "1"]
Point = Float[Array, "2"]
Quaternion = Float[Array, "4"]
Vector = Float[Array, "3"]


def wrap(angle: Array) -> Array:
    """Return the same angle in [-pi, pi); one that is there already is not changed."""
    turn = 2.0 * math.pi
    angle = angle - turn * jnp.round(angle / turn)
    # rounding may have left it just outside
    angle = jnp.where(angle >= math.pi, angle - turn, angle)
    return jnp.where(angle < -math.pi, angle + turn, angle)


def turn_plane(angle: Angle, point: Point) -> Point:
    """Rotate a point of the plane by an angle."""
    return jnp.cos(angle) * point + jnp.sin(angle) * quarter(point)


def quarter(point: Point) -> Point:
    """Rotate a point of the plane by a quarter turn."""
    x, y = split(point, 1, 2)
    return jnp.concatenate([-y, x])


class SO2(eqx.Module):
    """Rotations of the plane: an angle in radians, shape (1,).

    A step is an angle as well, shape (1,), added by ``retract``. Angles that differ by
    whole turns are the same element: ``local`` and ``log`` are in [-pi, pi), the others
    do not wrap. See [Sola, (114) to (125)].

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> angle = lmjax.manifolds.SO2()
        >>> print(angle.local(jnp.array([3.0]), jnp.array([-3.0])).round(2))
        [0.28]
    """

    size: ClassVar[int] = 1
    tangent_size: ClassVar[int] = 1

    def retract(self, x: Angle, v: Angle) -> Angle:
        """Return the angle at v from x: ``x + v``."""
        return self.compose(x, v)

    def local(self, x: Angle, y: Angle) -> Angle:
        """Return the angle from x to y, in [-pi, pi)."""
        return self.log(self.between(x, y))

    def compose(self, x: Angle, y: Angle) -> Angle:
        """Return the rotation by y, then by x: ``x + y``."""
        return x + y

    def inverse(self, x: Angle) -> Angle:
        """Return the rotation back: ``-x``."""
        return -x

    def between(self, x: Angle, y: Angle) -> Angle:
        """Return the rotation from x to y: ``y - x``."""
        return y - x

    def apply(self, x: Angle, point: Point) -> Point:
        """Rotate a point of the plane, shape (2,)."""
        return turn_plane(x, point)

    def exp(self, v: Angle) -> Angle:
        """Return the rotation by the angle v: v itself."""
        return v

    def log(self, x: Angle) -> Angle:
        """Return the angle, in [-pi, pi)."""
        return wrap(x)


class SO3(eqx.Module):
    """Rotations of space: a unit quaternion (w, x, y, z), shape (4,).

    A step is a rotation vector, shape (3,): axis times angle in radians, in the frame
    of the rotated body. ``retract(x, v)`` is ``x * exp(v)`` and ``local(x, y)`` is
    ``log(x⁻¹ y)`` [Sola, (25) and (26)]. q and -q are the same rotation: ``local`` and
    ``log`` are at most pi long, so ``retract(x, local(x, y))`` may be -y.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> rotation = lmjax.manifolds.SO3()
        >>> x = rotation.retract(jnp.array([1.0, 0, 0, 0]), jnp.array([0.0, 0.0, 0.2]))
        >>> rotation.log(x).round(3)
        Array([0. , 0. , 0.2], dtype=float32)
    """

    size: ClassVar[int] = 4
    tangent_size: ClassVar[int] = 3

    def retract(self, x: Quaternion, v: Vector) -> Quaternion:
        """Return the rotation at v from x, ``x * exp(v)``, of unit length."""
        return _quaternion.unit(self.compose(x, self.exp(v)))

    def local(self, x: Quaternion, y: Quaternion) -> Vector:
        """Return the rotation vector from x to y, at most pi long."""
        return self.log(self.between(x, y))

    def compose(self, x: Quaternion, y: Quaternion) -> Quaternion:
        """Return the rotation by y, then by x: ``x * y`` [Sola, (141)]."""
        return _quaternion.multiply(x, y)

    def inverse(self, x: Quaternion) -> Quaternion:
        """Return the rotation back [Sola, (140)]."""
        return _quaternion.conjugate(x)

    def between(self, x: Quaternion, y: Quaternion) -> Quaternion:
        """Return ``x⁻¹ y``, the rotation from x to y, in the frame of x."""
        return self.compose(self.inverse(x), y)

    def apply(self, x: Quaternion, point: Vector) -> Vector:
        """Rotate a point, shape (3,)."""
        return _quaternion.rotate(x, point)

    def exp(self, v: Vector) -> Quaternion:
        """Return the rotation by ``|v|`` radians about v [Sola, (132)]."""
        return _quaternion.exp(v)

    def log(self, x: Quaternion) -> Vector:
        """Return the rotation vector, at most pi long [Sola, (133)]."""
        return _quaternion.log(x)
