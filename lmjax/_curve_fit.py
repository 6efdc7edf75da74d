"""The public door to fitting a model to data, and what it returns."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from lmjax import _data, _problem, _report, _statistics
from lmjax._callables import Split, as_pytree
from lmjax._doors import blame, check_feasible, check_pair, resolve_loss
from lmjax._implicit import Implicit
from lmjax._least_squares import solve
from lmjax._result import Solution
from lmjax._solver import LevenbergMarquardt
from lmjax._status import ParamStatus, Status
from lmjax._types import Params
from lmjax._unrolled import Derivative

_DEFAULT = LevenbergMarquardt()
_EXACT = Implicit()


class CurveFit(Solution):
    """A `Solution` with the statistics of a fit to data.

    Everything here works on a batch (leading axes) as well, except the functions of x,
    which take one fit: use ``jax.vmap`` for those.

    Attributes:
        covariance: Covariance of the parameters in ravel order; rows and columns of
            parameters that are fixed, at a bound or without effect are zero. None where
            ``normal_matrix`` is, above 1,000 parameters: errors are NaN then.
        rank: Rank of the Jacobian over the free parameters. Below ``num_free`` some
            combination of parameters is not determined by the data: the covariance is
            then the one of least norm, and the parameters along it are arbitrary. None
            where ``covariance`` is.
        num_used: Observations that count, None if all do.
        absolute_sigma: Whether sigma was taken at face value.
        model: The model, None where ``params`` is itself the callable model.
    """

    covariance: Float[Array, "*batch n n"] | None
    rank: Int[Array, "*batch"] | None
    num_used: Int[Array, "*batch"] | None
    absolute_sigma: bool = eqx.field(static=True)
    model: Callable | None = eqx.field(static=True)

    @property
    def num_points(self) -> Int[Array, "*batch"]:
        """Observations that count."""
        if self.num_used is not None:
            return self.num_used
        batch = self.cost.shape
        points = int(np.prod(self.residual.shape[len(batch) :]))
        return jnp.full(batch, points, jnp.int32)

    @property
    def num_free(self) -> Int[Array, "*batch"]:
        """Parameters with an error bar: not fixed, at a bound or without effect."""
        return jnp.sum(_has_error(self.param_status), axis=-1, dtype=jnp.int32)

    @property
    def dof(self) -> Int[Array, "*batch"]:
        """Degrees of freedom: ``num_points`` less the parameters that are not fixed."""
        return _dof(self.num_points, self.param_status)

    @property
    def chi2(self) -> Float[Array, "*batch"]:
        """Sum of squared residuals in units of sigma (of losses, if robust)."""
        return 2.0 * self.cost

    @property
    def reduced_chi2(self) -> Float[Array, "*batch"]:
        """``chi2 / dof``; NaN without degrees of freedom."""
        dof = jnp.maximum(self.dof, 1).astype(self.cost.dtype)
        return jnp.where(self.dof > 0, self.chi2 / dof, jnp.nan)

    @property
    def stderr(self) -> Params:
        """Standard errors, a pytree like ``params``; NaN where there is none."""
        held = ~_has_error(self.param_status)
        if self.covariance is None:
            return self._unravel(jnp.full(held.shape, jnp.nan, self.cost.dtype))
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1)
        flat = jnp.where(held, jnp.nan, jnp.sqrt(jnp.where(held, 0.0, variance)))
        return self._unravel(flat)

    @property
    def correlation(self) -> Float[Array, "*batch n n"]:
        """Correlation matrix; zero off the diagonal where there is no error."""
        covariance = self._covariance()
        variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
        scale = jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0))
        corr = covariance / (scale[..., :, None] * scale[..., None, :])
        eye = jnp.eye(variance.shape[-1], dtype=bool)
        return jnp.where(eye, 1.0, corr)

    @property
    def aic(self) -> Float[Array, "*batch"]:
        """Akaike's criterion: ``-2 log L + 2 k`` up to a constant of the data.

        With k parameters that are not fixed, ``-2 log L`` is ``chi2`` for absolute
        sigma and ``N log(chi2 / N)`` otherwise, as in lmfit.
        """
        k = (self.num_points - self.dof).astype(self.cost.dtype)
        return self._minus_two_log_likelihood() + 2.0 * k

    @property
    def bic(self) -> Float[Array, "*batch"]:
        """Bayesian criterion: as `aic` with ``k log N`` in place of ``2 k``."""
        n = self.num_points.astype(self.cost.dtype)
        k = (self.num_points - self.dof).astype(self.cost.dtype)
        return self._minus_two_log_likelihood() + k * jnp.log(n)

    def _covariance(self) -> Float[Array, "*batch n n"]:
        if self.covariance is None:
            raise ValueError(
                "covariance: not formed above 1,000 parameters by a matrix-free solver "
                "or with fewer residuals than parameters"
            )
        return self.covariance

    def _minus_two_log_likelihood(self):
        n = self.num_points.astype(self.cost.dtype)
        return self.chi2 if self.absolute_sigma else n * jnp.log(self.chi2 / n)

    def _unravel(self, flat):
        leaves, structure = jax.tree.flatten(self._varied())
        batch = self.cost.shape
        parts, start = [], 0
        for leaf in leaves:
            shape = leaf.shape[len(batch) :]
            size = int(np.prod(shape))
            parts.append(flat[..., start : start + size].reshape(batch + shape))
            start += size
        return jax.tree.unflatten(structure, parts)

    def _varied(self):
        """The parameters without the rest of a callable model."""
        return eqx.filter(self.params, eqx.is_inexact_array)

    def _evaluate(self, params, x):
        if self.model is not None:
            return self.model(params, x)
        return eqx.combine(params, self.params)(x)

    def predict(self, x: Any) -> Array:
        """Return the fitted model at ``x``."""
        return self._evaluate(self._varied(), x)

    def _standard_deviation(self, x):
        """Return the standard deviation of the fitted curve at x, ``sqrt(J C J^T)``."""
        varied = self._varied()
        flat, unravel = ravel_pytree(varied)
        jac = jax.jacfwd(lambda p: self._evaluate(unravel(p), x))(flat)
        variance = jnp.einsum("...i,ij,...j->...", jac, self._covariance(), jac)
        return jnp.sqrt(jnp.maximum(variance, 0.0))

    def _quantile(self, level):
        dof = self.dof.astype(self.cost.dtype)
        dof = jnp.where(self.absolute_sigma, jnp.inf, dof)
        return _statistics.student_t_quantile(level, dof).astype(self.cost.dtype)

    def confidence_band(self, x: Any, level: float = 0.95) -> tuple[Array, Array]:
        """Return (lower, upper) limits of the *curve* at each x, pointwise.

        Linear propagation of the covariance, ``t sqrt(J C J^T)`` with Student's t on
        ``dof`` degrees of freedom (the normal quantile when sigma is absolute).

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> x = jnp.arange(5.0)
            >>> y = 2.0 * x + jnp.array([0.1, -0.1, 0.0, -0.1, 0.1])
            >>> line = lambda p, x: p["slope"] * x + p["offset"]
            >>> fit = lmjax.curve_fit(line, x, y, {"slope": 1.0, "offset": 0.0})
            >>> low, high = fit.confidence_band(x)
            >>> bool(jnp.all((low < 2 * x) & (2 * x < high)))
            True
        """
        centre, half = self.predict(x), self._quantile(level)
        half = half * self._standard_deviation(x)
        return centre - half, centre + half

    def prediction_band(
        self, x: Any, level: float = 0.95, sigma: Any = 1.0
    ) -> tuple[Array, Array]:
        """Return (lower, upper) limits for a *new observation* at each x.

        Args:
            x: Where to predict.
            level: Probability that the band holds one new observation.
            sigma: Its standard deviation in the units given to ``curve_fit``; scaled by
                ``sqrt(reduced_chi2)`` unless sigma was absolute.
        """
        centre = self.predict(x)
        scale = 1.0 if self.absolute_sigma else self.reduced_chi2
        spread = self._standard_deviation(x)
        half = self._quantile(level) * jnp.sqrt(
            spread**2 + scale * jnp.asarray(sigma, spread.dtype) ** 2
        )
        return centre - half, centre + half

    def report(self) -> str:
        """Return a table of parameters, errors, correlations and how the fit went."""
        return _report.curve_fit(self)


def _has_error(param_status):
    return (param_status == ParamStatus.FREE) | (param_status == ParamStatus.UNMOVED)


def _dof(num_points, param_status):
    unfixed = jnp.sum(param_status != ParamStatus.FIXED, axis=-1, dtype=jnp.int32)
    return num_points - unfixed


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

    References:
        Statistics: Seber and Wild (2003), "Nonlinear Regression", chapters 2 and 5.
    """
    _check_choices(model, x, params0, nan_policy)
    y = _as_array(y)
    _data.check_sigma(sigma, mask, y.size, y.ndim)
    check_pair(bounds)
    rho, scale = resolve_loss(loss, loss_scale)
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
        )
    except TypeError as error:
        named = {"x": x, "y": y, "params0": params0, "sigma": sigma, "mask": mask}
        named |= {"bounds": bounds, "fixed": fixed}
        raise blame(error, solver, derivative, named) from error
    if bounds is not None:
        start = model if params0 is None else params0
        check_feasible(fit.status, bounds, eqx.filter(start, _problem.is_parameter))
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
    )
    unscaled, rank = _inverse(problem, outcome.p, solution)
    covariance = unscaled
    if unscaled is not None and not absolute_sigma:
        points = y.size if data.num_used is None else data.num_used
        dof = _dof(points, solution.param_status)
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


_fit = jax.jit(_fit_impl, static_argnums=(12, 13))


def _inverse(problem, p, solution):
    if solution.normal_matrix is None:
        return None, None
    free = _has_error(solution.param_status).astype(p.dtype)

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
