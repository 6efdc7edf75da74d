"""SciPy's own signatures over the same solver: change one import and a script moves.

Models are written in ``jax.numpy`` and called as SciPy calls them, ``f(x, *params)``
and ``fun(x, *args)``; derivatives are exact. What SciPy raises is raised here; what
SciPy has no word for is in `lmjax.curve_fit`.

    from lmjax.scipy import curve_fit        # instead of scipy.optimize
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import OptimizeResult

from lmjax._curve_fit import curve_fit as _curve_fit
from lmjax._doors import resolve_loss
from lmjax._least_squares import least_squares as _least_squares
from lmjax._solver import LevenbergMarquardt
from lmjax._statistics import has_error
from lmjax._status import Status

# SciPy's codes: 1 gradient, 2 cost, 3 step, 0 out of evaluations, negative failed.
_CODES = {Status.GTOL: 1, Status.FTOL: 2, Status.XTOL: 3, Status.MAX_STEPS: 0}


@lru_cache(maxsize=256)  # one wrapper per function, so that it is compiled once
def _model(f: Callable) -> Callable:
    return lambda p, x: f(x, *p)


@lru_cache(maxsize=256)
def _residual(fun: Callable) -> Callable:
    return lambda x, args, kwargs: fun(x, *args, **kwargs)


def _solver(jac, ftol: Any, xtol: Any, gtol: Any, limit: Any) -> LevenbergMarquardt:
    off = lambda tol: 0.0 if tol is None else tol
    tolerances: dict[str, Any] = {
        name: off(value)
        for name, value in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol))
        if value != "default"
    }
    if limit is not None:
        tolerances["max_steps"] = int(limit)
    return LevenbergMarquardt(jac=jac, **tolerances)


def _floating(values) -> np.ndarray:
    values = np.atleast_1d(np.asarray(values))
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(float)


def _bounds(bounds, start: np.ndarray):
    if bounds is None:
        return None
    pair = (bounds.lb, bounds.ub) if hasattr(bounds, "lb") else bounds
    n = start.size
    lower, upper = (np.broadcast_to(_floating(b), (n,)) for b in pair)
    if ((start < lower) | (start > upper)).any():
        raise ValueError("x0: expected a start within bounds, got one outside")
    free = np.all(np.isneginf(lower)) and np.all(np.isposinf(upper))
    return None if free else (lower, upper)


def curve_fit(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    check_finite: bool = True,
    bounds: Any = (-np.inf, np.inf),
    method: str | None = None,
    jac: Callable | str | None = None,
    *,
    full_output: bool = False,
    nan_policy: str | None = None,
    maxfev: int | None = None,
    ftol: Any = "default",
    xtol: Any = "default",
    gtol: Any = "default",
) -> tuple:
    """Fit ``f(x, *params)`` to data, with the arguments of SciPy's ``curve_fit``.

    Args:
        f: ``f(x, *params)`` in ``jax.numpy``.
        xdata: Handed to ``f``.
        ydata: Observations.
        p0: Start; ones by default, as many as ``f`` takes.
        sigma: Standard deviations, or a covariance matrix.
        absolute_sigma: Take sigma at face value.
        check_finite: Raise if the data are not finite.
        bounds: Pair of scalars or arrays, or ``scipy.optimize.Bounds``.
        method: Accepted for compatibility: there is one method here.
        jac: ``jac(x, *params)`` of shape (m, n); None and SciPy's names of difference
            schemes mean the exact derivative.
        full_output: Return ``infodict, mesg, ier`` as well.
        nan_policy: "raise", "omit" or None.
        maxfev: Most steps.
        ftol: Tolerance on the cost; None switches it off.
        xtol: Tolerance on the step; None switches it off.
        gtol: Tolerance on the gradient; None switches it off.

    Returns:
        ``popt, pcov``, and with ``full_output`` also ``infodict, mesg, ier``.

    Raises:
        ValueError: If data or start cannot be used.
        RuntimeError: If the fit fails; the message is the advice of its status.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from lmjax.scipy import curve_fit
        >>> x = np.linspace(0.0, 4.0, 30)
        >>> popt, pcov = curve_fit(
        ...     lambda x, a, b: a * jnp.exp(-b * x), x, 2.0 * np.exp(-0.5 * x)
        ... )
        >>> np.round(popt, 3).tolist()
        [2.0, 0.5]
    """
    if p0 is None:
        kinds = [p.kind for p in inspect.signature(f).parameters.values()]
        one = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        count = sum(kind in one for kind in kinds) - 1
        if count < 1 or inspect.Parameter.VAR_POSITIONAL in kinds:
            raise ValueError(
                "p0: expected a start, since f does not name its parameters"
            )
        p0 = np.ones(count)
    start, ydata = _floating(p0), _floating(ydata)
    xdata = jax.tree.map(_floating, np.asarray(xdata))
    if check_finite and nan_policy != "omit" and not np.isfinite(ydata).all():
        raise ValueError("ydata: expected finite values, got NaN or infinity")
    jacobian = None
    if callable(jac):
        jacobian = _model(jac)
    fit = _curve_fit(
        _model(f),
        xdata,
        ydata,
        start,
        sigma=None if sigma is None else _floating(sigma),
        absolute_sigma=absolute_sigma,
        nan_policy="omit" if nan_policy == "omit" else "propagate",
        bounds=_bounds(bounds, start),
        solver=_solver(jacobian, ftol, xtol, gtol, maxfev),
    )
    status = Status(int(fit.status))
    if not status.success:
        raise RuntimeError(f"Optimal parameters not found: {status.advice}")
    popt, rank = np.asarray(fit.params), fit.rank
    pcov = np.full((start.size, start.size), np.inf)  # SciPy's word for "singular"
    if rank is not None and int(rank) == int(fit.num_free):
        pcov = np.array(fit.covariance)
        # what a bound holds has no error, which is not an error of zero
        held = np.flatnonzero(~np.asarray(has_error(fit.param_status)))
        pcov[held, held] = np.inf
    if not full_output:
        return popt, pcov
    info = {"nfev": int(fit.num_steps) + 1, "fvec": np.asarray(fit.residual)}
    return popt, pcov, info, status.advice, _CODES.get(status, 4)


def least_squares(
    fun: Callable,
    x0: Any,
    jac: Callable | str | None = "2-point",
    bounds: Any = (-np.inf, np.inf),
    method: str = "trf",
    ftol: float | None = 1e-8,
    xtol: float | None = 1e-8,
    gtol: float | None = 1e-8,
    x_scale: Any = "jac",
    loss: str | Callable = "linear",
    f_scale: float = 1.0,
    max_nfev: int | None = None,
    verbose: int = 0,
    args: tuple = (),
    kwargs: dict | None = None,
) -> OptimizeResult:
    """Minimise ``0.5 * sum(fun(x)**2)`` with the arguments of SciPy's function.

    Args:
        fun: ``fun(x, *args, **kwargs)`` in ``jax.numpy``.
        x0: Start.
        jac: A function of the same arguments; the names of difference schemes mean the
            exact derivative.
        bounds: Pair of scalars or arrays, or ``scipy.optimize.Bounds``.
        method: Accepted for compatibility: there is one method here.
        ftol: Tolerance on the cost; None switches it off.
        xtol: Tolerance on the step; None switches it off.
        gtol: Tolerance on the gradient, as a cosine; None switches it off.
        x_scale: Accepted for compatibility: columns of J are always scaled.
        loss: One of SciPy's names, or a function ``rho(z)`` (not SciPy's triple).
        f_scale: Residual size at which the loss starts to bend.
        max_nfev: Most steps.
        verbose: 1 or more prints the report.
        args: Further arguments of ``fun``.
        kwargs: Further keywords of ``fun``.

    Returns:
        An ``OptimizeResult`` with ``x, cost, fun, jac, grad, optimality, active_mask,
        nfev, njev, status, message, success``.

    Example:
        >>> import jax.numpy as jnp
        >>> from lmjax.scipy import least_squares
        >>> rosenbrock = lambda x: jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = least_squares(rosenbrock, [-1.2, 1.0])
        >>> result.x.round(4).tolist(), result.success
        ([1.0, 1.0], True)
    """
    start = _floating(x0)
    jacobian = _residual(jac) if callable(jac) else None
    loss = "linear" if loss is None else loss
    sol = _least_squares(
        _residual(fun),
        start,
        (tuple(args), dict(kwargs or {})),
        bounds=_bounds(bounds, start),
        loss=loss,
        loss_scale=f_scale,
        solver=_solver(jacobian, ftol, xtol, gtol, max_nfev),
    )
    status = Status(int(sol.status))
    if verbose:
        print(sol.report())  # noqa: T201  (asked for)
    residual = weighted = jnp.ravel(sol.residual)
    matrix = _jacobian(fun, sol.params, args, kwargs or {})
    term = resolve_loss(loss, f_scale)
    if term is not None:
        # as in SciPy: J^T J approximates the Hessian of the robust cost
        weighted, row = term.prepared(residual.size, residual.dtype).rows(residual)
        matrix = row[:, None] * matrix
    side = np.asarray(sol.param_status)
    return OptimizeResult(
        x=np.asarray(sol.params),
        cost=float(sol.cost),
        fun=np.asarray(residual),
        jac=np.asarray(matrix),
        grad=np.asarray(matrix.T @ weighted),
        optimality=float(sol.optimality),
        active_mask=np.where(side == 2, -1, np.where(side == 3, 1, 0)),
        nfev=int(sol.num_steps) + 1,
        njev=int(sol.num_accepted) + 1,
        status=_CODES.get(status, -1),
        message=status.advice,
        success=status.success,
    )


def _jacobian(fun, x, args, kwargs):
    return jax.jacfwd(lambda x: jnp.ravel(fun(x, *args, **kwargs)))(x)
