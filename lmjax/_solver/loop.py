r"""The Levenberg-Marquardt loop: propose, judge, accept or reject, stop.

Each step solves ``(J^T J + lam diag(scale^2)) dp = -J^T r`` and compares what the step
achieves with what the linear model promised:

    gain = actual / predicted,   predicted = -(g . dp) - ||J dp||^2 / 2

It is taken ("go") when the gain exceeds 1e-4 and refused ("stop") otherwise; lambda
then follows the damping rule. `lmjax._solver.roundoff` and `lmjax._solver.stopping`
have the rules.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax import varying
from lmjax._linalg.linearization import sums
from lmjax._problem.problem import Problem
from lmjax._solver import proposal, roundoff, stopping
from lmjax._solver.fit import Fit
from lmjax._solver.one_fit import OneFit
from lmjax._solver.proposal import Aim, Point, Proposal, first_scale, isfinite, measure
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.state import Record, State
from lmjax._solver.status import Status

# Share of the promised reduction that a step must achieve. MINPACK's value: small
# enough to keep any real progress, large enough to refuse steps that achieve nothing.
MIN_GAIN = 1e-4

# `scale` remembers the largest norm each column has had (Moré), so that a column that
# vanishes for a moment does not send its parameter flying. Yet a memory without end
# freezes a parameter whose column was once 1e40 times larger (NIST MGH10 from its first
# start), so the memory fades by this factor at each good step. Of 69
# Moré-Garbow-Hillstrom runs, 54 found the global minimum without fading, 62 with 0.95
# or 0.97, 59 with 0.9; fading at every step, good or bad, loses Wood and Brown-Dennis.
FADE = 0.95


def run(
    problem: Problem,
    p0: Float[Array, " n"],
    solver: LevenbergMarquardt,
    linear_solver: Callable,
) -> State:
    """Run one fit from ``p0`` until the status leaves RUNNING."""
    fit = OneFit(problem, linear_solver, p0)
    return varying.while_loop(
        lambda state: stopping.unfinished(state.status),
        lambda state: step(state, fit, solver),
        init(fit, p0, solver),
    )


def init(fit: Fit, p0: Float[Array, "n *f"], solver: LevenbergMarquardt) -> State:
    """Return the state before the first step."""
    point = fit.start(fit.conditions.project(p0))
    return begin(point, fit.curvatures(point), fit, solver)


def begin(point: Point, curvatures: Any, fit: Fit, solver: LevenbergMarquardt) -> State:
    """Return the state at the first point, of one fit or of a block of fits."""
    batch, dtype = point.cost.shape, point.cost.dtype
    lam, growth = (
        jnp.broadcast_to(number, batch) for number in solver.damping.start(dtype)
    )
    gtol = solver.tolerances(dtype)[2]
    held = False if point.free is None else ~jnp.any(point.free, axis=0)
    status = stopping.first_of(
        (~(isfinite(point) & jnp.isfinite(point.cost)), Status.NONFINITE_START),
        ((point.cost == 0.0) | held, Status.GTOL),
        # not a minimum but a place without information
        (jnp.all(point.norms == 0.0, axis=0), Status.SINGULAR),
        ((gtol > 0.0) & (point.optimality <= gtol), Status.GTOL),
    )
    infeasible = fit.conditions.infeasible()
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
    """Return the damping and the scale of the next proposal.

    A look at the undamped model measures parameters by their columns as they are. Its
    lambda, the square of what QR cannot tell from 0 with a margin, keeps directions
    without effect from promising a share of the residual (8 eps did not).
    """
    looks = stopping.looking(state.status)
    lost = roundoff.LOST * jnp.finfo(state.lam.dtype).eps
    lam = jnp.where(looks, lost**2, state.lam).astype(state.lam.dtype)
    return lam, jnp.where(looks, state.point.norms, state.scale)


def step(state: State, fit: Fit, solver: LevenbergMarquardt) -> State:
    """Propose one step, judge it, and stop or go on."""
    aim = aimed(state, fit, solver)
    return judged(state, aim, fit.visit(aim.p), fit, solver)


def aimed(state: State, fit: Fit, solver: LevenbergMarquardt) -> Aim:
    """Return where the next step leads."""
    closer = state.status == stopping.CLOSER
    return proposal.aim(state.point, *metric(state), fit, solver.geodesic, closer)


def judged(state: State, aim: Aim, visit: Any, fit: Fit, solver) -> State:
    """Return the state after a step whose end ``fit`` has visited."""
    point, running = state.point, state.status == Status.RUNNING
    closer = state.status == stopping.CLOSER
    lam, scale = metric(state)
    trial = measure(aim, visit, point, lam, scale, fit)
    worthy = _worthy(state, trial, solver)
    new = fit.settle_if(worthy | closer, trial, point)
    # per unit of the residual: these products would underflow first of all
    dp, r = trial.p - point.p, jnp.sqrt(2.0 * point.cost)
    before, after, size = sums(
        (point.grad / r) * dp, (new.grad / r) * dp, new.norms + jnp.abs(new.grad)
    )
    ratio = after / before
    by_gradients = roundoff.gain_by_gradients(trial.predicted, trial.slope, ratio)
    gain = jnp.where(trial.below_rounding, by_gradients, trial.gain)
    # every number of J and r enters the gradient and the norms
    accept = worthy & jnp.isfinite(size)
    if solver.damping.guarded:
        accept &= gain > MIN_GAIN
    lam_new, growth = _next_damping(state, gain, accept, solver)
    fade = jnp.where(accept & (gain > 0.5), jnp.asarray(FADE, scale.dtype), 1.0)
    # If one parameter alone could gain more than rounding hides, only the memory of its
    # column held it back: forget that.
    alone = stopping.best_coordinate_reduction(point.grad, point.norms, point.free)
    held = trial.below_rounding & (alone > 2.0 * trial.cost_rounding)
    fade = jnp.where(accept & held, 0.0, fade)
    newton = stopping.newton_decrement(trial.slope, ratio)
    new = fit.either(accept, new, point)
    # a look is a step only if it is taken
    counted = running | accept
    num_steps = state.num_steps + counted.astype(jnp.int32)
    noise = trial.cost_rounding
    promise = stopping.promised_reduction(trial.predicted, lam, alone, noise)
    given = state, trial, new, accept, promise, lam_new, num_steps
    stepped = _after_step(*given, fit, solver)
    looked = _after_look(state, trial, accept, newton, fit, solver)
    late = (looked == Status.RUNNING) & (num_steps >= solver.max_steps)
    looked = jnp.where(late, Status.MAX_STEPS, looked)
    status = jnp.where(stopping.looking(state.status), looked, stepped)
    record = state.record
    if record is not None:
        row = Record(trial.p, trial.cost, lam, gain, accept)
        index = jnp.where(counted, state.num_steps, solver.max_steps)
        record = jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), record, row)
    at_mark = num_steps % stopping.WINDOW == 0
    return State(
        new,
        lam_new,
        growth,
        jnp.where(at_mark, new.cost, state.mark),
        jnp.maximum(fade * state.scale, new.norms),
        num_steps,
        state.num_accepted + accept.astype(jnp.int32),
        status,
        record,
    )


def _worthy(
    state: State, trial: Proposal, solver: LevenbergMarquardt
) -> Bool[Array, "*f"]:
    """Return whether the trial is to be linearised: whether it may be accepted.

    Where rounding hides the reduction, the gradient there decides.
    """
    running = state.status == Status.RUNNING  # others wait on their lane
    if not solver.damping.guarded:
        return running & jnp.isfinite(trial.cost)
    # no step beyond the budget
    looks = stopping.looking(state.status) & (state.status != stopping.CLOSER)
    running |= looks & (state.num_steps < solver.max_steps)
    better = trial.below_rounding | (trial.gain > MIN_GAIN)
    sound = (trial.predicted >= 0.0) & trial.fits & jnp.isfinite(trial.cost)
    return running & sound & better


def _next_damping(
    state: State, gain: Float[Array, "*f"], accept: Bool[Array, "*f"], solver
) -> tuple[Float[Array, "*f"], Float[Array, "*f"]]:
    """Return damping and growth for the next proposal.

    The rule's, but after a look: its step was undamped and the rule does not know it.
    If the undamped model promises more than the last steps gained, lambda was too
    large.
    """
    lam, growth = solver.damping.update(state.lam, state.growth, gain, accept)
    if not solver.damping.guarded:
        return lam, growth
    looks = stopping.looking(state.status)
    too_large = accept | (state.status == stopping.LOOK_ACCEPTED)
    after = jnp.where(too_large, 0.1 * state.lam, state.lam)
    after = jnp.maximum(after, jnp.finfo(lam.dtype).tiny)
    return jnp.where(looks, after, lam), jnp.where(looks, state.growth, growth)


def _after_step(
    state: State,
    trial: Proposal,
    new: Point,
    accept: Bool[Array, "*f"],
    promise: Float[Array, "*f"],
    lam_new: Float[Array, "*f"],
    num_steps: Int[Array, "*f"],
    fit: Fit,
    solver: LevenbergMarquardt,
) -> Int[Array, "*f"]:
    """Return the status after a damped step."""
    lam, cost, n = state.lam, state.point.cost, new.p.shape[0]
    ftol, xtol, gtol = solver.tolerances(lam.dtype)
    model_noise = roundoff.model_rounding(trial.residual_rounding, n, fit.m)
    relevant = stopping.relevant_reduction(cost, fit.m, n)
    # an unguarded step may promise an increase
    done = accept & (trial.predicted >= 0.0) & (trial.step_size > 0.0)
    done &= stopping.achieved_nothing(
        trial.actual, promise, cost, trial.cost_rounding, model_noise, ftol
    )
    refused = ~accept & stopping.refused_at_floor(
        trial.predicted, lam, trial.below_rounding, relevant
    )
    refused |= ~accept & stopping.stuck(lam, lam_new)
    idle = state.mark - new.cost <= relevant
    if fit.squares_condition:
        idle |= ~roundoff.resolves(trial.damped_pivot, n, True)
    refused |= idle & (num_steps % stopping.WINDOW == 0)
    hidden = roundoff.is_hidden(cost, trial.residual_rounding)
    sure = roundoff.undamped(lam, trial.pivot, n, fit.squares_condition)
    sure &= ~(hidden & trial.cancels)
    short = (xtol > 0.0) & ((1.0 + lam) * trial.step_size <= xtol * trial.size)
    judged = ftol > 0.0
    return stopping.first_of(
        (accept & (new.cost == 0.0), Status.GTOL),
        (accept & jnp.all(new.norms == 0.0, axis=0), Status.SINGULAR),
        (accept & (gtol > 0.0) & (new.optimality <= gtol), Status.GTOL),
        (judged & done & sure, Status.FTOL),
        (accept & short & sure, Status.XTOL),
        (judged & done, stopping.LOOK_ACCEPTED),
        (judged & refused, stopping.LOOK_REFUSED),
        (refused, Status.STALLED),
        (num_steps >= solver.max_steps, Status.MAX_STEPS),
    )


def _after_look(
    state: State,
    trial: Proposal,
    accept: Bool[Array, "*f"],
    newton: Float[Array, "*f"],
    fit: Fit,
    solver: LevenbergMarquardt,
) -> Int[Array, "*f"]:
    """Return the status after a look at the undamped model."""
    lam, cost, n = state.lam, state.point.cost, trial.p.shape[0]
    squares = fit.squares_condition
    hidden = roundoff.is_hidden(cost, trial.residual_rounding)
    ftol = solver.tolerances(lam.dtype)[0]
    relevant = stopping.relevant_reduction(cost, fit.m, n)
    strict = stopping.negligible_promise(cost, trial.cost_rounding, trial.cancels, ftol)
    looked = stopping.after_look(
        state.status,
        # projected or bent, the step may also promise an increase: then it says nothing
        jnp.abs(trial.predicted),
        strict,
        relevant,
        roundoff.step_resolved(trial.step_size, cost, relevant, squares) & trial.fits,
        roundoff.trusted(trial.pivot, trial.cancels, hidden, n, squares),
        roundoff.is_zero(cost, trial.residual_rounding, trial.cancels),
        accept,
        accept & (trial.actual > relevant),
        trial.pivot,
        lam <= 1e4 * jnp.finfo(lam.dtype).tiny,
        squares,
    )
    minimum = jnp.isfinite(trial.cost) & (newton <= strict)
    closer = jnp.where(minimum, Status.FTOL, Status.STALLED)
    return jnp.where(state.status == stopping.CLOSER, closer, looked)
