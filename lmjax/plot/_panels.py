"""Colours, small multiples and what else the figures share."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from lmjax._uncertainty.contour import Contour
from lmjax._uncertainty.profile import Profile

# Okabe and Ito (2008): told apart with any colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.55"
COLUMNS = 4  # most small multiples in a row
# What a histogram or a colour scale leaves out on either side, per cent: one fit gone
# astray would squeeze all others.
TAIL = 1.0

AnyFigure = Figure | SubFigure


def panels(
    count: int, axes: Any, size: tuple[float, float] = (3.0, 2.5)
) -> tuple[AnyFigure, list[Axes]]:
    """Return a figure and ``count`` axes: those given, or a grid of new ones."""
    if axes is not None:
        return given(count, axes)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    shape = (max(size[0] * columns, 4.0), size[1] * rows + 0.3)
    figure = Figure(figsize=shape, layout="constrained")
    return figure, grid(figure, rows, columns, count)


def given(count: int, axes: Any) -> tuple[AnyFigure, list[Axes]]:
    """Return the figure of axes and the axes as a list, or raise."""
    flat = list(np.ravel(np.asarray(axes, object)))
    if len(flat) != count or not all(isinstance(ax, Axes) for ax in flat):
        raise ValueError(
            f"axes: expected {count} matplotlib Axes, got {len(flat)}"
            if all(isinstance(ax, Axes) for ax in flat)
            else f"axes: expected matplotlib Axes, got {axes!r}"
        )
    return flat[0].figure, flat


def grid(parent: AnyFigure, rows: int, columns: int, count: int) -> list[Axes]:
    """Return ``count`` axes on a grid; places that are left over stay empty."""
    every = parent.subplots(rows, columns, squeeze=False).ravel()
    for ax in every[count:]:
        ax.remove()
    return list(every[:count])


def with_units(names: Iterable[str], units: Mapping[str, str] | None) -> list[str]:
    """Return labels: names, with their units in parentheses where they are given."""
    names, units = list(names), dict(units or {})
    if unknown := [name for name in units if name not in names]:
        raise ValueError(
            f"units: no parameter is called {unknown[0]!r}; the names here are "
            + ", ".join(names)
        )
    return [f"{name} ({units[name]})" if name in units else name for name in names]


def few_ticks(*axes: Axes) -> None:
    """Keep the labels of small panels apart."""
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
        ax.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))


def check_one(name: str, thing: Any, kind: type) -> None:
    """Raise unless ``thing`` is of a kind, and one of it rather than a batch."""
    if not isinstance(thing, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, got {thing!r}")
    batch = np.shape(
        thing.found_lower_minimum
        if isinstance(thing, Profile | Contour)
        else thing.cost
    )
    if batch:
        raise ValueError(
            f"{name}: expected one, got a batch of {batch}; pick one with "
            f"jax.tree.map(lambda leaf: leaf[i], {name})"
        )
