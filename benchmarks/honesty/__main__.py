"""How honest a fit is: what becomes of thousands of wild starts.

    python -m benchmarks.honesty                 everything in float64
    python -m benchmarks.honesty --float32       the same in float32
    ... --quick                                  a choice of problems, fewer starts
    ... --only many_decays,peaks                 problems or families by name
    ... --solvers "lmjax batch,minpack"          some of the solvers
    ... --single / --batch                       lmjax this way only, no peers
    ... --starts 100                             starts per problem
    ... --solvers "lmjax single,lmjax batch" --update    the others as saved before

For each problem and solver: successes at the best known minimum (right), at another
minimum (local), where a parameter has lost its effect (plateau) and at no minimum
(false); no success at the best known minimum (unsure) and elsewhere (failed). "Short"
are right answers more than a twentieth of a standard error away. How this is told apart
stands in `benchmarks.honesty.judge`. A run of everything is saved as
``results/honesty.json`` or ``results/honesty_float32.json``.
"""

import argparse
import time

import jax
import numpy as np

from benchmarks._report import load, save
from benchmarks.honesty import corners, curves, textbook
from benchmarks.honesty.evaluate import Evaluator
from benchmarks.honesty.judge import KINDS
from benchmarks.honesty.problems import Problem, draw
from benchmarks.honesty.reference import references
from benchmarks.honesty.solvers import SOLVERS
from benchmarks.honesty.tally import count, examples, total, verdicts

# One or two of each family, those that have told solvers apart.
QUICK = (
    "many_decays,runaway_curve,decay_counts,two_exponentials,power_offset,dose5,"
    "amplification,circuit_guess,gaussian,constant_large,peak_large,seconds,"
    "respiration,square_plus_five,Box,Powell singular,MGH10,BoxBOD"
)
STARTS, QUICK_STARTS = 48, 24


def run_problem(problem: Problem, solvers: list[str], starts: int, dtype) -> dict:
    """Run the solvers on one problem; return the counts and examples of each."""
    evaluator, drawn = Evaluator(problem, dtype), draw(problem, starts)
    runs, seconds = {}, {}
    for name in solvers:
        began = time.perf_counter()
        runs[name] = SOLVERS[name](evaluator, drawn, dtype)
        seconds[name] = round(time.perf_counter() - began, 2)
    points = np.concatenate([found.params for found in runs.values()])
    sets = np.tile(drawn.sets, len(runs))
    best = references(evaluator, points, sets, published=dtype == np.float64)
    rows = {}
    for name, found in runs.items():
        judged = verdicts(evaluator, drawn, best, found, float(np.finfo(dtype).eps))
        rows[name] = count(judged, found) | {"seconds": seconds[name]}
        if name.startswith("lmjax"):
            rows[name]["examples"] = examples(evaluator, drawn, best, found, judged)
    return rows


def line(label: str, row: dict) -> str:
    """Return one row of a table."""
    return f"{label:<20}" + "".join(f"{row[kind]:>8}" for kind in KINDS)


def show(name: str, rows: dict):
    """Print the table of one problem."""
    print(line(name, {kind: kind for kind in KINDS}))
    for solver, row in rows.items():
        reasons = ", ".join(f"{key} {n}" for key, n in row["reasons"].items())
        print(line("    " + solver, row), f"{row['seconds']:7.1f} s ", reasons)
    print(flush=True)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=None)
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--starts", type=int, default=None)
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    if options.single or options.batch:
        asked = {"lmjax single": options.single, "lmjax batch": options.batch}
        options.solvers = ",".join(name for name, wanted in asked.items() if wanted)
    options.whole = not (options.quick or options.only or options.starts)
    options.whole &= options.update or options.solvers == ",".join(SOLVERS)
    options.only = options.only or (QUICK if options.quick else None)
    options.starts = options.starts or (QUICK_STARTS if options.quick else STARTS)
    return options


def chosen(only: str | None) -> list[Problem]:
    """Return the problems of a comma-separated list of names and families."""
    everything = curves.problems() + corners.problems() + textbook.problems()
    if only is None:
        return everything
    names = set(only.split(","))
    unknown = names - {p.name for p in everything} - {p.family for p in everything}
    if unknown:
        raise SystemExit(f"--only: no problem or family {', '.join(sorted(unknown))}")
    return [p for p in everything if p.name in names or p.family in names]


def main():
    """Run, print the tables, save the results."""
    options = parse()
    jax.config.update("jax_enable_x64", not options.float32)
    dtype = np.float32 if options.float32 else np.float64
    solvers, results = options.solvers.split(","), {}
    name = "honesty_float32" if options.float32 else "honesty"
    saved = load(name)["problems"] if options.update else {}
    for problem in chosen(options.only):
        rows = run_problem(problem, solvers, options.starts, dtype)
        rows = saved.get(problem.name, {}) | rows
        results[problem.name] = rows
        show(problem.name, rows)
        jax.clear_caches()  # each compiled function maps memory of its own
    solvers = list(next(iter(results.values())))
    totals = {solver: total(results, solver) for solver in solvers}
    print(line(f"{len(results)} problems", {kind: kind for kind in KINDS}))
    for solver, row in totals.items():
        print(line(solver, row), f"{row['seconds']:7.1f} s, short {row['short']}")
    if options.whole:
        content = {"starts": options.starts, "totals": totals, "problems": results}
        print("saved", save(name, content).name)


if __name__ == "__main__":
    main()
