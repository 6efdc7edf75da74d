"""Figures of one fit: data and curve, correlation, convergence."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lmjax._fit.curve_result import CurveFit
from lmjax._solver import report
from lmjax._solver.solution import Solution
from lmjax.plot._panels import (
    BLUE,
    GREY,
    ORANGE,
    AnyFigure,
    check_one,
    given,
)

GRID = 400  # points of a curve: more than a figure has pixels to spare
NUMBERS_UP_TO = 12  # parameters whose correlations are printed


def fit(
    fit: CurveFit,
    x: ArrayLike,
    y: ArrayLike,
    sigma: ArrayLike | None = None,
    level: float = 0.95,
    axes: Any = None,
) -> AnyFigure:
    """Draw data, fitted curve with its bands, and residuals below.

    The dark band holds the curve with probability ``level`` at each x, the light one a
    new observation. Without ``absolute_sigma``, sigma is scaled by
    ``sqrt(reduced_chi2)``, error bars too.

    Args:
        fit: What `lmjax.curve_fit` returned: one fit.
        x: Independent variable, one-dimensional.
        y: Observations. NaN, and what was masked if set to NaN, are not drawn.
        sigma: As in `lmjax.curve_fit`, a number or one per point; no error bars
            without.
        level: Probability of the bands.
        axes: Two matplotlib axes to draw into, curve and residuals; None for a new
            figure.

    Returns:
        The figure.

    Raises:
        ValueError: If x and y are not one-dimensional and of the same length.

    Example:
        >>> import jax.numpy as jnp, lmjax, lmjax.plot
        >>> x = jnp.linspace(0.0, 4.0, 20)
        >>> y = 2.0 * jnp.exp(-x) + 0.05 * jnp.cos(9.0 * x)
        >>> decay = lambda p, x: p["amplitude"] * jnp.exp(-p["rate"] * x)
        >>> fit = lmjax.curve_fit(decay, x, y, {"amplitude": 1.0, "rate": 0.5})
        >>> figure = lmjax.plot.fit(fit, x, y)
        >>> figure.axes[1].get_xlabel()
        'x'
    """
    check_one("fit", fit, CurveFit)
    if not hasattr(fit.residual, "shape"):
        raise ValueError(
            "fit: expected a fit of one data set, got one of several; draw them one by "
            "one with fit.predict and fit.confidence_band"
        )
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"x, y: expected one dimension and equal length, got {x.shape}, {y.shape}"
        )
    if axes is None:
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure, (top, bottom) = given(2, axes)
    error = None
    if sigma is not None:
        error = np.broadcast_to(np.asarray(sigma, float), y.shape)
    # what one observation scatters by; the residuals are in units of it
    scale = 1.0 if fit.absolute_sigma else float(np.sqrt(fit.reduced_chi2))
    unit = scale * (np.ones(y.shape) if error is None else error)
    top.errorbar(
        x, y, None if error is None else unit, fmt="o", color="k", ms=3.5, lw=1.0,
        label="data", zorder=3,
    )  # fmt: skip
    _curve(top, fit, x, error, level)
    top.set_ylabel("y")
    top.legend(frameon=False, fontsize="small")
    known = fit.likelihood is None or sigma is not None
    if known:
        bottom.axhspan(-1.0, 1.0, color=GREY, alpha=0.25, lw=0)
    bottom.axhline(0.0, color=BLUE, lw=1.0)
    bottom.plot(x, (y - np.asarray(fit.predict(x))) / unit, "o", color="k", ms=3.5)
    bottom.set_ylabel("residual / σ" if known else "residual")
    bottom.set_xlabel("x")
    return figure


def _curve(ax: Axes, fit: CurveFit, x, error, level) -> None:
    """Draw the curve and its bands where the data lie and between them."""
    order = np.argsort(x)
    dense = np.linspace(x[order[0]], x[order[-1]], GRID).astype(x.dtype)
    here = np.unique(np.concatenate([dense, x]))
    ax.plot(here, fit.predict(here), color=BLUE, lw=1.6, label="fit")
    if fit.covariance is None:
        return
    percent = f"{100 * level:g} %"
    if fit.likelihood is None:
        at = 1.0 if error is None else np.interp(here, x[order], error[order])
        new = fit.prediction_band(here, level, at)
        ax.fill_between(
            here, *new, color=BLUE, alpha=0.13, lw=0, label=f"{percent} of new data"
        )
    band = fit.confidence_band(here, level)
    ax.fill_between(here, *band, color=BLUE, alpha=0.35, lw=0, label=f"{percent} band")


def correlation(fit: CurveFit, ax: Axes | None = None) -> AnyFigure:
    """Draw the correlation matrix, parameters by name; values up to 12 parameters.

    Args:
        fit: What `lmjax.curve_fit` returned: one fit.
        ax: Axes to draw into; None for a new figure.

    Returns:
        The figure.

    Example:
        >>> import jax.numpy as jnp, lmjax, lmjax.plot
        >>> line = lambda p, x: p["slope"] * x + p["offset"]
        >>> x, y = jnp.arange(4.0), jnp.array([0.1, 0.9, 2.1, 2.9])
        >>> fit = lmjax.curve_fit(line, x, y, {"slope": 1.0, "offset": 0.0})
        >>> figure = lmjax.plot.correlation(fit)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1', '−0.80', '−0.80', '1']
    """
    check_one("fit", fit, CurveFit)
    corr, names = np.asarray(fit.correlation), report.names_of(fit.params)
    side = 1.8 + 0.48 * max(len(names), 4)
    if ax is None:
        ax = Figure(figsize=(side + 0.9, side), layout="constrained").subplots()
    figure, (ax,) = given(1, ax)
    image = ax.imshow(corr, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    ticks = range(len(names))
    ax.set_yticks(ticks, names)
    short = max(map(len, names)) <= 6
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(ticks, names, **({} if short else slant))
    if len(names) <= NUMBERS_UP_TO:
        for (i, j), value in np.ndenumerate(corr):
            text = "1" if i == j else f"{value:.2f}".replace("-", "−")
            white = abs(value) > 0.6
            ax.text(
                j, i, text, ha="center", va="center", fontsize="small",
                color="w" if white else "k",
            )  # fmt: skip
    figure.colorbar(image, ax=ax, label="correlation", shrink=0.8)
    return figure


def convergence(sol: Solution, axes: Any = None) -> AnyFigure:
    """Draw cost, damping and gain ratio of every step of a fit.

    Filled circles are steps that were taken, open diamonds those that were refused. A
    gain ratio of 1 means that the linear model was exact.

    Args:
        sol: A `lmjax.Solution` or `lmjax.CurveFit` made with
            ``LevenbergMarquardt(record_history=True)``.
        axes: Three matplotlib axes to draw into; None for a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no history.

    Example:
        >>> import jax.numpy as jnp, lmjax, lmjax.plot
        >>> rosenbrock = lambda p: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])
        >>> solver = lmjax.LevenbergMarquardt(record_history=True)
        >>> start = jnp.array([-1.2, 1.0])
        >>> sol = lmjax.least_squares(rosenbrock, start, solver=solver)
        >>> [ax.get_ylabel() for ax in lmjax.plot.convergence(sol).axes]
        ['cost', 'damping', 'gain ratio']
    """
    check_one("sol", sol, Solution)
    if sol.history is None:
        raise ValueError(
            "sol: expected a step history; fit with "
            "solver=LevenbergMarquardt(record_history=True)"
        )
    if axes is None:
        figure = Figure(figsize=(6.4, 6.4), layout="constrained")
        axes = figure.subplots(3, 1, sharex=True)
    figure, axes = given(3, axes)
    steps = int(sol.num_steps)
    number = np.arange(1, steps + 1)
    accepted = np.asarray(sol.history.accepted)[:steps]
    for ax, name in zip(axes, ("cost", "damping", "gain"), strict=True):
        values = np.asarray(getattr(sol.history, name))[:steps]
        for taken, style in ((True, "o"), (False, "D")):
            at = accepted == taken
            ax.plot(
                number[at], values[at], style, ms=5.0,
                color=BLUE if taken else ORANGE, mfc=BLUE if taken else "none",
                label="taken" if taken else "refused",
            )  # fmt: skip
        if name != "gain":
            ax.set_yscale("log")
            if name == "cost":
                ax.plot(number[accepted], values[accepted], color=BLUE, lw=0.8)
        ax.set_ylabel("gain ratio" if name == "gain" else name)
        ax.margins(x=0.03)
    axes[2].axhline(1.0, color=GREY, lw=0.8, zorder=0)
    # a refused step may have predicted little and lost much
    axes[2].set_yscale("symlog", linthresh=1.0)
    axes[2].yaxis.set_major_formatter("{x:g}")
    axes[2].margins(y=0.1)
    axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[2].set_xlabel("step")
    axes[0].legend(frameon=False, fontsize="small", ncols=2, loc="upper right")
    return figure
