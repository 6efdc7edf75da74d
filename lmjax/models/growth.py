"""Growth curves: from one level to another in time.

Both may fall as well as rise (negative amplitude). The start has a positive rate: a
Gompertz curve of negative rate is another model, its mirror image.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import exp

# A curve that ends in the foot of a sigmoid does not tell how high it will rise: a
# start shows at least this share of the rise, so levels are a few times the data.
LEAST_RISE = 0.3


class LogisticGrowth(Model):
    """Logistic growth: ``offset + amplitude / (1 + exp(-rate (x - midpoint)))``.

    The steepest slope is ``amplitude rate / 4``; its tangent leaves the offset at the
    lag time ``midpoint - 2 / rate``.

    Args:
        amplitude: Final level above the offset, in units of y.
        rate: Growth rate while the population is small, in units of 1/x.
        midpoint: Time of half height, in units of x.
        offset: Level at the beginning, in units of y. Without one, start at
            ``dataclasses.replace(guess, offset=0.0)`` with ``fixed={"offset": True}``.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t = jnp.arange(0.0, 24.0, 2.0)
        >>> y = lmjax.models.LogisticGrowth(1.2, rate=0.6, midpoint=9.0, offset=0.1)(t)
        >>> fit = lmjax.curve_fit(lmjax.models.LogisticGrowth.guess(t, y), t, y)
        >>> print(f"{fit.params.rate:.3f}, {fit.params.midpoint:.3f}")
        0.600, 9.000

    References:
        Zwietering et al. (1990), Appl. Environ. Microbiol. 56, 1875-1881, with maximum
        slope and lag as the parameters.
    """

    amplitude: Parameter
    rate: Parameter
    midpoint: Parameter
    offset: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        share = jax.nn.sigmoid(self.rate * (real(x) - self.midpoint))
        return self.offset + self.amplitude * share

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "LogisticGrowth":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        midpoint, rate = _candidates(data)
        return _start(LogisticGrowth, data, midpoint, rate)


class GompertzGrowth(Model):
    """Gompertz growth: ``offset + amplitude exp(-exp(-rate (x - midpoint)))``.

    The steepest slope is ``amplitude rate / e``, at the midpoint; its tangent leaves
    the offset at the lag time ``midpoint - 1 / rate``.

    Args:
        amplitude: Final level above the offset, in units of y.
        rate: Rate at which the curve approaches its final level, in units of 1/x.
        midpoint: Time of steepest growth, at 37 % of the amplitude, in units of x.
        offset: Level at the beginning, in units of y.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t = jnp.arange(0.0, 24.0, 2.0)
        >>> y = lmjax.models.GompertzGrowth(1.2, rate=0.4, midpoint=6.0, offset=0.1)(t)
        >>> fit = lmjax.curve_fit(lmjax.models.GompertzGrowth.guess(t, y), t, y)
        >>> print(f"{fit.params.rate:.3f}, {fit.params.midpoint:.3f}")
        0.400, 6.000

    References:
        Zwietering et al. (1990), Appl. Environ. Microbiol. 56, 1875-1881, with maximum
        slope and lag as the parameters.
    """

    amplitude: Parameter
    rate: Parameter
    midpoint: Parameter
    offset: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        share = jnp.exp(-exp(-self.rate * (real(x) - self.midpoint)))
        return self.offset + self.amplitude * share

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "GompertzGrowth":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        midpoint, rate = _candidates(data)
        return _start(GompertzGrowth, data, midpoint, rate)


def _candidates(data):
    low, span = _guess.low_and_span(data.x)
    position, width = _guess.tiles(-1, 6, margin=0.5)
    rate = 4.0 / (span * _guess.column(width, data))
    return low + span * _guess.column(position, data), rate


def _start(model, data, midpoint, rate):
    shapes = model(1.0, rate, midpoint, 0.0)(_guess.row(data))
    best = _guess.search(shapes, data, least=LEAST_RISE)
    i = best.which
    start = model(best.scale, rate[i, 0], midpoint[i, 0], best.constant)
    return _guess.finite(start, data)
