"""What a run found, and the files that it goes into."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

import lmjax
from lmjax._command.chosen_model import ChosenModel
from lmjax._command.curves import Curves
from lmjax._command.request import file_called
from lmjax._files import stacks, tables
from lmjax._files.problem import FileProblem
from lmjax._files.stacks import is_stack, map_files, write_maps
from lmjax._files.tables import is_table, write_table

PICTURES = (".png", ".pdf", ".svg")
SHOWN = 10  # lines of the table on the screen


class Results(NamedTuple):
    """What a run found.

    Attributes:
        columns: Parameters, errors and statistics by name, one number per fit.
        curves: What was fitted.
        model: The model.
        folder: What keeps finished chunks, if they are kept.
        seconds: How long it took.
        notes: What a reader of the numbers should know.
    """

    columns: Mapping[str, np.ndarray]
    curves: Curves
    model: ChosenModel
    folder: Path | None
    seconds: float
    notes: list[str]

    def table(self) -> dict[str, np.ndarray]:
        """Return the columns of the table that is written, statuses by their names."""
        codes, inverse = np.unique(self.columns["status"], return_inverse=True)
        kinds = np.array([lmjax.Status(int(code)).name for code in codes])
        labels = {
            f"{name}_key" if name in self.columns else name: column
            for name, column in self.curves.labels.items()
        }
        columns = labels | dict(self.columns)
        return {**columns, "status": kinds[inverse]}

    def maps(self) -> dict[str, np.ndarray]:
        """Return the columns as maps; NaN, or status 0, where nothing was fitted."""
        where, maps = self.curves.where, {}
        assert where is not None
        for name, column in self.columns.items():
            empty = np.nan if column.dtype.kind == "f" else 0
            maps[name] = np.full(where.shape, empty, column.dtype)
            maps[name][where] = column
        return maps

    def summary(self) -> list[str]:
        """Return how many fits ended how, and the medians of the good ones."""
        status = self.columns["status"]
        codes, counts = np.unique(status, return_counts=True)
        order = np.argsort(-counts)
        lines = [f"{status.size:,} fits in {self.seconds:.2f} s"]
        for code, count in zip(codes[order], counts[order], strict=True):
            kind = lmjax.Status(int(code))
            lines.append(f"{kind.name:<16}{count:>10,}  {kind.advice}")
        good = status > 0
        lines += self.notes
        if good.any():
            lines.append("parameters of fits that converged: median [5 %, 95 %]")
        for name in self.parameters() if good.any() else []:
            low, middle, high = np.percentile(self.columns[name][good], [5, 50, 95])
            lines.append(f"    {name}  {middle:.6g} [{low:.6g}, {high:.6g}]")
        return lines

    def parameters(self) -> list[str]:
        """Return the names of the parameters."""
        return [name for name in self.columns if f"{name}_stderr" in self.columns]

    def print(self, file: TextIO, out: Path | None) -> None:
        """Print the summary, and the first rows where no file has them."""
        if out is None:
            rows = self.table()
            head = {name: _shown(column[:SHOWN]) for name, column in rows.items()}
            widths = {n: max(map(len, [n, *cells])) for n, cells in head.items()}
            lines = [list(head), *zip(*head.values(), strict=True)]
            for line in lines:
                cells = zip(line, widths.values(), strict=True)
                print("  ".join(c.rjust(w) for c, w in cells), file=file)
            more = self.curves.size - SHOWN
            if more > 0:
                print(f"... and {more:,} more; --out FILE writes all", file=file)
        print("\n".join(self.summary()), file=file)


def _shown(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "f":
        return [f"{value:.6g}" for value in column]
    return [str(value) for value in column]


def check_target(options: Any) -> None:
    """Raise before anything is computed if a result could not be written."""
    out, plot = options.out, options.plot
    if out is not None and not (is_table(out) or is_stack(out)):
        raise FileProblem(
            f"--out: expected a table ({' '.join(tables.SUFFIXES)}) or maps "
            f"({' '.join(stacks.SUFFIXES)}), got {out}"
        )
    if out is None and options.resume:
        raise FileProblem("--resume: needs --out, beside which it keeps what is done")
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise FileProblem(f"--plot: expected a name with {PICTURES}, got {plot}")
    page = options.report
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise FileProblem(f"--report: expected a name with .html, got {page}")
    targets = {"out": out, "report": page, "plot": plot}
    if plot is not None:
        targets["plot "] = single_fits(plot)
    for option, path in targets.items():
        if path is not None:
            _check_free(f"--{option.strip()}", path, options)


def _check_free(option: str, path: Path, options: Any) -> None:
    """Raise unless a file can be written."""
    if not path.parent.is_dir():
        raise FileProblem(f"{option}: there is no folder {path.parent}")
    given = (options.data, options.x, options.mask, options.sigma)
    given += (options.model.rpartition(":")[0],)
    files = [file_called(str(name)) for name in given if name]
    if path.resolve() in [file.resolve() for file in files if file]:
        raise FileProblem(f"{option}: {path} is one of the files that are read")
    if path.exists() and not options.overwrite:
        raise FileProblem(f"{option}: {path} exists; --overwrite replaces it")
    if not os.access(path.parent, os.W_OK):
        raise FileProblem(f"{option}: the folder {path.parent} cannot be written to")


def single_fits(plot: Path) -> Path:
    """Return the name of the figure with single fits, beside that with the overview."""
    return plot.with_name(f"{plot.stem}_fits{plot.suffix}")


def check_maps(options: Any, curves: Curves, columns: list[str]) -> None:
    """Raise if maps cannot be written: without an image, or over files that exist."""
    if options.out is None or not is_stack(options.out):
        return
    if curves.where is None:
        raise FileProblem(f"--out: {options.out}: a table has no maps; write a .csv")
    for path in map_files(options.out, columns).values():
        _check_free("--out", path, options)


def write(options: Any, results: Results) -> None:
    """Write the table or the maps; then finished chunks are not needed any more."""
    out = options.out
    if out is None:
        return
    if is_table(out):
        write_table(out, results.table())
    else:
        stack = results.curves.stack
        assert stack is not None
        write_maps(out, results.maps(), stack)
    if results.folder is not None:
        shutil.rmtree(results.folder, ignore_errors=True)
