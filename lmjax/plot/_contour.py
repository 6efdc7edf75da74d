"""Figures of joint confidence regions."""

from typing import Any

import numpy as np

from lmjax._uncertainty.contour import Contour
from lmjax.plot._panels import BLUE, GREY, AnyFigure, check_one, few_ticks, panels

SIGMAS = (1.0, 2.0, 3.0)
ANGLES = np.linspace(0.0, 2.0 * np.pi, 201)


def contour(contour: Contour, axes: Any = None) -> AnyFigure:
    """Draw where z is 1, 2 and 3 in the plane of two parameters, and the ellipses.

    The solid lines are those of the profiled chi-square, the dashed ones those of the
    covariance, which a linear model has. Either line reaches as far along each axis as
    the interval of so many standard deviations for that parameter alone.

    Args:
        contour: What `lmjax.contour` returned, of one fit.
        axes: One matplotlib axes; None for a new figure.

    Returns:
        The figure.

    Example:
        >>> import jax.numpy as jnp, lmjax, lmjax.plot
        >>> x = jnp.array([0.2, 0.5, 1.0, 2.0])
        >>> y = jnp.array([0.9, 1.7, 2.4, 2.9])
        >>> rise = lambda p, x: p["top"] * x / (p["half"] + x)
        >>> fit = lmjax.curve_fit(rise, x, y, {"top": 3.0, "half": 1.0})
        >>> region = lmjax.contour(fit, x, y, ("top", "half"))
        >>> figure = lmjax.plot.contour(region)
        >>> figure.axes[0].get_xlabel()
        'top'
    """
    check_one("contour", contour, Contour)
    figure, (ax,) = panels(1, axes, size=(4.4, 3.6))
    first, second, z = map(np.asarray, (contour.first, contour.second, contour.z))
    lines = ax.contour(
        first, second, np.ma.masked_invalid(z.T), SIGMAS, colors=BLUE, linewidths=1.4
    )
    ax.clabel(lines, fmt=lambda level: f"{level:.0f}σ", fontsize="small")
    ax.plot([], [], color=BLUE, lw=1.4, label="profile")
    for k, ellipse in enumerate(_ellipses(contour)):
        label = None if k else "covariance"
        ax.plot(*ellipse, "--", color=GREY, lw=1.0, label=label)
    ax.plot(*np.asarray(contour.values), "+", color=BLUE, ms=8.0)
    ax.set_xlim(first[0], first[-1])
    ax.set_ylim(second[0], second[-1])
    ax.set_xlabel(contour.names[0])
    ax.set_ylabel(contour.names[1])
    ax.legend(frameon=False, fontsize="small")
    few_ticks(ax)
    return figure


def _ellipses(contour: Contour) -> list[np.ndarray]:
    """Return (2, points) per level; none where the covariance has no ellipse."""
    covariance = np.asarray(contour.covariance, float)
    spread, axes = np.linalg.eigh(covariance)
    if not (np.isfinite(spread).all() and spread[0] > 0.0):
        return []
    unit = axes * np.sqrt(spread) @ np.stack([np.cos(ANGLES), np.sin(ANGLES)])
    return [np.asarray(contour.values)[:, None] + sigma * unit for sigma in SIGMAS]
