"""SciPy's ``least_squares`` over the solver of lmjax."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import OptimizeResult

from lmjax._solver.status import Status
from lmjax.scipy import _checks, _outcomes, _progress
from lmjax.scipy._run import Found, Task, evaluate, minimise, rows_of
from lmjax.scipy._trace import concrete, jacobian_of, residual_of


def least_squares(
    fun: Callable,
    x0: Any,
    jac: Callable | str = "2-point",
    bounds: Any = (-np.inf, np.inf),
    method: str = "trf",
    ftol: float | None = 1e-8,
    xtol: float | None = 1e-8,
    gtol: float | None = 1e-8,
    x_scale: Any = None,
    loss: str | Callable = "linear",
    f_scale: float = 1.0,
    diff_step: Any = None,
    tr_solver: str | None = None,
    tr_options: dict | None = None,
    jac_sparsity: Any = None,
    max_nfev: int | None = None,
    verbose: int = 0,
    args: tuple = (),
    kwargs: dict | None = None,
    callback: Callable | None = None,
    workers: Any = None,
) -> OptimizeResult:
    """Minimise ``0.5 * sum(rho(fun(x)**2))`` with the arguments of SciPy's function.

    Args:
        fun: ``fun(x, *args, **kwargs)`` in ``jax.numpy``, of shape (m,) for x of shape
            (n,). It is called once, with a traced x; args and kwargs keep their types.
        x0: Start, of shape (n,), or a number.
        jac: A function of the same arguments that returns (m, n); the names of
            difference schemes mean the exact derivative.
        bounds: Pair of scalars or arrays, or ``scipy.optimize.Bounds``.
        method: "trf", "dogbox" or "lm". The algorithm is the same; with "lm" there are
            neither bounds nor losses, and ``gtol`` is a cosine.
        ftol: Tolerance on the relative reduction of the cost; None switches it off.
        xtol: Tolerance on the relative step; None switches it off.
        gtol: Bound on the gradient, scaled by the distance to the bounds, that makes a
            success of whatever ended the fit, status 1; None switches it off. It does
            not end a fit that the other two tolerances let go on.
        x_scale: Checked, without effect: columns of J are always scaled.
        loss: One of SciPy's names (or of `lmjax.losses.NAMES`), or a function of z of
            shape (m,) that returns (3, m): value, first and second derivative. Steps
            use the first row and its derivatives by autodiff, the result all three.
        f_scale: Residual size at which the loss starts to bend.
        diff_step: Without effect: there are no difference quotients.
        tr_solver: Checked, without effect.
        tr_options: Without effect.
        jac_sparsity: Refused: J is dense.
        max_nfev: Most evaluations of ``fun``, 100 n by default.
        verbose: 1 prints how the fit ended, 2 also a line per iterate, afterwards.
        args: Further arguments of ``fun`` and ``jac``.
        kwargs: Further keywords of ``fun`` and ``jac``.
        callback: ``callback(x)`` or ``callback(intermediate_result=...)``, called per
            iterate once the fit is over; StopIteration makes the fit end there.
        workers: Without effect.

    Returns:
        An ``OptimizeResult`` with ``x, cost, fun, jac, grad, optimality, active_mask,
        nfev, njev, status, message, success`` as SciPy defines them, and ``advice``,
        the sentence of `lmjax.Status` for how the fit ended.

    Raises:
        ValueError: Where SciPy raises it; if something sparse is given.
        TypeError: If ``fun`` or ``jac`` cannot be traced by JAX.

    Example:
        >>> import jax.numpy as jnp
        >>> from lmjax.scipy import least_squares
        >>> rosenbrock = lambda x: jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = least_squares(rosenbrock, [-1.2, 1.0])
        >>> result.x.round(4).tolist(), result.success
        ([1.0, 1.0], True)
    """
    _checks.functions(fun=fun, **({} if callback is None else {"callback": callback}))
    _checks.choices(method, jac, tr_solver, tr_options, loss, verbose)
    _checks.numbers(f_scale, max_nfev, diff_step, workers)
    start = _checks.start_of(x0)
    box = _checks.spread(bounds, start.size)
    bounds = _checks.feasible(box, start, method)
    _checks.x_scale(x_scale, start)
    tols = _checks.tolerances(ftol, xtol, gtol, method)
    _checks.no_sparsity(jac_sparsity)
    if not np.iterable(args) or not isinstance(kwargs, dict | None):
        raise TypeError(
            "`args`, `kwargs`: expected a tuple and a dict, got "
            f"{args!r} and {kwargs!r}; for one argument write args=(data,)."
        )
    concrete("args", tuple(args))
    concrete("kwargs", list((kwargs or {}).values()))

    with_args = lambda fn: lambda x: fn(x, *args, **(kwargs or {}))
    residual, m = residual_of(with_args(fun), start)
    matrix = None
    if callable(jac):
        shaped = lambda out: _checked(jnp.atleast_2d(out), (m, start.size))
        matrix = jacobian_of(with_args(jac), start, shaped)
    if method == "lm" and m < start.size:
        raise ValueError(
            "Method 'lm' doesn't work when the number of residuals is less than the "
            f"number of variables; got {m} and {start.size}, use method='trf'."
        )
    if callback is not None and method == "lm":
        warnings.warn(
            "Callback function specified, but not supported with `lm` method.",
            stacklevel=2,
        )
        callback = None
    task = Task(residual, matrix, rows_of(loss, m), f_scale, bounds)
    limit = 100 * start.size if max_nfev is None else _checks.limit(max_nfev)
    result = _solved(Request(task, start, box, method, tols, limit), callback, verbose)
    if method == "lm" and matrix is None:
        result["njev"] = None  # as SciPy, which then counts no Jacobians
    return result


class Request(NamedTuple):
    """What ``least_squares`` was asked for, checked."""

    task: Task
    start: np.ndarray
    box: _checks.Box
    method: str
    tolerances: tuple[float, float, float]
    limit: int


def _checked(matrix, shape: tuple[int, int]):
    if matrix.shape != shape:
        raise ValueError(
            f"The return value of `jac` has wrong shape: expected {shape}, actual "
            f"{matrix.shape}."
        )
    return matrix


def _solved(
    request: Request, callback: Callable | None, verbose: int
) -> OptimizeResult:
    """Return the result of a fit, printed if asked for."""
    ftol, xtol, gtol = request.tolerances
    # a cosine is what the solver stops by; SciPy's other meaning is judged at the end
    settings = _checks.for_solver(ftol, xtol, gtol if request.method == "lm" else 0.0)
    path = callback is not None or verbose == 2
    found = minimise(request.task, request.start, settings, request.limit, path)
    if found.status == Status.NONFINITE_START:
        raise ValueError(
            f"{_not_finite(found)} in the initial point: check the data and the start."
        )
    end = None
    if callback is not None:
        end = _progress.heard(callback, request.task, found.path)
    found = found if end is None else end
    result = _result(request, found)
    if end is not None:
        result["status"], result["message"] = _outcomes.stopped()
        result["success"] = False
    if verbose:
        before = _result(request, evaluate(request.task, request.start)).cost
        if verbose == 2:
            print(_progress.table(found.path, request.start, before))  # noqa: T201  (asked for)
        print(_summary(result, before))  # noqa: T201  (asked for)
    return result


def _not_finite(found: Found) -> str:
    """Return what is not finite at the start, and where."""
    for what, values in (("Residuals", found.fun), ("Derivatives", found.jac)):
        wrong = np.argwhere(~np.isfinite(values))
        if wrong.size:
            where = tuple(int(i) for i in wrong[0])
            return f"{what} are not finite, got {values[where]} at {list(where)},"
    return "Squares of the residuals are not finite"


def _summary(result: OptimizeResult, initial_cost: float) -> str:
    return (
        f"{result.message}\nFunction evaluations {result.nfev}, initial cost "
        f"{initial_cost:.4e}, final cost {result.cost:.4e}, first-order optimality "
        f"{result.optimality:.2e}."
    )


def _result(request: Request, found: Found) -> OptimizeResult:
    """Return what SciPy's function returns, from where a fit ended."""
    cost, jac, weighted = _weighted(request.task, found)
    grad = jac.T @ weighted
    low, high = request.box
    optimality = _optimality(request, found.x, grad)
    if request.method == "lm":
        small = found.status == Status.GTOL
    else:
        small = optimality < request.tolerances[2]
    status, message = _outcomes.outcome(found.status, small, request.tolerances)
    rtol = request.tolerances[1]
    return OptimizeResult(
        x=found.x,
        cost=cost,
        fun=found.fun,
        jac=jac,
        grad=grad,
        optimality=optimality,
        active_mask=_active(found.x, low, high, rtol),
        nfev=found.nfev,
        njev=found.njev,
        status=status,
        message=message,
        success=status > 0,
        advice=found.status.advice,
    )


