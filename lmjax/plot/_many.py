"""Figures of many fits: overview of a batch, maps of parameters over an image."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
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
    AnyFigure,
    few_ticks,
    grid,
    panels,
)

# Bins of a histogram: enough to show its shape, and thousands of fits fill them.
BINS = 50
# What a histogram or a colour scale leaves out on either side, per cent: one fit gone
# astray would squeeze all others.
TAIL = 1.0


def batch(
    fits: Solution,
    y: ArrayLike | None = None,
    x: Any = None,
    worst: int = 4,
) -> AnyFigure:
    """Draw an overview of a batch: outcomes, quality, steps, parameters, worst fits.

    Histograms are of the fits that converged; one per cent on either side is left out.

    Args:
        fits: A batch, from ``jax.vmap`` or `lmjax.fit_batch`.
        y: The data, fits first; None draws no single fits. Of one or two dimensions
            each, with a `CurveFit`.
        x: Independent variables: of one fit, or with the fits first if it has the shape
            of y.
        worst: How many fits to show: those of largest chi-square, failed ones first.

    Returns:
        The figure.

    Raises:
        ValueError: If ``fits`` is one fit, or y has another number of them.

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
    for ax, (name, values) in zip(places[3:], columns.items(), strict=True):
        _histogram(ax, np.asarray(values)[good])
        ax.set_xlabel(name)
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


def _worst(figure, fits: CurveFit, y: np.ndarray, x: Any, shown: int, rows: int):
    """Draw the fits of largest chi-square, failed ones first."""
    status, chi2 = np.asarray(fits.status), np.asarray(fits.reduced_chi2)
    rank = np.lexsort((-np.nan_to_num(chi2, nan=np.inf), status > 0))
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


def parameter_map(
    values: Any,
    where: tuple[int, int] | ArrayLike,
    names: Sequence[str] | None = None,
    status: ArrayLike | None = None,
    axes: Any = None,
) -> AnyFigure:
    """Draw parameters of the pixels of an image, one map each.

    Colours span the inner 98 per cent of the values. Pixels that failed or hold no
    number are orange, pixels that were not fitted white.

    Args:
        values: Pytree of arrays with the fits on the first axis, such as
            ``fits.params`` or ``fits.stderr``.
        where: Shape (rows, columns) of the image, or booleans of that shape that tell
            which pixels were fitted, in the order of ``values[mask] = fits``.
        names: Titles of the maps; None takes the names of the parameters.
        status: `lmjax.Status` of each fit.
        axes: One matplotlib axes per map; None for a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If the number of fits or of names does not match.

    Example:
        >>> import numpy as np, lmjax.plot
        >>> tau = {"tau": np.linspace(1.0, 2.0, 12)}
        >>> figure = lmjax.plot.parameter_map(tau, (3, 4))
        >>> figure.axes[0].get_title()
        'tau'
    """
    mask = np.asarray(where)
    if mask.ndim != 2:
        if mask.shape != (2,):
            raise ValueError(
                f"where: expected (rows, columns) or a mask, got {where!r}"
            )
        mask = np.ones(mask.astype(int), bool)
    if mask.dtype != bool:
        raise TypeError(f"where: expected booleans (True = fitted), got {mask.dtype}")
    columns = records.columns(values, 1)
    for name, column in columns.items():
        if column.size != mask.sum():
            raise ValueError(
                f"values: expected {mask.sum()} fits, one per pixel, got {column.size} "
                f"at {name}"
            )
    names = list(columns) if names is None else list(names)
    if len(names) != len(columns):
        raise ValueError(f"names: expected {len(columns)}, got {len(names)}")
    size = (3.1, 3.1 * min(max(len(mask) / mask[0].size, 0.4), 2.0) * 0.75 + 0.4)
    figure, axes = panels(len(names), axes, size)
    failed = np.zeros(mask.sum(), bool) if status is None else np.asarray(status) <= 0
    any_bad = False
    for ax, name, column in zip(axes, names, columns.values(), strict=True):
        column = np.where(failed, np.nan, column)
        any_bad |= bool(np.isnan(column).any())
        _map(ax, column, mask)
        ax.set_title(name, fontsize="medium")
    if any_bad:
        figure.legend(
            handles=[Patch(color=ORANGE, label="failed")],
            loc="outside lower right",
            frameon=False,
            fontsize="small",
        )
    return figure


def _map(ax: Axes, column: np.ndarray, mask: np.ndarray) -> None:
    """Draw one map: NaN in orange, what lies outside the mask not at all."""
    image = np.ma.masked_all(mask.shape)
    image[mask] = np.ma.masked_invalid(column)
    bad = np.ma.masked_where(~mask | ~np.ma.getmaskarray(image), np.ones(mask.shape))
    seen = column[np.isfinite(column)]
    low, high = np.percentile(seen, [TAIL, 100.0 - TAIL]) if seen.size else (0.0, 1.0)
    drawn = ax.imshow(
        image, cmap="viridis", vmin=low, vmax=high, interpolation="nearest"
    )
    ax.imshow(bad, cmap=ListedColormap([ORANGE]), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.figure.colorbar(drawn, ax=ax, shrink=0.85, extend="both")
