"""SciPy's older function ``leastsq``, over the solver of lmjax."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from lmjax._solver.status import Status
from lmjax.scipy import _checks, _covariance, _outcomes
from lmjax.scipy._run import Found, Task, minimise
from lmjax.scipy._trace import concrete, floats, jacobian_of, residual_of


def leastsq(
    func: Callable,
    x0: Any,
    args: Any = (),
    Dfun: Callable | None = None,
    full_output: bool = False,
    col_deriv: bool = False,
    ftol: float = 1.49012e-8,
    xtol: float = 1.49012e-8,
    gtol: float = 0.0,
    maxfev: int = 0,
    epsfcn: float | None = None,
    factor: float = 100,
    diag: Any = None,
) -> tuple:
    """Minimise ``sum(func(x)**2)`` with the arguments of SciPy's function.

    Args:
        func: ``func(x, *args)`` in ``jax.numpy``, of shape (m,) with m >= n.
        x0: Start; flattened.
        args: Further arguments, a tuple or a single one.
        Dfun: ``Dfun(x, *args)`` returns the Jacobian; None means the exact one.
        full_output: Return ``x, cov_x, infodict, mesg, ier`` instead of ``x, ier``.
        col_deriv: ``Dfun`` returns (n, m) instead of (m, n).
        ftol: Tolerance on the relative reduction of the cost; 0 switches it off.
        xtol: Tolerance on the relative step; 0 switches it off.
        gtol: Tolerance on the cosine between the residual and a column of J.
        maxfev: Most evaluations of ``func``; 0 means 200 (n + 1), with ``Dfun``
            100 (n + 1).
        epsfcn: Without effect: there are no difference quotients.
        factor: Checked, without effect.
        diag: Checked, without effect: columns of J are always scaled.

    Returns:
        ``x, ier``, where ``ier`` of 1 to 4 is a success; with ``full_output`` also the
        inverse of ``J^T J`` (None if J has not full rank), a dict with ``nfev, njev``
        (with ``Dfun``), ``fvec, fjac, ipvt, qtf``, and a message. ``advice`` in that
        dict is the sentence of `lmjax.Status`.

    Raises:
        TypeError: Where SciPy raises it; if a function cannot be traced by JAX.
        ValueError: If the residual is not finite at the start.

    Warns:
        RuntimeWarning: If the fit fails, unless ``full_output`` is set.

    Example:
        >>> import jax.numpy as jnp
        >>> from lmjax.scipy import leastsq
        >>> x, ier = leastsq(lambda x: jnp.array([x[0] - 3.0, 2.0 * x[1]]), [0.0, 1.0])
        >>> x.round(6).tolist(), ier in (1, 2, 3, 4)
        ([3.0, 0.0], True)
    """
    _checks.functions(func=func, **({} if Dfun is None else {"Dfun": Dfun}))
    _checks.flags(full_output=full_output, col_deriv=col_deriv)
    numbers = {"ftol": ftol, "xtol": xtol, "gtol": gtol, "factor": factor}
    ftol, xtol, gtol, factor = map(_checks.number, numbers, numbers.values())
    maxfev = _checks.limit(_checks.number("maxfev", maxfev))
    if epsfcn is not None:
        _checks.number("epsfcn", epsfcn)
    start = floats("x0", x0).flatten()
    args = args if isinstance(args, tuple) else (args,)
    concrete("args", args)
    residual, m = residual_of(lambda x: func(x, *args), start)
    n = start.size
    if n > m:
        raise TypeError(
            f"Improper input: func input vector length N={n} must not exceed func "
            f"output vector length M={m}"
        )
    jac = None
    if Dfun is not None:
        shaped = _shaped(Dfun, (m, n), col_deriv)
        jac = jacobian_of(lambda x: Dfun(x, *args), start, shaped)
    limit = maxfev or (200 if Dfun is None else 100) * (n + 1)
    _check_input(ftol, xtol, gtol, limit, factor, diag, n)
    settings = _checks.for_solver(ftol, xtol, gtol)
    found = minimise(Task(residual, jac), start, settings, limit, False)
    if found.status == Status.NONFINITE_START:
        raise ValueError(
            "Residuals or their derivatives are not finite in the initial point: check "
            "the data and the start."
        )
    ier, message = _outcomes.minpack(found.status, (ftol, xtol, gtol), limit)
    if full_output:
        info = _info(found, Dfun is not None)
        cov_x = _covariance.inverse(found.jac) if ier <= 4 else None
        return found.x, cov_x, info, message, ier
    if ier > 4:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return found.x, ier


def _check_input(ftol, xtol, gtol, limit, factor, diag, n: int) -> None:
    possible = min(ftol, xtol, gtol) >= 0 and limit > 0 and factor > 0 and n > 0
    if diag is not None:
        values = floats("diag", diag)
        possible &= values.shape == (n,) and bool(np.all(values > 0))
    if not possible:
        raise TypeError(
            "Improper input parameters: expected ftol, xtol, gtol >= 0, maxfev and "
            f"factor > 0, and diag None or {n} positive numbers; got ftol={ftol}, "
            f"xtol={xtol}, gtol={gtol}, maxfev={limit}, factor={factor}, diag={diag}."
        )


def _shaped(Dfun: Callable, shape: tuple[int, int], col_deriv: bool) -> Callable:
    """Return what makes an (m, n) matrix of what Dfun returns, or raises."""
    expected = shape[::-1] if col_deriv else shape

    def shaped(matrix):
        matrix = jnp.atleast_1d(matrix)
        if matrix.shape != expected and expected != (1, 1):
            name = getattr(Dfun, "__name__", "")
            raise TypeError(
                "leastsq: there is a mismatch between the input and output shape of "
                f"the 'Dfun' argument '{name}'. Shape should be {expected} but it is "
                f"{matrix.shape}."
            )
        matrix = matrix.reshape(expected)
        return matrix.T if col_deriv else matrix

    return shaped


def _info(found: Found, counts_jacobians: bool) -> dict[str, Any]:
    """Return MINPACK's by-products: those of a QR with pivoting of J at the end."""
    m, n = found.jac.shape
    parts: Any = scipy.linalg.qr(found.jac, mode="economic", pivoting=True)
    q, r, pivots = parts
    fjac = np.zeros((n, m))
    fjac[:, :n] = r.T
    info = {
        "fvec": found.fun,
        "nfev": found.nfev,
        "fjac": fjac,
        "ipvt": pivots,
        "qtf": q.T @ found.fun,
        "advice": found.status.advice,
    }
    return info | ({"njev": found.njev} if counts_jacobians else {})
