r"""The Levenberg-Marquardt loop: propose, evaluate, accept or reject, stop.

Each step solves ``(J^T J + lam diag(scale^2)) dp = -J^T r`` and compares the reduction
of the cost with the one that the linear model predicts:

    gain = actual / predicted,   predicted = -(g . dp) - ||J dp||^2 / 2

The step is taken if the gain exceeds 1e-4; lambda follows the damping rule. Rules for
rounding are in `lmjax._solver.roundoff`, for stopping in `lmjax._solver.stopping`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._linalg.linearization import sums
from lmjax._solver import roundoff, stopping
from lmjax._solver.damping import achieves_enough, fading, hardly_damps, least_of_blocks
from lmjax._solver.fit import Fit
from lmjax._solver.point import Point, first_scale, isfinite
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.single_fit import BlockFit
from lmjax._solver.state import Record, State
from lmjax._solver.status import Status
from lmjax._solver.trial import DampedStep, Trial, damped_step, measure


def init(fit: Fit, p0: Float[Array, "n *f"], solver: LevenbergMarquardt) -> State:
    """Return the state before the first step."""
    point = fit.start(fit.constraints.project(p0))
    return begin(point, fit.curvatures(point), fit, solver)


def begin(point: Point, curvatures: Any, fit: Fit, solver: LevenbergMarquardt) -> State:
    """Return the state at the first point, of one fit or of a block of fits."""
    batch, dtype = point.cost.shape, point.cost.dtype
    lam, growth = (
        jnp.broadcast_to(number, batch) for number in solver.damping.start(dtype)
    )
    gtol = solver.tolerances(dtype)[2]
    all_held = False if point.free is None else ~jnp.any(point.free, axis=0)
    status = stopping.first_of(
        (~(isfinite(point) & jnp.isfinite(point.cost)), Status.NONFINITE_START),
        ((point.cost == 0.0) | all_held, Status.GTOL),
        # no minimum: no parameter has an effect here
        (jnp.all(point.norms == 0.0, axis=0), Status.SINGULAR),
        ((gtol > 0.0) & (point.optimality <= gtol), Status.GTOL),
    )
    infeasible = fit.constraints.infeasible()
    if infeasible is not None:
        status = jnp.where(infeasible, Status.INFEASIBLE, status)
    zero = jnp.zeros(batch, jnp.int32)
    record = None
    if solver.record_history:
        rows = jnp.full((solver.max_steps,), jnp.nan, dtype)
        points = jnp.full((solver.max_steps, point.p.size), jnp.nan, dtype)
        record = Record(points, rows, rows, rows, jnp.zeros(rows.shape, bool))
    scale = first_scale(point, curvatures)
    return State(point, lam, growth, point.cost, scale, zero, zero, status, record)


def metric(state: State) -> tuple[Float[Array, "*f"], Float[Array, "n *f"]]:
    """Return the damping and the scale of the next step.

    The undamped step of a candidate measures parameters by their columns as they are.
    Its lambda is ``(LOST eps)^2``. Smaller ones (8 eps) predicted reductions along
    directions without effect.
    """
    undamped = stopping.is_candidate(state.status)
    lost = roundoff.LOST * jnp.finfo(state.lam.dtype).eps
    lam = jnp.where(undamped, lost**2, state.lam).astype(state.lam.dtype)
    return lam, jnp.where(undamped, state.point.norms, state.scale)


def step(state: State, fit: Fit, solver: LevenbergMarquardt) -> State:
    """Propose one step, evaluate its end, and stop or go on."""
    proposed = propose(state, fit, solver)
    return decide(state, proposed, fit.evaluate(proposed.p), fit, solver)


def propose(state: State, fit: Fit, solver: LevenbergMarquardt) -> DampedStep:
    """Return the next step."""
    short = state.status == stopping.MEASURE_CURVATURE
    return damped_step(state.point, *metric(state), fit, solver.geodesic, short)


def decide(
    state: State, proposed: DampedStep, evaluated: Any, fit: Fit, solver
) -> State:
    """Return the state after a step, given what ``fit.evaluate`` found at its end."""
    return decide_and_linearize(state, proposed, evaluated, fit, solver)[0]


def decide_and_linearize(
    state: State, proposed: DampedStep, evaluated: Any, fit: Fit, solver
) -> tuple[State, Point]:
    """Return the state after a step, and what was linearised."""
    point, running = state.point, state.status == Status.RUNNING
    short = state.status == stopping.MEASURE_CURVATURE
    lam, scale = metric(state)
    trial = measure(proposed, evaluated, point, lam, scale, fit)
    eligible = _is_eligible(state, trial, solver)
    end = trial.p, trial.evaluated, trial.cost
    wanted = eligible | short | (state.status == stopping.UNSTARTED)
    linearized = new = fit.linearize_if(wanted, *end, point)
    # per unit of the residual: these products would underflow first of all
    dp, r = trial.dp, jnp.sqrt(2.0 * point.cost)
    before, after, size = sums(
        (point.grad / r) * dp, (new.grad / r) * dp, new.norms + jnp.abs(new.grad)
    )
    ratio = after / before
    by_gradients = roundoff.gain_by_gradients(trial.predicted, trial.slope, ratio)
    gain = jnp.where(trial.below_rounding, by_gradients, trial.gain)
    # every number of J and r enters the gradient and the norms
    accept = eligible & jnp.isfinite(size) & achieves_enough(solver.damping, gain)
    lam_new, growth = _next_damping(state, gain, accept, solver)
    if isinstance(fit, BlockFit):
        lam_new = jnp.maximum(lam_new, least_of_blocks(lam.dtype))
    fade = fading(gain, accept, scale.dtype)
    # If one parameter alone predicts a reduction that rounding does not hide, its scale
    # is too large: reset the scale to the norm of its column.
    best = stopping.best_coordinate_reduction(point.grad, point.norms, point.free)
    held_back = trial.below_rounding & (best > 2.0 * trial.cost_rounding)
    fade = jnp.where(accept & held_back, 0.0, fade)
    newton = stopping.newton_decrement(trial.slope, ratio)
    new = fit.select(accept, new, point)
    # the undamped step of a candidate counts only if it is taken
    counted = running | accept
    num_steps = state.num_steps + counted.astype(jnp.int32)
    predicted_undamped = stopping.predicted_undamped(
        trial.predicted, lam, best, trial.cost_rounding
    )
    given = state, trial, new, accept, predicted_undamped, lam_new, num_steps
    if_running = _status_after_step(*given, fit, solver)
    if_candidate = _status_after_undamped(state, trial, accept, newton, fit, solver)
    late = (if_candidate == Status.RUNNING) & (num_steps >= solver.max_steps)
    if_candidate = jnp.where(late, Status.MAX_STEPS, if_candidate)
    status = jnp.where(stopping.is_candidate(state.status), if_candidate, if_running)
    record = state.record
    if record is not None:
        row = Record(trial.p, trial.cost, lam, gain, accept)
        index = jnp.where(counted, state.num_steps, solver.max_steps)
        record = jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), record, row)
    at_mark = num_steps % stopping.WINDOW == 0
    scale = jnp.maximum(fade * state.scale, new.norms)
    after = State(
        new,
        lam_new,
        growth,
        jnp.where(at_mark, new.cost, state.mark),
        new.norms if isinstance(fit, BlockFit) else scale,
        num_steps,
        state.num_accepted + accept.astype(jnp.int32),
        status,
        record,
    )
    return after, linearized


def _is_eligible(
    state: State, trial: Trial, solver: LevenbergMarquardt
) -> Bool[Array, "*f"]:
    """Return whether the trial may be accepted, so that it is to be linearised.

    Where rounding hides the reduction, the gradient at its end decides.
    """
    running = state.status == Status.RUNNING  # other fits of a block have ended
    if not solver.damping.guarded:
        return running & jnp.isfinite(trial.cost)
    # no step beyond max_steps
    undamped = stopping.is_candidate(state.status)
    undamped &= state.status != stopping.MEASURE_CURVATURE
    running |= undamped & (state.num_steps < solver.max_steps)
    better = trial.below_rounding | achieves_enough(solver.damping, trial.gain)
    valid = (trial.predicted >= 0.0) & trial.correction_small & jnp.isfinite(trial.cost)
    return running & valid & better


def _next_damping(
    state: State, gain: Float[Array, "*f"], accept: Bool[Array, "*f"], solver
) -> tuple[Float[Array, "*f"], Float[Array, "*f"]]:
    """Return damping and growth for the next step.

    They follow the rule, except after the undamped step of a candidate, which the rule
    has not proposed. If that step was taken, or followed an accepted one, lambda was
    too large.
    """
    lam, growth = solver.damping.update(state.lam, state.growth, gain, accept)
    if not solver.damping.guarded:
        return lam, growth
    undamped = stopping.is_candidate(state.status)
    too_large = accept | (state.status == stopping.CANDIDATE_ACCEPTED)
    after = jnp.where(too_large, 0.1 * state.lam, state.lam)
    after = jnp.maximum(after, jnp.finfo(lam.dtype).tiny)
    growth = jnp.where(undamped, state.growth, growth)
    return jnp.where(undamped, after, lam), growth


def _status_after_step(
    state: State,
    trial: Trial,
    new: Point,
    accept: Bool[Array, "*f"],
    predicted_undamped: Float[Array, "*f"],
    lam_new: Float[Array, "*f"],
    num_steps: Int[Array, "*f"],
    fit: Fit,
    solver: LevenbergMarquardt,
) -> Int[Array, "*f"]:
    """Return the status after a damped step."""
    lam, cost, n = state.lam, state.point.cost, new.norms.shape[0]
    ftol, xtol, gtol = solver.tolerances(lam.dtype)
    model_rounding = roundoff.model_rounding(trial.residual_rounding, n, fit.m)
    relevant = gained = stopping.relevant_reduction(cost, fit.m, n)
    if isinstance(fit, BlockFit):
        relevant = jnp.maximum(ftol * cost, trial.cost_rounding)
        gained = stopping.CREEP * cost
    # an unguarded step may predict an increase
    done = accept & (trial.predicted >= 0.0) & (trial.step_size > 0.0)
    done &= stopping.achieved_nothing(
        trial.actual,
        predicted_undamped,
        cost,
        trial.cost_rounding,
        model_rounding,
        ftol,
    )
    refused = ~accept & stopping.refused_at_floor(
        trial.predicted, lam, trial.below_rounding, relevant
    )
    refused |= ~accept & stopping.stuck(lam, lam_new)
    no_progress = state.mark - new.cost <= gained
    if fit.squares_condition:
        no_progress |= ~roundoff.resolves(trial.damped_pivot, n, True)
    refused |= no_progress & (num_steps % stopping.WINDOW == 0)
    only_rounding = roundoff.residual_is_rounding(cost, trial.residual_rounding)
    undamped_already = roundoff.undamped(lam, trial.pivot, n, fit.squares_condition)
    undamped_already &= ~(only_rounding & trial.cancels)
    below_xtol = (xtol > 0.0) & ((1.0 + lam) * trial.step_size <= xtol * trial.size)
    by_ftol = ftol > 0.0
    proves = not isinstance(fit, BlockFit)  # an undamped step tells a minimum
    if isinstance(fit, BlockFit):
        undamped_already = jnp.ones_like(accept)
        small = stopping.best_coordinate_reduction(new.grad, new.norms, new.free)
        # a step of NaN, whose factorisation failed, predicts nothing
        at_minimum = jnp.maximum(predicted_undamped, small) <= relevant
        at_minimum &= hardly_damps(lam)
        done = (done & hardly_damps(lam)) | (refused & at_minimum)
        refused &= ~at_minimum
    return stopping.first_of(
        (accept & (new.cost == 0.0), Status.GTOL),
        (accept & jnp.all(new.norms == 0.0, axis=0), Status.SINGULAR),
        (accept & (gtol > 0.0) & (new.optimality <= gtol), Status.GTOL),
        (by_ftol & done & undamped_already, Status.FTOL),
        (accept & below_xtol & undamped_already, Status.XTOL),
        (by_ftol & done, stopping.CANDIDATE_ACCEPTED),
        (by_ftol & refused & proves, stopping.CANDIDATE_REFUSED),
        (refused, Status.STALLED),
        (num_steps >= solver.max_steps, Status.MAX_STEPS),
    )


def _status_after_undamped(
    state: State,
    trial: Trial,
    accept: Bool[Array, "*f"],
    newton: Float[Array, "*f"],
    fit: Fit,
    solver: LevenbergMarquardt,
) -> Int[Array, "*f"]:
    """Return the status after the undamped step of a candidate."""
    lam, cost, n = state.lam, state.point.cost, state.scale.shape[0]
    squares = fit.squares_condition
    only_rounding = roundoff.residual_is_rounding(cost, trial.residual_rounding)
    ftol = solver.tolerances(lam.dtype)[0]
    relevant = stopping.relevant_reduction(cost, fit.m, n)
    negligible = stopping.negligible_reduction(
        cost, trial.cost_rounding, trial.cancels, ftol
    )
    status = stopping.status_after_undamped(
        state.status,
        # a projected or corrected step may predict an increase: its size counts
        jnp.abs(trial.predicted),
        negligible,
        relevant,
        roundoff.step_resolved(trial.step_size, cost, relevant, squares)
        & trial.correction_small,
        roundoff.trusted(trial.pivot, trial.cancels, only_rounding, n, squares),
        roundoff.is_zero(cost, trial.residual_rounding, trial.cancels),
        accept,
        accept & (trial.actual > relevant),
        trial.pivot,
        lam <= 1e4 * jnp.finfo(lam.dtype).tiny,
        squares,
    )
    minimum = jnp.isfinite(trial.cost) & (newton <= negligible)
    measured = jnp.where(minimum, Status.FTOL, Status.STALLED)
    return jnp.where(state.status == stopping.MEASURE_CURVATURE, measured, status)
