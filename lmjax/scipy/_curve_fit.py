"""SciPy's ``curve_fit`` over the solver of lmjax."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeWarning

from lmjax.scipy import _checks, _covariance, _data
from lmjax.scipy._least_squares import least_squares
from lmjax.scipy._leastsq import leastsq
from lmjax.scipy._trace import concrete, dense, floats


def curve_fit(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    check_finite: bool | None = None,
    bounds: Any = (-np.inf, np.inf),
    method: str | None = None,
    jac: Callable | str | None = None,
    *,
    full_output: bool = False,
    nan_policy: str | None = None,
    **kwargs: Any,
) -> tuple:
    """Fit ``f(x, *params)`` to data, with the arguments of SciPy's ``curve_fit``.

    Args:
        f: ``f(x, *params)`` in ``jax.numpy``. It is called once, with traced params and
            with x as it is, so ``x[x > 3]`` works.
        xdata: Handed to ``f``: lists, tuples and arrays as arrays of float64, anything
            else as it is.
        ydata: Observations, of shape (m,).
        p0: Start. By default the middle of the bounds, one away from a single bound, 1
            without; as many as ``f`` names.
        sigma: Standard deviation, standard deviations, or a covariance matrix.
        absolute_sigma: Whether sigma is known in absolute size, not only relative.
        check_finite: Raise if the data are not finite; by default unless nan_policy is
            given.
        bounds: Pair of scalars or arrays, or ``scipy.optimize.Bounds``.
        method: "lm" (the default without bounds), "trf" (the default with bounds) or
            "dogbox": which of the two functions below is called.
        jac: ``jac(x, *params)`` of shape (m, n); None and SciPy's names of difference
            schemes mean the exact derivative.
        full_output: Return ``infodict, mesg, ier`` as well.
        nan_policy: "raise", "omit" (points where x or y is NaN) or None.
        **kwargs: Those of `leastsq` for "lm", of `least_squares` otherwise.

    Returns:
        ``popt, pcov``, and with ``full_output`` also ``infodict, mesg, ier``. A
        parameter that a bound holds has an infinite variance; all have if the data do
        not determine all of them.

    Raises:
        ValueError: Where SciPy raises it.
        TypeError: If there are fewer points than parameters with "lm"; if ``f`` cannot
            be traced by JAX.
        RuntimeError: If the fit fails.

    Warns:
        OptimizeWarning: If the covariance cannot be estimated.

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
    _checks.functions(f=f)
    _checks.flags(absolute_sigma=absolute_sigma, full_output=full_output)
    if check_finite is not None:
        _checks.flags(check_finite=check_finite)
    _checks.method(method)
    if not (jac is None or callable(jac) or isinstance(jac, str)):
        raise TypeError(f"`jac`: expected a function, got {jac!r}.")
    concrete("xdata", xdata)
    start = None if p0 is None else np.atleast_1d(floats("p0", p0))
    n = _count(f) if start is None else start.size
    box = _checks.spread(bounds, n)
    start = _middle(*box) if start is None else start
    bounded = _checks.is_bounded(box)
    if method is None:
        method = "trf" if bounded else "lm"
    if method == "lm" and bounded:
        raise ValueError(
            "Method 'lm' only works for unconstrained problems. Use 'trf' or 'dogbox' "
            "instead."
        )
    data = _data.prepare(xdata, ydata, sigma, check_finite, nan_policy)
    if "args" in kwargs:
        raise ValueError(
            "'args' is not a supported keyword argument: make a function of x and the "
            "parameters alone, as lambda x, a, b: f(x, a, b, *args)."
        )
    func = lambda p: data.whiten(data.compared(f(data.x, *p)))
    if callable(jac):
        jac = _whitened(jac, data)
    if method == "lm":
        if data.y.size != 1 and n > data.y.size:
            raise TypeError(
                f"The number of func parameters={n} must not exceed the number of data "
                f"points={data.y.size}; method='trf' has no such limit."
            )
        fit = _by_leastsq(func, start, jac, kwargs)
    else:
        options = {"jac": jac or "2-point", "bounds": bounds, "method": method}
        fit = _by_least_squares(func, start, box, kwargs | options)
    pcov = fit.covariance(absolute_sigma)
    if pcov is None:
        pcov = np.full((n, n), np.inf)
        warnings.warn(
            "Covariance of the parameters could not be estimated",
            category=OptimizeWarning,
            stacklevel=2,
        )
    if not full_output:
        return fit.popt, pcov
    return fit.popt, pcov, fit.info, fit.message, fit.code


