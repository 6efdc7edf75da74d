"""The best known minimum of every data set of a problem.

SciPy in float64 with tolerances of 1e-15 from the true parameters (or a published
solution), then from the best point that any run reached, where that is better; a
published cost counts where it is lower still.
"""

import warnings

import numpy as np
from scipy.optimize import least_squares

from benchmarks.honesty.evaluate import Evaluator
from benchmarks.honesty.judge import Reference

# A run that is better by more than this: the search from the truth fell short.
BETTER = 1 - 1e-3
TIGHT = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}


def references(evaluator: Evaluator, params, sets, published: bool) -> list[Reference]:
    """Return the best known minimum of each data set.

    Args:
        evaluator: The problem.
        params: Points that runs returned, one per row.
        sets: The data set of each.
        published: Whether published costs hold: not for data rounded to float32.
    """
    problem, params, sets = evaluator.problem, np.asarray(params), np.asarray(sets)
    known = problem.known if published or not problem.data else None
    found = []
    for number, truth in enumerate(problem.truth):
        best = _polished(evaluator, truth, number)
        for p in params[sets == number]:
            if evaluator.cost(p, number) < BETTER * evaluator.cost(best, number):
                better = _polished(evaluator, p, number)
                best = min(best, p, better, key=lambda q: evaluator.cost(q, number))
        point = evaluator.point(best, number)
        cost = point.cost if known is None else min(point.cost, known)
        found.append(Reference(point, cost, problem.floor))
    return found


def _polished(evaluator, start, number):
    """Return the best of a start and what SciPy's two unbounded methods make of it."""
    tried = [np.asarray(start, float)]
    for method in ("lm", "trf"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                result = least_squares(
                    lambda p: evaluator.residual(p, number),
                    tried[-1],
                    lambda p: evaluator.jacobian(p, number),
                    method=method,
                    max_nfev=2000,
                    **TIGHT,
                )
            except (ValueError, np.linalg.LinAlgError):
                continue
        tried.append(result.x)
    return min(tried, key=lambda p: evaluator.cost(p, number))
