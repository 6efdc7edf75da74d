"""One last look at J itself, by fits whose normal matrix cannot be trusted.

Normal equations square the condition number. Where the matrix has lost a direction, an
orthogonal basis of the columns of J tells whether the fit is at a minimum; if it is
not, undamped steps along that basis go on as long as they reduce the cost.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax import varying
from lmjax._jax.batched_cond import rarely
from lmjax._problem.problem import Problem
from lmjax._solver import roundoff, stopping
from lmjax._solver.proposal import Point, free_part, point_at
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.status import Status

# Gauss-Newton steps at most. They start where the normal equations gave up, which is
# near a minimum or nowhere.
MOST = 20


class Judged(NamedTuple):
    """A fit after the look.

    Attributes:
        p: Parameters.
        cost: Cost there.
        optimality: Largest cosine between the residual and a free column of J.
        normal_matrix: ``J^T J``.
        free: Which parameters may move.
        norms: Norms of the columns of J.
        lost: Which free parameters have lost their effect on the residual.
        status: A `Status` value.
    """

    p: Float[Array, " n"]
    cost: Float[Array, ""]
    optimality: Float[Array, ""]
    normal_matrix: Float[Array, "n n"]
    free: Bool[Array, " n"]
    norms: Float[Array, " n"]
    lost: Bool[Array, " n"]
    status: Int[Array, ""]


def judge(
    problem: Problem,
    p0: Float[Array, " n"],
    given: Judged,
    scale: Float[Array, " n"],
    solver: LevenbergMarquardt,
) -> Judged:
    """Return the fit as it is, or after a look at J if it is DOUBTFUL."""
    doubtful = given.status == stopping.DOUBTFUL
    operands = problem, p0, given, scale, solver.tolerances(scale.dtype)[0]

    def look(operands):
        problem, p0, given, scale, ftol = operands
        turn = lambda looking: take_turn(problem, p0, scale, ftol, looking)
        return finish(varying.while_loop(going, turn, begin(given)))

    return rarely(doubtful, look, given, operands)


class Looking(NamedTuple):
    """The look between two turns.

    Attributes:
        judged: The best point so far.
        step: Undamped step from there.
        failure: The status if no step reduces the cost.
        turns: Turns so far.
    """

    judged: Judged
    step: Float[Array, " n"]
    failure: Int[Array, ""]
    turns: Int[Array, ""]


def begin(given: Judged) -> Looking:
    """Return the state before the first turn, which takes no step.

    For a fit that is not DOUBTFUL there is none.
    """
    doubtful = given.status == stopping.DOUBTFUL
    status = jnp.where(doubtful, Status.RUNNING, given.status).astype(jnp.int32)
    ill = jnp.int32(Status.ILL_CONDITIONED)
    none = jnp.zeros_like(given.p)
    turns = jnp.where(doubtful, 0, MOST).astype(jnp.int32)
    return Looking(given._replace(status=status), none, ill, turns)


def going(looking: Looking) -> Bool[Array, ""]:
    """Return whether there is another turn."""
    return (looking.judged.status == Status.RUNNING) & (looking.turns < MOST)


def take_turn(fit: Any, p0, scale, ftol, looking: Looking) -> Looking:
    """Take the step, and look at J there.

    ``fit`` is a `Problem`, or what knows only a triangle of J.
    """
    judged, step, failure, k = looking
    p = fit.conditions.project(judged.p + step)
    new, step, new_failure = _judged(fit, p0, p, scale, ftol)
    worse = ~(new.cost < judged.cost) & (k > 0)
    old = judged._replace(status=failure)
    judged, failure = jax.tree.map(
        lambda a, b: jnp.where(worse, a, b), (old, failure), (new, new_failure)
    )
    return Looking(judged, step, failure, k + 1)


def finish(looking: Looking) -> Judged:
    """Return the fit after the last turn."""
    judged = looking.judged
    late = judged.status == Status.RUNNING
    return judged._replace(status=jnp.where(late, looking.failure, judged.status))


def _judged(fit: Any, p0, p: Float[Array, " n"], scale, ftol):
    """Return what is known at ``p``, the undamped step, and how to call a failure."""
    cost, r, linearization = fit.look(p)
    point = point_at(fit.conditions, p, r, linearization, cost)
    step, status, failure = _undamped(fit, point, p0, ftol)
    cancels, zero, rounding = _effects(point, p0)
    lost = roundoff.without_effect(point.norms, p, p0, scale, rounding)
    free = jnp.ones_like(lost) if point.free is None else point.free
    lost &= free
    held = jnp.any(fit.conditions.active(p, point.grad))
    named = lambda status: stopping.explained(
        status, jnp.any(lost) & ~held, cancels, zero
    )
    judged = Judged(
        p,
        cost,
        point.optimality,
        jnp.asarray(linearization.normal_matrix()),
        free,
        point.norms,
        lost,
        named(status),
    )
    return judged, step, named(failure)


def _effects(point: Point, p0):
    """Return whether effects cancel, whether the residual is zero, and its rounding."""
    free = free_part(point)
    effect = jnp.sum(point.linearization.mv(free) ** 2)
    free_effects = map(jnp.sum, roundoff.squared_effects(point.norms, free, p0))
    cancels = roundoff.cancels(effect, *free_effects)
    effects = jnp.sum((point.norms * point.p) ** 2)
    rounding = roundoff.residual_rounding(effects, point.cost)
    return cancels, roundoff.is_zero(point.cost, rounding, cancels), rounding


def _undamped(fit: Any, point: Point, p0, ftol):
    """Return the undamped step, the status, and the one if no step reduces the cost.

    The status is RUNNING where the step is to be taken. As
    `lmjax._solver.stopping.after_look`, by an orthogonal factorisation.
    """
    n = point.p.size
    columns, r = point.linearization.columns, point.linearization.residual
    usable = point.norms > 0.0
    usable = usable if point.free is None else usable & point.free
    unit = jnp.where(usable, 1.0 / jnp.where(usable, point.norms, 1.0), 0.0)
    columns = columns * unit[:, None]
    weights, rest, change = fit.eliminate(columns, r)
    weights = jnp.where(weights > 0.0, weights, jnp.inf)
    pivot = jnp.min(jnp.where(usable, 1.0 / weights, jnp.inf))

    cancels, zero, rounding = _effects(point, p0)
    noise = roundoff.cost_rounding(rounding, point.cost)
    relevant = stopping.relevant_reduction(point.cost, fit.m, n)
    strict = stopping.negligible_promise(point.cost, noise, cancels, ftol)
    promise = 0.5 * jnp.sum((r - rest) * (r + rest))
    hidden = roundoff.is_hidden(point.cost, rounding)
    believed = roundoff.trusted(pivot, cancels, hidden, n, False)
    size = jnp.sqrt(jnp.sum(change**2))
    believed &= roundoff.step_resolved(size, point.cost, relevant, False)
    minimum = believed & (promise <= jnp.maximum(strict, relevant))
    status = stopping.first_of(
        (minimum | zero, Status.FTOL), (~believed, Status.ILL_CONDITIONED)
    )
    failure = jnp.where(believed, Status.STALLED, Status.ILL_CONDITIONED)
    return -unit * change, status, failure.astype(jnp.int32)
