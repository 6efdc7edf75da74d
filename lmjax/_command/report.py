"""Pictures of a run, and one page of HTML that holds all of it."""

import base64
import html
import io
import platform
import shlex
import string
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np

import lmjax
from lmjax._command.results import Results, single_fits
from lmjax._files.problem import FileProblem
from lmjax._files.tables import complete

SAMPLE = 1000  # fits that the overview draws: histograms look the same with more
SHOWN = 4  # worst fits, typical ones and best ones
ROWS = 50  # lines of the table of a page

PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto;
  padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }
img { max-width: 100% } pre { background: #f4f4f4; padding: .7em; overflow-x: auto }
</style></head><body>
<h1>$title</h1>
<pre>$command</pre>
<p>$model</p>
<h2>Outcome</h2>
<pre>$summary</pre>
$warnings
<h2>Fits</h2>
<p>$sampled</p>
$figures
<h2>Table</h2>
<p>$rows</p>
$table
<h2>Made with</h2>
<pre>$versions</pre>
</body></html>
""")


class Sample(NamedTuple):
    """Some fits, worst first, for pictures.

    Attributes:
        numbers: Which they are.
        rows: Their data.
        fits: The fits, a batch.
    """

    numbers: np.ndarray
    rows: dict[str, Any]
    fits: Any


def write(options: Any, results: Results, sample: Sample) -> None:
    """Write the figure and the page that were asked for."""
    figures = _figures(results, sample)
    if options.plot is not None:
        names = [options.plot, single_fits(options.plot)]
        for path, figure in zip(names, figures, strict=True):
            complete(path, lambda to, figure=figure: figure.savefig(to, dpi=120))
    if options.report is not None:
        text = _page(options, results, figures)
        complete(options.report, lambda to: to.write_text(text, encoding="utf-8"))


def _figures(results: Results, sample: Sample) -> list[Any]:
    """Return the overview, and a figure of worst, typical and best fits."""
    try:
        import lmjax.plot
    except ImportError as error:
        raise FileProblem(
            "--plot and --report need matplotlib: pip install 'lmjax[plot]'"
        ) from error
    return [lmjax.plot.batch(sample.fits), _single_fits(results, sample)]


def _single_fits(results: Results, sample: Sample) -> Any:
    from matplotlib.figure import Figure

    count = len(sample.numbers)
    middle = max((count - SHOWN) // 2, 0)
    groups = {
        "worst": range(min(SHOWN, count)),
        "typical": range(middle, min(middle + SHOWN, count)),
        "best": range(max(count - SHOWN, 0), count),
    }
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(len(groups), SHOWN, squeeze=False)
    for row, (name, chosen) in zip(grid, groups.items(), strict=True):
        row[0].set_ylabel(name)
        for ax, k in zip(row, chosen, strict=False):
            _draw(ax, results, sample, k)
        for ax in row[len(chosen) :]:
            ax.axis("off")
    return figure


def _draw(ax: Any, results: Results, sample: Sample, k: int) -> None:
    """Draw the data and the curve of one fit."""
    curves, number = results.curves, sample.numbers[k]
    part = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[k], tree)
    x = part(sample.rows["x"]) if "x" in sample.rows else curves.common["x"]
    y, fit = part(sample.rows["y"]), sample.fits[k]
    status = lmjax.Status(int(fit.status))
    label = ", ".join(str(column[number]) for column in curves.labels.values())
    colour = "black" if status.success else "tab:red"
    ax.set_title(f"{label}: {status.name}", fontsize="small", color=colour)
    ax.tick_params(labelsize="x-small")
    if y.ndim == 2:
        ax.imshow(y, cmap="gray")
        return
    if "mask" in sample.rows:
        y = np.where(part(sample.rows["mask"]), y, np.nan)
    along = x[0] if isinstance(x, tuple) else x
    order = np.argsort(along)
    ax.plot(along, y, "o", color="black", ms=3)
    curve = np.asarray(fit.predict(x))
    if np.isfinite(curve).all():
        ax.plot(np.asarray(along)[order], curve[order], color="tab:orange")


def _page(options: Any, results: Results, figures: list[Any]) -> str:
    table, escape = results.table(), html.escape
    failed = int(np.sum(results.columns["status"] <= 0))
    shown = min(ROWS, results.curves.size)
    cell: Callable = lambda v: f"{v:.6g}" if isinstance(v, np.floating) else str(v)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell(c[k]))}</td>' for c in table.values())}</tr>"
        for k in range(shown)
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in table)
    warning = f"<p><b>{failed:,} fits failed</b>; the table says how.</p>"
    packages = ("lmjax", "jax", "jaxlib", "numpy", "llvmlite")
    versions = [f"{name} {version(name)}" for name in packages]
    versions += [f"Python {platform.python_version()}, {platform.platform()}"]
    versions += [f"{jax.devices()[0].device_kind}"]
    return PAGE.substitute(
        title=escape(f"Fits of {options.data.name}"),
        command=escape(shlex.join(["lmjax", *sys.argv[1:]])),
        model=escape(results.model.formula),
        summary=escape("\n".join(results.summary())),
        warnings=warning if failed else "",
        sampled=f"Worst, typical and best fits. The overview draws {SAMPLE:,} at most.",
        figures="\n".join(map(_image, figures)),
        rows=f"The first {shown:,} of {results.curves.size:,}.",
        table=f"<table><tr>{head}</tr>{body}</table>",
        versions=escape("\n".join(versions)),
    )


def _image(figure: Any) -> str:
    """Return a figure as an image inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'
