"""Dose-response curves: sigmoids in the logarithm of the dose.

Positions on the dose axis are *natural logarithms*: a dose has no sign to lose, and its
error bars are closer to symmetric there. ``exp(log_ec50)`` is the dose itself. Doses
are zero or positive; at zero the curve is at its left level.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import exp, log_positive


class Logistic4(Model):
    """Four-parameter logistic: ``bottom + (top - bottom) / (1 + (ec50 / x)^slope)``.

    Args:
        bottom: Level the curve comes from as x falls to zero (for ``slope > 0``), in
            units of y.
        top: Level at large x (for ``slope > 0``), in units of y. A negative slope swaps
            the two; the start has ``bottom <= top``.
        log_ec50: Natural logarithm of the dose half-way between the levels, that dose
            in units of x.
        slope: Steepness (Hill slope), without unit.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> dose = jnp.array([0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
        >>> y = jnp.array([0.02, 0.11, 0.28, 0.71, 1.08, 1.30])
        >>> fit = lmjax.curve_fit(lmjax.models.Logistic4.guess(dose, y), dose, y)
        >>> print(f"ec50 = {jnp.exp(fit.params.log_ec50):.2f}")
        ec50 = 1.00

    References:
        Ritz, Baty, Streibig and Gerhard (2015), PLoS ONE 10, e0146021 (log-logistic
        models of the R package drc, whose b is ``-slope``).
    """

    bottom: Parameter
    top: Parameter
    log_ec50: Parameter
    slope: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        share = _share(x, self.log_ec50, self.slope, jax.nn.sigmoid)
        return self.bottom + (self.top - self.bottom) * share

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Logistic4":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        level, rise, log_ec50, slope = _search_4(data)
        falls = rise < 0.0
        start = Logistic4(
            jnp.where(falls, level + rise, level),
            jnp.where(falls, level, level + rise),
            log_ec50,
            jnp.where(falls, -slope, slope),
        )
        return _guess.finite(start, data)


class Logistic5(Model):
    """Five-parameter logistic: a `Logistic4` that need not be symmetric.

    ``bottom + (top - bottom) / (1 + exp(-slope (log(x) - log_position)))^a`` with ``a =
    exp(log_asymmetry)``.

    Args:
        bottom: Level at small x (for ``slope > 0``), in units of y.
        top: Level at large x (for ``slope > 0``), in units of y.
        log_position: Natural logarithm of the position, that in units of x; half height
            is at ``log_position - log(2^(1/a) - 1) / slope``.
        slope: Steepness, without unit.
        log_asymmetry: Natural logarithm of the exponent a; 0 is the `Logistic4`.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> curve = lmjax.models.Logistic5(0.0, 1.0, 0.0, 2.0, log_asymmetry=0.0)
        >>> print(curve(jnp.array([0.0, 1.0])))
        [0.  0.5]

    References:
        Gottschalk and Dunn (2005), Anal. Biochem. 343, 54-65.
    """

    bottom: Parameter
    top: Parameter
    log_position: Parameter
    slope: Parameter
    log_asymmetry: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        power = exp(jnp.asarray(self.log_asymmetry))

        def shape(z):
            bound = float(jnp.finfo(z.dtype).max) ** 0.25
            return jnp.exp(-power * jax.nn.softplus(-jnp.clip(z, -bound, bound)))

        share = _share(x, self.log_position, self.slope, shape)
        return self.bottom + (self.top - self.bottom) * share

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Logistic5":
        """Return a start for a fit to the points (x, y).

        The best of either sign of the slope, after a few steps of the solver.
        """
        data = _guess.clean(x, y)
        rising, falling = (_search_5(data, sign) for sign in (1.0, -1.0))
        # mirror images of asymmetric curves: nearly as good, yet not the same
        return _guess.finite(_guess.better(rising, falling, data), data)


class Hill(Model):
    """Hill's binding curve: ``maximum / (1 + (ec50 / x)^slope)``.

    Args:
        maximum: Level at saturation, in units of y.
        log_ec50: Natural logarithm of the concentration at half saturation, that in
            units of x.
        slope: Hill coefficient, without unit; above 1 for cooperative binding.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> curve = lmjax.models.Hill(maximum=4.0, log_ec50=0.0, slope=2.0)
        >>> print(curve(jnp.array([0.0, 1.0, 3.0])))
        [0.  2.  3.6]

    References:
        Hill (1910), J. Physiol. 40, iv-vii; Goutelle et al. (2008), Fundam. Clin.
        Pharmacol. 22, 633-648.
    """

    maximum: Parameter
    log_ec50: Parameter
    slope: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.maximum * _share(x, self.log_ec50, self.slope, jax.nn.sigmoid)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Hill":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        centre, slope = _candidates(data)
        centre = jnp.concatenate([centre, centre])
        slope = jnp.concatenate([slope, -slope])
        shapes = Hill(1.0, centre, slope)(_guess.row(data))
        best = _guess.search(shapes, data, constant=False)
        start = Hill(best.scale, centre[best.which, 0], slope[best.which, 0])
        return _guess.finite(start, data)


def _share(x, centre, slope, shape):
    """Return ``shape(slope * (log(x) - centre))``, at x <= 0 its limit."""
    log_x, positive = log_positive(real(x))
    limit = jnp.where(slope > 0.0, 0.0, jnp.where(slope < 0.0, 1.0, 0.5))
    inside = shape(slope * (log_x - centre))
    return jnp.where(positive, inside, limit.astype(inside.dtype))


def _candidates(data):
    """Return centres and positive slopes that cover the doses and beyond."""
    low, span = _guess.log_axis(data.x)
    position, width = _guess.tiles(-1, 6, margin=0.5)
    # a sigmoid runs from 12 to 88 % within 4 / slope
    slope = 4.0 / (span * _guess.column(width, data))
    return low + span * _guess.column(position, data), slope


def _search_4(data):
    """Return (level at x = 0, rise, log_ec50, slope > 0) of the best sigmoid."""
    centre, slope = _candidates(data)
    shapes = Hill(1.0, centre, slope)(_guess.row(data))
    best = _guess.search(shapes, data)
    return best.constant, best.scale, centre[best.which, 0], slope[best.which, 0]


def _search_5(data, sign):
    """Return the best asymmetric sigmoid whose slope has this sign."""
    centre, slope = _candidates(data)
    powers = np.log([0.2, 1.0, 5.0])
    # keep the centre at half height
    moves = np.log(2.0 ** np.exp(-powers) - 1.0)
    power, move = (
        jnp.repeat(_guess.column(values, data), centre.shape[0], axis=0)
        for values in (powers, moves)
    )
    slope = jnp.concatenate([sign * slope] * 3)
    centre = jnp.concatenate([centre] * 3) + move / slope
    shapes = Logistic5(0.0, 1.0, centre, slope, power)(_guess.row(data))
    best = _guess.search(shapes, data)
    i, level = best.which, best.constant
    start = Logistic5(level, level + best.scale, centre[i, 0], slope[i, 0], power[i, 0])
    return _guess.finite(start, data)
