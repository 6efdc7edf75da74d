r"""One trial: solve the damped linear problem, then measure what the step achieves.

The gain is the reduction of the cost over the one that the linear model predicts,
``predicted = -(g . dp) - ||J dp||^2 / 2``, with dp as it was before a second-order
correction. `lmjax._solver.loop` decides by it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax import sharded
from lmjax._linalg.linearization import sums
from lmjax._solver import roundoff
from lmjax._solver.fit import Fit
from lmjax._solver.point import Point, free_part, inverse_scale


class DampedStep(NamedTuple):
    """A step whose end has not been evaluated yet.

    Attributes:
        p: Parameters at its end, inside the bounds.
        dp: The step.
        uncorrected: The step without its second-order correction, None if it has none.
        pivots: Pivots of the damped linear problem.
        correction_small: Whether the second-order correction is small enough.
        residual_rounding: Largest change of the residual by rounding, as a norm.
        cost_rounding: Largest change of the cost by rounding.
        free_effects: See `lmjax._solver.roundoff.squared_effects`, summed.
    """

    p: Float[Array, "a *f"]
    dp: Float[Array, "n *f"]
    uncorrected: Float[Array, "n *f"] | None
    pivots: Float[Array, "n *f"]
    correction_small: Bool[Array, "*f"]
    residual_rounding: Float[Array, "*f"]
    cost_rounding: Float[Array, "*f"]
    free_effects: list[Float[Array, "*f"]]


class Trial(NamedTuple):
    """The end of a step and what is known about it before it is linearised.

    Attributes:
        p: Trial parameters, inside the bounds.
        dp: The step that leads there.
        evaluated: What ``Fit.evaluate`` returned there.
        cost: Cost there.
        slope: Derivative of the cost along the whole step, ``g . dp``.
        predicted: Reduction that the linear model predicts.
        actual: Reduction achieved.
        residual_rounding: Largest change of the residual by rounding, as a norm.
        cost_rounding: Reductions below this cannot be told from rounding.
        below_rounding: Whether rounding hides what the step achieved.
        gain: ``actual / predicted``, both raised by ``cost_rounding``.
        step_size: Norm of the step in units of the scale.
        size: Norm of the current parameters in units of the scale.
        cancels: Whether the effects of the free parameters cancel.
        pivot: Least pivot of the undamped normal matrix in units of the scale.
        damped_pivot: That of the damped one.
        correction_small: Whether the second-order correction was small enough.
    """

    p: Float[Array, "a *f"]
    dp: Float[Array, "n *f"]
    evaluated: Any
    cost: Float[Array, "*f"]
    slope: Float[Array, "*f"]
    predicted: Float[Array, "*f"]
    actual: Float[Array, "*f"]
    residual_rounding: Float[Array, "*f"]
    cost_rounding: Float[Array, "*f"]
    below_rounding: Bool[Array, "*f"]
    gain: Float[Array, "*f"]
    step_size: Float[Array, "*f"]
    size: Float[Array, "*f"]
    cancels: Bool[Array, "*f"]
    pivot: Float[Array, "*f"]
    damped_pivot: Float[Array, "*f"]
    correction_small: Bool[Array, "*f"]


def damped_step(
    point: Point,
    lam: Float[Array, "*f"],
    scale: Float[Array, "n *f"],
    fit: Any,
    geodesic: bool = False,
    short: Bool[Array, "*f"] | None = None,
) -> DampedStep:
    """Solve the damped linear problem.

    Args:
        point: Where the step begins.
        lam: Damping.
        scale: Units of the parameters.
        fit: A `Fit`, with ``second_derivative`` if ``geodesic``.
        geodesic: Whether to add the second-order correction of Transtrum and Sethna.
        short: Where to cut the step so that the cost falls by about its rounding.
    """
    constraints = fit.constraints
    factor = inverse_scale(point, scale)
    scaled = point.linearization.rescale(factor)
    q, pivots = fit.solve(scaled, lam)
    if (got := jnp.shape(q)) != factor.shape:
        raise ValueError(
            f"linear_solver: expected a step of shape {factor.shape}, got {got}"
        )
    dp, uncorrected = factor * q, None
    correction_small = jnp.ones_like(lam, bool)
    if geodesic:
        uncorrected = dp
        bend = fit.second_derivative(point, dp)
        correction, _ = fit.solve(scaled.with_residual(bend), lam)
        # Transtrum and Sethna (2012), equation 15: refuse steps whose two orders
        # disagree
        correction_small = 2.0 * jnp.linalg.norm(correction) <= 0.75 * jnp.linalg.norm(
            q
        )
        dp = dp + 0.5 * factor * correction
    free = free_part(point, constraints)
    effects, *free_effects, slope = sums(
        (point.norms * constraints.coordinates(point.p)) ** 2,
        *roundoff.squared_effects(point.norms, free, constraints.coordinates(fit.p0)),
        point.grad * dp,
    )
    residual_rounding = roundoff.residual_rounding(effects, point.cost)
    cost_rounding = roundoff.cost_rounding(residual_rounding, point.cost)
    if short is not None:
        slope = jnp.where(slope == 0.0, 1.0, jnp.abs(slope))
        cut = jnp.where(short, jnp.minimum(1.0, cost_rounding / slope), 1.0)
        dp = cut * dp
        uncorrected = None if uncorrected is None else cut * uncorrected
    target = constraints.shifted(point.p, dp)
    inside = constraints.project(target)
    if constraints.box is not None:
        inside = _along_bounds(point, lam, factor, target, inside, fit)
    if constraints.charts is None or constraints.box is not None:
        dp = constraints.difference(point.p, inside)
    if uncorrected is not None and constraints.box is not None:
        # a second step along bounds has no correction
        bounded = jnp.any(inside != target, axis=0)
        uncorrected = jnp.where(bounded, dp, uncorrected)
    return DampedStep(
        inside,
        dp,
        uncorrected,
        pivots,
        correction_small,
        residual_rounding,
        cost_rounding,
        free_effects,
    )


def measure(
    step: DampedStep,
    evaluated: Any,
    point: Point,
    lam: Float[Array, "*f"],
    scale: Float[Array, "n *f"],
    fit: Fit,
) -> Trial:
    """Return what is known of the end of a step once ``fit`` has evaluated it."""
    constraints = fit.constraints
    dp, modelled = step.dp, step.uncorrected
    modelled = dp if modelled is None else modelled
    cost, actual, bend_squared, effect = fit.compare(point, modelled, evaluated)
    slope, step_size, size = sums(
        point.grad * dp,
        (scale * dp) ** 2,
        (scale * constraints.coordinates(point.p)) ** 2,
    )
    # What the correction does to the linear model, the curvature undoes: the gain is
    # measured by the step without it. With it, Rosenbrock's valley takes more steps.
    first_order = slope if step.uncorrected is None else jnp.sum(point.grad * modelled)
    predicted = -first_order - 0.5 * bend_squared
    cost_rounding = step.cost_rounding + fit.cost_rounding(point.cost)
    least = lambda lam: roundoff.least_pivot(
        step.pivots, lam, point.norms, point.free, fit.squares_condition
    )
    return Trial(
        p=step.p,
        dp=dp,
        evaluated=evaluated,
        cost=cost,
        slope=slope,
        predicted=predicted,
        actual=actual,
        residual_rounding=step.residual_rounding,
        cost_rounding=cost_rounding,
        below_rounding=roundoff.below_rounding(predicted, actual, cost_rounding),
        gain=roundoff.gain_ratio(predicted, actual, cost_rounding),
        step_size=jnp.sqrt(step_size),
        size=jnp.sqrt(size),
        cancels=roundoff.effects_cancel(effect, *step.free_effects),
        pivot=least(lam),
        damped_pivot=least(0.0),
        correction_small=step.correction_small,
    )


def _along_bounds(point: Point, lam, factor, target, projected, fit: Fit):
    """Return the end of a second step, with the parameters that hit a bound held there.

    Projection alone would leave the other parameters at values for the uncut step.
    """
    constraints = fit.constraints
    here, beyond, inside = map(constraints.coordinates, (point.p, target, projected))
    hit = (beyond != inside) & (factor > 0.0)

    def solve_again():
        cut = jnp.where(hit, inside - here, 0.0)
        rest = jnp.where(hit, 0.0, factor)
        model = point.linearization.shifted(cut).rescale(rest)
        step = cut + rest * fit.solve(model, lam)[0]
        return constraints.project(constraints.shifted(point.p, step))

    # one fit or a block of them: the second solve is only for those that hit a bound
    again = sharded.cond(jnp.any(hit), solve_again, lambda: projected)
    return jnp.where(jnp.any(hit, axis=0), again, projected)
