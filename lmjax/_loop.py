r"""The Levenberg-Marquardt loop: propose, judge, accept or reject, stop.

Each step solves ``(J^T J + lam diag(scale^2)) dp = -J^T r`` and compares what the step
achieves with what the linear model promised:

    gain = actual / predicted,   predicted = -(g . dp) - ||J dp||^2 / 2

It is taken ("go") when the gain exceeds 1e-4 and refused ("stop") otherwise; lambda
then follows the damping rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._linearize import sums
from lmjax._problem import Problem
from lmjax._proposal import (
    OneFit,
    Point,
    Proposal,
    isfinite,
    propose,
    single_gain,
    unit,
)
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status

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

# A model may round this many times worse than its parameters do, in squares: where it
# cancels, the residual is 15 times more blurred than `Proposal.jitter` supposes.
CANCELLATION = 300.0

# Status of a fit whose steps this dtype cannot resolve: one more look, then it is done.
AT_FLOOR = 100


class Record(NamedTuple):
    """History in flat arrays, one row per proposed step."""

    p: Float[Array, "k n"]
    cost: Float[Array, " k"]
    damping: Float[Array, " k"]
    gain: Float[Array, " k"]
    accepted: Bool[Array, " k"]


class State(NamedTuple):
    """One fit, or a block of fits on the last axis, between two steps.

    Attributes:
        point: Best point so far.
        lam: Damping for the next proposal.
        growth: Factor on ``lam`` if that proposal is rejected.
        scale: Fading maximum of the norm of each Jacobian column.
        num_steps: Steps proposed.
        num_accepted: Steps taken.
        status: A `Status` value.
        record: History or None.
    """

    point: Point
    lam: Float[Array, "*f"]
    growth: Float[Array, "*f"]
    scale: Float[Array, "n *f"]
    num_steps: Int[Array, "*f"]
    num_accepted: Int[Array, "*f"]
    status: Int[Array, "*f"]
    record: Record | None


def run(
    problem: Problem,
    p0: Float[Array, " n"],
    solver: LevenbergMarquardt,
    linear_solver: Callable,
) -> State:
    """Run one fit from ``p0`` until the status leaves RUNNING."""
    fit = OneFit(problem, linear_solver)
    return jax.lax.while_loop(
        lambda state: unfinished(state.status),
        lambda state: step(state, fit, solver),
        init(fit, p0, solver),
    )


def unfinished(status: Int[Array, "*f"]) -> Bool[Array, "*f"]:
    """Return which fits have not ended."""
    return (status == Status.RUNNING) | (status == AT_FLOOR)


def init(fit, p0: Float[Array, "n *f"], solver: LevenbergMarquardt) -> State:
    """Return the state before the first step of one fit or of a block of fits."""
    conditions = fit.conditions
    point = fit.start(conditions.project(p0))
    batch, dtype = point.cost.shape, point.cost.dtype
    lam, growth = (
        jnp.broadcast_to(number, batch) for number in solver.damping.start(dtype)
    )
    _, _, gtol = solver.tolerances(dtype)
    held = False if point.free is None else ~jnp.any(point.free, axis=0)
    status = _first(
        (~(isfinite(point) & jnp.isfinite(point.cost)), Status.NONFINITE_START),
        ((point.cost == 0.0) | held, Status.GTOL),
        # not a minimum but a place without information
        (jnp.all(point.norms == 0.0, axis=0), Status.SINGULAR),
        ((gtol > 0.0) & (point.optimality <= gtol), Status.GTOL),
    )
    infeasible = conditions.infeasible()
    if infeasible is not None:
        status = jnp.where(infeasible, Status.INFEASIBLE, status)
    zero = jnp.zeros(batch, jnp.int32)
    record = None
    if solver.record_history:
        rows = jnp.full((solver.max_steps,), jnp.nan, dtype)
        points = jnp.full((solver.max_steps, p0.size), jnp.nan, dtype)
        record = Record(points, rows, rows, rows, jnp.zeros(rows.shape, bool))
    return State(point, lam, growth, point.norms, zero, zero, status, record)


def step(state: State, fit, solver: LevenbergMarquardt) -> State:
    """Propose one step, judge it, and stop or go on.

    At the floor of the precision the step is proposed without damping, for the sake of
    what it promises: see `_verdict`.
    """
    point, scale = state.point, state.scale
    running = state.status == Status.RUNNING
    looking = state.status == AT_FLOOR
    tiny = jnp.finfo(scale.dtype).tiny
    lam = jnp.where(looking, tiny, state.lam)
    trial = propose(point, lam, scale, fit, solver.geodesic)
    accept, undecided = fit.stage(lambda: _judge(state, trial, solver))
    new = fit.settle_if(accept, trial, point)

    def decide():
        # every number of J and r enters the gradient and the norms
        after, before, norms = sums(
            (unit(new, scale) * new.grad) ** 2,
            (unit(point, scale) * point.grad) ** 2,
            new.norms,
        )
        # where damping has no say, rounding alone may make the gradient grow
        idle = lam**3 <= jnp.finfo(lam.dtype).eps
        slack = jnp.where(idle, CANCELLATION * trial.jitter, 0.0)
        falls = ~undecided | (after < before + slack)
        good = accept & jnp.isfinite(after + norms) & falls
        lam_new, growth = solver.damping.update(lam, state.growth, trial.gain, good)
        lam_new = jnp.where(looking, state.lam, lam_new)
        fade = jnp.where(good & (trial.gain > 0.5), FADE, 1.0)
        # where one parameter alone could gain what rounding does not hide, only the
        # memory of its column held it
        held = good & trial.hidden & (single_gain(point) > 2.0 * trial.noise)
        fade = jnp.where(held, 0.0, fade).astype(scale.dtype)
        return good, lam_new, growth, fade

    accept, lam_new, growth, fade = fit.stage(decide)
    new = fit.either(accept, new, point)

    def outcome():
        ends = _stop(state, trial, new, accept, lam_new, fit, solver)
        return jnp.where(looking, _verdict(trial, point, fit, solver), ends)

    status = fit.stage(outcome)
    record = state.record
    if record is not None:
        row = Record(trial.p, trial.cost, lam, trial.gain, accept)
        index = jnp.where(running, state.num_steps, solver.max_steps)
        record = jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), record, row)
    return State(
        new,
        lam_new,
        growth,
        jnp.maximum(fade * scale, new.norms),
        state.num_steps + running.astype(jnp.int32),
        state.num_accepted + accept.astype(jnp.int32),
        status,
        record,
    )


def _judge(
    state: State, trial: Proposal, solver: LevenbergMarquardt
) -> tuple[Bool[Array, "*f"], Bool[Array, "*f"]]:
    """Return whether to take the trial, and whether rounding hides what it achieved."""
    running = state.status == Status.RUNNING  # others wait on their lane
    accept = running & jnp.isfinite(trial.cost)
    if not solver.damping.guarded:
        return accept, jnp.zeros_like(accept)
    # The first step may not exceed the start itself: from far away the linear model
    # leaps onto plateaus (NIST BoxBOD) where every gradient vanishes.
    leap = (state.num_accepted == 0) & (trial.step_size > trial.size)
    leap &= trial.size > 0.0
    accept &= (trial.predicted >= 0.0) & (trial.gain > MIN_GAIN) & ~leap & trial.fits
    # nor may one that rounding hides because lambda leaves next to nothing of it
    lost = trial.step_size <= jnp.finfo(state.lam.dtype).eps * trial.size
    accept &= ~(trial.hidden & lost & (state.lam >= 1.0))
    # Where rounding hides the reduction, the gradient has the last word.
    return accept, trial.hidden & (trial.actual < 0.0)


def _stop(
    state: State,
    trial: Proposal,
    new: Point,
    accept: Bool[Array, "*f"],
    lam_new: Float[Array, "*f"],
    fit,
    solver: LevenbergMarquardt,
) -> Int[Array, "*f"]:
    """Return the status after a step.

    The tests on the step are those of MINPACK with one change: a step that is short
    only because lambda is large proves nothing, so both are charged a factor ``1 +
    lam``, which turns them into tests of the gradient there. A column that has shrunk
    since `scale` last saw it is damped by more than lambda; so what counts as the
    promise is what one parameter alone could gain, where that is more.
    """
    lam, cost = state.lam, state.point.cost
    ftol, xtol, gtol = solver.tolerances(lam.dtype)
    here = trial.predicted * (1.0 + lam)
    alone = single_gain(state.point)
    told = alone > 2.0 * trial.noise
    promise = jnp.where(told, jnp.maximum(here, alone), here)
    quiet = accept & (trial.actual <= ftol * cost + trial.noise)
    quiet &= trial.predicted >= 0.0  # an unguarded step may promise an increase
    # nor does a step that rounding swallowed whole prove anything
    converged = quiet & (promise <= ftol * cost) & (trial.step_size > 0.0)
    # Two ways to reach the floor of the precision. The step promises no more than
    # rounding does: that of the model too, unless the data can tell the difference, a
    # twentieth of a standard error in each parameter; or even a short step along the
    # gradient improves nothing.
    refused = ~accept & trial.hidden
    told_apart = 0.05**2 * cost * new.p.shape[0] / fit.m
    rounding = jnp.minimum(CANCELLATION * trial.jitter, told_apart)
    rounding = jnp.maximum(rounding, trial.jitter)
    floor = (quiet | refused) & (promise <= rounding)
    floor |= refused & (lam >= 1.0) & (here <= trial.noise)
    eps = jnp.finfo(lam.dtype).eps
    stuck = ~accept & ((lam_new >= 1.0 / eps**2) | (lam_new == lam))
    return _first(
        (accept & (new.cost == 0.0), Status.GTOL),
        (accept & jnp.all(new.norms == 0.0, axis=0), Status.SINGULAR),
        (accept & (gtol > 0.0) & (new.optimality <= gtol), Status.GTOL),
        ((ftol > 0.0) & converged, Status.FTOL),
        (
            accept
            & (xtol > 0.0)
            & ((1.0 + lam) * trial.step_size <= xtol * trial.size),
            Status.XTOL,
        ),
        ((ftol > 0.0) & floor, AT_FLOOR),
        (stuck | floor, Status.STALLED),
        (state.num_steps + 1 >= solver.max_steps, Status.MAX_STEPS),
    )


def _first(*cases: tuple[Bool[Array, "*f"], int]) -> Int[Array, "*f"]:
    """Return the status of the first case that holds, RUNNING if none does."""
    status = jnp.asarray(Status.RUNNING, jnp.int32)
    for holds, outcome in reversed(cases):
        status = jnp.where(holds, jnp.int32(outcome), status)
    return status


def _verdict(
    trial: Proposal, point: Point, fit, solver: LevenbergMarquardt
) -> Int[Array, "*f"]:
    """Return the status of a fit at the floor of the precision.

    It is at a minimum only if the undamped model agrees, ``trial`` promising little
    more than noise: damping may hide a valley. A step so long that rounding of J alone
    would explain it says nothing: J is then singular in this dtype, and a long way may
    be left (NIST MGH17 in float32, two equal rates) - unless the residual itself is no
    more than rounding. Of parameters that ran away without damping it always is.
    """
    eps = jnp.finfo(point.cost.dtype).eps
    known = eps * trial.step_size <= 0.1 * jnp.sqrt(2.0 * point.cost)
    # projected or bent, the look may also promise an increase: then it says nothing
    small = jnp.abs(trial.predicted) <= 10.0 * trial.noise
    minimum = known & small & trial.fits
    if solver.damping.guarded:
        blur_squared = 0.5 * trial.jitter * (fit.m / point.p.shape[0])
        minimum |= point.cost <= 50.0 * blur_squared
    return jnp.where(minimum, Status.FTOL, Status.STALLED).astype(jnp.int32)
