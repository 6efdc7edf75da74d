"""How honest a fit is: what becomes of thousands of wild starts.

    python -m benchmarks.honesty                 everything in float64
    python -m benchmarks.honesty --float32       the same in float32
    ... --quick                                  a choice of problems, fewer starts
    ... --only many_decays,peaks                 problems or families by name
    ... --solvers "lmjax batch,minpack"          some of the solvers
    ... --single / --batch                       lmjax this way only, no peers
    ... --starts 100                             starts per problem

Kinds: see `benchmarks.honesty.judge`. Results go to ``results/honesty.json`` and
``results/honesty_float32.json`` unless problems or solvers were chosen.
"""

import argparse
import time
from collections import Counter

import jax
import numpy as np

from benchmarks._report import save
from benchmarks.honesty import synthetic, textbook
from benchmarks.honesty.evaluate import Evaluator
from benchmarks.honesty.judge import KINDS, judge
from benchmarks.honesty.problems import draw
from benchmarks.honesty.reference import references
from benchmarks.honesty.solvers import SOLVERS

QUICK = (
    "many_decays,runaway_curve,decay_counts,two_exponentials,decay_from_ones,power_offset,"
    "dose5,amplification,circuit_guess,gaussian,constant_large,peak_large,seconds,"
    "respiration,square_plus_five,Box,Beale,Powell singular,MGH10,BoxBOD"
)
# False successes that are kept in full, per problem and solver.
KEPT = 3


def run_problem(problem, options, dtype) -> dict:
    """Run all solvers on one problem; return the tallies and examples of each."""
    evaluator, drawn = Evaluator(problem, dtype), draw(problem, options.starts)
    runs, seconds = {}, {}
    for name in options.solvers:
        began = time.perf_counter()
        runs[name] = SOLVERS[name](evaluator, drawn, dtype)
        seconds[name] = round(time.perf_counter() - began, 2)
    points = np.concatenate([r.params for r in runs.values()])
    best = references(
        evaluator, points, np.tile(drawn.sets, len(runs)), dtype == np.float64
    )
    starts = [
        evaluator.point(p, k) for p, k in zip(drawn.starts, drawn.sets, strict=True)
    ]
    return {
        name: _tally(evaluator, drawn, starts, best, found, dtype)
        | {"seconds": seconds[name]}
        for name, found in runs.items()
    }


def _tally(evaluator, drawn, starts, best, found, dtype) -> dict:
    """Judge the runs of one solver; return the counts, and some false successes."""
    eps = float(np.finfo(dtype).eps)
    kinds, reasons, examples, short = Counter(), Counter(), [], 0
    for i, number in enumerate(drawn.sets):
        p, claims = found.params[i], bool(found.claims[i])
        point = evaluator.point(p, number)
        verdict = judge(
            claims,
            point,
            starts[i],
            best[number],
            eps,
            lambda p=p, number=number: evaluator.hessian(p, number),
        )
        kinds[verdict.kind] += 1
        short += verdict.reason == "short"
        if verdict.reason:
            reasons[f"{verdict.kind}: {verdict.reason}"] += 1
        if verdict.kind in ("false", "plateau") and len(examples) < KEPT:
            examples.append(
                {
                    "kind": verdict.kind,
                    "reason": verdict.reason,
                    "status": str(found.status[i]),
                    "set": int(number),
                    "start": drawn.starts[i].tolist(),
                    "params": p.tolist(),
                    "cost": point.cost,
                    "least_cost": best[number].cost,
                    "promise": verdict.promise,
                }
            )
    counts = {kind: kinds[kind] for kind in KINDS}
    return counts | {
        "short": int(short),
        "reasons": dict(reasons),
        "statuses": dict(Counter(map(str, found.status))),
        "examples": examples,
    }


def total(results: dict, solver: str) -> dict:
    """Return the counts of one solver over all problems."""
    rows = [by_solver[solver] for by_solver in results.values()]
    return {key: sum(row[key] for row in rows) for key in (*KINDS, "short", "seconds")}


def line(label: str, row: dict) -> str:
    """Return one row of a table."""
    return f"{label:<22}" + "".join(f"{row[kind]:>9}" for kind in KINDS)


def parse():
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=None)
    parser.add_argument("--solvers", default=None)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--starts", type=int, default=None)
    options = parser.parse_args()
    options.whole = not (options.quick or options.only or options.solvers)
    options.whole &= not (options.single or options.batch or options.starts)
    if options.single or options.batch:
        asked = {"lmjax single": options.single, "lmjax batch": options.batch}
        options.solvers = [name for name, wanted in asked.items() if wanted]
    else:
        options.solvers = (options.solvers or ",".join(SOLVERS)).split(",")
    options.only = options.only or (QUICK if options.quick else None)
    options.starts = options.starts or (24 if options.quick else 48)
    return options


def chosen(only: str | None) -> list:
    """Return the problems of a comma-separated list of names and families."""
    everything = synthetic.problems() + textbook.problems()
    if only is None:
        return everything
    names = set(only.split(","))
    return [p for p in everything if p.name in names or p.family in names]


def main():
    """Run, print the tables, save the results."""
    options = parse()
    jax.config.update("jax_enable_x64", not options.float32)
    dtype = np.float32 if options.float32 else np.float64
    results = {}
    for problem in chosen(options.only):
        results[problem.name] = rows = run_problem(problem, options, dtype)
        print(line(problem.name, dict.fromkeys(KINDS, "")).rstrip(), flush=True)
        for solver, row in rows.items():
            print(
                line("    " + solver, row),
                f" {row['seconds']:7.1f} s",
                ", ".join(f"{k} {v}" for k, v in row["reasons"].items()),
                flush=True,
            )
        jax.clear_caches()
    totals = {solver: total(results, solver) for solver in options.solvers}
    print("\n" + line("", {kind: kind for kind in KINDS}))
    for solver, row in totals.items():
        print(line(solver, row), f" {row['seconds']:7.1f} s, short {row['short']}")
    if options.whole:
        name = "honesty_float32" if options.float32 else "honesty"
        content = {"starts": options.starts, "totals": totals, "problems": results}
        print("saved", save(name, content).name)


if __name__ == "__main__":
    main()
