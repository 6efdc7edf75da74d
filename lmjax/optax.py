"""Levenberg-Marquardt as an optax transformation, for training small networks.

Import it as ``import lmjax.optax``. Each update is one step of the damped normal
equations, ``dp = -(J^T J + lam diag(scale^2))^-1 J^T r``, solved in the space of the
residual where that is smaller (`lmjax.Dual`); lambda lives in the state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lmjax._jax import paths
from lmjax._jax.types import Params, Scalar
from lmjax._linalg.linearization import DenseLinearization
from lmjax._linalg.solvers import Cholesky, Dual
from lmjax._problem.problem import build
from lmjax._problem.user_jacobian import assemble
from lmjax._solver.damping import FADE, Nielsen, achieves_enough, fading
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.single_fit import SingleFit
from lmjax._solver.trial import damped_step, measure


class LevenbergMarquardtState(NamedTuple):
    """State of `levenberg_marquardt` between two updates.

    Attributes:
        damping: Lambda for the next step.
        growth: Factor on lambda if that step is poor.
        scale: Fading maximum of the norms of the columns of J, zero before the first.
        cost: Half the sum of squares where the last step started.
        predicted: Reduction that the linear model predicted for the last step; NaN
            before the first and where the gain of the step is known already.
        accepted: Whether the last step was taken.
    """

    damping: Scalar
    growth: Scalar
    scale: Float[Array, " n"]
    cost: Scalar
    predicted: Scalar
    accepted: Array


def levenberg_marquardt(
    damping: Any = None, linear_solver: Callable | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return an optax transformation that takes Levenberg-Marquardt steps.

    ``update`` needs ``params`` and, as extra arguments, either

    - ``residual_fn``: a function ``params -> residuals`` (an array or a pytree). The
      step is tried: one that does not reduce ``1/2 sum(residuals**2)`` is not taken
      (the update is zero) and lambda grows. Costs one Jacobian and one more evaluation.
    - ``residuals`` and ``jacobian``: arrays, or pytrees as ``jax.jacfwd`` or
      ``jax.jacrev`` return. The step is taken unseen, and lambda follows when the
      next residuals tell what it achieved: they must be of the same data.

    The gradients given to ``update`` set the shapes only, since ``J^T r`` is known from
    the residuals; transformations that follow in an ``optax.chain`` see the step.
    Memory: J, and a matrix of the size of the residual or of the parameters, whichever
    is smaller.

    Args:
        damping: `lmjax.Nielsen` (the default, from 1), `lmjax.Classical` or
            `lmjax.Fixed`.
        linear_solver: As in `lmjax.LevenbergMarquardt`; a dense one. None takes
            `lmjax.Cholesky`, or `lmjax.Dual` with fewer residuals than parameters.

    Returns:
        The transformation; its state has ``damping`` and ``accepted``.

    Raises:
        ValueError: From ``update``, if neither form of extra arguments is complete.

    Example:
        >>> import jax.numpy as jnp, optax, lmjax.optax
        >>> residual_fn = lambda p: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])
        >>> lm, p = lmjax.optax.levenberg_marquardt(), jnp.array([-1.2, 1.0])
        >>> state = lm.init(p)
        >>> for _ in range(30):
        ...     step, state = lm.update(p, state, p, residual_fn=residual_fn)
        ...     p = optax.apply_updates(p, step)
        >>> print(f"{p[0]:.3f} {p[1]:.3f}")
        1.000 1.000
    """
    rule = Nielsen() if damping is None else damping
    # checked where every solver is made
    LevenbergMarquardt(damping=rule, linear_solver=linear_solver)

    def init(params: Params) -> LevenbergMarquardtState:
        dtype = paths.check_params(params)
        flat, _ = ravel_pytree(params)
        lam, growth = rule.start(dtype)
        nan = jnp.full((), jnp.nan, dtype)
        scale = jnp.zeros(flat.shape, dtype)
        return LevenbergMarquardtState(lam, growth, scale, nan, nan, jnp.array(True))

    def update(
        updates,
        state,
        params=None,
        *,
        residual_fn=None,
        residuals=None,
        jacobian=None,
        **extra_args,
    ):
        del updates, extra_args
        if params is None:
            raise ValueError("params: update needs the parameters")
        flat, unravel = ravel_pytree(params)
        if residual_fn is not None:
            step, state = _tried(rule, linear_solver, residual_fn, params, state)
        elif residuals is not None and jacobian is not None:
            r, _ = ravel_pytree(residuals)
            jac = assemble(jacobian, params, r.size, flat.size, flat.dtype)
            linearization = DenseLinearization(r.astype(flat.dtype), jac.T)
            step, state = _unseen(rule, linear_solver, linearization, state)
        else:
            raise ValueError(
                "expected residual_fn=..., or both residuals=... and jacobian=..., as "
                "extra arguments of update"
            )
        return unravel(step.astype(flat.dtype)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _choose(linear_solver, m: int, n: int) -> Callable:
    if linear_solver is not None:
        return linear_solver
    return Dual() if m < n else Cholesky()


def _tried(rule, linear_solver, residual_fn, params, state):
    """Return the step if it reduces the cost, else zero."""
    options = {"bounds": None, "fixed": None, "term": None}
    problem, p, _, _ = build(residual_fn, params, jac=None, **options)
    fit = SingleFit(problem, _choose(linear_solver, problem.m, p.size), p)
    point = fit.start(p)
    scale = jnp.maximum(state.scale.astype(p.dtype), point.norms)
    given = point, state.damping.astype(p.dtype), scale, fit
    proposed = damped_step(*given)
    trial = measure(proposed, fit.evaluate(proposed.p), *given)
    accept = jnp.isfinite(trial.cost) & achieves_enough(rule, trial.gain)
    if rule.guarded:
        accept &= trial.predicted >= 0.0
    lam, growth = rule.update(state.damping, state.growth, trial.gain, accept)
    # at a minimum rounding hides the gain; lambda must not run away there
    visible = ~(jnp.abs(trial.predicted) <= trial.cost_rounding)
    lam = jnp.where(visible, lam, state.damping)
    growth = jnp.where(visible, growth, state.growth)
    scale = fading(trial.gain, accept, p.dtype) * scale
    known = jnp.full_like(point.cost, jnp.nan)
    state = _like(state, lam, growth, scale, point.cost, known, accept)
    return jnp.where(accept, trial.p - p, 0.0), state


def _unseen(rule, linear_solver, linearization: DenseLinearization, state):
    """Return the step; lambda follows what the step before it achieved."""
    grad, norms, size = linearization.moments()
    cost = 0.5 * size**2
    gain = (state.cost - cost) / state.predicted
    known = jnp.isfinite(state.predicted) & (state.predicted > 0.0)
    good = jnp.isfinite(gain) & achieves_enough(rule, gain)
    lam, growth = rule.update(state.damping, state.growth, gain, good)
    lam = jnp.where(known, lam, state.damping)
    growth = jnp.where(known, growth, state.growth)
    scale = jnp.maximum(state.scale, norms)
    inverse_scale = 1.0 / jnp.where(scale > 0.0, scale, 1.0)
    scaled = linearization.rescale(inverse_scale)
    step = inverse_scale * _choose(linear_solver, *linearization.jac.shape)(scaled, lam)
    finite = jnp.all(jnp.isfinite(step))
    step = jnp.where(finite, step, 0.0)
    predicted = linearization.predicted_reduction(step)
    return step, _like(state, lam, growth, FADE * scale, cost, predicted, finite)


def _like(state, *fields) -> LevenbergMarquardtState:
    """Return a state with the dtypes of another, as a loop or jit expects."""
    pairs = zip(fields, state, strict=True)
    return LevenbergMarquardtState(*(jnp.asarray(a, b.dtype) for a, b in pairs))
