"""Functions of a squared angle, smooth at zero, and arrays in two parts.

Written with the angle itself they divide zero by zero at zero, and their derivatives
lose digits nearby: a power series takes over there. ``jnp.where`` gives each side only
what it can take, as derivatives of the side that is not used must be finite as well.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

Values = Float[Array, "..."]

# Eight terms: in float64 what is left out is below rounding up to `series_below`,
# 1/2 rad squared or, of `arctan_ratio`, a tangent of 0.07.
TERMS = range(8)
COS = [(-1) ** k / math.factorial(2 * k) for k in TERMS]
SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in TERMS]
SINC_DEFECT = [(-1) ** k / math.factorial(2 * k + 3) for k in TERMS]
ARCTAN = [(-1) ** k / (2 * k + 1) for k in TERMS]
# of Bernoulli's numbers: |B_2k| / (2k)!
COT_DEFECT = [
    1 / 12,
    1 / 720,
    1 / 30240,
    1 / 1209600,
    1 / 47900160,
    691 / 1307674368000,
    1 / 74724249600,
    3617 / 10670622842880000,
]


def _blend(
    z: Values,
    series: Sequence[float],
    formula: Callable[[Values], Values],
    series_below: float = 0.25,
) -> Values:
    """Return a power series of z where z is small, else a formula of sqrt(z)."""
    small = z < series_below
    near = jnp.where(small, z, 0.0)
    root = jnp.sqrt(jnp.where(small, 1.0, z))
    horner = functools.reduce(lambda total, c: total * near + c, reversed(series))
    return jnp.where(small, horner, formula(root))


def cos(z: Values) -> Values:
    """Cosine of a, with z = a^2."""
    return _blend(z, COS, jnp.cos)


def sinc(z: Values) -> Values:
    """Return sin(a) / a, with z = a^2."""
    return _blend(z, SINC, lambda a: jnp.sin(a) / a)


def sinc_defect(z: Values) -> Values:
    """Return (1 - sin(a) / a) / a^2, with z = a^2."""
    return _blend(z, SINC_DEFECT, lambda a: (1.0 - jnp.sin(a) / a) / (a * a))


def cot_defect(z: Values) -> Values:
    """Return (1 - (a/2) cot(a/2)) / a^2, with z = a^2, for a up to pi."""
    half_cot = lambda a: 0.5 * a * jnp.cos(0.5 * a) / jnp.sin(0.5 * a)
    return _blend(z, COT_DEFECT, lambda a: (1.0 - half_cot(a)) / (a * a))


def arctan_ratio(z: Values) -> Values:
    """Return arctan(t) / t, with z = t^2."""
    return _blend(z, ARCTAN, lambda t: jnp.arctan(t) / t, series_below=0.005)


def halfway(cosine: Values, sine: Values) -> Values:
    """Return the vector ``a u`` of ``(r cos a, r sin a u)``, u a unit vector, r > 0.

    For a cosine (shape (1,)) that is not negative. With the tangent of half the angle,
    at most 1: there is no division by a small number at any such angle.
    """
    # dot products as sums: a GPU may compute jnp.dot of float32 with fewer digits
    squared = jnp.sum(sine * sine)
    tangent = sine / (cosine + jnp.sqrt(cosine * cosine + squared))
    return 2.0 * arctan_ratio(jnp.sum(tangent * tangent)) * tangent


def split(x: Float[Array, " size"], at: int, size: int) -> tuple[Array, Array]:
    """Return ``x[:at], x[at:]`` of one array of a given size."""
    if jnp.shape(x) != (size,):
        raise ValueError(
            f"One element or step has shape ({size},), this one {jnp.shape(x)}: map "
            "over several with jax.vmap."
        )
    return x[:at], x[at:]
