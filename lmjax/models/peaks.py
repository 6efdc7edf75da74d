"""Peaks in one dimension, without a background: add a `Polynomial` for that."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._faddeeva import voigt_profile
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import ratio, tail_bound

# Full width at half maximum of a Gaussian in standard deviations.
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


class Gaussian(Model):
    """Gaussian peak: ``amplitude * exp(-(x - centre)^2 / (2 width^2))``.

    Args:
        amplitude: Height at the centre, in units of y; negative for a dip.
        centre: Position of the peak, in units of x.
        width: Standard deviation, in units of x; its sign does not count. The full
            width at half height is 2.3548 times it, the area 2.5066 amplitude width.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> peak = lmjax.models.Gaussian(amplitude=2.0, centre=1.0, width=0.5)
        >>> print(peak(jnp.array([1.0, 1.5])))
        [2.        1.2130613]

    References:
        Abramowitz and Stegun (1964), section 26.2, for the normal curve.
    """

    amplitude: Parameter
    centre: Parameter
    width: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        z = ratio(real(x) - self.centre, self.width)
        return self.amplitude * jnp.exp(-0.5 * z**2)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Gaussian":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        return _guess.finite(Gaussian(*_search(Gaussian, data, 0.6)), data)


class Lorentzian(Model):
    """Lorentzian (Cauchy, Breit-Wigner) peak: ``amplitude / (1 + z^2)``.

    Here ``z = (x - centre) / width``.

    Args:
        amplitude: Height at the centre, in units of y; negative for a dip.
        centre: Position of the peak, in units of x.
        width: Half width at half height, in units of x; its sign does not count. The
            area is pi amplitude width.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> peak = lmjax.models.Lorentzian(amplitude=2.0, centre=1.0, width=0.5)
        >>> print(peak(jnp.array([1.0, 1.5])))
        [2. 1.]

    References:
        Olivero and Longbothum (1977), J. Quant. Spectrosc. Radiat. Transfer 17,
        233-236, for the line shapes.
    """

    amplitude: Parameter
    centre: Parameter
    width: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.amplitude / (1.0 + _tailed(real(x) - self.centre, self.width) ** 2)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Lorentzian":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        return _guess.finite(Lorentzian(*_search(Lorentzian, data, 0.5)), data)


class PseudoVoigt(Model):
    """Weighted mean of a Gaussian and a Lorentzian of equal height and width.

    ``amplitude * ((1 - fraction) exp(-log(2) z^2) + fraction / (1 + z^2))`` with ``z =
    (x - centre) / width``.

    Args:
        amplitude: Height at the centre, in units of y.
        centre: Position of the peak, in units of x.
        width: Half width at half height of both shapes, in units of x.
        fraction: Share of the Lorentzian in the height, without unit; from 0 to 1 (not
            enforced: use bounds).

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> peak = lmjax.models.PseudoVoigt(2.0, centre=1.0, width=0.5, fraction=0.3)
        >>> print(peak(jnp.array([1.0, 1.5])))
        [2. 1.]

    References:
        Thompson, Cox and Hastings (1987), J. Appl. Cryst. 20, 79-83, where the mixture
        is one of areas instead.
    """

    amplitude: Parameter
    centre: Parameter
    width: Parameter
    fraction: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        z2 = _tailed(real(x) - self.centre, self.width) ** 2
        bell = jnp.exp(-math.log(2.0) * z2)
        return self.amplitude * (bell + self.fraction * (1.0 / (1.0 + z2) - bell))

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "PseudoVoigt":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        return _guess.finite(PseudoVoigt(*_search(_mixed, data, 0.6), 0.5), data)


class Voigt(Model):
    """Voigt peak: a Gaussian convolved with a Lorentzian, times an area.

    ``area * V(x - centre; sigma, gamma)``, where V has unit area; the same function as
    ``scipy.special.voigt_profile`` within 1e-13 of its height in float64. Exact in the
    limits sigma = 0 (Lorentzian) and gamma = 0 (Gaussian).

    Args:
        area: Area under the peak, in units of x times y.
        centre: Position of the peak, in units of x.
        sigma: Standard deviation of the Gaussian, in units of x; its sign does not
            count.
        gamma: Half width at half height of the Lorentzian, in units of x; its sign does
            not count. The full width at half height of the peak is within 0.02 % of
            ``1.0692 gamma + sqrt(0.8664 gamma^2 + 5.5452 sigma^2)``.

    Example:
        >>> import lmjax
        >>> peak = lmjax.models.Voigt(area=1.0, centre=0.0, sigma=1.0, gamma=0.5)
        >>> print(f"{peak(0.0):.4f}")
        0.2790

    References:
        Weideman (1994), SIAM J. Numer. Anal. 31, 1497-1518, for the evaluation; Olivero
        and Longbothum (1977) for the width.
    """

    area: Parameter
    centre: Parameter
    sigma: Parameter
    gamma: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.area * voigt_profile(real(x) - self.centre, self.sigma, self.gamma)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Voigt":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        height, centre, half_width = _search(_mixed, data, 0.6)
        # both parts alike in width: the sum is 0.5346 + sqrt(1.2166) times as wide
        part = 2.0 * half_width / (0.5346 + math.sqrt(1.2166))
        sigma, gamma = part / FWHM_PER_SIGMA, part / 2.0
        area = height / voigt_profile(jnp.zeros_like(sigma), sigma, gamma)
        return _guess.finite(Voigt(area, centre, sigma, gamma), data)


def _tailed(u, width):
    return ratio(u, width, tail_bound(jnp.result_type(u, width)))


def _mixed(amplitude, centre, width):
    return PseudoVoigt(amplitude, centre, width, 0.5)


def _search(shape, data, narrowness):
    """Return (height, centre, width) of the best of many peaks.

    Peaks of every width down to 1/64 of the range lie side by side; narrower ones are
    tried at the highest and the lowest point only. The width of the shape is
    ``narrowness`` times the distance between neighbours.
    """
    low, span = _guess.low_and_span(data.x)
    position, width = _guess.tiles(0, 6)
    found = _try(
        shape,
        data,
        low + span * jnp.asarray(position, span.dtype),
        span * jnp.asarray(narrowness * width, span.dtype),
    )
    spikes = span * jnp.asarray(np.geomspace(0.5 / data.y.size, 0.25, 10), span.dtype)
    extremes = data.x[jnp.stack([jnp.argmax(data.y), jnp.argmin(data.y)])]
    centre = jnp.repeat(extremes, spikes.size)
    spike = _try(shape, data, centre, jnp.concatenate([spikes, spikes]))
    better = spike[0] > found[0]
    found = [jnp.where(better, a, b) for a, b in zip(spike, found, strict=True)]
    _, height, centre, width = found
    return height, centre, width


def _try(shape, data, centre, width):
    """Return (gain, height, centre, width) of the best candidate."""
    shapes = shape(1.0, centre[:, None], width[:, None])(_guess.row(data))
    best = _guess.search(shapes, data, constant=False)
    return [best.gain, best.scale, centre[best.which], width[best.which]]
