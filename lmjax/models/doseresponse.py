"""Dose-response curves: sigmoids in the logarithm of the dose.

Positions on the dose axis are *natural logarithms*: a dose has no sign to lose, and its
error bars are closer to symmetric there. ``exp(log_ec50)`` is the dose itself. Doses
are zero or positive; at zero the curve is at its left level.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._refine import refine
from lmjax.models._stable import exp, log_positive

# A curve that ends in the foot of a sigmoid does not tell how high it will rise: a
# start shows at least this share of the rise, so levels are a few times the data.
LEAST_RISE = 0.3
FOOT = 0.1  # the same after some steps down: from there it hardly differs from a power
# In 2 % of 1,280 measured curves the best one has a foot so long that the descent from
# no asymmetry ends elsewhere; twice as many starts find nothing more.
SKEWED = -1.5
MOST_ASYMMETRY = 5.0  # in size; a curve and its limit differ by exp(-5) of its height


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

        Asymmetric curves and their mirror images fit nearly as well, in separate
        minima. So a few steps lead down from the best `Logistic4` with a slope of
        either sign, with and without asymmetry, and the lowest point is the start: it
        is never worse than that `Logistic4`.
        """
        data = _guess.clean(x, y)
        _, _, centre, slope = _search_4(data)
        starts = []
        for power in (0.0, SKEWED):
            # half height stays where it is
            move = math.log(2.0 ** math.exp(-power) - 1.0) / slope
            skew = jnp.full_like(slope, power)
            starts.append(jnp.stack([centre + move, slope, skew]))
            starts.append(jnp.stack([centre - move, -slope, skew]))
        shape = lambda q: Logistic5(0.0, 1.0, *q)(data.x)
        limits = jnp.asarray([jnp.inf, jnp.inf, MOST_ASYMMETRY], slope.dtype)
        found = refine(shape, jnp.stack(starts), data, FOOT, limits)
        best = _guess.search(jax.vmap(shape)(found), data)
        centre, slope, power = found[best.which]
        level = best.constant
        start = Logistic5(level, level + best.scale, centre, slope, power)
        return _guess.finite(start, data)


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
        best = _guess.search(shapes, data, False, LEAST_RISE, positive=data.x > 0.0)
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
    best = _guess.search(shapes, data, least=LEAST_RISE)
    return best.constant, best.scale, centre[best.which, 0], slope[best.which, 0]
