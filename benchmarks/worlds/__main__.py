"""Bundle adjustment and pose graphs next to gtsam and Ceres.

    python -m benchmarks.worlds [--bal FILES] [--g2o FILES] [--peers PYTHON] [--save]

Every solver has a process of its own for each problem, where it starts anew; then the
processes take turns. lmjax has its default settings, gtsam and Ceres those of Ceres,
gtsam on pose graphs also its own. Problems are in float64; all may use every core.
PYTHON is an interpreter that has gtsam 4.3 and pycolmap.

- first: the first answer, import excluded, with its parts. ``prepare`` is what is left
  of it: the order of elimination, the pattern of a sparse factor, calls to LLVM.
- warm: the whole fit again; fastest and median of n.
- reach: time until the cost was within 1e-4 of the best that anybody found. lmjax runs
  with so many steps as it needs; peers say when each step was done.

Costs of bundle adjustments are computed anew from the answers, by one function.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._report import load, save
from benchmarks.worlds import problems

ROOT = Path(__file__).parent.parent.parent
NEAR = 1e-4
MAX_STEPS = {"bal": 50, "graph": 100, "small": 50}
# gtsam's and Ceres' own tolerance on graphs; one that does not stop them short of the
# minimum on bundle adjustments, which are compared by the time to reach a cost.
FTOL = {"bal": 1e-9, "graph": 1e-6, "small": 1e-6}
BEST = {"intel": 45.00423308812 / 2, "parking-garage": 1.26837787204 / 2}
# What is tried where the default does not reach the best cost.
VARIANTS = {
    "initial=1": {"initial": 1.0},
    "initial=1e-2": {"initial": 1e-2},
    "geodesic": {"geodesic": True},
    "500 steps": {"max_steps": 500},
}
LONGEST = 40.0  # seconds of a problem's rounds, after which no other one begins


class Worker:
    """A solver in a process of its own."""

    def __init__(self, command):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT
        )
        self.ready = self.answer()

    def answer(self):
        """Return the next line that the process prints."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended: {self.process.wait()}")
        return json.loads(line)

    def ask(self, **request):
        """Return the answer to a request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def request_of(name, kind, **solver):
    """Return what is asked of a solver."""
    if name == "lmjax":
        return {"solver": {"max_steps": MAX_STEPS[kind], **solver}}
    return {"max_steps": MAX_STEPS[kind], "ftol": FTOL[kind]}


def names_of(data, peers):
    """Return who solves a problem."""
    if not peers or data.get("alone"):
        return ["lmjax"]
    others = {"bal": ["ceres"], "graph": ["gtsam, own settings"], "small": []}
    return ["lmjax", "gtsam", *others[data["kind"]]]


def spread(times):
    """Return fastest and median."""
    return {"n": len(times), "fastest": min(times), "median": median(times)}


def firsts(workers, data, folder):
    """Return the first answer of each, its cost by our own count, and every cost."""
    kind, rows = data["kind"], {}
    for name, worker in workers.items():
        request, out = request_of(name, kind), folder / "params.npz"
        if kind == "bal":
            request["write"] = str(out)
        answer = worker.ask(**request)
        row = {"ready_s": worker.ready, "first_s": {"whole": answer["seconds"]}}
        row |= {k: answer[k] for k in ("initial", "cost", "steps", "status")}
        row["solver_peak_mb"] = answer["peak_mb"]
        row |= {k: answer[k] for k in ("costs", "each") if k in answer}
        if kind == "bal":
            with np.load(out) as found:
                row["cost"] = problems.bal_cost(data, found["cameras"], found["points"])
            row["claimed_cost"] = answer["cost"]
        if name == "lmjax":
            parts = {k: answer[k] for k in ("trace", "compile")}
            row["first_s"] |= parts
            if kind != "small":
                again = worker.ask(**request_of(name, kind, record_history=True))
                row["costs"] = np.minimum.accumulate(again["costs"]).tolist()
        rows[name] = row
    return rows


def reached(costs, bound):
    """Return the first step with a cost at or below a bound, or None."""
    return next((k for k, cost in enumerate(costs, 1) if cost <= bound), None)


def rounds(workers, rows, kind, bound, most):
    """Add warm times and times to reach a cost, by turns."""
    warm = {name: [] for name in workers}
    reach = {name: [] for name in workers}
    few = reached(rows["lmjax"].get("costs", []), bound)
    if few:
        short = request_of("lmjax", kind, max_steps=few)
        rows["lmjax"]["reach_cost"] = workers["lmjax"].ask(**short)["cost"]
    began = time.perf_counter()
    for turn in range(most):
        if turn > 1 and time.perf_counter() - began > LONGEST:
            break
        for name, worker in workers.items():
            answer = worker.ask(**request_of(name, kind))
            warm[name].append(answer["seconds"])
            step = reached(answer.get("costs", []), bound)
            if step:
                reach[name].append(answer["times"][step - 1])
            if name == "lmjax" and few:
                reach[name].append(worker.ask(**short)["seconds"])
    for name, row in rows.items():
        row["warm_s"] = spread(warm[name])
        row["reach_steps"] = reached(row.get("costs", []), bound)
        row["reach_s"] = spread(reach[name]) if reach[name] else None
    first = rows["lmjax"]["first_s"]
    first["run"] = rows["lmjax"]["warm_s"]["fastest"]
    known = first["trace"] + first["compile"] + first["run"]
    first["prepare"] = max(0.0, first["whole"] - known)


def measure(data, peers, most):
    """Return the results of one problem."""
    kind = data["kind"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "problem.npz"
        np.savez(path, **data)
        module = [sys.executable, "-m", "benchmarks.worlds.ours", str(path)]
        workers = {}
        for solver in names_of(data, peers):
            other = [peers, "-m", "benchmarks.worlds.peers", solver, str(path)]
            workers[solver] = Worker(module if solver == "lmjax" else other)
        rows = firsts(workers, data, folder)
        best = min(row["cost"] for row in rows.values())
        result = {"kind": kind, "best": best, "sizes": sizes(data), "solvers": rows}
        result["load"] = os.getloadavg()[0]
        if kind == "bal":
            start = problems.bal_cost(data, data["cameras"], data["points"])
            result["initial"] = start
        yield result  # what is known of the best cost may be added here
        bound = result["best"] * (1 + NEAR)
        rounds(workers, rows, kind, bound, most)
        if kind == "graph" and rows["lmjax"]["cost"] > bound:
            result["variants"] = variants(workers["lmjax"], kind)
        for worker in workers.values():
            worker.close()
    yield result


def variants(worker, kind):
    """Return what other settings lead to."""
    found = {}
    for name, words in VARIANTS.items():
        answer = worker.ask(**request_of("lmjax", kind, **words))
        shown = ("cost", "steps", "status", "error")
        found[name] = {k: answer[k] for k in shown if k in answer}
    return found


def sizes(data):
    """Return how large a problem is."""
    names = ("cameras", "points", "pixels") if data["kind"] == "bal" else ("poses", "i")
    shown = {"pixels": "observations", "i": "edges"}
    return {shown.get(k, k): len(data[k]) for k in names if k in data}


def all_problems(args, refused):
    """Return problems by name."""
    found = problems.bal_files(args.bal) | problems.g2o_files(args.g2o, refused)
    if args.synthetic:
        worlds = {k: problems.world(*v) for k, v in problems.WORLDS.items()}
        found |= worlds | {"1000 small ones": problems.small_worlds()}
    return {k: v for k, v in found.items() if not args.only or args.only in k}


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bal", nargs="*", default=[], help="BAL files")
    parser.add_argument("--g2o", nargs="*", default=[], help="g2o files")
    parser.add_argument("--peers", help="Python that has gtsam and pycolmap")
    parser.add_argument("--synthetic", action=argparse.BooleanOptionalAction)
    parser.add_argument("--only", help="problems with this in their name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--keep", action="store_true", help="other problems as saved")
    parser.set_defaults(synthetic=True)
    args = parser.parse_args()
    results, refused = {}, {}
    if args.keep:
        earlier = load("worlds")
        results, refused = earlier["problems"], earlier["refused"]
    for name, data in all_problems(args, refused).items():
        steps = measure(data, args.peers, args.rounds)
        early = next(steps)
        early["best"] = min(early["best"], BEST.get(name, np.inf))
        results[name] = next(steps)
        show(name, results[name])
        if args.save:
            content = {"near": NEAR, "refused": refused, "problems": results}
            save("worlds", content)


def show(name, result):
    """Print what was found."""
    print(name, result["sizes"], f"best {result['best']:.10g}")
    for solver, row in result["solvers"].items():
        reach = row["reach_s"] and f"{row['reach_s']['median']:.3f} s"
        print(
            f"  {solver:20} {row['initial']:.10g} -> {row['cost']:.10g} {row['status']}"
            f" in {row['steps']:.4g} steps, {row['warm_s']['median']:.3f} s warm, near "
            f"the best after {row['reach_steps']} in {reach}, {row['first_s']}"
            f" {row['solver_peak_mb']} MB",
            flush=True,
        )
    for variant, row in result.get("variants", {}).items():
        print(f"    {variant:18} {row}", flush=True)


if __name__ == "__main__":
    main()
