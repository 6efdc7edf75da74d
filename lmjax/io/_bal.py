"""Bundle adjustment in the Large (BAL): cameras, points and where they were seen.

A file begins with the counts "cameras points observations". Then comes a line "camera
point x y" for each observation, then 9 numbers for each camera and 3 for each point.
The format is that of Agarwal, Snavely, Seitz and Szeliski, "Bundle Adjustment in the
Large", ECCV 2010.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from lmjax.io._text import (
    Lines,
    Name,
    floats,
    open_text,
    problem,
    read_lines,
    shown,
    table,
)

# So many lines are split at a time: their text takes ten times the room of the numbers.
CHUNK = 4_000
MOST = 2**31 - 1  # indices are int32
OBSERVATION = "'camera point x y'"


class BalFile(NamedTuple):
    """What a file of bundle adjustment holds.

    Attributes:
        camera_of: The camera of each observation, (k,) in int32.
        point_of: The point of each observation, (k,) in int32.
        pixels: Where the point was seen, in pixels, (k, 2).
        cameras: Rotation vector, translation, focal length and two coefficients of
            radial distortion of each camera, (c, 9).
        points: The points in space, (p, 3).
    """

    camera_of: np.ndarray
    point_of: np.ndarray
    pixels: np.ndarray
    cameras: np.ndarray
    points: np.ndarray


def parse_bal(path: Name) -> BalFile:
    """Return what a BAL file holds.

    Blank lines are skipped. Each observation has a line of its own; the numbers of
    cameras and points may be spread over lines in any way.

    Args:
        path: The file; decompressed if its name ends in ``.bz2`` or ``.gz``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not as its first line says. Names the line.
    """
    lines = read_lines(path)
    cameras, points, count = _header(lines)
    seen = _observations(lines, count)
    camera_of = _indices(lines, seen[:, 0], cameras, "camera")
    point_of = _indices(lines, seen[:, 1], points, "point")
    values = _parameters(lines, count + 1, cameras, points)
    return BalFile(
        camera_of,
        point_of,
        seen[:, 2:].copy(),
        values[: 9 * cameras].reshape(-1, 9),
        values[9 * cameras :].reshape(-1, 3),
    )


def write_bal(path: Name, bal: BalFile) -> None:
    """Write a BAL file, from which ``parse_bal`` reads exactly the same numbers.

    Args:
        path: The file; compressed if its name ends in ``.bz2`` or ``.gz``.
        bal: What to write.

    Raises:
        ValueError: If the arrays do not fit together, or a number is not finite.
    """
    bal = BalFile(*map(np.asarray, bal))
    _check(bal)
    observations = zip(
        bal.camera_of.tolist(), bal.point_of.tolist(), bal.pixels.tolist(), strict=True
    )
    numbers = chain(bal.cameras.ravel().tolist(), bal.points.ravel().tolist())
    with open_text(path, "wt") as file:
        file.write(f"{len(bal.cameras)} {len(bal.points)} {len(bal.pixels)}\n")
        file.writelines(f"{c} {p} {x!r} {y!r}\n" for c, p, (x, y) in observations)
        file.writelines(f"{number!r}\n" for number in numbers)


def _header(lines: Lines) -> list[int]:
    expected = f"three counts from 1 to {MOST}, 'cameras points observations'"
    if not lines.texts:
        raise problem(lines.path, 1, expected, "an empty file")
    cells = lines.texts[0].split()
    digits = [c for c in cells if c.isascii() and c.isdecimal() and len(c) <= 10]
    counts = [count for cell in digits if 1 <= (count := int(cell)) <= MOST]
    if len(cells) != 3 or len(counts) != 3:
        raise lines.error(0, expected, shown(lines.texts[0].strip()))
    return counts


def _observations(lines: Lines, count: int) -> np.ndarray:
    """Return camera, point, x and y of each observation, (k, 4)."""
    parts = [
        table(lines, rows, cells, 4, OBSERVATION)
        for rows, cells in _chunks(lines, 1, count + 1)
    ]
    if len(lines.texts) <= count:
        found = len(lines.texts) - 1
        raise lines.error(-1, f"{count} lines {OBSERVATION}", f"{found} until the end")
    return np.concatenate(parts)


def _chunks(lines: Lines, start: int, stop: int) -> Iterator[tuple[range, list]]:
    """Yield rows and their cells, for some thousand lines at a time."""
    stop = min(stop, len(lines.texts))
    for first in range(start, stop, CHUNK):
        rows = range(first, min(first + CHUNK, stop))
        yield rows, [lines.texts[row].split() for row in rows]


def _indices(lines: Lines, column: np.ndarray, count: int, what: str) -> np.ndarray:
    """Return a column of numbers as indices below ``count``, (k,) in int32."""
    wrong = (column < 0) | (column >= count) | (column != np.floor(column))
    if bad := np.flatnonzero(wrong).tolist():
        first = bad[0]
        raise lines.error(
            first + 1,
            f"the index of a {what}, an integer from 0 to {count - 1}",
            f"{column[first]:.15g}",
        )
    return column.astype(np.int32)


def _parameters(lines: Lines, start: int, cameras: int, points: int) -> np.ndarray:
    """Return the numbers of all cameras and points, one after the other."""
    wanted = 9 * cameras + 3 * points
    expected = f"{wanted} numbers of {cameras} cameras and {points} points"
    parts, found = [np.empty(0)], 0
    for rows, cells in _chunks(lines, start, len(lines.texts)):
        parts.append(floats(lines, rows, cells))
        ends = found + np.cumsum([len(cell) for cell in cells])
        found = int(ends[-1])
        if found > wanted:
            extra = rows[int(np.searchsorted(ends, wanted, side="right"))]
            raise lines.error(extra, expected, "more")
    if found < wanted:
        raise lines.error(-1, expected, f"{found} until the end")
    return np.concatenate(parts)


def _check(bal: BalFile) -> None:
    k = len(bal.pixels)
    shapes = {
        "camera_of": (k,),
        "point_of": (k,),
        "pixels": (k, 2),
        "cameras": (len(bal.cameras), 9),
        "points": (len(bal.points), 3),
    }
    for name, shape in shapes.items():
        array = getattr(bal, name)
        if array.shape != shape or not array.size:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers")
    for name, things in ("camera_of", bal.cameras), ("point_of", bal.points):
        indices, last = getattr(bal, name), len(things) - 1
        if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() > last:
            raise ValueError(f"{name}: expected integers from 0 to {last}")
