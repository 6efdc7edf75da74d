"""Exponential decays and growth, the stretched exponential, power laws."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import exp, log_positive

# Rates in units of one over the range of x: from nearly a line to gone within a
# thousandth of the range, a third apart (the basin of a rate is several times wider).
RATES = np.geomspace(0.03, 1000.0, 40)
# Growth, too, but nothing measured grows by more than exp(30) within the range.
GROWTH = -np.geomspace(0.03, 30.0, 12)
# Of two terms one may grow: it is no limit of decays that an offset or a line would be.
PAIRED = np.r_[-6.0, -2.0, -0.7, -0.2, np.geomspace(0.1, 1000.0, 18)]


class Exponential(Model):
    """Exponential on an offset: ``amplitude * exp(-rate * x) + offset``.

    Args:
        amplitude: Value at x = 0 above the offset, in units of y; negative for a curve
            that rises to the offset.
        rate: Inverse of the time constant, in units of 1/x; negative for growth.
        offset: Level far from the start, in units of y.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t = jnp.linspace(0.0, 5.0, 8)
        >>> y = jnp.array([3.05, 1.94, 1.27, 0.90, 0.66, 0.53, 0.43, 0.39])
        >>> fit = lmjax.curve_fit(lmjax.models.Exponential.guess(t, y), t, y)
        >>> print(f"rate = {fit.params.rate:.2f} +- {fit.stderr.rate:.2f}")
        rate = 0.73 +- 0.01

    References:
        Bates and Watts (1988), "Nonlinear Regression Analysis", on such sums of
        exponentials and linear terms.
    """

    amplitude: Parameter
    rate: Parameter
    offset: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.amplitude * exp(-self.rate * real(x)) + self.offset

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Exponential":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        amplitude, rate, offset = search_rate(data, np.r_[RATES, GROWTH])
        return _guess.finite(Exponential(amplitude, rate, offset), data)


class BiExponential(Model):
    """Two exponentials: ``amplitude_1 exp(-rate_1 x) + amplitude_2 exp(-rate_2 x)``.

    The terms may be swapped; the start has ``rate_1 > rate_2``.

    Args:
        amplitude_1: Value at x = 0 of the first term, in units of y.
        rate_1: Its rate, in units of 1/x.
        amplitude_2: Value at x = 0 of the second term, in units of y.
        rate_2: Its rate, in units of 1/x.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t = jnp.array([0.25, 0.5, 0.75, 1.0, 1.25, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])
        >>> y = jnp.array(
        ...     [1.5, 0.94, 0.78, 0.48, 0.37, 0.19, 0.12, 0.11, 0.08, 0.07, 0.05]
        ... )
        >>> fit = lmjax.curve_fit(lmjax.models.BiExponential.guess(t, y), t, y)
        >>> print(f"{fit.params.rate_1:.2f}, {fit.params.rate_2:.2f}")
        1.78, 0.17

    References:
        Bates and Watts (1988), "Nonlinear Regression Analysis"; the data of the example
        are subject 1 of the indometacin study in R's ``datasets``.
    """

    amplitude_1: Parameter
    rate_1: Parameter
    amplitude_2: Parameter
    rate_2: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        x = real(x)
        fast = self.amplitude_1 * exp(-self.rate_1 * x)
        return fast + self.amplitude_2 * exp(-self.rate_2 * x)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "BiExponential":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        return _guess.finite(BiExponential(*search_two_rates(data)), data)


class StretchedExponential(Model):
    """Kohlrausch's relaxation: ``amplitude * exp(-(rate * x)^exponent)`` for x >= 0.

    For x <= 0 the value is the amplitude.

    Args:
        amplitude: Value at x = 0, in units of y.
        rate: Inverse of the time at which 1/e is left, in units of 1/x; positive.
        exponent: Without unit; 1 is a plain exponential, below 1 a spread of rates.

    Example:
        >>> import lmjax
        >>> model = lmjax.models.StretchedExponential(2.0, rate=0.5, exponent=0.7)
        >>> print(f"{model(2.0):.3f}")
        0.736

    References:
        Kohlrausch (1854), Annalen der Physik 167, 56-82; Williams and Watts (1970),
        Trans. Faraday Soc. 66, 80-85.
    """

    amplitude: Parameter
    rate: Parameter
    exponent: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        log_x, positive = log_positive(real(x))
        # below the floor the curve no longer falls, and 1 / rate would overflow
        floor = float(jnp.finfo(jnp.result_type(log_x, self.rate)).tiny) ** 0.5
        log_rate = jnp.log(jnp.maximum(self.rate, floor))
        inner = exp(self.exponent * (log_x + log_rate))
        return self.amplitude * jnp.where(positive, jnp.exp(-inner), 1.0)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "StretchedExponential":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        _, span = _guess.low_and_span(data.x)
        rate, exponent = _guess.grid(RATES[::2], [0.3, 0.45, 0.65, 1.0, 1.5, 2.5])
        rate = _guess.column(rate, data) / span
        exponent = _guess.column(exponent, data)
        shapes = StretchedExponential(1.0, rate, exponent)(_guess.row(data))
        best = _guess.search(shapes, data, constant=False, positive=True)
        i = best.which
        start = StretchedExponential(best.scale, rate[i, 0], exponent[i, 0])
        return _guess.finite(start, data)


class PowerLaw(Model):
    """Power law: ``amplitude * x^exponent`` for x > 0, and 0 for x <= 0.

    Args:
        amplitude: Value at x = 1, in units of y.
        exponent: Without unit.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> x = jnp.array([1.0, 2.0, 4.0, 8.0])
        >>> y = 3.0 * x**1.5
        >>> fit = lmjax.curve_fit(lmjax.models.PowerLaw.guess(x, y), x, y)
        >>> print(f"{fit.params.amplitude:.3f}, {fit.params.exponent:.3f}")
        3.000, 1.500

    References:
        Clauset, Shalizi and Newman (2009), SIAM Review 51, 661-703, on when not to fit
        one by least squares (distributions).
    """

    amplitude: Parameter
    exponent: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        log_x, positive = log_positive(real(x))
        power = exp(self.exponent * log_x)
        return self.amplitude * jnp.where(positive, power, 0.0)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "PowerLaw":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        log_x, positive = log_positive(data.x)
        middle = jnp.sum(jnp.where(positive, log_x, 0.0)) / jnp.maximum(
            jnp.sum(positive, dtype=log_x.dtype), 1.0
        )
        unitless = jnp.where(positive, exp(log_x - middle), 0.0)
        exponent = _guess.column(np.linspace(-6.0, 6.0, 49), data)
        best = _guess.search(
            PowerLaw(1.0, exponent)(unitless[None, :]), data, constant=False
        )
        exponent = exponent[best.which, 0]
        amplitude = best.scale * exp(-exponent * middle)
        return _guess.finite(PowerLaw(amplitude, exponent), data)


def search_rate(data, rates, constant=True):
    """Return (amplitude, rate, offset) of the best single exponential."""
    low, span = _guess.low_and_span(data.x)
    rates = _slowed(_guess.column(rates, data) / span, low, data)
    # counted from the first point, or slow decays at large x would all be 0
    shapes = exp(-rates * (data.x - low)[None, :])
    best = _guess.search(shapes, data, constant, positive=not constant)
    rate = rates[best.which, 0]
    return best.scale * exp(rate * low), rate, best.constant


def search_two_rates(data):
    """Return (amplitude_1, rate_1, amplitude_2, rate_2), rate_1 the larger."""
    low, span = _guess.low_and_span(data.x)
    slow, fast = np.triu_indices(PAIRED.size, 1)
    slow, fast = (
        _slowed(_guess.column(PAIRED[index], data) / span, low, data)
        for index in (slow, fast)
    )
    since = (data.x - low)[None, :]
    first, second = jnp.exp(-slow * since), jnp.exp(-fast * since)
    best = _guess.search_pair(first, second, data, positive=True)
    slow, fast = slow[best.which, 0], fast[best.which, 0]
    slow_scale, fast_scale = best.scale
    return fast_scale * exp(fast * low), fast, slow_scale * exp(slow * low), slow


def _slowed(rates, low, data):
    """Return the rates, held where the second point still sees 2 % of a decay.

    Beyond, nothing but the first point changes with the rate, and not for long: a fit
    that starts there runs off to infinity.
    """
    gap = jnp.min(jnp.where(data.x > low, data.x, jnp.inf)) - low
    return jnp.minimum(rates, jnp.where(jnp.isfinite(gap), 4.0 / gap, jnp.inf))
