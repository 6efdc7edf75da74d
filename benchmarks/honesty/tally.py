"""Judge what the solvers returned on one problem, and count."""

from collections import Counter

import numpy as np

from benchmarks.honesty.evaluate import Evaluator
from benchmarks.honesty.judge import KINDS, Reference, Verdict, judge
from benchmarks.honesty.problems import Drawn
from benchmarks.honesty.solvers import Runs

# False successes and plateaus kept in full, per problem and solver.
KEPT = 2


def verdicts(
    evaluator: Evaluator, drawn: Drawn, best: list[Reference], found: Runs, eps: float
) -> list[Verdict]:
    """Return the verdict on each run of one solver."""
    return [
        judge(
            bool(claims),
            evaluator.point(p, number),
            evaluator.point(start, number),
            best[number],
            eps,
            lambda p=p, number=number: evaluator.hessian(p, number),
        )
        for p, claims, start, number in zip(
            found.params, found.claims, drawn.starts, drawn.sets, strict=True
        )
    ]


def count(judged: list[Verdict], found: Runs) -> dict:
    """Return how often each kind, reason and status came up."""
    kinds = Counter(v.kind for v in judged)
    reasons = Counter(f"{v.kind}: {v.reason}" for v in judged if v.reason)
    return {kind: kinds[kind] for kind in KINDS} | {
        "short": sum(v.reason == "short" for v in judged),
        "reasons": dict(reasons),
        "statuses": dict(Counter(map(str, found.status))),
    }


def examples(
    evaluator: Evaluator,
    drawn: Drawn,
    best: list[Reference],
    found: Runs,
    judged: list[Verdict],
) -> list[dict]:
    """Return the first successes that are none, so that they can be run again."""
    wrong = [i for i, v in enumerate(judged) if v.kind in ("false", "plateau")]
    return [
        {
            "kind": judged[i].kind,
            "reason": judged[i].reason,
            "status": str(found.status[i]),
            "set": int(drawn.sets[i]),
            "start": _text(drawn.starts[i]),
            "params": _text(found.params[i]),
            "cost": evaluator.cost(found.params[i], drawn.sets[i]),
            "least_cost": best[drawn.sets[i]].cost,
            "promise": judged[i].promise,
        }
        for i in wrong[:KEPT]
    ]


def _text(values: np.ndarray) -> str:
    """Return numbers as one string: a line each would fill the file."""
    return " ".join(f"{value:.17g}" for value in values)


def total(results: dict, solver: str) -> dict:
    """Return the counts of one solver over all problems."""
    rows = [by_solver[solver] for by_solver in results.values()]
    keys = (*KINDS, "short", "seconds")
    return {key: round(sum(row[key] for row in rows), 1) for key in keys}
