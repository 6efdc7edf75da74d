"""The public door to fitting a model to data, and what it returns."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lmjax import _data, _problem, _statistics
from lmjax._callables import Split, as_pytree
from lmjax._doors import (
    blame,
    check_affine,
    check_feasible,
    check_pair,
    resolve_linear,
    resolve_loss,
)
from lmjax._fitted import CurveFit, dof_of, has_error
from lmjax._implicit import Implicit
from lmjax._least_squares import solve
from lmjax._result import Solution
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status
from lmjax._types import Params
from lmjax._unrolled import Derivative

_DEFAULT = LevenbergMarquardt()
_EXACT = Implicit()


def curve_fit(
    model: Callable,
    x: Any,
    y: Any,
    params0: Params = None,
    *,
    sigma: Any = None,
    absolute_sigma: bool = False,
    mask: Any = None,
    nan_policy: str = "propagate",
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    linear: Any = None,
    loss: str | Callable | None = None,
    loss_scale: Any = 1.0,
    solver: LevenbergMarquardt = _DEFAULT,
    derivative: Derivative = _EXACT,
) -> CurveFit:
    """Fit ``model(params, x)`` to ``y`` and return parameters with their uncertainties.

    Works under ``jax.jit`` and ``jax.vmap``; every number may be traced and differ per
    fit.

    Args:
        model: ``model(params, x)`` returns what ``y`` should be. A callable
            ``eqx.Module`` is called as ``model(x)`` when ``params0`` is left out: its
            floating-point leaves are the start, and ``fit.params`` is the fitted
            Module.
        x: Independent variables, handed to the model as they are (lists become arrays).
        y: Observations, an array of any shape.
        params0: Start: any pytree of floating-point numbers or arrays.
        sigma: Standard deviation of the observations: a number, an array that
            broadcasts to ``y``, an (m, m) covariance matrix for one-dimensional ``y``,
            or the pair returned by ``jax.scipy.linalg.cho_factor`` of one.
        absolute_sigma: Take sigma at face value. By default only its relative size
            counts and errors are scaled by ``sqrt(reduced_chi2)``.
        mask: Booleans that broadcast to ``y``: True = use the point.
        nan_policy: "propagate" lets a NaN in ``y`` end the fit with a status; "omit"
            treats it as masked.
        bounds: As in `least_squares`.
        fixed: As in `least_squares`.
        linear: As in `least_squares`.
        loss: As in `least_squares`; applied to residuals in units of sigma.
        loss_scale: As in `least_squares`.
        solver: Algorithm and settings. Its ``jac``, if a function, is ``jac(params,
            x)``, the derivative of the model.
        derivative: As in `least_squares`.

    Returns:
        The `CurveFit`. A fit that fails does not raise: see its ``status``.

    Raises:
        ValueError: If a shape, a name, a concrete bound or sigma is wrong.
        TypeError: If parameters or data are not real floating-point numbers.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> def decay(p, t):
        ...     return p["amplitude"] * jnp.exp(-t / p["tau"])
        >>> t = jnp.linspace(0.0, 5.0, 6)
        >>> y = jnp.array([3.02, 1.80, 1.11, 0.68, 0.41, 0.24])
        >>> fit = lmjax.curve_fit(decay, t, y, {"amplitude": 1.0, "tau": 1.0})
        >>> print(f"tau = {fit.params['tau']:.2f} +- {fit.stderr['tau']:.2f}")
        tau = 1.99 +- 0.02
        >>> start = {"amplitude": -50.0, "tau": 1.0}
        >>> fit = lmjax.curve_fit(decay, t, y, start, linear={"amplitude": True})
        >>> print(f"tau = {fit.params['tau']:.2f} +- {fit.stderr['tau']:.2f}")
        tau = 1.99 +- 0.02

    References:
        Statistics: Seber and Wild (2003), "Nonlinear Regression", chapters 2 and 5.
    """
    _check_choices(model, x, params0, nan_policy)
    y = _as_array(y)
    _data.check_sigma(sigma, mask, y.size, y.ndim)
    check_pair(bounds)
    rho, scale = resolve_loss(loss, loss_scale)
    start = eqx.filter(model, _problem.is_parameter) if params0 is None else params0
    marked = resolve_linear(
        linear, start, bounds=bounds, loss=rho, solver=solver, derivative=derivative
    )
    x = jax.tree.map(_as_array, np.asarray(x) if isinstance(x, list) else x)
    try:
        fit = _fit(
            as_pytree(model) if params0 is not None else _splitted(model),
            x,
            y,
            params0,
            np.asarray(sigma) if isinstance(sigma, list) else sigma,
            None if mask is None else _as_array(mask),
            bounds,
            fixed,
            rho,
            scale,
            solver,
            derivative,
            absolute_sigma,
            nan_policy,
            marked,
        )
    except TypeError as error:
        named = {"x": x, "y": y, "params0": params0, "sigma": sigma, "mask": mask}
        named |= {"bounds": bounds, "fixed": fixed}
        raise blame(error, solver, derivative, named) from error
    if bounds is not None:
        check_feasible(fit.status, bounds, eqx.filter(start, _problem.is_parameter))
    if marked is not None:
        check_affine(fit.status, marked, start)
    if params0 is None:
        # outside jit, where what is no parameter would come back as an array
        rest = eqx.filter(model, _problem.is_parameter, inverse=True)
        fit = dataclasses.replace(fit, params=eqx.combine(fit.params, rest))
    return fit


def _check_choices(model, x, params0, nan_policy):
    if not callable(model):
        raise TypeError(f"model: expected a function model(params, x), got {model!r}")
    if params0 is None and not isinstance(model, eqx.Module):
        raise ValueError(
            "params0: expected a start; it may be left out only if model is a callable "
            "eqx.Module that holds its own parameters"
        )
    if nan_policy not in _data.NAN_POLICIES:
        raise ValueError(
            f"nan_policy: expected one of {', '.join(_data.NAN_POLICIES)}, "
            f"got {nan_policy!r}"
        )


def _splitted(model):
    """Return a Module whose parameters, plain floats too, are traced, not compiled."""
    traced = lambda leaf: eqx.is_array(leaf) or _problem.is_parameter(leaf)
    return Split(*eqx.partition(model, traced))


def _as_array(value):
    return value if isinstance(value, np.ndarray | jax.Array) else np.asarray(value)


def _fit_impl(
    model,
    x,
    y,
    params0,
    sigma,
    mask,
    bounds,
    fixed,
    rho,
    loss_scale,
    solver,
    derivative,
    absolute_sigma,
    nan_policy,
    linear,
):
    function = None
    if params0 is None:
        module = eqx.combine(model.arrays, model.rest)
        params0, rest = eqx.partition(module, _problem.is_parameter)
        evaluate = lambda params, x: eqx.combine(params, rest)(x)
    else:
        evaluate = model
        function = model.func if isinstance(model, jax.tree_util.Partial) else model
    _problem.check_params(params0)
    out = jax.eval_shape(evaluate, params0, x)
    if not hasattr(out, "shape") or out.shape != y.shape:
        got = getattr(out, "shape", jax.tree.structure(out))
        raise ValueError(f"model: expected an array of y's shape {y.shape}, got {got}")
    dtype = out.dtype
    if jnp.issubdtype(y.dtype, jnp.inexact):
        dtype = _problem.common_dtype(out.dtype, y.dtype)
    data = _data.prepare(x, y, sigma, mask, nan_policy, dtype)

    def residual_fn(params):
        r = evaluate(params, data.x).astype(dtype) - data.y
        return data.whiten(r.ravel()).reshape(y.shape)

    jac = solver.jac
    solution, problem, outcome = solve(
        residual_fn,
        params0,
        bounds=bounds,
        fixed=fixed,
        rho=rho,
        loss_scale=loss_scale,
        solver=solver,
        derivative=derivative,
        jac=(lambda params: jac(params, data.x)) if callable(jac) else jac,
        whiten=data.whiten,
        linear=linear,
    )
    unscaled, rank = _inverse(problem, outcome.p, solution)
    covariance = unscaled
    if unscaled is not None and not absolute_sigma:
        points = y.size if data.num_used is None else data.num_used
        dof = dof_of(points, solution.param_status)
        scale = 2.0 * solution.cost / jnp.maximum(dof, 1).astype(outcome.p.dtype)
        infinite = jnp.where(unscaled != 0.0, jnp.inf, 0.0)
        covariance = jnp.where(dof > 0, unscaled * scale, infinite)
    fields = {name: getattr(solution, name) for name in Solution.__dataclass_fields__}
    if data.num_used is not None:
        # no data at all: zero residuals, yet nothing was learned
        nothing = jnp.int32(Status.SINGULAR)
        fields["status"] = jnp.where(data.num_used > 0, solution.status, nothing)
    return CurveFit(
        **fields,
        covariance=covariance,
        rank=rank,
        num_used=data.num_used,
        absolute_sigma=absolute_sigma,
        model=function,
    )


_fit = jax.jit(_fit_impl, static_argnums=(12, 13, 14))


def _inverse(problem, p, solution):
    if solution.normal_matrix is None:
        return None, None
    free = has_error(solution.param_status).astype(p.dtype)

    def jac_of(operands):
        problem, p, free = operands
        linearization = problem.linearize(p, problem.residual_fn(p), False)
        return linearization.jac * free[None, :]

    return _statistics.unscaled_covariance(
        solution.normal_matrix * (free[:, None] * free[None, :]),
        jac_of,
        (problem, p, free),
        problem.m,
    )
