"""`curve_fit`: a model fitted to data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lmjax._derivatives.implicit import Implicit
from lmjax._derivatives.unrolled import Derivative
from lmjax._errors.advice import hints
from lmjax._fit.curve_result import CurveFit
from lmjax._fit.inputs import check_choices, completed, convert, dtype_of, resolved
from lmjax._fit.objective import objective, statistics_of
from lmjax._fit.solve import solve
from lmjax._fit.tie import tied
from lmjax._fit.validate import check_affine, resolve_linear
from lmjax._fit.validate_solver import check_solver
from lmjax._jax import arrays
from lmjax._jax.constant_indices import traced_shapes
from lmjax._jax.types import Params
from lmjax._problem.data import inside_domain, prepare
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._statistics.covariance import covariance_of_fit
from lmjax._statistics.statistics import is_free
from lmjax.likelihoods import Likelihood

_DEFAULT = LevenbergMarquardt()
_EXACT = Implicit()


@hints
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
    likelihood: str | Likelihood | None = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    linear: Any = None,
    tie: Callable | None = None,
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
        x: Independent variables, handed to the model as they are. Lists, series and
            tables of pandas and the like become arrays; ``dict(table)`` keeps names.
        y: Observations, an array of any shape; or several data sets in one fit, a dict
            or tuple of arrays like the one that the model returns. Parameters of the
            same name are common to all.
        params0: Start: any pytree of floating-point numbers or arrays.
        sigma: Standard deviation of the observations: a number, an array that
            broadcasts to ``y``, an (m, m) covariance matrix for one-dimensional ``y``,
            or the pair returned by ``jax.scipy.linalg.cho_factor`` of one. With several
            data sets a prefix pytree of y, of numbers and arrays as above.
        absolute_sigma: Whether sigma is known in absolute size, so that it sets the
            errors. By default only its relative size counts, and the errors are
            multiplied by ``sqrt(reduced_chi2)``.
        mask: Booleans that broadcast to ``y``: True = use the point. Masked points stay
            in x, which a convolution needs; only where x or the model is not finite
            there, x of a used point takes their place. With several data sets a prefix
            pytree of y (x then has the structure of y, if it has such places).
        nan_policy: "propagate" lets a NaN in ``x`` or ``y`` end the fit with a status;
            "omit" treats its point as masked.
        likelihood: Noise that is not Gaussian: "poisson", "binomial" (one trial), or
            one of `lmjax.likelihoods`. The fit is then one of maximum likelihood, its
            covariance the inverse of the Fisher information, and neither sigma,
            absolute_sigma nor loss can be given.
        bounds: As in `least_squares`.
        fixed: As in `least_squares`.
        linear: As in `least_squares`.
        tie: ``tie(free)`` returns all parameters of the model, of which some follow
            from others: ``lambda p: {**p, "b": 2 * p["a"]}``. The free ones are those
            that start in params0 (or in the Module) and that ``tie`` reads; the others
            may be left out, and are None in ``fit.params``. bounds, fixed and linear
            are about the free ones, as are ``fit.params`` and its errors.
            ``fit.all_params`` and ``fit.all_stderr`` have all.
        loss: As in `least_squares`; applied to residuals in units of sigma.
        loss_scale: As in `least_squares`.
        solver: Algorithm and settings. Its ``jac``, if a function, is ``jac(params,
            x)``, the derivative of the model.
        derivative: As in `least_squares`.

    Returns:
        The `CurveFit`. A fit that fails does not raise: see its ``status``.

    Raises:
        ValueError: If a shape, a name, a concrete bound or sigma is wrong, concrete
            data are impossible under the likelihood, or the model reads an array of
            params0 or x beyond its end.
        TypeError: If parameters or data are not real numbers, or masked by numpy.ma.

    Warns:
        UserWarning: If jax rounds float64 data to float32 and that matters.

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
    check_choices(model, params0, nan_policy)
    check_solver(solver, derivative)
    if tie is not None:
        model, params0 = tied(model, params0, tie)
    y = arrays.as_arrays("y", y)
    inputs = convert(
        model,
        x,
        y,
        params0,
        sigma=arrays.as_weights("sigma", sigma, y),
        absolute_sigma=absolute_sigma,
        mask=arrays.as_weights("mask", mask, y),
        likelihood=likelihood,
        bounds=bounds,
        fixed=fixed,
        loss=loss,
        loss_scale=loss_scale,
    )
    if likelihood is not None and not hasattr(y, "shape"):
        raise ValueError(
            "y: expected one array beside likelihood=, got several data sets"
        )
    start = inputs.start
    marked = resolve_linear(
        linear,
        start,
        bounds=bounds,
        terms={"loss": inputs.term, "likelihood": likelihood},
        solver=solver,
        derivative=derivative,
    )
    try:
        inputs, plain = inputs.with_programs(solver)
        fit = _fit(inputs, plain, derivative, absolute_sigma, nan_policy, marked)
    except (TypeError, OverflowError) as error:
        raise inputs.name_refused_argument(error) from error
    inputs.check_answer(fit)
    if marked is not None:
        check_affine(fit.status, marked, start)
    return completed(fit, model, params0)


def _fit_impl(inputs, solver, derivative, absolute_sigma, nan_policy, linear):
    params0, evaluate = resolved(inputs.model, inputs.params0)
    out = traced_shapes(evaluate, params0=params0, x=inputs.x)
    dtype = dtype_of(out, inputs.y)
    data = prepare(inputs.x, inputs.y, inputs.sigma, inputs.mask, nan_policy, dtype)
    data = inside_domain(data, evaluate(params0, data.x))

    def predict(params):
        cast = lambda leaf: leaf.astype(dtype)
        return jax.tree.map(cast, evaluate(params, data.x))

    def residual_of(f):
        r = jax.tree.map(jnp.subtract, f, data.y)
        flat, unravel = ravel_pytree(r)
        return unravel(data.whiten(flat))

    goal = objective(inputs, data, predict, residual_of, dtype)
    jac = inputs.jac or solver.jac
    solution, problem, outcome = solve(
        goal.residual_fn,
        params0,
        bounds=inputs.bounds,
        fixed=inputs.fixed,
        term=goal.term,
        solver=solver,
        derivative=derivative,
        jac=(lambda params: jac(params, data.x)) if callable(jac) else jac,
        whiten=data.whiten,
        linear=linear,
    )
    inverse = _inverse(problem, outcome, solution.flat_status, solver.engine)
    found = statistics_of(
        goal,
        solution,
        outcome,
        problem,
        covariance=None if inverse is None else inverse.matrix,
        rank=None if inverse is None else inverse.rank,
        undetermined=None if inverse is None else inverse.open,
        num_used=data.num_used,
        absolute_sigma=absolute_sigma,
    )
    # `completed` puts the model in
    return CurveFit(**vars(goal.observed(solution)) | found, model=None)


_fit = jax.jit(_fit_impl, static_argnums=(3, 4, 5))


def _inverse(problem, outcome, param_status, engine: str | None):
    if outcome.normal_matrix is None:
        return None

    counts = is_free(param_status) & ~outcome.lost
    squares = jnp.where(counts, outcome.norms**2, 0.0)
    return covariance_of_fit(problem, outcome.p, outcome.normal_matrix, squares, engine)
