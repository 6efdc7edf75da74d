"""``lmjax fit``: curves of a file, fitted, into a table or maps."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from lmjax._command import options as asked
from lmjax._command import report
from lmjax._command.chosen_model import ChosenModel, chosen_model
from lmjax._command.curves import Curves, read_columns
from lmjax._command.pixels import read_pixels
from lmjax._command.progress import Progress
from lmjax._command.request import check_known, limits, names, nested, values
from lmjax._command.results import Results, check_maps, check_target, write
from lmjax._files import stacks, tables
from lmjax._files.problem import FileProblem, one_line
from lmjax._files.stacks import is_stack
from lmjax._files.tables import is_table

# From so many fits on, finished chunks are kept on disk: of fewer there are one or two.
KEEP_FROM = 100_000
STATISTICS = ("status", "cost", "num_steps", "chi2", "reduced_chi2")


def add_to(commands) -> None:
    """Add the command to those of the command line."""
    command = commands.add_parser("fit", help="fit the curves of a file")
    asked.add_to(command)
    command.set_defaults(run=run)


def run(options) -> int:
    """Fit the curves of a file and write what was found."""
    check_target(options)
    start = values("--start", options.start) | _fixed_values(options)
    model = chosen_model(options.model, start)
    low, high = limits(options.bounds)
    held = dict.fromkeys(names_of_fixed(options), True)
    for option, given in (("--bounds", low | high), ("--fix", held)):
        check_known(option, given, model.names)
    curves = _read(options)
    check_maps(options, curves, ordered(model.names))
    wide = (options.dtype or _usual_dtype(curves)) == "float64"
    with jax.enable_x64(wide):
        fit = _fit_one(options, model, curves.common, (low, high), held)
        results = _fitted(options, model, curves, fit, (low, high), held)
        write(options, results)
        if options.plot is not None or options.report is not None:
            report.write(options, results, _some(results, fit))
    results.print(sys.stdout, options.out)
    failed = int(np.sum(results.columns["status"] <= 0))
    return 1 if options.strict and failed else 0


def _read(options: Any) -> Curves:
    path = options.data
    if is_table(path):
        for option in ("mask", "axis"):
            if getattr(options, option) is not None:
                raise FileProblem(
                    f"--{option}: for stacks; in a table, leave cells empty"
                )
        return read_columns(path, options)
    if is_stack(path):
        if options.by:
            raise FileProblem("--by: for tables")
        return read_pixels(path, options)
    if not path.exists():
        raise FileProblem(f"{path}: there is no such file")
    raise FileProblem(
        f"{path}: expected a table ({' '.join(tables.SUFFIXES)}) or a stack "
        f"({' '.join(stacks.SUFFIXES)})"
    )


def names_of_fixed(options: Any) -> list[str]:
    """Return the parameters that are held, with a value or at their start."""
    every = (part for text in options.fix for part in names(text))
    return [part.partition("=")[0].strip() for part in every]


def _fixed_values(options: Any) -> dict[str, float]:
    every = (part for text in options.fix for part in names(text))
    return values("--fix", [part for part in every if "=" in part])


def _usual_dtype(curves: Curves) -> str:
    """Return float32 for images of integers or float32, else float64."""
    narrow = curves.stack is not None and curves.data["y"].dtype.itemsize <= 4
    return "float32" if narrow else "float64"


def _fit_one(options: Any, model: ChosenModel, common: dict, bounds: tuple, held: dict):
    """Return a function that fits a row."""

    def fit(row):
        given = _floats(common)
        given |= {k: v if k == "mask" else _floats(v) for k, v in row.items()}
        x, y = given.pop("x"), given.pop("y")
        seen = jnp.where(given["mask"], y, jnp.nan) if "mask" in given else y
        if "sigma" in given:  # NaN: a point without a weight is left out
            known = jnp.isfinite(given["sigma"])
            y, seen = jnp.where(known, y, jnp.nan), jnp.where(known, seen, jnp.nan)
            given["sigma"] = jnp.where(known, given["sigma"], 1.0)
        start = model.start(x, seen)
        return lmjax.curve_fit(
            start if model.model is None else model.model,
            x,
            y,
            None if model.model is None else start,
            nan_policy="omit",
            bounds=_both_sides(*bounds),
            fixed=nested(held) or None,
            solver=asked.solver(options),
            **given,
            **asked.statistics(options),
        )

    return fit


def _record(fit: lmjax.CurveFit) -> dict[str, Any]:
    """Return the columns of a fit; NaN of a curve without any data."""
    empty = fit.num_points == 0
    blank = lambda x: jnp.where(empty, jnp.nan, x) if x.dtype.kind == "f" else x
    return {name: blank(value) for name, value in fit.to_dict().items()}


def _floats(tree: Any) -> Any:
    """Return numbers in the precision of the run."""
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), tree)


def ordered(parameters: list[str]) -> list[str]:
    """Return the columns of the results: parameters with their errors, statistics."""
    return [*(c for n in parameters for c in (n, f"{n}_stderr")), *STATISTICS]


def _fitted(options, model, curves: Curves, fit, bounds, held) -> Results:
    """Fit all curves."""
    out, folder = options.out, None
    if out is not None and (options.resume or curves.size >= KEEP_FROM):
        folder = unfinished(out)
    if folder is not None and folder.exists() and not options.resume:
        raise FileProblem(
            f"{folder}: an unfinished run; --resume goes on with it, or remove it"
        )
    with Progress(curves.size, options.quiet) as progress:
        try:
            if options.share:
                columns = _shared(options, model, curves, bounds, held)
            else:
                columns = lmjax.fit_batch(
                    lambda row: _record(fit(row)),
                    curves.data,
                    checkpoint=folder,
                    progress=progress.count,
                )
        except KeyboardInterrupt:
            again = "Nothing was written."
            if folder is not None:
                again = f"{folder} keeps what is done: --resume goes on."
            raise KeyboardInterrupt(again) from None
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            if folder is not None and str(folder) in str(error):
                raise _not_resumed(folder, error) from error
            raise FileProblem(one_line(error)) from error
        except Exception as error:
            if model.model is None:  # ours: whoever reports it needs all of it
                raise
            said = f"{type(error).__name__}: {one_line(error)}"
            raise FileProblem(f"--model: {options.model} raises {said}") from error
    # those of a sum are called parts.gaussian.width
    columns = {name.removeprefix("parts."): value for name, value in columns.items()}
    columns = {name: columns[name] for name in ordered(model.names)}
    notes = _notes(options, model, curves, columns)
    return Results(columns, curves, model, folder, progress.seconds, notes)


def _not_resumed(folder: Path, error: Exception) -> FileProblem:
    """Return why an unfinished run cannot go on."""
    if isinstance(error, RuntimeError):
        return FileProblem(f"{folder}: another run is at work there")
    return FileProblem(
        f"{folder}: begun with other data or options; repeat the command as it was, or "
        "remove the folder"
    )


def _notes(options, model: ChosenModel, curves: Curves, columns: dict) -> list[str]:
    """Return what a reader of the numbers should know."""
    notes = []
    if curves.stack is not None and options.x is None and not options.axis:
        notes.append("x is 0, 1, 2, ...: --x has other values")
    if options.share:
        notes.append("status, cost and chi2 are those of the joint fit")
    errors = [columns[f"{name}_stderr"] for name in model.names]
    good = columns["status"] > 0
    bare = int(np.sum(good & np.all(~np.isfinite(errors), axis=0)))
    if bare and len(options.fix) < len(model.names):
        notes.append(
            f"{bare:,} fits that converged have no standard errors: too few points, or "
            "parameters that the data leave open"
        )
    return notes


def unfinished(out: Path) -> Path:
    """Return the folder that keeps what is done of a run."""
    return out.with_name(out.name + ".unfinished")


def _shared(options, model: ChosenModel, curves: Curves, bounds, held) -> dict:
    """Fit all curves at once, with parameters in common."""
    shared = [name for text in options.share for name in names(text)]
    check_known("--share", shared, model.names)
    if any("." in name for name in shared):
        raise FileProblem("--share: parameters of a sum cannot be shared")
    data = jax.tree.map(jnp.asarray, curves.common | curves.data)
    x, y = data.pop("x"), data.pop("y")
    seen = jnp.where(data["mask"], y, jnp.nan) if "mask" in data else y
    per_curve = 0 if "x" in curves.data else None
    starts = jax.vmap(model.start, in_axes=(per_curve, 0))(x, seen)
    start = _middle(starts, shared)
    fit = lmjax.global_fit(
        start if model.model is None else model.model,
        x,
        y,
        None if model.model is None else start,
        shared=dict.fromkeys(shared, True),
        nan_policy="omit",
        bounds=_both_sides(*bounds),
        fixed=nested(held) or None,
        solver=asked.solver(options),
        **data,
        **asked.statistics(options),
    )
    columns = {name: np.asarray(value) for name, value in fit.to_dict().items()}
    spread = lambda value: np.broadcast_to(value, (curves.size,))
    return {name: spread(value) for name, value in columns.items()}


def _middle(starts: Any, shared: list[str]) -> Any:
    """Return starts with a value per curve, those of shared parameters in common."""
    middle = lambda leaf: jnp.nanmedian(leaf, axis=0)
    if isinstance(starts, dict):
        return {k: middle(v) if k in shared else v for k, v in starts.items()}
    return dataclasses.replace(
        starts, **{name: middle(getattr(starts, name)) for name in shared}
    )


def _both_sides(low: dict, high: dict) -> tuple[dict, dict] | None:
    """Return both bounds of every parameter that has one, None if there are none."""
    each = low | high
    lower = {name: low.get(name, -np.inf) for name in each}
    upper = {name: high.get(name, np.inf) for name in each}
    return (nested(lower), nested(upper)) if each else None


def _some(results: Results, fit: Callable) -> report.Sample:
    """Return fits for pictures: worst and best ones, and others evenly chosen."""
    quality = np.nan_to_num(results.columns["cost"], nan=np.inf)
    rank = np.lexsort((-quality, results.columns["status"] > 0))
    evenly = np.linspace(0, rank.size - 1, min(rank.size, report.SAMPLE)).astype(int)
    chosen = rank[np.unique(evenly)]
    rows = {k: _taken(v, chosen) for k, v in results.curves.data.items()}
    fits = jax.jit(jax.vmap(fit))(jax.tree.map(jnp.asarray, rows))
    return report.Sample(chosen, rows, fits)


def _taken(values: Any, rows: np.ndarray) -> Any:
    """Return rows of what slices."""
    if isinstance(values, tuple):
        return tuple(part[rows] for part in values)
    if isinstance(values, np.ndarray):
        return values[rows]
    return np.concatenate([values[row : row + 1] for row in rows.tolist()])
