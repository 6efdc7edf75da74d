"""Several fits as a table of text: `table`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmjax._solver.solution import Solution
from lmjax._solver.status import Status

ROWS = 20  # half a screen


def table(fits: Any, rows: int = ROWS) -> str:
    """Return a table of several fits: a line per fit, then how many ended how.

    Args:
        fits: A batch (from ``jax.vmap`` or `lmjax.fit_batch`), a list of single fits,
            or a dict of them, whose keys name the lines. Fits of a list may have
            different parameters.
        rows: How many fits get a line: the first ones.

    Returns:
        The text. Values stand with their standard errors where there are any.

    Raises:
        TypeError: If ``fits`` holds something else.
        ValueError: If there are no fits, or ``rows`` is negative.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> t = jnp.linspace(0.0, 2.0, 5)
        >>> y = jnp.array([[4.0, 2.43, 1.47, 0.89, 0.54], [2.0, 1.4, 1.1, 0.8, 0.5]])
        >>> decay = lambda p, t: p["a"] * jnp.exp(-p["rate"] * t)
        >>> start = {"a": 1.0, "rate": 0.5}
        >>> fits = jax.vmap(lambda y: lmjax.curve_fit(decay, t, y, start))(y)
        >>> print(lmjax.table(fits))
        fit  a                  rate               status  steps  reduced_chi2
        0    4.0015 +/- 0.0026  1.0007 +/- 0.0013  FTOL    6      7.4e-06
        1    1.991 +/- 0.049    0.639 +/- 0.034    FTOL    6      0.003
        2 fits: FTOL 2
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise ValueError(f"rows: expected how many fits get a line, got {rows!r}")
    labelled, status = _listed(fits, rows)
    lines = [_cells(label, fit) for label, fit in labelled]
    names = list(dict.fromkeys(name for line in lines for name in line))
    grid = [names, *([line.get(name, "") for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in grid
    )
    return "\n".join([*(line.rstrip() for line in padded if line), _counts(status)])


def _listed(fits: Any, rows: int) -> tuple[list[tuple[str, Solution]], np.ndarray]:
    """Return the fits that get a line with their labels, and every status."""
    if isinstance(fits, Solution):
        if not fits.cost.ndim:
            fits = [fits]
        else:
            status = np.asarray(fits.status)
            places = list(np.ndindex(status.shape))[:rows]
            label = lambda at: ", ".join(map(str, at))
            return [(label(at), fits[at]) for at in places], status.ravel()
    if isinstance(fits, Mapping):
        pairs = [(str(key), fit) for key, fit in fits.items()]
    elif isinstance(fits, Sequence) and not isinstance(fits, str):
        pairs = [(str(k), fit) for k, fit in enumerate(fits)]
    else:
        raise TypeError(
            f"fits: expected a batch, a list or a dict of fits, got {fits!r:.100}"
        )
    for key, fit in pairs:
        if not isinstance(fit, Solution) or fit.cost.ndim:
            raise TypeError(f"fits[{key}]: expected a single fit, got {fit!r:.100}")
    return pairs[:rows], np.array([int(fit.status) for _, fit in pairs])


def _cells(label: str, fit: Solution) -> dict[str, str]:
    """Return the cells of a line by the names of their columns."""
    found = {name: np.asarray(value) for name, value in fit.to_dict().items()}
    cells = {"fit": label}
    for name, value in found.items():
        if name + "_stderr" in found:
            cells[name] = _with_error(value, found[name + "_stderr"])
    cells["status"] = Status(int(fit.status)).name
    cells["steps"] = str(int(fit.num_steps))
    quality = "reduced_chi2" if "reduced_chi2" in found else "cost"
    cells[quality] = f"{float(found[quality]):.2g}"
    return cells


def _with_error(value: np.ndarray, error: np.ndarray) -> str:
    """Return a value with two digits of its error, and as many digits as those."""
    if value.ndim:  # of the curves of a global fit
        return f"{np.median(value):.6g} (median of {value.size})"
    if not np.isfinite(error) or error <= 0.0 or not np.isfinite(value):
        return f"{float(value):.6g}"
    digits = 2
    if value != 0.0:
        digits += int(np.floor(np.log10(abs(value))) - np.floor(np.log10(error)))
    return f"{float(value):.{max(1, min(digits, 15))}g} +/- {float(error):.2g}"


def _counts(status: np.ndarray) -> str:
    if not status.size:
        raise ValueError("fits: expected at least one fit, got none")
    codes, counts = np.unique(status, return_counts=True)
    ordered = sorted(zip(counts, codes, strict=True), key=lambda pair: -pair[0])
    parts = [f"{Status(int(code)).name} {count:,}" for count, code in ordered]
    noun = "fit" if status.size == 1 else "fits"
    return f"{status.size:,} {noun}: {', '.join(parts)}"
