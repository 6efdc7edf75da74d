"""The options of ``lmjax fit``."""

import argparse
from pathlib import Path
from typing import Any

import lmjax
from lmjax._files.problem import FileProblem

EPILOG = """\
x is the first column of a table and every other column a curve, unless --x and --y say
otherwise; --by names the columns that tell curves apart in a table with a row per
point. In a stack the points lie along the last axis. docs/files.md has examples.
"""


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options to the command."""
    command.epilog = EPILOG
    add = command.add_argument
    several: Any = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    add("data", type=Path, metavar="DATA", help="table or stack: see docs/files.md")
    add("--model", required=True, help="a name of `lmjax models`, or file.py:function")
    add("--x", help="column or columns of x; of a stack: numbers, an array or a file")
    add("--y", help="columns of y; the array in a file that holds several")
    add("--by", help="columns that tell curves apart, if a row is a point")
    add("--separator", help="what stands between cells of a CSV, such as ';'")
    add("--decimal", default=".", help="decimal point of a CSV, such as ','")
    add("--axis", help="axis of the points of a stack, or two of images (default: -1)")
    add("--sigma", help="standard deviations: a number, a column, or a stack")
    add("--absolute-sigma", action="store_true", help="sigma is known in absolute size")
    add("--mask", type=Path, help="stack whose pixels other than 0 are fitted")
    add("--start", **several, help="starts, in place of those of the guess")
    add(
        "--bounds",
        **several | {"metavar": "NAME=LOW:HIGH"},
        help="bounds; NAME=0: is one",
    )
    add(
        "--fix",
        **several | {"metavar": "NAME[=VALUE]"},
        help="parameters that are held",
    )
    add("--share", **several | {"metavar": "NAME"}, help="parameters of all curves")
    add("--loss", help="robust loss: " + ", ".join(lmjax.losses.NAMES))
    add("--loss-scale", type=float, help="residual at which the loss turns robust")
    add("--likelihood", help="noise that is not Gaussian: poisson, binomial")
    add("--max-steps", type=int, default=100, help="steps of a fit (default: 100)")
    for name in ("ftol", "xtol", "gtol"):
        add(f"--{name}", type=float, help=f"tolerance {name} of the solver")
    add("--dtype", choices=("float32", "float64"), help="precision of the fits")
    add("--out", type=Path, help="table (.csv ...) or maps (.nii.gz ...) to write")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="figure: overview, worst and best fits",
    )
    add("--report", type=Path, metavar="FILE.html", help="page with table and figures")
    add("--resume", action="store_true", help="go on with an interrupted run")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--strict", action="store_true", help="exit with 1 if a fit failed")
    add("--quiet", action="store_true", help="no progress")


def solver(options: Any) -> lmjax.LevenbergMarquardt:
    """Return the solver with its settings."""
    given = {name: getattr(options, name) for name in ("ftol", "xtol", "gtol")}
    known = {name: value for name, value in given.items() if value is not None}
    return lmjax.LevenbergMarquardt(max_steps=options.max_steps, **known)


def statistics(options: Any) -> dict[str, Any]:
    """Return what `lmjax.curve_fit` is told about the noise."""
    known = lmjax.losses.NAMES
    if options.loss is not None and options.loss not in known:
        raise FileProblem(
            f"--loss: expected one of {', '.join(known)}, got {options.loss!r}"
        )
    if options.likelihood is not None:
        for name in ("sigma", "loss"):
            if getattr(options, name) is not None:
                raise FileProblem(f"--{name}: not with --likelihood")
    found: dict[str, Any] = {}
    for name in ("loss", "loss_scale", "likelihood"):
        if getattr(options, name) is not None:
            found[name] = getattr(options, name)
    if options.absolute_sigma:
        found["absolute_sigma"] = True
    return found
