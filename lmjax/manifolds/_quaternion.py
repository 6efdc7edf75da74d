"""Unit quaternions (w, x, y, z), shape (4,), by Hamilton's convention."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax.manifolds import _functions
from lmjax.manifolds._functions import split

Quaternion = Float[Array, "4"]
Vector = Float[Array, "3"]


def cross(a: Vector, b: Vector) -> Vector:
    """Cross product.

    By numbers: as rotated vectors, ``r(a * r(b) - r(a) * b)``, XLA takes twice as long
    to compile a residual of two poses and to run it, though the program is shorter.
    """
    a0, a1, a2 = a
    b0, b1, b2 = b
    return jnp.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0])


def unit(q: Array) -> Array:
    """Return the vector of length 1 in the direction of q."""
    return q / jnp.sqrt(jnp.sum(q * q))


def conjugate(q: Quaternion) -> Quaternion:
    """Return the inverse of a unit quaternion."""
    w, u = split(q, 1, 4)
    return jnp.concatenate([w, -u])


def multiply(p: Quaternion, q: Quaternion) -> Quaternion:
    """Return the product ``p q``."""
    pw, pu = split(p, 1, 4)
    qw, qu = split(q, 1, 4)
    w = pw * qw - jnp.sum(pu * qu)
    return jnp.concatenate([w, pw * qu + qw * pu + cross(pu, qu)])


def rotate(q: Quaternion, point: Vector) -> Vector:
    """Rotate a point: ``q p q*``, expanded for a unit quaternion."""
    w, u = split(q, 1, 4)
    half = cross(u, point)
    return point + 2.0 * (w * half + cross(u, half))


def exp(v: Vector) -> Quaternion:
    """Return the rotation by the vector v [Sola, (132)]."""
    z = jnp.sum(v * v, keepdims=True) / 4.0  # square of half the angle
    return jnp.concatenate([_functions.cos(z), 0.5 * _functions.sinc(z) * v])


def log(q: Quaternion) -> Vector:
    """Return the rotation vector, at most pi long, of q or any multiple of q."""
    w, u = split(jnp.where(q[0] < 0.0, -q, q), 1, 4)
    return 2.0 * _functions.halfway(w, u)
