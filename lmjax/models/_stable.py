"""Elementary functions whose values and derivatives stay finite everywhere.

A `where` after a division or an exponential is not enough: its derivative still forms
0 times infinity. The arguments are therefore made harmless before, too.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

Real = Float[Array, "..."]


def exponent_limit(dtype) -> float:
    """Return the largest exponent used: 48 in float32, 390 in float64.

    A little over half of what the dtype can hold, so that products with amplitudes and
    with the inner derivative still fit.
    """
    return 0.55 * math.log(float(jnp.finfo(dtype).max))


def exp(z: Real) -> Real:
    """Return ``exp(z)``, constant above `exponent_limit`."""
    return jnp.exp(jnp.minimum(z, exponent_limit(jnp.result_type(z))))


def ratio(u, w, bound: float | None = None) -> Real:
    """Return ``u / w`` kept within ``bound`` (`exponent_limit` by default).

    Finite with finite derivatives for any finite u and w: 0 for u = w = 0, and w is
    never taken smaller in size than the square root of the smallest normal number, so
    that ``1 / w**2`` exists.
    """
    dtype = jnp.result_type(u, w)
    info = jnp.finfo(dtype)
    bound = exponent_limit(dtype) if bound is None else bound
    floor = float(info.tiny) ** 0.5
    small = jnp.abs(w) < floor
    w = jnp.where(small, jnp.where(w < 0.0, -floor, floor), w)
    # |u / w| > bound, without dividing (nor multiplying into an overflow)
    beyond = jnp.abs(u) / bound > jnp.abs(w)
    quotient = jnp.where(beyond, 0.0, u) / w
    return jnp.where(beyond, bound * jnp.sign(u) * jnp.sign(w), quotient)


def tail_bound(dtype) -> float:
    """Return a bound for `ratio` where ``(1 + z**2)**2`` must not overflow."""
    return float(jnp.finfo(dtype).max) ** 0.2


def log_positive(x: Real) -> tuple[Real, Array]:
    """Return ``log(x)`` where x is positive, 0 elsewhere, and where that is."""
    positive = x > 0.0
    return jnp.log(jnp.where(positive, x, 1.0)), positive
