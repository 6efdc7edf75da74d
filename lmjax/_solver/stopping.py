"""When a fit is done, and whether it has succeeded.

Pure functions of numbers, or of arrays with one entry per fit. A fit ends in two
stages. A step that achieves nothing, or a refusal that rounding explains, makes it a
*candidate*. Its next step is **undamped**, because damping can shorten a step along a
valley. The reduction that the linear model predicts for that step decides. A step that
was undamped already decides at once.

What success means: neither the undamped model nor a step in one parameter alone reduces
the cost by more than is relevant (`relevant_reduction`), rounding aside.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._solver.status import Status

# Internal states, beside the values of `Status`. A candidate takes its undamped step
# next: CANDIDATE_ACCEPTED after a step that achieved nothing, CANDIDATE_REFUSED after a
# refusal, MEASURE_CURVATURE with a short step that measures the true curvature.
# NEEDS_FINAL_CHECK is a fit that has ended with a normal matrix that cannot be trusted:
# J itself decides (`lmjax._solver.final_check`).
CANDIDATE_ACCEPTED, CANDIDATE_REFUSED, MEASURE_CURVATURE = 100, 101, 102
NEEDS_FINAL_CHECK = 103
# UNSTARTED is a fit whose start has not been evaluated; its first step leads there.
UNSTARTED = 104

# A change of each parameter that does not matter, in standard errors.
RELEVANT = 0.05
# Every so many steps the fit must have gained what is relevant. MGH17 gains a 5,000th
# of its cost in 100 steps on its plateau and goes on to the certified minimum; MGH10
# needs 6,441 steps and loses a relevant part in each 250.
WINDOW = 250
# In a fit of blocks each window must gain this share of the cost: they have as many
# unknowns as half of their residuals, and a standard error in each would be much.
CREEP = 1e-4
# A predicted reduction counts if it exceeds the rounding of the cost by this: rounding
# of the gradient adds to that of the residual.
MARGIN = 10.0
# Columns of J of unit length count as independent of the others if the part orthogonal
# to them has at least this squared length.
INDEPENDENT = 0.01


def unfinished(status: Int[Array, "*f"]) -> Bool[Array, "*f"]:
    """Return which fits have not ended."""
    return (status == Status.RUNNING) | (status == UNSTARTED) | is_candidate(status)


def is_candidate(status: Int[Array, "*f"]) -> Bool[Array, "*f"]:
    """Return which fits take the undamped step of a candidate next."""
    return (status >= CANDIDATE_ACCEPTED) & (status <= MEASURE_CURVATURE)


def relevant_reduction(cost: Float[Array, "*f"], m: int, n: int) -> Float[Array, "*f"]:
    """Return the reduction of the cost that matters.

    One standard error in one parameter raises the cost by ``s^2 / 2``, with the reduced
    chi-square ``s^2 = 2 cost / (m - n)``; here a twentieth of it in each of n.
    """
    return RELEVANT**2 * (n / max(m - n, 1)) * cost


def best_coordinate_reduction(
    grad: Float[Array, "n *f"],
    norms: Float[Array, "n *f"],
    free: Bool[Array, "n *f"] | None,
) -> Float[Array, "*f"]:
    """Return what the linear model predicts for the best step in one free parameter.

    ``max_j (g_j / |J_j|)^2 / 2``.
    """
    usable = norms > 0.0
    usable = usable if free is None else usable & free
    slope = jnp.where(usable, grad / jnp.where(usable, norms, 1.0), 0.0)
    return 0.5 * jnp.max(slope**2, axis=0)


def predicted_undamped(
    predicted: Float[Array, "*f"],
    lam: Float[Array, "*f"],
    coordinate: Float[Array, "*f"],
    cost_rounding: Float[Array, "*f"],
) -> Float[Array, "*f"]:
    """Return the reduction that an undamped step might achieve, from a damped step.

    A step that is short only because lambda is large proves nothing, so its prediction
    is multiplied by ``1 + lam``. A column that is now shorter than its scale is damped
    by more than lambda; the step in one parameter may then predict more.
    """
    coordinate = jnp.where(coordinate > 2.0 * cost_rounding, coordinate, 0.0)
    return jnp.maximum(predicted * (1.0 + lam), coordinate)


def achieved_nothing(
    actual: Float[Array, "*f"],
    predicted_undamped: Float[Array, "*f"],
    cost: Float[Array, "*f"],
    cost_rounding: Float[Array, "*f"],
    model_rounding: Float[Array, "*f"],
    ftol: Float[Array, ""],
) -> Bool[Array, "*f"]:
    """Return whether an accepted step makes the fit a candidate."""
    small = jnp.maximum(ftol * cost, model_rounding)
    return (actual <= ftol * cost + cost_rounding) & (predicted_undamped <= small)


def refused_at_floor(
    predicted: Float[Array, "*f"],
    lam: Float[Array, "*f"],
    below_rounding: Bool[Array, "*f"],
    relevant: Float[Array, "*f"],
) -> Bool[Array, "*f"]:
    """Return whether a refused step makes the fit a candidate.

    Rounding hides what the step did, and it predicted nothing relevant, or even a short
    step along the gradient (lam >= 1) did not help.
    """
    return below_rounding & ((predicted * (1.0 + lam) <= relevant) | (lam >= 1.0))


def stuck(lam: Float[Array, "*f"], lam_new: Float[Array, "*f"]) -> Bool[Array, "*f"]:
    """Return whether no later proposal can differ after a refusal.

    At lambda = 1/eps^2 a step is shorter than the last digit of every parameter; a
    fixed lambda proposes the same step again.
    """
    eps = jnp.finfo(lam.dtype).eps
    return (lam_new >= 1.0 / eps**2) | (lam_new == lam)


def newton_decrement(
    slope: Float[Array, "*f"], ratio: Float[Array, "*f"]
) -> Float[Array, "*f"]:
    """Return what Newton's method predicts along a step, infinite without curvature.

    ``(g . dp)^2 / (2 dp . H dp)``, with ``dp . H dp`` from the change of the slope. At
    a minimum where J vanishes (z^2 + 5) the linear model predicts all of the cost.

    Args:
        slope: ``g . dp`` at the point, negative.
        ratio: The slope at the trial point in units of that.
    """
    upward = ratio < 1.0
    return jnp.where(
        upward, -0.5 * slope / jnp.where(upward, 1.0 - ratio, 1.0), jnp.inf
    )


def negligible_reduction(
    cost: Float[Array, "*f"],
    cost_rounding: Float[Array, "*f"],
    cancels: Bool[Array, "*f"],
    ftol: Float[Array, ""],
) -> Float[Array, "*f"]:
    """Return the predicted reduction that counts as none.

    ``ftol`` times the cost, or the rounding of the cost, which says nothing if effects
    cancel.
    """
    return jnp.maximum(ftol * cost, jnp.where(cancels, 0.0, MARGIN * cost_rounding))


def status_after_undamped(
    state: Int[Array, "*f"],
    predicted: Float[Array, "*f"],
    negligible: Float[Array, "*f"],
    relevant: Float[Array, "*f"],
    resolved: Bool[Array, "*f"],
    trusted: Bool[Array, "*f"],
    zero: Bool[Array, "*f"],
    accepted: Bool[Array, "*f"],
    gained: Bool[Array, "*f"],
    pivot: Float[Array, "*f"],
    exhausted: Bool[Array, "*f"],
    squares_condition: bool,
) -> Int[Array, "*f"]:
    """Return the status after the undamped step of a candidate was tried.

    Args:
        state: CANDIDATE_ACCEPTED, CANDIDATE_REFUSED or MEASURE_CURVATURE.
        predicted: Reduction that the undamped model predicts.
        negligible: Predicted reduction that counts as none, by ``ftol`` or by rounding.
        relevant: Predicted reduction that does not matter if no further step helps.
        resolved: Whether rounding of J cannot explain the step.
        trusted: Whether the prediction can be, see `lmjax._solver.roundoff.trusted`.
        zero: Whether the residual is no more than rounding.
        accepted: Whether the undamped step was taken.
        gained: Whether it was taken and achieved a relevant reduction.
        pivot: Least pivot.
        exhausted: Whether lambda cannot fall any further.
        squares_condition: Whether steps come from the normal equations. If they find
            no further step, the final check uses J.
    """
    stalled = NEEDS_FINAL_CHECK if squares_condition else Status.STALLED
    untrusted = NEEDS_FINAL_CHECK if squares_condition else Status.ILL_CONDITIONED
    first = state == CANDIDATE_ACCEPTED
    enough = jnp.where(first, negligible, jnp.maximum(negligible, relevant))
    minimum = zero | (trusted & resolved & (predicted <= enough))
    independent = pivot >= INDEPENDENT
    return first_of(
        (minimum, Status.FTOL),
        (gained, Status.RUNNING),
        (~trusted, untrusted),
        # the step predicts a relevant reduction: go on with less damping
        (first & (accepted | ~exhausted), Status.RUNNING),
        (first, stalled),
        (independent & accepted, Status.RUNNING),
        (independent, MEASURE_CURVATURE),
        (resolved, stalled),
        (True, untrusted),
    )


def first_of(*cases: tuple[Bool[Array, "*f"] | bool, int]) -> Int[Array, "*f"]:
    """Return the status of the first case that holds, RUNNING if none does."""
    status = jnp.asarray(Status.RUNNING, jnp.int32)
    for holds, outcome in reversed(cases):
        status = jnp.where(holds, jnp.int32(outcome), status)
    return status


def explained(
    status: Int[Array, "*f"],
    lost: Bool[Array, "*f"],
    cancels: Bool[Array, "*f"],
    zero: Bool[Array, "*f"],
) -> Int[Array, "*f"]:
    """Return the status that names what happened to the parameters.

    PLATEAU if a parameter has lost its effect and the residual is not zero; RUNAWAY if
    the fit failed and effects of parameters cancel.
    """
    failed = (
        (status == Status.STALLED)
        | (status == Status.MAX_STEPS)
        | (status == Status.ILL_CONDITIONED)
    )
    plateau = ((status > 0) | failed) & lost & ~zero
    status = jnp.where(failed & cancels, Status.RUNAWAY, status)
    return jnp.where(plateau, Status.PLATEAU, status).astype(jnp.int32)
