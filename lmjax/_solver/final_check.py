"""The final check of fits whose normal matrix cannot be trusted, by J itself.

Normal equations square the condition number. Where the matrix has lost a direction, an
orthogonal basis of the columns of J tells whether the fit is at a minimum. If it is
not, undamped steps along that basis go on as long as they reduce the cost.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax import sharded
from lmjax._jax.batched_cond import batched_cond
from lmjax._problem.problem import Problem
from lmjax._solver import roundoff, stopping
from lmjax._solver.diagnosis import Diagnosis, diagnose
from lmjax._solver.point import Point, free_part, point_at
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.status import Status

# Gauss-Newton steps at most. They start where the normal equations found no further
# step: near a minimum, where a few steps suffice, or where none help.
MAX_TURNS = 20


class Checked(NamedTuple):
    """A fit after the check.

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


def check(
    problem: Problem,
    p0: Float[Array, " n"],
    fit: Checked,
    scale: Float[Array, " n"],
    solver: LevenbergMarquardt,
) -> Checked:
    """Return the fit as it is, or checked by J if it is NEEDS_FINAL_CHECK."""
    needed = fit.status == stopping.NEEDS_FINAL_CHECK
    operands = problem, p0, fit, scale, solver.tolerances(scale.dtype)[0]

    def by_jacobian(operands):
        problem, p0, fit, scale, ftol = operands
        turn = lambda state: take_turn(problem, p0, scale, ftol, state)
        return finish(sharded.while_loop(goes_on, turn, begin(fit)))

    return batched_cond(needed, by_jacobian, fit, operands)


class CheckState(NamedTuple):
    """The check between two turns.

    Attributes:
        best: The best point so far.
        step: Undamped step from there.
        failure: The status if no step reduces the cost.
        turns: Turns so far.
    """

    best: Checked
    step: Float[Array, " n"]
    failure: Int[Array, ""]
    turns: Int[Array, ""]


def begin(fit: Checked) -> CheckState:
    """Return the state before the first turn, which takes no step.

    For a fit that is not NEEDS_FINAL_CHECK there is no turn.
    """
    needed = fit.status == stopping.NEEDS_FINAL_CHECK
    status = jnp.where(needed, Status.RUNNING, fit.status).astype(jnp.int32)
    failure = jnp.int32(Status.ILL_CONDITIONED)
    no_step = jnp.zeros_like(fit.norms)
    turns = jnp.where(needed, 0, MAX_TURNS).astype(jnp.int32)
    return CheckState(fit._replace(status=status), no_step, failure, turns)


def goes_on(state: CheckState) -> Bool[Array, ""]:
    """Return whether there is another turn."""
    return (state.best.status == Status.RUNNING) & (state.turns < MAX_TURNS)


def take_turn(fit: Any, p0, scale, ftol, state: CheckState) -> CheckState:
    """Take the step, and check J there.

    ``fit`` is a `Problem`, or a `ScalarFit`, which has only a triangle of J.
    """
    best, step, failure, turns = state
    p = fit.constraints.project(fit.constraints.shifted(best.p, step))
    new, step, new_failure = _check_at(fit, p0, p, scale, ftol)
    worse = ~(new.cost < best.cost) & (turns > 0)
    old = best._replace(status=failure)
    best, failure = jax.tree.map(
        lambda a, b: jnp.where(worse, a, b), (old, failure), (new, new_failure)
    )
    return CheckState(best, step, failure, turns + 1)


def finish(state: CheckState) -> Checked:
    """Return the fit after the last turn."""
    best = state.best
    late = best.status == Status.RUNNING
    return best._replace(status=jnp.where(late, state.failure, best.status))


def _check_at(fit: Any, p0, p: Float[Array, " n"], scale, ftol):
    """Return what is known at ``p``, the undamped step, and the status of a failure."""
    cost, r, linearization = fit.cost_and_linearization(p)
    point = point_at(fit.constraints, p, r, linearization, cost)
    effect = jnp.sum(linearization.mv(free_part(point, fit.constraints)) ** 2)
    diagnosis = diagnose(point, p0, scale, effect, fit.constraints)
    step, status, failure = _undamped_step(fit, point, diagnosis, ftol)
    explained = lambda status: stopping.explained(status, *diagnosis.of_fit)
    checked = Checked(
        p,
        cost,
        point.optimality,
        jnp.asarray(linearization.normal_matrix()),
        jnp.ones_like(diagnosis.lost) if point.free is None else point.free,
        point.norms,
        diagnosis.lost,
        explained(status),
    )
    return checked, step, explained(failure)


def _undamped_step(fit: Any, point: Point, diagnosis: Diagnosis, ftol):
    """Return the undamped step, the status, and the one if no step reduces the cost.

    The status is RUNNING where the step is to be taken. The rules are those of
    `lmjax._solver.stopping.status_after_undamped`, for an orthogonal factorisation.
    """
    n = point.norms.size
    columns, r = point.linearization.columns, point.linearization.residual
    usable = point.norms > 0.0
    usable = usable if point.free is None else usable & point.free
    inverse_norms = jnp.where(usable, 1.0 / jnp.where(usable, point.norms, 1.0), 0.0)
    columns = columns * inverse_norms[:, None]
    weights, rest, change = fit.eliminate(columns, r)
    weights = jnp.where(weights > 0.0, weights, jnp.inf)
    pivot = jnp.min(jnp.where(usable, 1.0 / weights, jnp.inf))

    cost, cancels = point.cost, diagnosis.cancels
    residual_rounding = diagnosis.residual_rounding
    cost_rounding = roundoff.cost_rounding(residual_rounding, cost)
    relevant = stopping.relevant_reduction(cost, fit.m, n)
    negligible = stopping.negligible_reduction(cost, cost_rounding, cancels, ftol)
    predicted = 0.5 * jnp.sum((r - rest) * (r + rest))
    only_rounding = roundoff.residual_is_rounding(cost, residual_rounding)
    trusted = roundoff.trusted(pivot, cancels, only_rounding, n, False)
    size = jnp.sqrt(jnp.sum(change**2))
    trusted &= roundoff.step_resolved(size, cost, relevant, False)
    minimum = trusted & (predicted <= jnp.maximum(negligible, relevant))
    status = stopping.first_of(
        (minimum | diagnosis.zero, Status.FTOL), (~trusted, Status.ILL_CONDITIONED)
    )
    failure = jnp.where(trusted, Status.STALLED, Status.ILL_CONDITIONED)
    return -inverse_norms * change, status, failure.astype(jnp.int32)
