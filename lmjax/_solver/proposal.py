r"""One proposal: solve the damped linear problem, try the step, measure both.

Nothing here decides: `lmjax._solver.loop` judges what a proposal achieves against what
it promised, ``predicted = -(g . dp) - ||J dp||^2 / 2``.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax import varying
from lmjax._linalg.arrowhead import ArrowLinearization
from lmjax._linalg.linearization import Linearization, sums
from lmjax._problem.bounds import Conditions
from lmjax._solver import roundoff


class Point(NamedTuple):
    """Everything known at one set of parameters.

    Attributes:
        p: Parameters.
        r: Residual (prediction, with a likelihood); None where only sums are kept.
        linearization: Linear model of the cost, unscaled; see
            `lmjax._linalg.linearization`.
        cost: Half the sum of squares, of losses or of deviances.
        grad: Gradient of the cost.
        norms: Norms of the columns of the linearization.
        free: Flags of the parameters that may move, or None for all.
        optimality: Largest cosine between the residual and a free column.
    """

    p: Float[Array, "n *f"]
    r: Any
    linearization: Any
    cost: Float[Array, "*f"]
    grad: Float[Array, "n *f"]
    norms: Float[Array, "n *f"]
    free: Bool[Array, "n *f"] | None
    optimality: Float[Array, "*f"]


class Proposal(NamedTuple):
    """A trial point and what is known about it before it is linearised.

    Attributes:
        p: Trial parameters, inside the bounds.
        visit: What evaluating there left behind, for ``settle``.
        cost: Cost there.
        slope: Derivative of the cost along the whole step, ``g . dp``.
        predicted: Reduction that the linear model promises.
        actual: Reduction achieved.
        residual_rounding: Norm of what rounding may do to the residual.
        cost_rounding: Reductions below this cannot be told from rounding.
        below_rounding: Whether rounding hides what the step achieved.
        gain: ``actual / predicted``, both raised by ``cost_rounding``.
        step_size: Norm of the step in units of the scale.
        size: Norm of the current parameters in units of the scale.
        cancels: Whether the effects of the free parameters cancel.
        pivot: Least pivot of the undamped normal matrix in units of the scale.
        damped_pivot: That of the damped one.
        fits: Whether the second-order correction, if any, was small enough.
    """

    p: Float[Array, "n *f"]
    visit: Any
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
    fits: Bool[Array, "*f"]


def point_at(
    conditions: Conditions,
    p,
    r,
    linearization: Linearization | ArrowLinearization,
    cost,
) -> Point:
    """Return the point at ``p``, given its linear model."""
    grad, norms, size = linearization.moments()
    free = conditions.free(p, grad)
    # |J_j . r| / (|J_j| |r|): dimensionless; an idle column or a zero residual counts
    # as 0.
    size = norms * size
    usable = size > 0.0 if free is None else (size > 0.0) & free
    cosines = jnp.where(usable, jnp.abs(grad) / jnp.where(usable, size, 1.0), 0.0)
    return Point(p, r, linearization, cost, grad, norms, free, jnp.max(cosines, axis=0))


def free_part(point: Point) -> Float[Array, "n *f"]:
    """Return the parameters, zero where they may not move."""
    return point.p if point.free is None else jnp.where(point.free, point.p, 0.0)


def first_scale(
    point: Point, curvatures: Float[Array, "n *f"] | None
) -> Float[Array, "n *f"]:
    """Return the scale of the first step: the norms of the columns, and their change.

    ``sqrt(|J_j|^2 + |r| |d^2 r / dp_j^2|)``, the second term an upper bound of what the
    linear model leaves out of the Hessian's diagonal. The columns alone let the first
    step leap onto plateaus where every gradient vanishes: of 198 decays from (1, 1, 0)
    it left 59 short of their minimum, MINPACK 53, this scale none.

    Args:
        point: The first point.
        curvatures: The second terms, None where they are not known.
    """
    if curvatures is None:
        return point.norms
    scale = jnp.sqrt(point.norms**2 + curvatures)
    return jnp.where(jnp.isfinite(scale), scale, point.norms)


def isfinite(point: Point) -> Bool[Array, "*f"]:
    """Return whether the linearization is finite: all of J enters these two."""
    return jnp.all(jnp.isfinite(point.grad) & jnp.isfinite(point.norms), axis=0)


class Aim(NamedTuple):
    """A trial point before it is visited.

    Attributes:
        p: Trial parameters, inside the bounds.
        pivots: Pivots of the damped linear problem.
        fits: False where the bend along the step says it goes too far.
        rounding: Norm of what rounding may do to the residual.
        noise: What that may do to the cost.
        free_effects: See `lmjax._solver.roundoff.squared_effects`, summed.
    """

    p: Float[Array, "n *f"]
    pivots: Float[Array, "n *f"]
    fits: Bool[Array, "*f"]
    rounding: Float[Array, "*f"]
    noise: Float[Array, "*f"]
    free_effects: list[Float[Array, "*f"]]


def aim(
    point: Point,
    lam: Float[Array, "*f"],
    scale: Float[Array, "n *f"],
    fit: Any,
    geodesic: bool = False,
    closer: Bool[Array, "*f"] | None = None,
) -> Aim:
    """Solve the damped linear problem.

    With ``closer`` the step is cut to where the cost falls by about its rounding.
    """
    conditions = fit.conditions
    factor = unit(point, scale)
    scaled = point.linearization.rescale(factor)
    q, pivots = fit.solve(scaled, lam)
    if (got := jnp.shape(q)) != factor.shape:
        raise ValueError(
            f"linear_solver: expected a step of shape {factor.shape}, got {got}"
        )
    dp = factor * q
    fits = jnp.ones_like(lam, bool)
    if geodesic:
        bend = fit.second_derivative(point, dp)
        correction, _ = fit.solve(scaled.with_residual(bend), lam)
        # Transtrum and Sethna (2012), equation 15: refuse steps whose two orders
        # disagree
        fits = 2.0 * jnp.linalg.norm(correction) <= 0.75 * jnp.linalg.norm(q)
        dp = dp + 0.5 * factor * correction
    free = free_part(point)
    effects, *free_effects, slope = sums(
        (point.norms * point.p) ** 2,
        *roundoff.squared_effects(point.norms, free, fit.p0),
        point.grad * dp,
    )
    rounding = roundoff.residual_rounding(effects, point.cost)
    noise = roundoff.cost_rounding(rounding, point.cost)
    if closer is not None:
        slope = jnp.where(slope == 0.0, 1.0, jnp.abs(slope))
        dp = jnp.where(closer, jnp.minimum(1.0, noise / slope), 1.0) * dp
    aimed = point.p + dp
    trial = conditions.project(aimed)
    if conditions.box is not None:
        trial = _slide(point, lam, factor, aimed, trial, fit)
    return Aim(trial, pivots, fits, rounding, noise, free_effects)


def measure(
    aim: Aim,
    visit: Any,
    point: Point,
    lam: Float[Array, "*f"],
    scale: Float[Array, "n *f"],
    fit: Any,
) -> Proposal:
    """Return what is known of a trial point once ``fit`` has visited it."""
    dp = aim.p - point.p
    cost, actual, bend_squared, effect = fit.compare(point, dp, visit)
    slope, step_size, size = sums(
        point.grad * dp, (scale * dp) ** 2, (scale * point.p) ** 2
    )
    predicted = -slope - 0.5 * bend_squared
    total = aim.noise + fit.cost_rounding(point.cost)
    least = lambda lam: roundoff.least_pivot(
        aim.pivots, lam, point.norms, point.free, fit.squares_condition
    )
    return Proposal(
        p=aim.p,
        visit=visit,
        cost=cost,
        slope=slope,
        predicted=predicted,
        actual=actual,
        residual_rounding=aim.rounding,
        cost_rounding=total,
        below_rounding=roundoff.below_rounding(predicted, actual, total),
        gain=roundoff.gain_ratio(predicted, actual, total),
        step_size=jnp.sqrt(step_size),
        size=jnp.sqrt(size),
        cancels=roundoff.cancels(effect, *aim.free_effects),
        pivot=least(lam),
        damped_pivot=least(0.0),
        fits=aim.fits,
    )


def _slide(point: Point, lam, factor, aimed, projected, fit):
    """Return the trial point once more, the parameters that hit a bound held there.

    Projection alone keeps what the others did in response to a step that was cut short.
    """
    hit = (aimed != projected) & (factor > 0.0)

    def solve_again():
        cut = jnp.where(hit, projected - point.p, 0.0)
        rest = jnp.where(hit, 0.0, factor)
        model = point.linearization.moved(cut).rescale(rest)
        again = point.p + cut + rest * fit.solve(model, lam)[0]
        return fit.conditions.project(again)

    # one fit or a block of them: the second solve is only for those that hit a bound
    again = varying.cond(jnp.any(hit), solve_again, lambda: projected)
    return jnp.where(jnp.any(hit, axis=0), again, projected)


def unit(point: Point, scale) -> Float[Array, "n *f"]:
    """Return the factor from scaled to actual steps, 0 where none is allowed."""
    factor = 1.0 / jnp.where(scale > 0.0, scale, 1.0)
    return factor if point.free is None else jnp.where(point.free, factor, 0.0)
