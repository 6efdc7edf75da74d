"""What rounding does to a residual, to a cost and to what the linear model predicts.

Pure functions of numbers, or of arrays with one entry per fit.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# A sum this much smaller than its terms cancels. Parameters that run away together keep
# the residual while each of their effects grows without end, so the exact value matters
# little: here two digits are gone.
CANCELLATION = 1e-2
# A residual below so many times its rounding counts as zero: the rounding of a
# model is up to ten times that of its parameters (exponentials, powers).
ZERO = 10.0
# Rounding may explain this share of the residual, or of what is relevant.
RESOLVED = 0.1
# A number below so many times its rounding is lost in it: factorisations of n columns
# round n times, and the columns themselves are rounded derivatives.
LOST = 100.0


def residual_rounding(
    effects: Float[Array, "*f"], cost: Float[Array, "*f"]
) -> Float[Array, "*f"]:
    """Return the largest change of the residual, as a norm, that rounding can make.

    Args:
        effects: Sum of squares of the effects ``|J_j| |p_j|`` of all parameters:
            rounding of p alone moves the residual by ``eps |J_j p_j|``.
        cost: Half the squared norm of the residual, which is rounded as well.
    """
    rounding = jnp.finfo(cost.dtype).eps * jnp.sqrt(effects + 2.0 * cost)
    # if the squares overflow, the rounding is unknown; 0 excuses nothing
    return jnp.where(jnp.isfinite(rounding), rounding, 0.0)


def cost_rounding(
    rounding: Float[Array, "*f"], cost: Float[Array, "*f"]
) -> Float[Array, "*f"]:
    """Return the largest change of the cost that such rounding of the residual makes.

    ``|r . dr| <= |r| |dr|``; the factor 2 covers the rounding of the model itself.
    """
    return 2.0 * rounding * jnp.sqrt(2.0 * cost)


def model_rounding(rounding: Float[Array, "*f"], n: int, m: int) -> Float[Array, "*f"]:
    """Return the reduction that the linear model predicts where there is only rounding.

    Of a random change of the residual, the linear model can explain the share n / m in
    the directions that J spans; the factor 2 as in `cost_rounding`, squared and halved.
    """
    return 2.0 * rounding**2 * (n / m)


def below_rounding(
    predicted: Float[Array, "*f"],
    actual: Float[Array, "*f"],
    cost_rounding: Float[Array, "*f"],
) -> Bool[Array, "*f"]:
    """Return whether rounding of the cost hides what a step achieved."""
    return jnp.abs(predicted) + jnp.abs(actual) <= 2.0 * cost_rounding


def gain_ratio(
    predicted: Float[Array, "*f"],
    actual: Float[Array, "*f"],
    cost_rounding: Float[Array, "*f"],
) -> Float[Array, "*f"]:
    """Return actual over predicted reduction of the cost.

    Both are raised by ``cost_rounding``, so that the gain tends to 1 where rounding
    hides them: the raw ratio would be random there.
    """
    return (actual + cost_rounding) / (predicted + cost_rounding)


def gain_by_gradients(
    predicted: Float[Array, "*f"],
    slope: Float[Array, "*f"],
    ratio: Float[Array, "*f"],
) -> Float[Array, "*f"]:
    """Return the gain where the two costs are equal up to rounding.

    The reduction is the integral of the slope along the step, by the trapezoidal rule
    ``-slope (1 + ratio) / 2``. Gradients vanish at a minimum, so their rounding hides
    less than that of the cost. ``-slope / 2`` is what an undamped step predicts, and
    up to twice as much a damped one; where the prediction underflows it is left out.

    Args:
        predicted: Predicted reduction.
        slope: ``g . dp`` at the point.
        ratio: The slope at the trial point in units of that.
    """
    share = -0.5 * slope / jnp.where(predicted > 0.0, predicted, 1.0)
    share = jnp.where(predicted > 0.0, jnp.maximum(share, 0.5), 1.0)
    return share * (1.0 + ratio)


def effects_cancel(
    effect: Float[Array, "*f"],
    effects: Float[Array, "*f"],
    effects_apart: Float[Array, "*f"],
) -> Bool[Array, "*f"]:
    """Return whether the effects of the parameters cancel each other.

    Not on the way to zero, where Powell's singular function has its minimum.

    Args:
        effect: ``|J p|^2`` over the free parameters.
        effects: The sum of the squares of their effects, ``|J_j|^2 p_j^2``.
        effects_apart: The share of those that have not shrunk to zero.
    """
    return (effects_apart >= 0.5 * effects) & (effect <= CANCELLATION**2 * effects)


def squared_effects(
    norms: Float[Array, "n *f"], p: Float[Array, "n *f"], p0: Float[Array, "n *f"]
) -> tuple[Float[Array, "n *f"], Float[Array, "n *f"]]:
    """Return ``(|J_j| p_j)^2``, and that of parameters above sqrt(eps) of their start.

    A parameter below sqrt(eps) of its start counts as having gone to zero.
    """
    squares = (norms * p) ** 2
    half = jnp.finfo(p.dtype).eps ** 0.5
    apart = jnp.abs(p) > half * jnp.abs(p0)
    return squares, jnp.where(apart, squares, 0.0)


def residual_is_rounding(
    cost: Float[Array, "*f"], rounding: Float[Array, "*f"]
) -> Bool[Array, "*f"]:
    """Return whether the residual is no more than rounding."""
    return 2.0 * cost <= (ZERO * rounding) ** 2


def is_zero(
    cost: Float[Array, "*f"],
    rounding: Float[Array, "*f"],
    cancels: Bool[Array, "*f"],
) -> Bool[Array, "*f"]:
    """Return whether the residual counts as zero.

    A small residual counts as zero only if no effects cancel: effects that cancel make
    the bound on rounding too large.
    """
    return (cost == 0.0) | (residual_is_rounding(cost, rounding) & ~cancels)


def without_effect(
    norms: Float[Array, "n *f"],
    p: Float[Array, "n *f"],
    p0: Float[Array, "n *f"],
    scale: Float[Array, "n *f"],
    rounding: Float[Array, "*f"],
) -> Bool[Array, "n *f"]:
    """Return which parameters have lost their effect on the residual.

    A parameter has lost its effect if ``norm * max(|p|, |p0|)`` is below the rounding
    of the residual. A parameter that starts at zero has no size of its own: its column
    must have shrunk to sqrt(eps) of its largest norm. A parameter that never had an
    effect never moved, and lost none.
    """
    eps = jnp.finfo(norms.dtype).eps
    sized = (p0 != 0.0) | (norms < eps**0.5 * scale)
    moved = (norms > 0.0) | (p != p0)
    size = jnp.maximum(jnp.abs(p), jnp.abs(p0))
    return sized & moved & (norms * size <= rounding)


def least_pivot(
    pivots: Float[Array, "n *f"],
    lam: Float[Array, "*f"] | float,
    norms: Float[Array, "n *f"],
    free: Bool[Array, "n *f"] | None,
    squares_condition: bool,
) -> Float[Array, "*f"]:
    """Return the least pivot of the scaled normal matrix without ``lam``.

    Elimination divides the rounding of the normal matrix by the earlier pivots. Each
    pivot is therefore multiplied by the least earlier one.

    Args:
        pivots: Squared diagonal of the triangular factor of the damped one.
        lam: What was added to the diagonal.
        norms: Norms of the columns of J; a column of zeros has no pivot.
        free: Which parameters may move.
        squares_condition: Whether the factorisation is that of the normal matrix.
    """
    usable = norms > 0.0
    usable = usable if free is None else usable & free
    # NaN where a factorisation failed: that matrix has lost a direction
    pivots = jnp.where(jnp.isnan(pivots), -jnp.inf, pivots - lam)
    pivots = jnp.where(usable, pivots, jnp.inf)
    if not squares_condition:
        return jnp.min(pivots, axis=0)
    least = before = jnp.minimum(pivots[0], 1.0)
    for pivot in pivots[1:]:
        least = jnp.minimum(least, pivot * before)
        before = jnp.minimum(before, pivot)
    return least


def trusted(
    pivot: Float[Array, "*f"],
    cancels: Bool[Array, "*f"],
    only_rounding: Bool[Array, "*f"],
    n: int,
    squares_condition: bool,
) -> Bool[Array, "*f"]:
    """Return whether what the undamped model predicts can be trusted.

    Normal equations lose a direction if its pivot is below the rounding of the
    products. An orthogonal factorisation resolves pivots down to eps^2. A smaller pivot
    means that two parameters do the same, and the prediction holds without that
    direction, unless the effects of parameters cancel. If the residual is only rounding
    of effects that cancel, no prediction can be trusted.

    Args:
        pivot: Least pivot of the normal matrix of unit columns.
        cancels: Whether the effects of the parameters cancel.
        only_rounding: Whether the residual is no more than rounding.
        n: Number of parameters.
        squares_condition: Whether the factorisation is that of the normal matrix.
    """
    resolved = resolves(pivot, n, squares_condition)
    if not squares_condition:
        resolved |= ~cancels
    return resolved & ~(only_rounding & cancels)


def resolves(
    pivot: Float[Array, "*f"], n: int, squares_condition: bool
) -> Bool[Array, "*f"]:
    """Return whether a factorisation can tell its least pivot from zero.

    An orthogonal one resolves what exceeds the damping of an undamped step,
    ``(LOST eps)^2``, for up to n dependent columns. Products of columns round to n eps.
    """
    eps = float(jnp.finfo(pivot.dtype).eps)
    return pivot > (LOST * n * eps if squares_condition else 2 * n * (LOST * eps) ** 2)


def undamped(
    lam: Float[Array, "*f"], pivot: Float[Array, "*f"], n: int, squares_condition: bool
) -> Bool[Array, "*f"]:
    """Return whether damping was too small to matter in a step.

    The least eigenvalue of a triangular product is at least its least pivot divided by
    about n^2 (for columns of unit norm; a worst case can be smaller), and lambda is a
    tenth of that.
    """
    return (10.0 * n**2 * lam <= pivot) & resolves(pivot, n, squares_condition)


def step_resolved(
    step_size: Float[Array, "*f"],
    cost: Float[Array, "*f"],
    relevant: Float[Array, "*f"],
    squares_condition: bool,
) -> Bool[Array, "*f"]:
    """Return whether rounding cannot explain what a step predicts.

    Rounding of J moves the residual by ``eps`` times the step; sums over the normal
    matrix lose ``eps`` times its square.

    Args:
        step_size: Length of the step in units of the columns of J.
        cost: Half the squared norm of the residual.
        relevant: Reduction that matters.
        squares_condition: Whether the prediction is made from the normal matrix.
    """
    eps = jnp.finfo(cost.dtype).eps
    if squares_condition:
        return eps * step_size**2 <= RESOLVED * relevant
    return eps * step_size <= RESOLVED * jnp.sqrt(2.0 * cost)