class Fit(NamedTuple):
    """A fit by either function, in the terms of this one.

    Attributes:
        popt: Parameters.
        inverse: Inverse of ``J^T J`` over the parameters that are free, or None.
        held: Which parameters a bound holds.
        chi2: Sum of squares, or twice the robust cost.
        info: Further output.
        message: How the fit ended.
        code: The same as a number.
    """

    popt: np.ndarray
    inverse: np.ndarray | None
    held: np.ndarray
    chi2: float
    info: dict[str, Any]
    message: str
    code: int

    def covariance(self, absolute: bool) -> np.ndarray | None:
        """Return the covariance, or None if there is none."""
        free = np.flatnonzero(~self.held)
        dof = self.info["fvec"].size - free.size
        if self.inverse is None or not (absolute or dof > 0):
            return None
        covariance = np.zeros((self.held.size, self.held.size))
        scale = 1.0 if absolute else self.chi2 / dof
        covariance[np.ix_(free, free)] = scale * self.inverse
        # what a bound holds has no error, which is not an error of zero
        covariance[self.held, self.held] = np.inf
        return covariance


def _by_leastsq(func, start, jac, kwargs) -> Fit:
    if isinstance(jac, str):
        raise ValueError(
            "`jac` must be a function or None with method='lm'; leave it out, "
            f"derivatives are exact. Got {jac!r}."
        )
    popt, inverse, info, message, code = leastsq(
        func, start, Dfun=jac, full_output=True, **kwargs
    )
    if code not in (1, 2, 3, 4):
        raise RuntimeError(f"Optimal parameters not found: {message}")
    chi2 = float(np.sum(info["fvec"] ** 2))
    return Fit(popt, inverse, np.zeros(popt.shape, bool), chi2, info, message, code)


def _by_least_squares(func, start, box, kwargs) -> Fit:
    # the name of leastsq for the same limit
    maxfev = kwargs.pop("maxfev", None)
    kwargs.setdefault("max_nfev", maxfev)
    result = least_squares(func, start, **kwargs)
    if not result.success:
        raise RuntimeError(f"Optimal parameters not found: {result.message}")
    held = (result.x <= box[0]) | (result.x >= box[1])
    inverse = _covariance.inverse(result.jac[:, ~held])
    info = {"nfev": result.nfev, "fvec": result.fun, "advice": result.advice}
    chi2 = 2.0 * result.cost
    return Fit(result.x, inverse, held, chi2, info, result.message, result.status)


def _count(f: Callable) -> int:
    """Return how many parameters f names."""
    kinds = [p.kind for p in inspect.signature(f).parameters.values()]
    one = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = sum(kind in one for kind in kinds)
    if named < 2:
        raise ValueError(
            "Unable to determine number of fit parameters: f names none beside x; give "
            "a start, p0=."
        )
    return named - 1


def _middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return where SciPy starts: in the middle, or one away from a single bound."""
    start = np.ones_like(low)
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    start[has_low] = low[has_low] + 1.0
    start[has_high] = high[has_high] - 1.0
    both = has_low & has_high
    start[both] = 0.5 * (low[both] + high[both])
    return start


def _whitened(jac: Callable, data: _data.Data) -> Callable:
    def function(p):
        return data.whiten(dense(jac(data.x, *p)))

    function.__name__ = getattr(jac, "__name__", "jac")
    return function
