"""Tables: CSV, TSV, Parquet, Feather and Excel."""

import csv
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax._files.problem import FileProblem, library, one_line

# By suffix: the library beside pandas that reads and writes it, if there is one.
SUFFIXES = {
    ".csv": None,
    ".tsv": None,
    ".parquet": "pyarrow",
    ".feather": "pyarrow",
    ".xlsx": "openpyxl",
}
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def is_table(path: Path) -> bool:
    """Return whether the name of a file is that of a table."""
    return path.suffix.lower() in SUFFIXES


def read_table(
    path: Path,
    keys: Sequence[str] = (),
    separator: str | None = None,
    decimal: str = ".",
) -> dict[str, np.ndarray]:
    """Return the columns of a table by their names.

    Args:
        path: The file.
        keys: Columns that are read as text, so that "01" and "1" differ.
        separator: What stands between the cells of CSV, if no comma (of TSV, no tab).
        decimal: What stands before the fraction of a number in CSV and TSV.

    Raises:
        FileProblem: If there is no such file, it cannot be read, has no rows, ragged
            rows or two columns of one name.
    """
    pd, suffix = _pandas(path), path.suffix.lower()
    separator = separator or SEPARATORS.get(suffix, "")
    if suffix in SEPARATORS:
        _check_header(path, separator)
    frame = tried(path, lambda: _read(pd, path, keys, separator, decimal))
    names = [str(name) for name in frame.columns]
    if double := [name for name in names if names.count(name) > 1]:
        raise FileProblem(f"{path}: two columns are called {double[0]!r}")
    if not len(frame):
        raise FileProblem(f"{path}: the table has no rows")
    if suffix in SEPARATORS and frame.iloc[:, -1].isna().any():
        _check_lengths(path, separator, len(names))
    return {name: np.asarray(frame.iloc[:, k]) for k, name in enumerate(names)}


def write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns into a table, which appears only once it is complete."""
    pd, suffix = _pandas(path), path.suffix.lower()
    frame = pd.DataFrame(dict(columns))
    writers: dict[str, Callable] = {
        ".parquet": lambda to: frame.to_parquet(to, index=False),
        ".feather": lambda to: frame.to_feather(to),
        ".xlsx": lambda to: frame.to_excel(to, index=False),
    }
    text = lambda to: frame.to_csv(to, index=False, sep=SEPARATORS[suffix])
    complete(path, writers.get(suffix, text))


def complete(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a name beside ``path``, then give the file its own name.

    Raises:
        FileProblem: If the folder cannot be written to.
    """
    suffix = "".join(path.suffixes)[-20:]
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".lmjax-") as folder:
            partial = Path(folder) / f"part{suffix}"
            write(partial)
            os.replace(partial, path)
    except OSError as error:
        raise FileProblem(f"{path}: cannot be written ({one_line(error)})") from error


def numbers(path: Path, name: str, column: Any) -> np.ndarray:
    """Return a column as floats; cells without text are NaN.

    Raises:
        FileProblem: If there is text in it; names the first.
    """
    if column.dtype.kind in "fiub":
        return column if column.dtype.kind == "f" else column.astype(float)
    values = np.empty(column.shape)
    for row, cell in enumerate(column):
        try:
            empty = cell is None or (isinstance(cell, str) and not cell.strip())
            values[row] = np.nan if empty else float(str(cell))
        except (TypeError, ValueError):
            raise FileProblem(
                f"{path}: expected numbers in column {name!r}, got {cell!r} in row "
                f"{row + 1} below the names"
            ) from None
    return values


def _pandas(path: Path) -> Any:
    suffix = path.suffix.lower()
    if engine := SUFFIXES[suffix]:
        library(engine, suffix)
    return library("pandas", suffix)


def _read(
    pd: Any, path: Path, keys: Sequence[str], separator: str, decimal: str
) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pd.read_parquet(path)
    if suffix == ".feather":
        return pd.read_feather(path)
    read, options = pd.read_excel, {}
    if suffix in SEPARATORS:
        read = pd.read_csv
        options = {"sep": separator, "index_col": False, "skipinitialspace": True}
        options["decimal"] = decimal
    with warnings.catch_warnings():
        # cells beyond the last column: pandas would drop them
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = read(path, **options)
        if known := [name for name in keys if name in frame.columns]:
            # "01" is no 1, and "NA" is a name
            text = read(path, dtype=str, keep_default_na=False, **options)
            frame[known] = text[known]
    return frame


def tried(path: Path, read: Callable) -> Any:
    """Return what ``read`` returns; its errors become one line."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # libraries raise whatever they like
        if not path.exists():
            raise FileProblem(f"{path}: there is no such file") from None
        hint = "; expected UTF-8" if isinstance(error, UnicodeError) else ""
        said = f"{one_line(error)}{hint}"
        raise FileProblem(f"{path}: cannot be read ({said})") from error


def _check_header(path: Path, separator: str) -> None:
    """Raise unless the first line names columns, each once (pandas renames them)."""

    def first() -> list[str]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file, delimiter=separator), [])

    header = [name.strip() for name in tried(path, first)]
    if not any(header):
        raise FileProblem(f"{path}: the file is empty")
    if len(header) == 1 and ";" in header[0]:
        raise FileProblem(
            f"{path}: its cells seem to be separated by semicolons: --separator ';' "
            "(and --decimal ',' if numbers are written 0,5)"
        )
    if not all(header):
        raise FileProblem(f"{path}: column {header.index('') + 1} has no name")
    for name in header:
        if header.count(name) > 1:
            raise FileProblem(f"{path}: two columns are called {name!r}")
    if all(_is_number(name) for name in header):
        raise FileProblem(
            f"{path}: expected the names of columns in the first line, got "
            + ", ".join(header[:3])
        )


def _check_lengths(path: Path, separator: str, width: int) -> None:
    """Raise if a line has fewer cells than there are columns: pandas fills it up."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line, cells in enumerate(csv.reader(file, delimiter=separator), 1):
            if cells and len(cells) < width:
                raise FileProblem(
                    f"{path}: expected {width} cells in line {line}, got {len(cells)}"
                )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
