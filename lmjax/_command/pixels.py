"""Stacks of images: a curve, or an image, per pixel."""

from pathlib import Path
from typing import Any

import numpy as np

from lmjax._command.curves import Curves, check_sigma, one_sigma
from lmjax._command.request import file_called, names, number
from lmjax._files.problem import FileProblem
from lmjax._files.rows import rows_of
from lmjax._files.stacks import Stack, arrays_in, is_stack, read_stack
from lmjax._files.tables import is_table, numbers, read_table


def read_pixels(path: Path, options: Any) -> Curves:
    """Return a stack: a curve, or an image, per pixel."""
    stack = read_stack(path, options.y)
    axes = _axes(stack, options.axis)
    values, outer = stack.values, [stack.values.shape[axis] for axis in axes]
    rest = [n for k, n in enumerate(values.shape) if k not in axes]
    y = rows_of(values, axes)
    common = {"x": _points(path, options, outer)}
    data, where = {"y": y}, None
    if options.mask is not None:
        where = _mask(options.mask, tuple(rest))
        data = {"y": np.asarray(y[:])[where.ravel()]}
    sigma = one_sigma(options.sigma)
    if sigma is not None:
        common["sigma"] = sigma
    elif options.sigma is not None:
        data["sigma"] = _sigma_stack(options, values.shape, axes, where)
    labels = dict(_indices(stack, rest, axes, where))
    return Curves(
        data, common, labels, stack, np.ones(rest, bool) if where is None else where
    )


def _axes(stack: Stack, text: str | None) -> tuple[int, ...]:
    """Return the axes of the points, by number or by name."""
    count, found = len(stack.values.shape), []
    if count < 2:
        raise FileProblem(
            f"expected an array of curves, got shape {stack.values.shape}"
        )
    for part in names(text) or ["-1"]:
        if part in stack.dims:
            found.append(stack.dims.index(part))
            continue
        if not part.lstrip("-").isdigit() or not -count <= int(part) < count:
            named = f" or one of {', '.join(stack.dims)}" if stack.dims else ""
            raise FileProblem(
                f"--axis: expected a number from {-count} to {count - 1}{named}, got "
                f"{part!r}"
            )
        found.append(int(part) % count)
    if len(set(found)) < len(found) or len(found) >= count or len(found) > 2:
        raise FileProblem(
            f"--axis: expected one or two of the {count} axes, got {text!r}"
        )
    return tuple(found)


def _points(path: Path, options: Any, outer: list[int]) -> Any:
    """Return x: numbers, an array of the same file, or another file."""
    if len(outer) == 2:
        if options.x is not None:
            raise FileProblem("--x: images are fitted over the numbers of their pixels")
        rows, columns = (np.arange(float(n)) for n in outer)
        return tuple(np.meshgrid(columns, rows))
    if options.x is None:
        return np.arange(float(outer[0]))
    x = _named_points(path, options.x)
    if x.shape != (outer[0],):
        raise FileProblem(f"--x: expected {outer[0]} points, got shape {x.shape}")
    return x


def _named_points(path: Path, text: str) -> np.ndarray:
    if text in arrays_in(path):
        return np.asarray(read_stack(path, text).values[:], float)
    other = Path(text)
    if is_table(other):
        table = read_table(other)
        name = next(iter(table))
        return numbers(other, name, table[name])
    if is_stack(other):
        return np.asarray(read_stack(other).values[:], float)
    if file_called(text):
        raise FileProblem(f"--x: expected a table or a stack, got {other}")
    return np.array([number("--x", part) for part in names(text)])


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if not is_stack(path):
        raise FileProblem(f"--mask: expected a stack such as .npy or .nii, got {path}")
    mask = np.asarray(read_stack(path).values[:])
    if mask.shape != shape:
        raise FileProblem(f"--mask: expected shape {shape}, got {mask.shape} in {path}")
    if not (mask != 0).any():
        raise FileProblem(f"--mask: {path} leaves no pixel to fit")
    return mask != 0


def _sigma_stack(options: Any, shape: tuple, axes: tuple, where: Any) -> np.ndarray:
    path = Path(options.sigma)
    if not is_stack(path):
        raise FileProblem(
            f"--sigma: expected a number or a stack of shape {shape}, got {path}"
        )
    values = read_stack(path).values
    if values.shape != shape:
        raise FileProblem(f"--sigma: expected shape {shape}, got {values.shape}")
    rows = np.asarray(rows_of(values, axes)[:])
    check_sigma(path, rows)
    return rows if where is None else rows[where.ravel()]


def _indices(stack: Stack, rest: list[int], axes: tuple, where: Any):
    """Yield a column of indices for every axis that counts fits."""
    kept = [k for k in range(len(stack.values.shape)) if k not in axes]
    grid = np.indices(rest).reshape(len(rest), -1)
    for k, column in zip(kept, grid, strict=True):
        name = stack.dims[k] if stack.dims and stack.dims[k] else f"axis_{k}"
        yield name, column if where is None else column[where.ravel()]
