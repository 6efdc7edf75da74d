"""Tables of curves: a column per curve, or a row per point."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmjax._command.request import names
from lmjax._files.problem import FileProblem
from lmjax._files.stacks import Stack
from lmjax._files.tables import numbers, read_table
from lmjax._problem.ragged import pad_ragged


class Curves(NamedTuple):
    """The curves of a file.

    Attributes:
        data: What differs per fit, fits first: "y", and "x", "sigma", "mask" if so.
        common: What all fits share, by the same names.
        labels: Columns that name the fits.
        stack: Of a stack, what maps take their geometry from.
        where: Of a stack, which pixels were fitted.
    """

    data: dict[str, Any]
    common: dict[str, Any]
    labels: dict[str, np.ndarray]
    stack: Stack | None = None
    where: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number of fits."""
        return self.data["y"].shape[0]


def _column(path: Path, table: dict, option: str, name: str) -> np.ndarray:
    if name not in table:
        raise FileProblem(
            f"{option}: {path} has no column {name!r}; it has {', '.join(table)}"[:300]
        )
    return numbers(path, name, table[name])


def _x_of(path: Path, table: dict, x: list[str]) -> Any:
    columns = [_column(path, table, "--x", name) for name in x]
    return columns[0] if len(columns) == 1 else tuple(columns)


def one_sigma(text: str | None) -> float | None:
    """Return sigma where it is one number for all points."""
    try:
        sigma = None if text is None else float(text)
    except ValueError:
        return None
    if sigma is not None and not 0.0 < sigma < np.inf:
        raise FileProblem(f"--sigma: expected a positive number, got {text}")
    return sigma


def check_sigma(source: Any, sigma: np.ndarray) -> None:
    """Raise unless deviations are positive, or NaN at points that are left out."""
    if bad := sigma[(sigma <= 0.0) | np.isinf(sigma)].tolist():
        raise FileProblem(
            f"--sigma: expected positive numbers in {source}, got {bad[0]}"
        )


def read_columns(path: Path, options: Any) -> Curves:
    """Return the curves of a table.

    Raises:
        FileProblem: If a column is not there or cannot be used.
    """
    table = read_table(path, names(options.by), options.separator, options.decimal)
    return _long(path, table, options) if options.by else _wide(path, table, options)


def _wide(path: Path, table: dict, options: Any) -> Curves:
    """Return a table with a column per curve."""
    sigma = one_sigma(options.sigma)
    column = options.sigma if sigma is None else None
    x = names(options.x) or [next(iter(table))]
    chosen = names(options.y) or [n for n in table if n not in x and n != column]
    if not chosen:
        raise FileProblem(
            f"{path}: expected a column of y beside x, got {x[0]!r} alone"
        )
    if both := [name for name in chosen if name in x]:
        raise FileProblem(f"--y: {both[0]!r} is x")
    common: dict[str, Any] = {"x": _x_of(path, table, x)}
    if column is not None:
        common["sigma"] = _column(path, table, "--sigma", column)
        check_sigma(column, common["sigma"])
    elif sigma is not None:
        common["sigma"] = sigma
    y = np.stack([_column(path, table, "--y", name) for name in chosen])
    _check_finite(path, chosen, y, common["x"])
    return Curves({"y": y}, common, {"curve": np.array(chosen)})


def _check_finite(path: Path, chosen: list[str], y: np.ndarray, x: Any) -> None:
    if not np.isfinite(y).any():
        raise FileProblem(
            f"{path}: column {chosen[0]!r} holds no number, nor do others"
        )
    parts = x if isinstance(x, tuple) else (x,)
    if not all(np.isfinite(part).any() for part in parts):
        raise FileProblem(f"{path}: x holds no number")


def _long(path: Path, table: dict, options: Any) -> Curves:
    """Return a table with a row per point, and columns that tell the curves apart."""
    by = names(options.by)
    for name in by:
        if name not in table:
            raise FileProblem(
                f"--by: {path} has no column {name!r}; it has {', '.join(table)}"[:300]
            )
    sigma = one_sigma(options.sigma)
    column = options.sigma if sigma is None else None
    others = [name for name in table if name not in by and name != column]
    x = names(options.x) or others[:1]
    y = names(options.y) or [name for name in others if name not in x][:1]
    if len(y) != 1 or not x:
        raise FileProblem(
            "--y: a table with --by has one column of x and one of y; name them with "
            "--x and --y"
        )
    parts = [*x, *y, *([column] if column else [])]
    columns = [_column(path, table, "column", name) for name in parts]
    if column:
        check_sigma(column, columns[-1])
    for name in by:
        empty = [cell is None or cell != cell or cell == "" for cell in table[name]]
        if any(empty):
            raise FileProblem(
                f"{path}: column {name!r} is empty in row {empty.index(True) + 1} "
                "below the names"
            )
    labels, order, ends = _groups([table[name] for name in by])
    split = lambda values: np.split(values[order], ends)
    (values, mask), *_ = [pad_ragged(split(columns[len(x)]))]
    # where a curve is shorter, x and sigma are those of its first point
    padded = [_padded(split(c), mask) for c in columns]
    data: dict[str, Any] = {"y": np.asarray(values, float)}
    data["x"] = padded[0] if len(x) == 1 else tuple(padded[: len(x)])
    if not np.asarray(mask).all():
        data["mask"] = np.asarray(mask)
    common = {}
    if column:
        data["sigma"] = padded[-1]
    elif sigma is not None:
        common["sigma"] = sigma
    return Curves(data, common, dict(zip(by, labels, strict=True)))


def _groups(keys: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the labels of the groups, the order of rows by group, where groups end.

    Groups come in the order in which they appear.
    """
    code = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        text = key.astype(str)
        _, inner = np.unique(text, return_inverse=True)
        code = code * (inner.max() + 1) + inner
        _, code = np.unique(code, return_inverse=True)
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(first.size)
    code = rank[code]
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code))[:-1]
    heads = np.sort(first)
    return [key[heads] for key in keys], order, ends


def _padded(parts: list[np.ndarray], mask: Any) -> np.ndarray:
    found = np.empty(np.shape(mask))
    for row, part in zip(found, parts, strict=True):
        row[: part.size], row[part.size :] = part, part[0]
    return found
