"""Maps of parameters over an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lmjax._solver import records
from lmjax.plot._panels import GREY, ORANGE, TAIL, AnyFigure, panels, with_units


def parameter_map(
    values: Any,
    where: tuple[int, int] | ArrayLike,
    names: Sequence[str] | None = None,
    status: ArrayLike | None = None,
    axes: Any = None,
    units: Mapping[str, str] | None = None,
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
        units: Units by the names of the maps, such as ``{"tau": "ms"}``.

    Returns:
        The figure.

    Raises:
        ValueError: If the number of fits or of names does not match, or a unit belongs
            to no map.

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
    labels = with_units(names, units)
    size = (3.1, 3.1 * min(max(len(mask) / mask[0].size, 0.4), 2.0) * 0.75 + 0.4)
    figure, axes = panels(len(names), axes, size)
    failed = np.zeros(mask.sum(), bool) if status is None else np.asarray(status) <= 0
    any_bad = False
    for ax, label, column in zip(axes, labels, columns.values(), strict=True):
        column = np.where(failed, np.nan, column)
        any_bad |= bool(np.isnan(column).any())
        _map(ax, column, mask)
        ax.set_title(label, fontsize="medium")
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
    for axis in (ax.xaxis, ax.yaxis):  # pixels
        axis.set_major_locator(MaxNLocator(4, integer=True))
    ax.tick_params(labelsize="x-small", colors=GREY)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.85, extend="both")