def _weighted(task: Task, found: Found) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the cost, and J and r whose products are its gradient and curvature.

    With a loss, J is scaled by ``sqrt(rho' + 2 rho'' r^2)``, at least by the root of
    the rounding of a double: SciPy's choice, with which ``J^T J`` approximates the
    Hessian of the robust cost. ``r`` is scaled so that ``J^T r`` is the gradient.
    """
    fun, jac = found.fun, found.jac
    if found.rows is None:
        return 0.5 * float(fun @ fun), jac, fun
    value, slope, curvature = found.rows
    z = (fun / task.scale) ** 2
    factor = np.sqrt(np.maximum(slope + 2.0 * curvature * z, _outcomes.EPS))
    cost = 0.5 * task.scale**2 * float(np.sum(value))
    return cost, jac * factor[:, None], fun * (slope / factor)


def _optimality(request: Request, x: np.ndarray, grad: np.ndarray) -> float:
    """Return the largest entry of the gradient, as the method of SciPy scales it.

    "trf" multiplies it by the distance to the bound that the step would meet, "dogbox"
    leaves out what a bound holds.
    """
    low, high = request.box
    if request.method == "dogbox":
        held = (x <= low) & (grad > 0) | (x >= high) & (grad < 0)
        grad = np.where(held, 0.0, grad)
    elif request.method == "trf":
        distance = np.where(grad < 0, high - x, x - low)
        grad = grad * np.where((grad != 0) & np.isfinite(distance), distance, 1.0)
    return float(np.max(np.abs(grad)))


def _active(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, rtol: float
) -> np.ndarray:
    """Return -1 at a lower bound, 1 at an upper one, 0 elsewhere, as SciPy decides."""
    below, above = x - low, high - x
    finite = lambda bound: np.where(np.isfinite(bound), np.abs(bound), 1.0)
    limit = lambda bound: np.where(
        np.isfinite(bound), rtol * np.maximum(1.0, finite(bound)), -1.0
    )
    at_low = below <= np.minimum(above, limit(low))
    at_high = above <= np.minimum(below, limit(high))
    return np.where(at_low, -1, np.where(at_high, 1, 0))
