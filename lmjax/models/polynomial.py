"""Polynomials, for backgrounds."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lmjax._errors.checks import check_real
from lmjax._jax.arrays import as_array
from lmjax._jax.paths import common_dtype
from lmjax.models import _domain, _guess
from lmjax.models._model import Model, real


def _as_array(coefficients: Any) -> Any:
    if isinstance(coefficients, list | tuple):
        if any(isinstance(number, Tracer) for number in coefficients):
            dtype = common_dtype(1.0, *coefficients)
            return jnp.stack([jnp.asarray(number, dtype) for number in coefficients])
        # numpy: an array that still follows no device and is no integer
        return np.asarray(as_array("coefficients", list(coefficients)), float)
    return coefficients


class Polynomial(Model):
    """Polynomial: ``coefficients[0] + coefficients[1] x + coefficients[2] x^2 ...``.

    Args:
        coefficients: Array (or list of numbers), lowest power first; number k in units
            of y over x^k.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> x = jnp.arange(5.0)
        >>> guess = lmjax.models.Polynomial.guess(x, 1.0 + 2.0 * x, degree=1)
        >>> print(jnp.round(guess.coefficients, 3))
        [1. 2.]

    References:
        Forsythe (1957), J. SIAM 5, 74-88: polynomials orthogonal on the points, by
        which the start is the least-squares solution.
    """

    coefficients: Float[Array, "..."] = eqx.field(converter=_as_array)

    def __check_init__(self):
        check_real("coefficients", self.coefficients)

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        x = real(x)
        value = jnp.zeros_like(x)
        for k in reversed(range(self.coefficients.shape[-1])):
            value = value * x + self.coefficients[..., k]
        return value

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any, degree: int = 1) -> "Polynomial":
        """Return the least-squares polynomial of a degree through the points (x, y).

        With fewer distinct points than coefficients the highest ones are 0. Where all
        y are positive (or zero) and that polynomial is not, it is mixed with their
        mean, as little as it takes.
        """
        data = _guess.clean(x, y)
        start = Polynomial(_project(data, degree))
        share, mean = _domain.share_of_mean(start(data.x) / data.unit, data)
        coefficients = (
            ((1.0 - share) * start.coefficients).at[0].add(share * mean * data.unit)
        )
        return _guess.finite(Polynomial(coefficients), data)


def _project(data, degree):
    """Return the coefficients, by three-term recurrence on values and coefficients."""
    unit = _guess.largest(data.x)
    x, y, eps = data.x / unit, data.y, float(jnp.finfo(data.y.dtype).eps)
    values, before = data.keep, jnp.zeros_like(x)
    powers = jnp.zeros(degree + 1, x.dtype).at[0].set(1.0)
    powers_before, total = jnp.zeros_like(powers), jnp.zeros_like(powers)
    square_before = jnp.ones_like(data.unit)
    for k in range(degree + 1):
        square = jnp.sum(values * values)
        # a polynomial that vanishes at every point: they are too few
        usable = square > x.size * eps**1.5 * 4.0**-k
        safe = jnp.where(usable, square, 1.0)
        scale = jnp.where(usable, jnp.sum(y * values) / safe, 0.0)
        total = total + scale * powers
        y = y - scale * values
        a = jnp.where(usable, jnp.sum(x * values * values) / safe, 0.0)
        b = jnp.where(usable, square / square_before, 0.0) if k else 0.0
        values, before = (x - a) * values - b * before, values
        shifted = jnp.roll(powers, 1).at[0].set(0.0)
        powers, powers_before = shifted - a * powers - b * powers_before, powers
        values = jnp.where(usable, values, 0.0)
        square_before = safe
    return total * data.unit / unit ** jnp.arange(degree + 1, dtype=x.dtype)
