"""Where a fit goes: to the plain loop, or under `jax.vmap` to an engine for batches."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._engines import xla
from lmjax._engines.block import Ended, Ran
from lmjax._engines.fused import engine as fused
from lmjax._engines.fused.blocks import by_programs
from lmjax._engines.fused.fit import plan as fit_plan
from lmjax._engines.xla import Batch
from lmjax._jax.custom_vmap import each, with_batch
from lmjax._linalg.linearization import UNROLL_UP_TO
from lmjax._linalg.solvers import Cholesky
from lmjax._problem import separable
from lmjax._problem.problem import Problem
from lmjax._solver import loop, range_check, stopping
from lmjax._solver.diagnosis import diagnose
from lmjax._solver.final_check import Checked, check
from lmjax._solver.outcome import Outcome, outcome_of
from lmjax._solver.run import run
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.single_fit import SingleFit, fit_of
from lmjax._solver.status import Engine, Status

ANOTHER = "the solver asks for another engine"


def solve(
    problem: Problem, p0: Float[Array, " n"], solver: LevenbergMarquardt
) -> Outcome:
    """Run one fit, its linear parameters (if any are marked) solved out."""
    if problem.linear is None:
        return _run(problem, p0, solver)
    separated, reduced = separable.separate(problem, p0)
    q = p0[separable.indices(problem, False)]
    inner = _run(reduced, q, solver) if q.size else None
    return _whole(separated, inner, p0, solver)


def _whole(separated, inner: Outcome | None, p0, solver: LevenbergMarquardt) -> Outcome:
    """Return the outcome in all parameters, given that in the nonlinear ones.

    A minimum of one problem is one of the other: the point is checked once more, and
    what happened on the way stays. Without nonlinear parameters nothing did.
    """
    problem = separated.problem
    q = p0[:0] if inner is None else inner.p
    start = p0[separable.indices(problem, True)]
    p = separated.complete(q)
    p = jnp.where(jnp.all(jnp.isfinite(p)), p, separated.join(q, start))
    fit = SingleFit(problem, solver.choose_linear_solver(problem.m, p.size), p)
    state = loop.init(fit, p, solver)
    outcome = outcome_of(state, problem, solver)
    status = jnp.where(state.status == Status.RUNNING, Status.GTOL, state.status)
    if inner is not None:
        record = inner.record
        if record is not None:
            record = record._replace(p=jax.vmap(separated.complete)(record.p))
        kept = ("num_steps", "num_accepted", "damping", "engine", "lane_steps")
        same = {name: getattr(inner, name) for name in kept}
        outcome = outcome._replace(record=record, **same)
        lost = jnp.zeros_like(outcome.lost)
        lost = lost.at[separable.indices(problem, False)].set(inner.lost)
        outcome = outcome._replace(lost=lost)
        # without any effect here, or not finite, whatever the way there looked like
        status = jnp.where(state.status < 0, state.status, inner.status)
    size = jnp.max(state.point.norms * jnp.abs(p))
    affine = separated.is_affine(p, start, size)
    status = jnp.where(affine, status, Status.NOT_AFFINE).astype(jnp.int32)
    return _in_range(problem, p0, outcome._replace(status=status), solver)


def _in_range(problem: Problem, p0, outcome: Outcome, solver) -> Outcome:
    """Return an outcome, its status told apart from squares out of range."""
    return outcome._replace(status=range_check.status(problem, p0, outcome, solver))


def _run(problem: Problem, p0: Float[Array, " n"], solver: LevenbergMarquardt):
    """Run one fit; ``vmap`` of it runs the batch engine where that applies."""
    linear_solver = solver.choose_linear_solver(problem.m, problem.constraints.size(p0))
    given = (problem, solver, p0)
    arrays, rest = eqx.partition((given, linear_solver), eqx.is_array)

    def plain(arrays) -> Outcome:
        (problem, solver, p0), linear_solver = eqx.combine(arrays, rest)
        return _alone(problem, p0, solver, linear_solver)

    def batch(size, flags, arrays) -> Outcome:
        (problem, _, p0), _ = eqx.combine(arrays, rest)
        reason = _obstacle(problem, p0.shape[-1], solver)
        if reason is None:
            return _batch(size, flags[0], arrays[0], rest[0])
        if solver.engine == "fused":
            raise fused.refused(reason)
        outcome = each(plain, size, flags, arrays)
        text = f"loop: not fused, because {reason}"
        return outcome._replace(engine=fused.noted(outcome.engine, text))

    return with_batch(plain, batch, arrays)


def _obstacle(problem: Problem, n: int, solver: LevenbergMarquardt) -> str | None:
    """Return why a batch of such fits takes one loop for all; None if it need not."""
    choice, most = solver.linear_solver, fused.MOST_PARAMETERS
    if problem.jacobian == "blocks":
        return "it has residual blocks"
    if problem.constraints.charts is not None:
        return "its parameters lie on a manifold"
    if solver.engine == "loop":
        return ANOTHER
    if solver.engine == "xla" and n > UNROLL_UP_TO:
        return (
            f"{n} parameters are more than the {UNROLL_UP_TO} of the engine asked for"
        )
    if n > most:
        return f"{n} parameters are more than {most}"
    if n > problem.m:
        return f"{n} parameters are more than {problem.m} residuals"
    if not (choice is None or isinstance(choice, Cholesky)):
        return "the linear solver that was chosen does not work with J^T J alone"
    if problem.jacobian == "rev":
        return "its Jacobian is taken in reverse mode"
    if solver.record_history or solver.geodesic:
        return "the solver asks for the history of the steps or for geodesic steps"
    return None


def _alone(problem, p0, solver, linear_solver: Callable) -> Outcome:
    if problem.jacobian == "blocks" and not solver.geodesic:
        problem = by_programs(problem)
    state = run(problem, p0, solver, linear_solver)
    outcome = outcome_of(state, problem, solver)
    fit = fit_of(problem, linear_solver, p0)
    effect = fit.effect(state.point)
    diagnosis = diagnose(state.point, p0, state.scale, effect, problem.constraints)
    explained = stopping.explained(outcome.status, *diagnosis.of_fit)
    outcome = outcome._replace(status=explained, lost=diagnosis.lost)
    if fit.squares_condition:
        given = Checked(*(getattr(outcome, name) for name in Checked._fields))
        checked = check(problem, p0, given, state.scale, solver)
        r = problem.residual_fn(checked.p)
        outcome = outcome._replace(r=r, **checked._asdict())
    return _in_range(problem, p0, outcome, solver)


def _batch(size: int, batched: Any, arrays: Any, rest: Any) -> Outcome:
    problem, solver, p0 = arrays
    if not batched[2]:
        p0 = jnp.broadcast_to(p0, (size, *p0.shape))
    batch = Batch((problem, solver, p0), (*batched[:2], True), rest)
    ended, ran = _fitted(batch, size)
    checked = {name: getattr(ended, name) for name in Checked._fields}
    axes = jax.tree.map(lambda flag: 0 if flag else None, batched[0])
    # For whoever wants it; XLA drops it where nobody does.
    residual = lambda problem, p: eqx.combine(problem, rest[0]).residual_fn(p)
    return Outcome(
        **checked,
        r=jax.vmap(residual, in_axes=(axes, 0))(problem, checked["p"]),
        num_steps=ended.num_steps,
        num_accepted=ended.num_accepted,
        damping=ended.damping,
        engine=ran.kind,
        lane_steps=ran.steps,
        record=None,
    )


def _fitted(batch: Batch, size: int) -> tuple[Ended, Ran]:
    """Return what a batch leaves behind, fits first, and what ran it."""
    asked = batch.rest[1].engine
    reason = ANOTHER
    if asked != "xla":
        try:
            return _by_program(batch, size)
        except fused.Unsupported as error:
            reason = str(error)
    if asked == "fused":
        raise fused.refused(reason)
    n = batch.arrays[2].shape[1]
    name = "xla" if n <= UNROLL_UP_TO else "loop"
    ended, ran = _in_jax(batch, size)
    kind = fused.noted(ran.kind, f"{name}: not fused, because {reason}")
    return ended, ran._replace(kind=kind)


def _by_program(batch: Batch, size: int) -> tuple[Ended, Ran]:
    """Fit a batch by one machine program.

    Raises:
        Unsupported: If there is none; says why.
    """
    arrays, flags, rest = batch

    def elsewhere(arrays):
        ended, ran = _in_jax(batch._replace(arrays=arrays), size)
        return (ended, ran.kind), ran.steps.astype(jnp.int32)

    plan = lambda shapes: fit_plan(shapes, rest)
    must = rest[1].engine == "fused"
    (ended, kind), steps = fused.run(plan, arrays, flags, size, elsewhere, must)
    return ended, Ran(kind, steps.astype(ended.cost.dtype))


def _in_jax(batch: Batch, size: int) -> tuple[Ended, Ran]:
    """Fit a batch by blocks of fits, or one loop for all where those are too long."""
    n = batch.arrays[2].shape[1]
    ended, ran = (_by_blocks if n <= UNROLL_UP_TO else _by_loop)(batch, size)
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), ended), ran


def _by_loop(batch: Batch, size: int) -> tuple[Ended, Ran]:
    axes = jax.tree.map(lambda flag: 0 if flag else None, batch.flags)

    def one(arrays):
        problem, solver, p0 = eqx.combine(arrays, batch.rest)
        linear_solver = solver.choose_linear_solver(
            problem.m, problem.constraints.size(p0)
        )
        return _alone(problem, p0, solver, linear_solver)

    out = jax.vmap(one, in_axes=(axes,), axis_size=size)(batch.arrays)
    same = {name: getattr(out, name) for name in Ended._fields if name != "scale"}
    ended = Ended(**same, scale=out.norms)
    last = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), ended)
    return last, Ran(out.engine, out.lane_steps)


def _by_blocks(batch: Batch, size: int) -> tuple[Ended, Ran]:
    (problem, solver, p0), flags, rest = batch
    with jax.numpy_rank_promotion("allow"):  # (n, f) with (f,) is the rule there
        ended, steps = xla.run(batch, size)
    first = lambda x: jnp.moveaxis(x, -1, 0)
    given = Checked(*(first(getattr(ended, name)) for name in Checked._fields))
    axes = jax.tree.map(lambda flag: 0 if flag else None, flags[:2])

    def checks_of_one(problem, solver, p0, given, scale):
        problem, solver = eqx.combine((problem, solver), rest[:2])
        checked = check(problem, p0, given, scale, solver)
        return checked._replace(status=range_check.status(problem, p0, checked, solver))

    checks = jax.vmap(checks_of_one, in_axes=(*axes, 0, 0, 0))
    checked = checks(problem, solver, p0, given, ended.scale.T)
    last = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), checked._asdict())
    share = jnp.broadcast_to(steps / size, (size,)).astype(ended.cost.dtype)
    ran = Ran(jnp.full(size, Engine.XLA, jnp.int32), share)
    return ended._replace(**last), ran
