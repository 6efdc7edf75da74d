"""`global_fit`: many curves that share some of their parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmjax._derivatives.implicit import Implicit
from lmjax._derivatives.unrolled import Derivative, detach
from lmjax._errors.advice import hints
from lmjax._fit.global_result import GlobalFit
from lmjax._fit.inputs import check_choices, completed, convert, dtype_of, resolved
from lmjax._fit.objective import objective, statistics_of
from lmjax._fit.solve import solve
from lmjax._fit.validate import check_curves
from lmjax._fit.validate_solver import check_curve_solver, check_solver
from lmjax._jax import arrays, paths, program_cache
from lmjax._jax.constant_indices import traced_shapes
from lmjax._jax.types import Params
from lmjax._linalg.solvers import Schur
from lmjax._problem import groups
from lmjax._problem.groups import Layout
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.solution import Solution
from lmjax._statistics.block_covariance import unscaled_blocks
from lmjax._statistics.statistics import is_free
from lmjax.likelihoods import Likelihood

_DEFAULT = LevenbergMarquardt()
_EXACT = Implicit()


@hints
def global_fit(
    model: Callable,
    x: Any,
    y: Any,
    params0: Params = None,
    *,
    shared: Any,
    sigma: Any = None,
    absolute_sigma: bool = False,
    mask: Any = None,
    nan_policy: str = "propagate",
    likelihood: str | Likelihood | None = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    loss: str | Callable | None = None,
    loss_scale: Any = 1.0,
    solver: LevenbergMarquardt = _DEFAULT,
    derivative: Derivative = _EXACT,
) -> GlobalFit:
    """Fit ``model(params, x)`` to many curves at once, some parameters shared by all.

    One fit of one cost, with all errors and correlations of a joint fit. Own parameters
    are eliminated curve by curve (`Schur`): time and memory grow like the number of
    curves.
    Works under ``jax.jit`` and ``jax.vmap``; every number may be traced.

    All curves share one damping: a curve that starts far from its minimum slows down
    the others, and steps that lower the total cost may take it to a worse minimum.
    Bounds help, and so does a start per curve from independent fits.

    Args:
        model: ``model(params, x)`` returns one curve. A callable ``eqx.Module`` may
            hold its own start, as in `curve_fit`.
        x: Independent variables. A leaf whose shape begins with that of ``y`` holds
            those of each curve; any other is common to all curves.
        y: Observations, curves on the first axis; or a list of curves of unequal
            length, with lists for x (for leaves of x), sigma and mask that match.
        params0: Start: parameters of one curve, the same for all. A leaf that is not
            shared and whose first axis is as long as there are curves is a start for
            each curve.
        shared: Prefix pytree of booleans: True = one value for all curves. What is left
            out has a value per curve.
        sigma: Standard deviation of the observations: a number, or an array that
            broadcasts to ``y``.
        absolute_sigma: As in `curve_fit`.
        mask: Booleans that broadcast to ``y``: True = use the point. A curve that is
            masked entirely keeps its start and has no errors.
        nan_policy: "propagate" lets a NaN anywhere in ``x`` or ``y`` end the fit with a
            status; "omit" treats its point as masked (in all curves, if x is common).
        likelihood: As in `curve_fit`; its arrays broadcast to ``y``.
        bounds: As in `curve_fit`; arrays may differ per curve on their first axis.
        fixed: As ``bounds``: True keeps a parameter at its start.
        loss: As in `curve_fit`.
        loss_scale: As in `curve_fit`.
        solver: Algorithm and settings; its ``linear_solver`` is `Schur`.
        derivative: As in `curve_fit`.

    Returns:
        The `GlobalFit`. A fit that fails does not raise: see its ``status``.

    Raises:
        ValueError: If a shape, a name, a concrete bound or sigma is wrong, concrete
            data are impossible under the likelihood, or the model reads an array of
            params0 or x beyond its end.
        TypeError: If parameters or data are not real numbers; a list of masked arrays
            keeps its masks.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> def decay(p, t):
        ...     return p["amplitude"] * jnp.exp(-t / p["tau"])
        >>> t = jnp.linspace(0.0, 5.0, 6)
        >>> y = jnp.array([[3.02, 1.80, 1.11, 0.68, 0.41, 0.24],
        ...                [1.01, 0.61, 0.36, 0.22, 0.13, 0.09]])
        >>> start = {"amplitude": 1.0, "tau": 1.0}
        >>> fit = lmjax.global_fit(decay, t, y, start, shared={"tau": True})
        >>> print(f"tau = {fit.params['tau']:.2f} +- {fit.stderr['tau']:.2f}")
        tau = 1.99 +- 0.01
        >>> print(fit.params["amplitude"].shape)
        (2,)
    """
    check_choices(model, params0, nan_policy)
    check_solver(solver, derivative)
    check_curve_solver(solver)
    x, y, sigma, mask = groups.rectangular(x, y, sigma, mask)
    y = arrays.as_array("y", y)
    check_curves(y, sigma)
    inputs = convert(
        model,
        x,
        y,
        params0,
        sigma=None if sigma is None else arrays.as_array("sigma", sigma),
        absolute_sigma=absolute_sigma,
        mask=None if mask is None else arrays.as_array("mask", mask),
        likelihood=likelihood,
        bounds=bounds,
        fixed=fixed,
        loss=loss,
        loss_scale=loss_scale,
    )
    try:
        paths.check_params(inputs.start)
        flags = groups.shared_leaves(shared, inputs.start)
        if params0 is not None:
            one = groups.of_one_curve(params0, flags, inputs.x, y.shape)
            inputs = inputs._replace(
                model=program_cache.model("model", model, *one, data=y)
            )
        fit = _fit(inputs, solver, derivative, flags, absolute_sigma, nan_policy)
    except (TypeError, OverflowError) as error:
        raise inputs.name_refused_argument(error) from error
    inputs.check_answer(fit)
    return completed(fit, model, params0)


def _fit_impl(inputs, solver, derivative, shared, absolute_sigma, nan_policy):
    params0, evaluate = resolved(inputs.model, inputs.params0)
    y, weights = inputs.y, (inputs.sigma, inputs.mask)
    layout, start = groups.lay_out(params0, shared, len(y))
    axes = groups.axes_of(inputs.x, y.shape)
    one = lambda start, x: evaluate(
        *groups.of_one_curve(start, layout.shared, x, y.shape)
    )
    out = traced_shapes(one, params0=start, x=inputs.x)
    dtype = dtype_of(out, jax.ShapeDtypeStruct(y.shape[1:], y.dtype))
    data = groups.curves_last(inputs.x, axes, y, *weights, nan_policy, dtype)

    def curves(p, x):
        each = lambda own, common, x: evaluate(layout.of_one(own, common), x)
        own, common = layout.arrow.split(p)
        return jax.vmap(each, in_axes=(-1, None, axes), out_axes=-1)(own, common, x)

    data = groups.inside_domain(data, curves(layout.flatten(start), data.x))
    predict = lambda p: curves(p, data.x).astype(dtype).ravel()
    residual_of = lambda f: data.whiten(f - data.y.ravel())
    laid_out = lambda likelihood: groups.likelihood_last(likelihood, y.shape)
    goal = objective(inputs, data, predict, residual_of, dtype, laid_out)
    start = _cast(start, paths.common_dtype(*jax.tree.leaves(params0), dtype))
    solution, problem, outcome = solve(
        goal.residual_fn,
        layout.flatten(start),
        bounds=_bounds(inputs.bounds, layout, start),
        fixed=_fixed(inputs.fixed, layout, start, data.mask),
        term=goal.term,
        solver=_with_schur(solver),
        derivative=derivative,
        jac="fwd",
        arrow=layout.arrow,
    )
    covariance, rank, undetermined = _covariance(problem, outcome, solution)
    found = statistics_of(
        goal,
        solution,
        outcome,
        problem,
        covariance=covariance,
        rank=rank,
        undetermined=undetermined,
        num_used=data.num_used,
        absolute_sigma=absolute_sigma,
    )
    found["flat_status"] = layout.ravel(found["flat_status"])
    by_curve = _by_curve(goal.observed(solution), layout, data.y.shape)
    return GlobalFit(
        **vars(by_curve) | found,
        model=None,  # `completed` puts it in
        shared=shared,
        per_curve=tuple(axis is not None for axis in groups.axis_list(axes)),
    )


_fit = jax.jit(_fit_impl, static_argnums=(3, 4, 5))


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _with_schur(solver: LevenbergMarquardt) -> LevenbergMarquardt:
    if solver.linear_solver is not None:
        return solver
    return dataclasses.replace(solver, linear_solver=Schur())


def _bounds(bounds, layout: Layout, start):
    """Return the bounds of the flat parameters."""
    if bounds is None:
        return None
    dtype = jax.tree.leaves(start)[0].dtype
    spread = lambda k, default: layout.unravel(
        paths.ravel_prefix(f"bounds[{k}]", bounds[k], start, default, dtype)
    )
    return spread(0, -jnp.inf), spread(1, jnp.inf)


def _fixed(fixed, layout: Layout, start, mask):
    """Return which flat parameters are fixed; those of a curve without data are."""
    held = None
    if fixed is not None:
        flags = paths.ravel_prefix("fixed", fixed, start, False, bool)
        held = layout.unravel(flags)
    if mask is None:
        return held
    arrow = layout.arrow
    empty = ~jnp.any(mask.reshape(-1, arrow.curves), axis=0)
    own = jnp.repeat(empty[None], arrow.own, axis=0)
    empty = arrow.join(own, jnp.zeros(arrow.shared, bool))
    return empty if held is None else held | empty


def _covariance(problem, outcome, solution):
    """Return the unscaled covariance, the rank, and which parameters are left open."""
    free = is_free(solution.flat_status) & ~outcome.lost
    p, problem = detach((outcome.p, problem))
    linearization = problem.linearize(p, problem.residual_fn(p), False)
    columns = linearization.rescale(free.astype(p.dtype)).columns
    return unscaled_blocks(outcome.normal_matrix.kept(free), columns)


def _by_curve(solution: Solution, layout: Layout, shape) -> Solution:
    """Return the solution with its flat arrays as pytrees, curves first."""
    history = solution.history
    if history is not None:
        params = jax.vmap(layout.unflatten)(history.params)
        history = dataclasses.replace(history, params=params)
    return dataclasses.replace(
        solution,
        params=layout.unflatten(solution.params),
        residual=jnp.moveaxis(solution.residual.reshape(shape), -1, 0),
        normal_matrix=None,
        history=history,
    )
