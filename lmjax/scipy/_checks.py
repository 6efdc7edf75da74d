"""What is asked for, checked where SciPy checks it and in its words."""

import warnings
from typing import Any, NoReturn

import numpy as np
from scipy.optimize import Bounds

from lmjax import losses
from lmjax._errors.checks import is_real
from lmjax.scipy._outcomes import EPS
from lmjax.scipy._trace import floats

METHODS = ("trf", "dogbox", "lm")
SCHEMES = ("2-point", "3-point", "cs")

Box = tuple[np.ndarray, np.ndarray]


def flags(**named: Any) -> None:
    """Raise unless each is true or false: what Python takes for one, but no array."""
    for name, value in named.items():
        if not isinstance(value, bool | int | np.bool_):
            raise TypeError(f"`{name}`: expected True or False, got {value!r}.")


def functions(**named: Any) -> None:
    """Raise unless each is a function."""
    for name, fn in named.items():
        if not callable(fn):
            raise TypeError(f"`{name}`: expected a function, got {fn!r}.")


def method(method: Any) -> None:
    """Raise unless it is the name of a method, or None where one is chosen."""
    if method is not None and not (isinstance(method, str) and method in METHODS):
        _refuse("`method` must be 'trf', 'dogbox' or 'lm'", method)


def choices(
    method: Any, jac: Any, tr_solver: Any, tr_options: Any, loss: Any, verbose: Any
) -> None:
    """Raise unless each is one of those that there are."""
    if not isinstance(method, str) or method not in METHODS:
        _refuse("`method` must be 'trf', 'dogbox' or 'lm'", method)
    if not callable(jac) and not (isinstance(jac, str) and jac in SCHEMES):
        _refuse("`jac` must be '2-point', '3-point', 'cs' or callable", jac)
    if tr_solver is not None and not (
        isinstance(tr_solver, str) and tr_solver in ("exact", "lsmr")
    ):
        _refuse("`tr_solver` must be None, 'exact' or 'lsmr'", tr_solver)
    if not isinstance(tr_options, dict | None):
        raise TypeError(f"`tr_options` must be a dict; got {tr_options!r}.")
    known = isinstance(loss, str) and loss in losses.NAMES
    if not known and not callable(loss):
        _refuse(f"`loss` must be one of {losses.NAMES} or a callable", loss)
    if method == "lm" and loss != "linear":
        _refuse("method='lm' supports only 'linear' loss function", loss)
    if not isinstance(verbose, int) or verbose not in (0, 1, 2):
        _refuse("`verbose` must be in [0, 1, 2]", verbose)


def _refuse(sentence: str, got: Any) -> NoReturn:
    raise ValueError(f"{sentence}; got {got!r}.")


def numbers(f_scale: Any, max_nfev: Any, diff_step: Any, workers: Any) -> None:
    """Raise unless scale, limit and what tunes difference quotients are possible."""
    if not is_real(f_scale) or np.ndim(f_scale) != 0 or not f_scale > 0:
        _refuse("`f_scale` must be a positive number", f_scale)
    if max_nfev is not None and not _is_count(max_nfev):
        _refuse("`max_nfev` must be None or positive integer", max_nfev)
    if diff_step is not None and not np.all(
        np.isfinite(floats("diff_step", diff_step))
    ):
        _refuse("`diff_step` must be None or array_like", diff_step)
    if not (workers is None or callable(workers) or isinstance(workers, int)):
        raise TypeError(f"`workers` must be an int or map-like; got {workers!r}.")


def number(name: str, value: Any) -> float:
    """Return a number as a double."""
    array = floats(name, value)
    if array.ndim:
        raise ValueError(f"`{name}`: expected a number; got shape {array.shape}.")
    return float(array)


def limit(value: Any) -> int:
    """Return a limit on evaluations as jax counts; infinity is none, NaN below 0."""
    return int(np.clip(np.nan_to_num(value, nan=-1.0), -1, np.iinfo(np.int32).max))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float | np.integer) and bool(value >= 1)


def no_sparsity(jac_sparsity: Any) -> None:
    """Raise if a pattern of the Jacobian is given."""
    if jac_sparsity is not None:
        raise ValueError(
            "`jac_sparsity`: sparse Jacobians are not supported here; leave it out, J "
            "is exact and dense. For more parameters than a dense J allows use "
            "lmjax.least_squares, whose CG solver never forms it."
        )


def start_of(x0: Any) -> np.ndarray:
    """Return the start as one row of doubles."""
    start = np.atleast_1d(np.array(floats("x0", x0)))
    if start.ndim > 1:
        raise ValueError(
            f"`x0` must have at most 1 dimension; got shape {start.shape}."
        )
    return start


