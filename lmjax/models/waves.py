"""Oscillations."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import exp

MOST_CYCLES = 256  # a bound on the work; more cycles in the range need your own start


class DampedSine(Model):
    """Damped oscillation: ``amplitude exp(-rate x) sin(2 pi frequency x + phase)``.

    The start is sought up to the Nyquist frequency of evenly spaced points (or 256
    cycles in the range of x).

    Args:
        amplitude: Size of the oscillation at x = 0, in units of y.
        rate: Damping, in units of 1/x.
        frequency: Cycles per unit of x.
        phase: Phase at x = 0, in radians.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t = jnp.linspace(0.0, 4.0, 60)
        >>> y = lmjax.models.DampedSine(2.0, rate=0.5, frequency=1.3, phase=0.4)(t)
        >>> fit = lmjax.curve_fit(lmjax.models.DampedSine.guess(t, y), t, y)
        >>> print(f"{fit.params.frequency:.3f}, {fit.params.rate:.3f}")
        1.300, 0.500

    References:
        Bretthorst (1988), "Bayesian Spectrum Analysis and Parameter Estimation",
        Lecture Notes in Statistics 48, on decaying sinusoids with linear amplitudes.
    """

    amplitude: Parameter
    rate: Parameter
    frequency: Parameter
    phase: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        x = real(x)
        angle = 2.0 * math.pi * self.frequency * x + self.phase
        return self.amplitude * exp(-self.rate * x) * jnp.sin(angle)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "DampedSine":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        low, span = _guess.low_and_span(data.x)
        # half a cycle apart in the range: every phase error stays below a quarter turn
        most = min(max(data.y.size / 2.0, 1.0), MOST_CYCLES)
        rate, cycles = _guess.grid([0.0, 1.5, 5.0, 15.0], np.arange(0.5, most, 0.5))
        rate, frequency = (_guess.column(v, data) / span for v in (rate, cycles))
        since = (data.x - low)[None, :]
        sine, cosine = (
            DampedSine(1.0, rate, frequency, phase)(since)
            for phase in (0.0, 0.5 * math.pi)
        )
        best = _guess.search_pair(sine, cosine, data)
        in_phase, quadrature = best.scale
        rate, frequency = rate[best.which, 0], frequency[best.which, 0]
        turns = frequency * low
        phase = jnp.arctan2(quadrature, in_phase) - 2.0 * math.pi * turns
        amplitude = jnp.hypot(in_phase, quadrature) * exp(rate * low)
        phase = jnp.remainder(phase + math.pi, 2.0 * math.pi) - math.pi
        return _guess.finite(DampedSine(amplitude, rate, frequency, phase), data)
