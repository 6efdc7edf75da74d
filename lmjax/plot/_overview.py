"""The overview of a batch of fits."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lmjax._fit.curve_result import CurveFit
from lmjax._solver import records
from lmjax._solver.solution import Solution
from lmjax._solver.status import Status
from lmjax.plot._panels import (
    BLUE,
    COLUMNS,
    GREY,
    ORANGE,
    TAIL,
    AnyFigure,
    few_ticks,
    grid,
    with_units,
)

# Bins of a histogram: enough to show its shape, and thousands of fits fill them.
BINS = 50


def batch(
    fits: Solution,
    y: ArrayLike | None = None,
    x: Any = None,
    worst: int = 4,
    units: Mapping[str, str] | None = None,
) -> AnyFigure:
    """Draw an overview of a batch: outcomes, quality, steps, parameters, worst fits.

    Histograms are of the fits that converged; one per cent on either side is left out.
    A line marks the median.

    Args:
        fits: A batch, from ``jax.vmap`` or `lmjax.fit_batch`.
        y: The data, fits first; None draws no single fits. Of one or two dimensions
            each, with a `CurveFit`.
        x: Independent variables: of one fit, or with the fits first if it has the shape
            of y.
        worst: How many fits to show: those of largest chi-square, failed ones
            first, those without a number in y last.
        units: Units of parameters by their names, such as ``{"tau": "ms"}``.

    Returns:
        The figure.

    Raises:
        ValueError: If ``fits`` is one fit, y has another number of them, or a unit
            belongs to no parameter.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax, lmjax.plot
        >>> x = jnp.linspace(0.0, 1.0, 6)
        >>> line = lambda p, x: p["slope"] * x + p["offset"]
        >>> start = {"slope": 1.0, "offset": 0.0}
        >>> y = jnp.sin(jnp.arange(60.0)).reshape(10, 6) + x
        >>> fits = jax.vmap(lambda y: lmjax.curve_fit(line, x, y, start))(y)
        >>> figure = lmjax.plot.batch(fits, y, x, worst=3)
        >>> [ax.get_xlabel() for ax in figure.subfigs[0].axes[:3]]
        ['fits', 'reduced chi-square', 'steps']
    """
    if not isinstance(fits, Solution):
        raise TypeError(f"fits: expected a batch of fits, got {fits!r}")
    axes = np.ndim(fits.status)
    if axes != 1:
        raise ValueError(
            "fits: expected a batch with one leading axis, got fits of shape "
            f"{np.shape(fits.status)}"
        )
    count = len(fits.status)
    if y is not None and (np.ndim(y) not in (2, 3) or len(np.asarray(y)) != count):
        raise ValueError(
            f"y: expected {count} curves or images, got shape {np.shape(y)}"
        )
    if y is not None and not isinstance(fits, CurveFit):
        raise TypeError("y: only a CurveFit can be drawn with its data")
    columns = records.columns(fits.params, 1)
    labels = with_units(columns, units)
    rows = -(-(3 + len(columns)) // COLUMNS)
    shown = 0 if y is None else min(worst, count)
    more = -(-shown // COLUMNS)
    figure = Figure(figsize=(11.0, 2.3 * (rows + more) + 0.3), layout="constrained")
    top = figure
    if isinstance(fits, CurveFit) and more:
        ratios = (rows, more)
        halves = figure.subfigures(2, 1, height_ratios=ratios, squeeze=False)
        top, bottom = halves.ravel()
        _worst(bottom, fits, np.asarray(y), x, shown, more)
    places = grid(top, rows, COLUMNS, 3 + len(columns))
    _outcomes(places[0], np.asarray(fits.status))
    good = np.asarray(fits.success)
    _quality(places[1], fits, good)
    steps = np.asarray(fits.num_steps)
    most = np.percentile(steps, 100.0 - TAIL)
    bins = np.linspace(-0.5, most + 0.5, int(min(most + 2, BINS)))
    places[2].hist(steps, bins=list(bins), color=BLUE)
    places[2].set_xlabel("steps")
    for ax, label, values in zip(places[3:], labels, columns.values(), strict=True):
        _histogram(ax, np.asarray(values)[good])
        ax.set_xlabel(label)
    few_ticks(*places[1:])
    for ax in (places[1], *places[COLUMNS::COLUMNS]):
        ax.set_ylabel("fits")
    return figure


def _outcomes(ax: Axes, status: np.ndarray) -> None:
    """Draw how many fits ended how, failures in another colour."""
    codes, counts = np.unique(status, return_counts=True)
    order = np.argsort(counts)
    kinds = [Status(int(code)) for code in codes[order]]
    colours = [BLUE if kind.success else ORANGE for kind in kinds]
    bars = ax.barh([kind.name for kind in kinds], counts[order], color=colours)
    ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize="small")
    ax.margins(x=0.25)
    ax.set_xlabel("fits")
    ax.tick_params(axis="y", labelsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _quality(ax: Axes, fits: Solution, good: np.ndarray) -> None:
    """Draw the reduced chi-square, or the cost where there is none."""
    measured = isinstance(fits, CurveFit)
    values = np.asarray(fits.reduced_chi2 if measured else fits.cost)[good]
    _histogram(ax, values)
    ax.set_xlabel("reduced chi-square" if measured else "cost")


def _histogram(ax: Axes, values: np.ndarray) -> None:
    values = values[np.isfinite(values)]
    if values.size == 0:
        ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", color=GREY)
        return
    low, high = np.percentile(values, [TAIL, 100.0 - TAIL])
    if high - low > 1e-9 * max(abs(low), abs(high)):  # more than rounding
        ax.hist(values, bins=BINS, range=(low, high), color=BLUE)
    else:
        ax.hist(values, bins=1, color=BLUE)
    middle = np.median(values)
    ax.axvline(middle, color="k", lw=1.0)
    ax.set_title(f"median {middle:.3g}", fontsize="small")


def _worst(figure, fits: CurveFit, y: np.ndarray, x: Any, shown: int, rows: int):
    """Draw the fits of largest chi-square, failed ones first."""
    status, chi2 = np.asarray(fits.status), np.asarray(fits.reduced_chi2)
    empty = ~np.isfinite(y).reshape(len(y), -1).any(axis=1)  # nothing to see
    rank = np.lexsort((-np.nan_to_num(chi2, nan=np.inf), status > 0, empty))
    places = grid(figure, rows, COLUMNS, shown)
    each = np.shape(x) == y.shape
    for ax, i in zip(places, rank[:shown], strict=True):
        one = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), fits)
        at = np.asarray(x)[i] if each else x
        _data_and_curve(ax, y[i], at, np.asarray(one.predict(at)))
        kind = Status(int(status[i]))
        ax.set_title(
            f"fit {i}: {kind.name}, {chi2[i]:.3g}",
            fontsize="small",
            color="k" if kind.success else ORANGE,
        )
    figure.suptitle("worst fits, with their reduced chi-square", fontsize="medium")


def _data_and_curve(ax: Axes, y: np.ndarray, x: Any, curve: np.ndarray) -> None:
    if not (np.isfinite(y).any() and np.isfinite(curve).any()):
        ax.text(0.5, 0.5, "no numbers", transform=ax.transAxes, ha="center", color=GREY)
        ax.set_xticks([])
        ax.set_yticks([])
        return
    if y.ndim == 2:
        ax.imshow(y, cmap="gray")
        if np.isfinite(curve).all() and np.ptp(curve) > 0:
            ax.contour(curve, levels=4, colors=ORANGE, linewidths=0.9)
        ax.set_xticks([])
        ax.set_yticks([])
        return
    along = np.asarray(x) if np.shape(x) == y.shape else np.arange(y.size)
    order = np.argsort(along)
    ax.plot(along, y, "o", color="k", ms=2.5)
    ax.plot(along[order], curve[order], color=ORANGE, lw=1.4)
    few_ticks(ax)