def spread(bounds: Any, n: int) -> Box:
    """Return lower and upper bounds, numbers repeated for n parameters."""
    if isinstance(bounds, Bounds):
        pair = bounds.lb, bounds.ub
    elif isinstance(bounds, tuple | list | np.ndarray) and len(bounds) == 2:
        pair = bounds
    else:
        _refuse("`bounds` must contain 2 elements", bounds)
    sides = [floats("bounds", side) for side in pair]
    low, high = (np.full(n, side) if side.ndim == 0 else side for side in sides)
    if isinstance(bounds, Bounds):
        low, high = (np.full(n, s[0]) if s.shape == (1,) else s for s in (low, high))
    return low, high


def is_bounded(box: Box) -> bool:
    """Return whether any bound is finite."""
    return bool(np.any((box[0] > -np.inf) | (box[1] < np.inf)))


def feasible(box: Box, start: np.ndarray, method: str) -> Box | None:
    """Return the bounds, None if there are none; raise if the start violates them."""
    low, high = box
    if method == "lm" and is_bounded(box):
        raise ValueError(
            "Method 'lm' doesn't support bounds; use method='trf' or leave one out."
        )
    if low.shape != start.shape or high.shape != start.shape:
        raise ValueError(
            f"Inconsistent shapes between bounds and `x0`: got {low.shape}, "
            f"{high.shape} and {start.shape}."
        )
    if not np.all(low < high):
        j = int(np.argmin(low < high))
        raise ValueError(
            "Each lower bound must be strictly less than each upper bound; got "
            f"{low[j]:g} and {high[j]:g} for parameter {j} (to hold a parameter, make "
            "it a constant of the function)."
        )
    inside = (low <= start) & (start <= high)
    if not inside.all():
        j = int(np.argmin(inside))
        raise ValueError(
            f"Initial guess is outside of provided bounds: got {start[j]:g} for "
            f"parameter {j}, expected {low[j]:g} to {high[j]:g}."
        )
    return box if is_bounded(box) else None


def x_scale(scale: Any, start: np.ndarray) -> None:
    """Raise unless the scale is None, 'jac' or positive numbers."""
    if scale is None or isinstance(scale, str) and scale == "jac":
        return
    try:
        values = np.asarray(scale, float)
        valid = np.all(np.isfinite(values)) and np.all(values > 0)
    except (ValueError, TypeError):
        valid, values = False, start
    if not valid:
        _refuse("`x_scale` must be 'jac' or array_like with positive numbers", scale)
    if values.ndim and values.shape != start.shape:
        raise ValueError(
            "Inconsistent shapes between `x_scale` and `x0`: got "
            f"{values.shape} and {start.shape}."
        )


def tolerances(
    ftol: Any, xtol: Any, gtol: Any, method: str
) -> tuple[float, float, float]:
    """Return the tolerances, 0 for None; raise if none can end a fit."""
    named = {"ftol": ftol, "xtol": xtol, "gtol": gtol}
    values = {
        name: 0.0 if tol is None else number(name, tol) for name, tol in named.items()
    }
    for name, tol in values.items():
        if named[name] is not None and tol < EPS:
            warnings.warn(
                f"Setting `{name}` below the machine epsilon ({EPS:.2e}) effectively "
                "disables the corresponding termination condition.",
                stacklevel=3,
            )
    if method == "lm" and min(values.values()) < EPS:
        raise ValueError(
            "All tolerances must be higher than machine epsilon "
            f"({EPS:.2e}) for method 'lm'; got {named}."
        )
    if max(values.values()) < EPS:
        raise ValueError(
            "At least one of the tolerances must be higher than machine epsilon "
            f"({EPS:.2e}); got {named}."
        )
    return values["ftol"], values["xtol"], values["gtol"]


def for_solver(ftol: float, xtol: float, cosine: float) -> dict[str, float | None]:
    """Return the settings of the solver.

    MINPACK's last steps are undamped, so that a step which gains ``ftol`` leaves about
    its square to gain. Damping falls more slowly here, and the square is asked for: on
    a decay of three parameters 1.5e-8 itself left errors of 4e-7, SciPy's 1e-9.
    Where ftol is off the solver goes on until rounding hides what a step does, as its
    own default does: a fit has to end somewhere.
    """
    below_one = lambda tol: min(tol, 1.0 - EPS)
    return {
        "ftol": None if ftol < EPS else below_one(ftol) ** 2,
        "xtol": below_one(xtol) if xtol >= EPS else 0.0,
        "gtol": below_one(cosine) if cosine >= EPS else 0.0,
    }
