"""Spots in images: Gaussians of two variables on a constant background.

The independent variable is the pair ``(x, y)`` of coordinate arrays, each of the shape
of the image, as from ``jnp.meshgrid``.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import ratio


class Gaussian2D(Model):
    """Round spot: ``amplitude * exp(-((x - a)^2 + (y - b)^2) / (2 width^2)) + offset``.

    Args:
        amplitude: Height above the background, in units of the image; negative for a
            dark spot.
        centre_x: Position a of the spot along x, in units of x.
        centre_y: Position b of the spot along y, in units of y.
        width: Standard deviation in every direction, in units of x and y; its sign does
            not count.
        offset: Background, in units of the image.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> xy = jnp.meshgrid(jnp.arange(9.0), jnp.arange(7.0))
        >>> image = lmjax.models.Gaussian2D(10.0, 4.2, 3.1, 1.5, offset=2.0)(xy)
        >>> fit = lmjax.curve_fit(lmjax.models.Gaussian2D.guess(xy, image), xy, image)
        >>> print(f"{fit.params.centre_x:.3f}, {fit.params.centre_y:.3f}")
        4.200, 3.100

    References:
        Anthony and Granick (2009), Langmuir 25, 8152-8160, on locating spots by fits.
    """

    amplitude: Parameter
    centre_x: Parameter
    centre_y: Parameter
    width: Parameter
    offset: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        u = ratio(real(x[0]) - self.centre_x, self.width)
        v = ratio(real(x[1]) - self.centre_y, self.width)
        return self.amplitude * jnp.exp(-0.5 * (u**2 + v**2)) + self.offset

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Gaussian2D":
        """Return a start for a fit to the image ``y`` at coordinates ``x``."""
        data = _guess.clean(tuple(x), y)
        return _guess.finite(_round(data), data)


class EllipticGaussian2D(Model):
    """Spot with axes along x and y: a `Gaussian2D` with a width for each direction.

    ``amplitude * exp(-(x - a)^2 / (2 width_x^2) - (y - b)^2 / (2 width_y^2)) +
    offset``.

    Args:
        amplitude: Height above the background, in units of the image.
        centre_x: Position a of the spot along x, in units of x.
        centre_y: Position b of the spot along y, in units of y.
        width_x: Standard deviation along x, in units of x; its sign does not count.
        width_y: Standard deviation along y, in units of y; its sign does not count.
        offset: Background, in units of the image.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> xy = jnp.meshgrid(jnp.arange(9.0), jnp.arange(7.0))
        >>> spot = lmjax.models.EllipticGaussian2D(10.0, 4.2, 3.1, 1.5, 0.9, 2.0)
        >>> guess = lmjax.models.EllipticGaussian2D.guess(xy, spot(xy))
        >>> fit = lmjax.curve_fit(guess, xy, spot(xy))
        >>> print(f"{fit.params.width_x:.3f}, {fit.params.width_y:.3f}")
        1.500, 0.900

    References:
        Huang, Wang, Bates and Zhuang (2008), Science 319, 810-813, where the two widths
        tell the depth of a molecule.
    """

    amplitude: Parameter
    centre_x: Parameter
    centre_y: Parameter
    width_x: Parameter
    width_y: Parameter
    offset: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        u = ratio(real(x[0]) - self.centre_x, self.width_x)
        v = ratio(real(x[1]) - self.centre_y, self.width_y)
        return self.amplitude * jnp.exp(-0.5 * (u**2 + v**2)) + self.offset

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "EllipticGaussian2D":
        """Return a start for a fit to the image ``y`` at coordinates ``x``."""
        data = _guess.clean(tuple(x), y)
        spot = _round(data)
        xx, _, yy = _second_moments(spot, data)
        across, along = (jnp.sqrt(_tamed(moment)) * spot.width for moment in (xx, yy))
        start = EllipticGaussian2D(
            1.0, spot.centre_x, spot.centre_y, across, along, 0.0
        )
        return _guess.finite(_levelled(start, data), data)


class RotatedGaussian2D(Model):
    """Spot with axes in any direction: an `EllipticGaussian2D` turned by an angle.

    With ``u = (x - a) cos(angle) + (y - b) sin(angle)`` and ``v = (y - b) cos(angle) -
    (x - a) sin(angle)`` it is ``amplitude * exp(-u^2 / (2 width_1^2) - v^2 / (2
    width_2^2)) + offset``. A round spot leaves the angle undetermined, and swapping the
    widths while turning by a quarter changes nothing: the start has ``width_1 >=
    width_2``.

    Args:
        amplitude: Height above the background, in units of the image.
        centre_x: Position a of the spot along x, in units of x.
        centre_y: Position b of the spot along y, in units of y (the same as x).
        width_1: Standard deviation along the first axis, in units of x.
        width_2: Standard deviation across it, in units of x.
        angle: Direction of the first axis, in radians from x towards y.
        offset: Background, in units of the image.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> xy = jnp.meshgrid(jnp.arange(11.0), jnp.arange(9.0))
        >>> spot = lmjax.models.RotatedGaussian2D(9.0, 5.2, 4.1, 2.0, 1.0, 0.5, 1.0)
        >>> guess = lmjax.models.RotatedGaussian2D.guess(xy, spot(xy))
        >>> fit = lmjax.curve_fit(guess, xy, spot(xy))
        >>> print(f"{fit.params.angle:.3f}")
        0.500

    References:
        Bernstein and Jarvis (2002), Astron. J. 123, 583-618, for weighted moments, from
        which the start takes shape and angle.
    """

    amplitude: Parameter
    centre_x: Parameter
    centre_y: Parameter
    width_1: Parameter
    width_2: Parameter
    angle: Parameter
    offset: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        dx, dy = real(x[0]) - self.centre_x, real(x[1]) - self.centre_y
        cos, sin = jnp.cos(self.angle), jnp.sin(self.angle)
        u = ratio(dx * cos + dy * sin, self.width_1)
        v = ratio(dy * cos - dx * sin, self.width_2)
        return self.amplitude * jnp.exp(-0.5 * (u**2 + v**2)) + self.offset

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "RotatedGaussian2D":
        """Return a start for a fit to the image ``y`` at coordinates ``x``."""
        data = _guess.clean(tuple(x), y)
        spot = _round(data)
        xx, xy, yy = _second_moments(spot, data)
        half, mean = jnp.hypot(0.5 * (xx - yy), xy), 0.5 * (xx + yy)
        long = jnp.sqrt(_tamed(mean + half)) * spot.width
        short = jnp.sqrt(_tamed(mean - half)) * spot.width
        start = RotatedGaussian2D(
            1.0,
            spot.centre_x,
            spot.centre_y,
            long,
            short,
            0.5 * jnp.arctan2(2.0 * xy, xx - yy),
            0.0,
        )
        return _guess.finite(_levelled(start, data), data)


def _round(data):
    """Return the best of round spots of every size, side by side."""
    (low_x, span_x), (low_y, span_y) = map(_guess.low_and_span, data.x)
    columns = []
    for level in range(4):
        at = np.linspace(0.0, 1.0, 2 * 2**level + 1)
        columns.append(_guess.grid(at, at, [2.0**-level]))
    across, along, size = np.concatenate(columns, axis=1)
    centre_x = low_x + span_x * _guess.column(across, data)
    centre_y = low_y + span_y * _guess.column(along, data)
    # sigma of 0.4 times twice the distance between neighbours, the longer side's
    width = 0.4 * jnp.maximum(span_x, span_y) * _guess.column(size, data)
    shapes = Gaussian2D(1.0, centre_x, centre_y, width, 0.0)(_guess.row(data))
    best = _guess.search(shapes, data)
    i = best.which
    return Gaussian2D(
        best.scale, centre_x[i, 0], centre_y[i, 0], width[i, 0], best.constant
    )


def _levelled(shape, data):
    """Return the spot of height 1 with the amplitude and offset that fit best."""
    best = _guess.search(shape(data.x)[None, :], data)
    return dataclasses.replace(shape, amplitude=best.scale, offset=best.constant)


def _second_moments(spot, data):
    """Return the (xx, xy, yy) covariance of the spot in units of its width squared.

    Moments under a round window. A Gaussian of covariance C times a window of unit
    covariance has covariance M with ``inv(M) = inv(C) + I``, so ``C = inv(inv(M) - I) =
    inv(I - M) M``.
    """
    dx = ratio(data.x[0] - spot.centre_x, spot.width)
    dy = ratio(data.x[1] - spot.centre_y, spot.width)
    window = jnp.exp(-0.5 * (dx**2 + dy**2)) * data.keep
    signal = (data.y - spot.offset / data.unit) * jnp.sign(spot.amplitude) * window
    total = jnp.sum(signal)
    mean_x, mean_y = (
        ratio(jnp.sum(signal * dx), total),
        ratio(jnp.sum(signal * dy), total),
    )
    dx, dy = dx - mean_x, dy - mean_y
    xx, xy, yy = (
        ratio(jnp.sum(signal * part), total) for part in (dx**2, dx * dy, dy**2)
    )
    # eigenvalues of M within (0.1, 0.9): noise must not make C huge or negative
    half, mean = jnp.hypot(0.5 * (xx - yy), xy), 0.5 * (xx + yy)
    turn = 0.5 * jnp.arctan2(2.0 * xy, xx - yy)
    long, short = (jnp.clip(value, 0.1, 0.9) for value in (mean + half, mean - half))
    long, short = long / (1.0 - long), short / (1.0 - short)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return (
        long * cos**2 + short * sin**2,
        (long - short) * cos * sin,
        long * sin**2 + short * cos**2,
    )


def _tamed(moment):
    # half as wide at least: from there the spot still sees its neighbours, and a fit
    # that starts too narrow gets caught in a single pixel
    return jnp.clip(moment, 0.25, 9.0)
