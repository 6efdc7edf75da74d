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
from jaxtyping import Array, Bool, Float

from lmjax._linearize import Linearization, sums
from lmjax._problem import Problem
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status
from lmjax._types import Count, Flag, Scalar

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


class Record(NamedTuple):
    """History in flat arrays, one row per proposed step."""

    p: Float[Array, "k n"]
    cost: Float[Array, " k"]
    damping: Float[Array, " k"]
    gain: Float[Array, " k"]
    accepted: Bool[Array, " k"]


class Point(NamedTuple):
    """Everything known at one set of parameters.

    Attributes:
        p: Parameters.
        r: Residual, before any loss.
        linearization: (Robust) linear model, unscaled.
        cost: Half the sum of squares or of losses.
        grad: Gradient of the cost.
        norms: Norms of the columns of the linearization.
        free: Flags of the parameters that may move, or None for all.
        optimality: Largest cosine between the residual and a free column.
    """

    p: Float[Array, " n"]
    r: Float[Array, " m"]
    linearization: Linearization
    cost: Scalar
    grad: Float[Array, " n"]
    norms: Float[Array, " n"]
    free: Bool[Array, " n"] | None
    optimality: Scalar


class State(NamedTuple):
    """One fit between two steps.

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
    lam: Scalar
    growth: Scalar
    scale: Float[Array, " n"]
    num_steps: Count
    num_accepted: Count
    status: Count
    record: Record | None


class Proposal(NamedTuple):
    """A trial point and what is known about it before it is linearised.

    Attributes:
        p: Trial parameters, inside the bounds.
        r: Residual there.
        cost: Cost there.
        predicted: Reduction that the linear model promises.
        actual: Reduction achieved.
        noise: Reductions below this cannot be told from rounding.
        blur: What rounding does to the norm of the residual.
        gain: ``actual / predicted``, both raised by ``noise``.
        step_size: Norm of the step in units of ``scale``.
        size: Norm of the current parameters in units of ``scale``.
        fits: Whether the second-order correction, if any, was small enough.
    """

    p: Float[Array, " n"]
    r: Float[Array, " m"]
    cost: Scalar
    predicted: Scalar
    actual: Scalar
    noise: Scalar
    blur: Scalar
    gain: Scalar
    step_size: Scalar
    size: Scalar
    fits: Flag


def run(
    problem: Problem,
    p0: Float[Array, " n"],
    solver: LevenbergMarquardt,
    linear_solver: Callable,
) -> State:
    """Run the loop from ``p0`` until the status leaves RUNNING."""
    return jax.lax.while_loop(
        lambda state: state.status == Status.RUNNING,
        lambda state: step(state, problem, solver, linear_solver),
        init(problem, p0, solver, linear_solver),
    )


def evaluate(problem: Problem, p, r, cost, linear_solver) -> Point:
    """Linearise at ``p``, whose residual and cost are known."""
    matrix_free = getattr(linear_solver, "matrix_free", False)
    linearization = problem.linearize(p, r, matrix_free)
    grad, norms, size = linearization.moments()
    free = problem.free(p, grad)
    # |J_j . r| / (|J_j| |r|): dimensionless; an idle column or a zero residual counts
    # as 0.
    size = norms * size
    usable = size > 0.0 if free is None else (size > 0.0) & free
    cosines = jnp.where(usable, jnp.abs(grad) / jnp.where(usable, size, 1.0), 0.0)
    return Point(p, r, linearization, cost, grad, norms, free, jnp.max(cosines))


def init(problem: Problem, p0, solver: LevenbergMarquardt, linear_solver) -> State:
    """Return the state before the first step."""
    p0 = problem.project(p0)
    r0 = problem.residual_fn(p0)
    cost = jnp.sum(problem.half_terms(r0))
    point = evaluate(problem, p0, r0, cost, linear_solver)
    lam, growth = solver.damping.start(p0.dtype)
    _, _, gtol = solver.tolerances(p0.dtype)
    held = False if point.free is None else ~jnp.any(point.free)
    status = _first(
        (~(_isfinite(point) & jnp.isfinite(point.cost)), Status.NONFINITE_START),
        ((point.cost == 0.0) | held, Status.GTOL),
        # not a minimum but a place without information
        (jnp.all(point.norms == 0.0), Status.SINGULAR),
        ((gtol > 0.0) & (point.optimality <= gtol), Status.GTOL),
    )
    infeasible = problem.infeasible()
    if infeasible is not None:
        status = jnp.where(infeasible, Status.INFEASIBLE, status)
    zero = jnp.zeros((), jnp.int32)
    record = None
    if solver.record_history:
        rows = jnp.full((solver.max_steps,), jnp.nan, p0.dtype)
        points = jnp.full((solver.max_steps, p0.size), jnp.nan, p0.dtype)
        record = Record(points, rows, rows, rows, jnp.zeros(rows.shape, bool))
    return State(point, lam, growth, point.norms, zero, zero, status, record)


def propose(
    state: State, problem: Problem, solver: LevenbergMarquardt, linear_solver
) -> Proposal:
    """Solve the damped linear problem and evaluate the residual at the trial point."""
    point, scale = state.point, state.scale
    factor = _unit(point, scale)
    scaled = point.linearization.rescale(factor)
    q = linear_solver(scaled, state.lam)
    dp = factor * q
    fits = jnp.array(True)
    if solver.geodesic:
        bend = _second_derivative(problem, point.p, dp)
        correction = linear_solver(scaled.with_residual(bend), state.lam)
        # Transtrum and Sethna (2012), equation 15: refuse steps whose two orders
        # disagree
        fits = 2.0 * jnp.linalg.norm(correction) <= 0.75 * jnp.linalg.norm(q)
        dp = dp + 0.5 * factor * correction
    trial = problem.project(point.p + dp)
    if problem.box is not None:
        trial = _slide(state, problem, linear_solver, factor, point.p + dp, trial)
    dp = trial - point.p
    r = problem.residual_fn(trial)

    bend_down, cost, actual = sums(
        -0.5 * point.linearization.mv(dp) ** 2,
        problem.half_terms(r),
        problem.reduction_terms(point.r, r),
    )
    slope, step_size, size, blur = sums(
        -point.grad * dp,
        (scale * dp) ** 2,
        (scale * point.p) ** 2,
        point.norms * jnp.abs(point.p),
    )
    predicted = slope + bend_down
    # Rounding moves the residual by at least what rounding of p does, eps |J| |p|.
    # Changes of cost below `noise` (the factor 2 covers the model's own rounding)
    # neither condemn nor acquit a step: the gain tends to 1.
    blur = jnp.finfo(scale.dtype).eps * blur
    noise = 2.0 * blur * jnp.sqrt(2.0 * point.cost)
    noise = jnp.where(jnp.isfinite(noise), noise, 0.0)
    return Proposal(
        p=trial,
        r=r,
        cost=cost,
        predicted=predicted,
        actual=actual,
        noise=noise,
        blur=blur,
        gain=(actual + noise) / (predicted + noise),
        step_size=jnp.sqrt(step_size),
        size=jnp.sqrt(size),
        fits=fits,
    )


def _slide(state: State, problem: Problem, linear_solver, factor, aimed, projected):
    """Return the trial point once more, the parameters that hit a bound held there.

    Projection alone keeps what the others did in response to a step that was cut short.
    """
    hit = (aimed != projected) & (factor > 0.0)

    def solve_again():
        point = state.point
        cut = jnp.where(hit, projected - point.p, 0.0)
        shifted = point.linearization.residual + point.linearization.mv(cut)
        rest = jnp.where(hit, 0.0, factor)
        model = point.linearization.with_residual(shifted).rescale(rest)
        return problem.project(point.p + cut + rest * linear_solver(model, state.lam))

    return jax.lax.cond(jnp.any(hit), solve_again, lambda: projected)


def _unit(point: Point, scale) -> Float[Array, " n"]:
    """Return the factor from scaled to actual steps, 0 where none is allowed."""
    factor = 1.0 / jnp.where(scale > 0.0, scale, 1.0)
    return factor if point.free is None else jnp.where(point.free, factor, 0.0)


def _second_derivative(problem: Problem, p, dp):
    """Return ``d^2 r(p + s dp) / ds^2`` at s = 0."""
    velocity = lambda s: jax.jvp(problem.residual_fn, (p + s * dp,), (dp,))[1]
    zero = jnp.zeros((), p.dtype)
    return jax.jvp(velocity, (zero,), (jnp.ones_like(zero),))[1]


def step(
    state: State, problem: Problem, solver: LevenbergMarquardt, linear_solver
) -> State:
    """Propose one step, judge it, and stop or go on."""
    point, lam, scale = state.point, state.lam, state.scale
    trial = propose(state, problem, solver, linear_solver)
    accept = jnp.isfinite(trial.cost)
    undecided = jnp.array(False)
    if solver.damping.guarded:
        # The first step may not exceed the start itself: from far away the linear model
        # leaps onto plateaus (NIST BoxBOD) where every gradient vanishes.
        leap = (state.num_accepted == 0) & (trial.step_size > trial.size)
        leap &= trial.size > 0.0
        accept &= (
            (trial.predicted >= 0.0) & (trial.gain > MIN_GAIN) & ~leap & trial.fits
        )
        # Where rounding hides the reduction, the gradient has the last word.
        change = jnp.abs(trial.predicted) + jnp.abs(trial.actual)
        undecided = change <= 2.0 * trial.noise
        undecided &= trial.actual < 0.0

    def linearise():
        new = evaluate(problem, trial.p, trial.r, trial.cost, linear_solver)
        good = _isfinite(new)
        good &= ~undecided | (_slope(new, scale) < _slope(point, scale))
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, point), good

    new, accept = jax.lax.cond(accept, linearise, lambda: (point, jnp.array(False)))
    lam_new, growth = solver.damping.update(lam, state.growth, trial.gain, accept)
    status = _stop(state, trial, new, accept, undecided, lam_new, solver, linear_solver)
    fade = jnp.where(accept & (trial.gain > 0.5), FADE, 1.0).astype(scale.dtype)
    record = state.record
    if record is not None:
        row = Record(trial.p, trial.cost, lam, trial.gain, accept)
        record = jax.tree.map(lambda a, b: a.at[state.num_steps].set(b), record, row)
    return State(
        new,
        lam_new,
        growth,
        jnp.maximum(fade * scale, new.norms),
        state.num_steps + 1,
        state.num_accepted + accept.astype(jnp.int32),
        status,
        record,
    )


def _isfinite(point: Point) -> Flag:
    """Return whether the linearization is finite: all of J enters these two."""
    return jnp.all(jnp.isfinite(point.grad)) & jnp.all(jnp.isfinite(point.norms))


def _slope(point: Point, scale) -> Scalar:
    """Return the squared norm of the gradient in scaled variables, free part only."""
    return jnp.sum((_unit(point, scale) * point.grad) ** 2)


def _stop(
    state: State,
    trial: Proposal,
    new: Point,
    accept: Flag,
    undecided: Flag,
    lam_new: Scalar,
    solver: LevenbergMarquardt,
    linear_solver: Callable,
) -> Count:
    """Return the status after a step.

    The tests on the step are those of MINPACK with one change: a step that is short
    only because lambda is large proves nothing, so both are charged a factor ``1 +
    lam``, which turns them into tests of the gradient there.
    """
    lam, cost = state.lam, state.point.cost
    ftol, xtol, gtol = solver.tolerances(lam.dtype)
    promise = trial.predicted * (1.0 + lam)
    quiet = accept & (trial.actual <= ftol * cost + trial.noise)
    quiet &= promise >= 0.0  # an unguarded step may promise an increase
    # nor does a step that rounding swallowed whole prove anything
    converged = quiet & (promise <= ftol * cost) & (trial.step_size > 0.0)
    # Three ways to reach the floor of the precision. Rounding of r, seen through the n
    # of m directions that J spans, promises as much as the model does; a refused step
    # promises not much more (a model may round 15 times worse than blur, which it does
    # where it cancels); or even a short step along the gradient improves nothing.
    jitter = 2.0 * trial.blur**2 * state.point.p.size / state.point.r.size
    refused = ~accept & undecided
    floor = quiet & (promise <= jitter) | refused & (promise <= 300.0 * jitter)
    floor |= refused & (lam >= 1.0) & (promise <= trial.noise)
    # It is the minimum only if the undamped model agrees: damping may hide a valley.
    at_minimum = jax.lax.cond(
        floor & ~converged,
        lambda: (
            (new.cost <= 50.0 * trial.blur**2)  # the residual itself is rounding
            | _is_minimum(new, state.scale, linear_solver, trial.noise)
        ),
        lambda: jnp.array(True),
    )
    eps = jnp.finfo(lam.dtype).eps
    stuck = ~accept & ((lam_new >= 1.0 / eps**2) | (lam_new == lam))
    return _first(
        (accept & (new.cost == 0.0), Status.GTOL),
        (accept & jnp.all(new.norms == 0.0), Status.SINGULAR),
        (accept & (gtol > 0.0) & (new.optimality <= gtol), Status.GTOL),
        ((ftol > 0.0) & (converged | floor & at_minimum), Status.FTOL),
        (
            accept
            & (xtol > 0.0)
            & ((1.0 + lam) * trial.step_size <= xtol * trial.size),
            Status.XTOL,
        ),
        (stuck | floor, Status.STALLED),
        (state.num_steps + 1 >= solver.max_steps, Status.MAX_STEPS),
    )


def _first(*cases: tuple[Flag, Status]) -> Count:
    """Return the status of the first case that holds, RUNNING if none does."""
    status = jnp.asarray(Status.RUNNING, jnp.int32)
    for holds, outcome in reversed(cases):
        status = jnp.where(holds, jnp.int32(outcome), status)
    return status


def _is_minimum(point: Point, scale, linear_solver, noise: Scalar) -> Flag:
    """Return whether a Gauss-Newton step promises little more than noise.

    A step so long that rounding of J alone would explain it says nothing: J is then
    singular in this dtype, and a long way may be left (NIST MGH17 in float32, two equal
    rates).
    """
    eps, tiny = jnp.finfo(scale.dtype).eps, jnp.finfo(scale.dtype).tiny
    scaled = point.linearization.rescale(_unit(point, scale))
    q = linear_solver(scaled, tiny)
    jq = scaled.mv(q)
    promise = -jnp.sum(jq * (scaled.residual + 0.5 * jq))
    length = jnp.sqrt(jnp.sum(q * q))
    regular = eps * length <= 0.1 * jnp.sqrt(jnp.sum(scaled.residual**2))
    return regular & (promise <= 10.0 * noise)
