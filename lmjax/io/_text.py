"""Lines of numbers in text files, plain or compressed.

Numbers are converted many lines at a time. The line that is wrong is looked for only if
that fails, so that good files are read fast and bad ones get a precise message.
"""

import bz2
import gzip
import os
import zlib
from collections.abc import Sequence
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

Name = str | os.PathLike[str]
Cells = Sequence[Sequence[str]]


class Lines(NamedTuple):
    """The lines of a file that hold something.

    ``rows`` of this package count these lines from 0. ``at`` has their numbers in the
    file, which count from 1 and include blank lines.
    """

    path: Name
    texts: list[str]
    at: np.ndarray

    def error(self, row: int, expected: str, got: str) -> ValueError:
        """Return the error that names the line of a row."""
        return problem(self.path, int(self.at[row]), expected, got)


def problem(path: Name, line: int, expected: str, got: str) -> ValueError:
    """Return the error about a line of a file."""
    return ValueError(f"{os.fspath(path)}:{line}: expected {expected}, got {got}")


def open_text(path: Name, mode: str) -> TextIO:
    """Open a text file, compressed if its name ends in ``.bz2`` or ``.gz``.

    Args:
        path: The file.
        mode: "rt" or "wt".
    """
    suffix = Path(path).suffix.lower()
    opener: Any = {".bz2": bz2.open, ".gz": gzip.open}.get(suffix, open)
    # Bytes that are no text become a character that is no number. They are then
    # reported like any other text among numbers.
    return opener(path, mode, encoding="utf-8", errors="replace")


def read_lines(path: Name, comment: str = "") -> Lines:
    """Return the lines of a text file without comments and blank lines.

    Args:
        path: The file; decompressed if its name ends in ``.bz2`` or ``.gz``.
        comment: What begins a comment, which lasts until the end of the line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a compressed file is cut off or damaged.
    """
    lines: list[str] = []
    with open_text(path, "rt") as file:
        try:
            lines.extend(file)  # keeps what comes before an error
        except (EOFError, OSError, zlib.error) as error:
            if getattr(error, "errno", None):  # the disk, not the content
                raise
            raise problem(
                path, len(lines) + 1, "a complete compressed file", f"one with: {error}"
            ) from error
    if lines:
        lines[0] = lines[0].removeprefix("\ufeff")  # some editors of Windows write it
    if comment:
        lines = [line.partition(comment)[0] for line in lines]
    kept = np.flatnonzero([bool(line.strip()) for line in lines])
    return Lines(path, [lines[k] for k in kept], kept + 1)


def floats(lines: Lines, rows: Sequence[int], cells: Cells) -> np.ndarray:
    """Return all numbers of some lines, one after the other.

    Args:
        lines: The file.
        rows: Which lines the cells come from.
        cells: The numbers of each line as text.

    Returns:
        A flat array in float64.

    Raises:
        ValueError: If a cell is no number, or not a finite one. Names the first.
    """
    try:
        values = np.array(list(map(float, chain.from_iterable(cells))), float)
        # Python reads 1_0 as 10; no format of files does
        good = np.isfinite(values).all() and "_" not in "".join(
            chain.from_iterable(cells)
        )
    except ValueError:
        good, values = False, np.empty(0)
    if not good:
        raise _first_bad(lines, rows, cells)
    return values


def table(
    lines: Lines, rows: Sequence[int], cells: Cells, width: int, expected: str
) -> np.ndarray:
    """Return lines of equally many numbers as a table.

    Args:
        lines: The file.
        rows: Which lines the cells come from.
        cells: The numbers of each line as text.
        width: How many numbers a line has.
        expected: What a line holds, in words.

    Returns:
        An array of shape (lines, width) in float64.

    Raises:
        ValueError: If a line has another number of cells, or one that is no finite
            number. Names the first.
    """
    lengths = np.fromiter(map(len, cells), int, len(cells))
    if wrong := np.flatnonzero(lengths != width).tolist():
        found = int(lengths[wrong[0]])
        raise lines.error(rows[wrong[0]], f"{width} values, {expected}", str(found))
    return floats(lines, rows, cells).reshape(-1, width)


def _first_bad(lines: Lines, rows: Sequence[int], cells: Cells) -> ValueError:
    for row, tokens in zip(rows, cells, strict=True):
        for token in tokens:
            try:
                good = isfinite(float(token)) and "_" not in token
            except ValueError:
                good = False
            if not good:
                return lines.error(row, "a finite number", shown(token))
    raise AssertionError("every cell is a finite number")


def shown(text: str) -> str:
    """Return text for a message: quoted, and cut if it is long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
