"""Callbacks and tables of progress, told from the path of a fit that has ended.

The loop is one compiled program that calls nothing. It keeps its path, and callbacks
hear of it afterwards, iterate by iterate; one that raises StopIteration makes the fit
end there.
"""

import inspect
from collections.abc import Callable

import numpy as np
from scipy.optimize import OptimizeResult

from lmjax._errors.advice import calling
from lmjax.scipy._run import Found, Path, Task, evaluate


def heard(callback: Callable, task: Task, path: Path) -> Found | None:
    """Tell a callback of each iterate; return where it stopped, None if it did not."""
    wants_result = _names(callback) == {"intermediate_result"}
    callback = calling(callback, "callback(x) or callback(intermediate_result=...)")
    for nit, row in enumerate(path.taken, start=1):
        x, nfev = path.points[row].copy(), int(row) + 2
        try:
            if wants_result:
                fun, cost = evaluate(task, x).fun, float(path.costs[row])
                result = OptimizeResult(x=x, fun=fun, nit=nit, nfev=nfev, cost=cost)
                callback(intermediate_result=result)
            else:
                callback(x)
        except StopIteration:
            so_far = path._replace(taken=path.taken[:nit])
            end = evaluate(task, path.points[row])
            return end._replace(nfev=nfev, njev=nit + 1, path=so_far)
    return None


def _names(callback: Callable) -> set[str]:
    try:
        return set(inspect.signature(callback).parameters)
    except ValueError:  # written in C, some of which tell nothing
        return set()


def table(path: Path, start: np.ndarray, initial_cost: float) -> str:
    """Return a line for the start and for each iterate."""
    heads = ("Iteration", "Total nfev", "Cost", "Cost reduction", "Step norm")
    lines = ["".join(f"{head:^15}" for head in heads)]
    lines.append(f"{0:^15}{1:^15}{initial_cost:^15.4e}")
    x, cost = start, initial_cost
    for nit, row in enumerate(path.taken, start=1):
        step, gain = np.linalg.norm(path.points[row] - x), cost - path.costs[row]
        x, cost = path.points[row], path.costs[row]
        lines.append(f"{nit:^15}{row + 2:^15}{cost:^15.4e}{gain:^15.2e}{step:^15.2e}")
    return "\n".join(line.rstrip() for line in lines)
