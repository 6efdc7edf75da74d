"""Figures of profiles."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from lmjax._solver import report
from lmjax._uncertainty.profile import Profile
from lmjax.plot._panels import (
    BLUE,
    GREY,
    AnyFigure,
    check_one,
    few_ticks,
    panels,
)

WIDEST = 2.0  # linear half-widths of a profile to show where a limit is missing


def profile(profile: Profile, axes: Any = None) -> AnyFigure:
    """Draw z of every profiled parameter against its value, and the interval.

    z is the signed root of the rise of chi-square: a straight line for a linear model,
    for which the dashed line stands. Where the solid line crosses the dotted ones, the
    interval ends.

    Args:
        profile: What `lmjax.profile` returned, of one fit.
        axes: One matplotlib axes per parameter; None for a new figure.

    Returns:
        The figure.

    Example:
        >>> import jax.numpy as jnp, lmjax, lmjax.plot
        >>> x = jnp.array([0.2, 0.5, 1.0, 2.0])
        >>> y = jnp.array([0.9, 1.7, 2.4, 2.9])
        >>> rise = lambda p, x: p["top"] * x / (p["half"] + x)
        >>> fit = lmjax.curve_fit(rise, x, y, {"top": 3.0, "half": 1.0})
        >>> figure = lmjax.plot.profile(lmjax.profile(fit, x, y))
        >>> [ax.get_xlabel() for ax in figure.axes]
        ['half', 'top']
    """
    check_one("profile", profile, Profile)
    figure, axes = panels(len(profile.names), axes)
    both = np.stack([report.flat_of(side) for side in profile.interval], axis=1)
    ends = dict(zip(report.names_of(profile.params), both, strict=True))
    for k, (ax, name) in enumerate(zip(axes, profile.names, strict=True)):
        _one_profile(ax, profile, k, ends[name])
        ax.set_xlabel(name)
    axes[0].set_ylabel("z")
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")
    few_ticks(*axes)
    for ax in axes:
        ax.yaxis.set_major_locator(MultipleLocator(1.0))
    return figure


def _one_profile(ax: Axes, profile: Profile, k: int, ends) -> None:
    threshold, centre = float(profile.threshold), float(profile.values[k])
    value, z = (np.asarray(array[k]) for array in (profile.value, profile.z))
    # the lower side counts backwards
    signed = z * np.array([[-1.0], [1.0]])
    error = float(profile.stderr[k])
    # the search for a limit that is not there goes far: it would squeeze all others
    known = np.abs(ends - centre)[np.isfinite(ends)]
    reach = np.nanmax([*known, WIDEST * threshold * error])
    seen = np.isfinite(value) & np.isfinite(z) & (np.abs(z) <= 1.5 * threshold)
    seen &= ~(np.abs(value - centre) > reach * 1.1)
    order = np.argsort(value[seen])
    ax.plot(
        value[seen][order], signed[seen][order], "o-",
        color=BLUE, ms=3.0, lw=1.4, label="profile",
    )  # fmt: skip
    low, high = ax.get_xlim()
    if np.isfinite(error):
        line = np.array([-1.25, 1.25]) * threshold
        ax.plot(centre + error * line, line, "--", color=GREY, lw=1.0, label="linear")
    for level in (-threshold, threshold):
        ax.axhline(level, color=GREY, ls=":", lw=1.0)
    if not np.isnan(ends).any():
        ax.axvspan(*np.clip(ends, low, high), color=BLUE, alpha=0.13, lw=0)
        lower, upper = (f"{end:.4g}".replace("inf", "∞") for end in ends)
        ax.set_title(f"{lower} to {upper}".replace("-", "−"), fontsize="small")
    ax.set_xlim(low, high)
    ax.set_ylim(-1.5 * threshold, 1.5 * threshold)
