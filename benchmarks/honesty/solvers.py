"""The solvers, each at its default settings: starts in, points and claims out.

SciPy works in float64 always; beside fits in float32 it gets data and starts rounded to
float32. optimistix has no default tolerances: 1e-8 in float64, 1e-6 in float32.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.honesty.evaluate import Evaluator
from benchmarks.honesty.problems import Drawn

# Steps of optimistix; its default of 256 is short for Levenberg-Marquardt.
STEPS = 1000


class Runs(NamedTuple):
    """What a solver returned, one row per start.

    Attributes:
        params: Parameters, in float64.
        claims: Whether it claims success.
        status: Its own word for the outcome.
    """

    params: np.ndarray
    claims: np.ndarray
    status: np.ndarray


def _lmjax(evaluator: Evaluator, dtype) -> Callable:
    import lmjax

    residual = evaluator.problem.residual

    def fit(start, data):
        solution = lmjax.least_squares(residual, start, data)
        return solution.params, solution.status

    return fit


def _named(params, status) -> Runs:
    import lmjax

    status = np.asarray(status)
    names = np.array([lmjax.Status(int(code)).name for code in status])
    return Runs(np.asarray(params, float), status > 0, names)


def _rounded(evaluator, drawn, dtype):
    """Return starts and data per run in the dtype of the fit."""
    data = tuple(np.asarray(a, dtype)[drawn.sets] for a in evaluator.data)
    with np.errstate(over="ignore"):
        return np.asarray(drawn.starts, dtype), data


def lmjax_single(evaluator: Evaluator, drawn: Drawn, dtype) -> Runs:
    """Fit one start after the other with one compiled function."""
    fit = jax.jit(_lmjax(evaluator, dtype))
    starts, data = _rounded(evaluator, drawn, dtype)
    found = [
        jax.device_get(fit(start, tuple(a[i] for a in data)))
        for i, start in enumerate(starts)
    ]
    params, status = zip(*found, strict=True)
    return _named(np.stack(params), np.stack(status))


def lmjax_batch(evaluator: Evaluator, drawn: Drawn, dtype) -> Runs:
    """Fit all starts at once."""
    fit = jax.jit(jax.vmap(_lmjax(evaluator, dtype)))
    return _named(*jax.device_get(fit(*_rounded(evaluator, drawn, dtype))))


def optimistix(evaluator: Evaluator, drawn: Drawn, dtype) -> Runs:
    """Fit all starts at once with optimistix' Levenberg-Marquardt."""
    import optimistix as optx

    tolerance = 1e-8 if np.dtype(dtype) == np.float64 else 1e-6
    solver = optx.LevenbergMarquardt(rtol=tolerance, atol=tolerance)

    def fit(start, data):
        solution = optx.least_squares(
            lambda p, data: evaluator.problem.residual(p, *data),
            solver,
            start,
            data,
            max_steps=STEPS,
            throw=False,
        )
        return solution.value, solution.result == optx.RESULTS.successful

    found = jax.jit(jax.vmap(fit))(*_rounded(evaluator, drawn, dtype))
    params, claims = jax.device_get(found)
    return Runs(np.asarray(params, float), claims, np.where(claims, "success", "none"))


def scipy(method: str) -> Callable:
    """Return a function that fits with SciPy's ``least_squares``."""

    def solve(evaluator: Evaluator, drawn: Drawn, dtype) -> Runs:
        starts = np.asarray(drawn.starts, dtype).astype(float)
        found = [
            _scipy_one(evaluator, start, number, method)
            for start, number in zip(starts, drawn.sets, strict=True)
        ]
        params, claims, status = zip(*found, strict=True)
        return Runs(np.stack(params), np.array(claims), np.array(status))

    return solve


def _scipy_one(evaluator, start, number, method):
    from scipy.optimize import least_squares

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            result = least_squares(
                lambda p: evaluator.residual(p, number),
                start,
                lambda p: evaluator.jacobian(p, number),
                method=method,
                x_scale="jac",
            )
        except (ValueError, np.linalg.LinAlgError) as error:  # not finite
            return start, False, type(error).__name__
    return result.x, bool(result.success), str(result.status)


SOLVERS = {
    "lmjax single": lmjax_single,
    "lmjax batch": lmjax_batch,
    "minpack": scipy("lm"),
    "trf": scipy("trf"),
    "optimistix": optimistix,
}
