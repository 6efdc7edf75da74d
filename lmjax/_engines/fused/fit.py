"""The fit of a batch as a plan of a machine program: the loop, then the final check."""

from contextlib import suppress
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmjax._engines.block import Ended, bends_of_one, end, rows_of_one
from lmjax._engines.fused.plan import Loop, Plan, ScalarFit, loop, pass_of
from lmjax._linalg.linearization import NormalLinearization
from lmjax._problem.problem import NOT_TWICE_DIFFERENTIABLE
from lmjax._solver import final_check, range_check, stopping
from lmjax._solver.final_check import Checked, CheckState
from lmjax._solver.loop import init, step
from lmjax._solver.point import point_at
from lmjax._solver.range_check import RangeState
from lmjax._solver.state import State
from lmjax._solver.status import Engine


def plan(arrays: Any, rest: Any) -> Plan:
    """Return how a fit runs, which ends in an `Ended` and an `Engine` value.

    Args:
        arrays: Shapes of the arrays of problem, solver and start of one fit.
        rest: What is no array of them.
    """
    start = arrays[2]

    def problem_of(arrays):
        return eqx.combine(arrays[0], rest[0])

    problem = problem_of(arrays)
    rows = lambda a, *args: rows_of_one(problem_of(a), *args)
    products = pass_of(rows, "products", arrays, start)
    passes = {"rows": products, "triangle": products._replace(adds="triangle")}
    if problem.has_second_derivatives:
        bends = lambda a, *args: bends_of_one(problem_of(a), *args)
        with suppress(*NOT_TWICE_DIFFERENTIABLE):  # the first scale does without them
            passes["bends"] = pass_of(bends, "squares", arrays, start)

    def of(arrays):
        problem, solver, p0 = eqx.combine(arrays, rest)
        begun, twice = jnp.array(True), "bends" in passes
        return ScalarFit(problem, None, problem.constraints, p0, begun, twice), solver

    fit, ended = _fit(of, arrays)
    final, results = _final(of, ended, arrays)
    loops = [fit, final]
    if range_check.matters(problem, start.dtype):
        n = start.shape[0]
        both = jax.ShapeDtypeStruct((2 * n,), start.dtype)
        sizes = lambda a, p, _: problem_of(a).sizes(p[:n], p[n:], False)
        passes["largest"] = pass_of(sizes, "largest", arrays, both)
        ended, kind = results
        checked, results = _checked(of, ended, kind, arrays)
        loops.append(checked)
    return Plan("fits", loops, passes, results, start, problem.m)


def _pack(state: State) -> list[Array]:
    point = state.point
    floats = [point.p, jnp.stack(point.linearization.gram), state.scale, point.cost]
    counts = [state.num_steps, state.num_accepted, state.status]
    return [*floats, state.lam, state.growth, state.mark, *counts]


def _unpack(fit: ScalarFit, state: list[Array]) -> State:
    p, gram, scale, cost, lam, growth, mark, steps, accepted, status = state
    n = p.shape[0]
    gram = tuple(gram[i] for i in range(gram.shape[0]))
    point = point_at(fit.constraints, p, None, NormalLinearization(gram, n), cost)
    counts = steps, accepted, status
    return State(point, lam, growth, mark, scale, *counts, None)


def _fit(of: Any, arrays: Any) -> tuple[Loop, Any]:
    """Return the fit as a loop, and what it ends in."""

    def begin(arrays):
        fit, solver = of(arrays)
        return _pack(init(fit, fit.p0, solver))

    def turn(state, arrays):
        fit, solver = of(arrays)
        return _pack(step(_unpack(fit, state), fit, solver))

    def finish(state, arrays) -> Ended:
        fit, _ = of(arrays)
        return end(_unpack(fit, state), fit.p0, fit.constraints)

    going = lambda state: stopping.unfinished(state[-1])
    return loop(begin, going, turn, finish, arrays)


def _final(of: Any, ended: Any, arrays: Any) -> tuple[Loop, Any]:
    """Return the final check as a loop, and what it ends in."""

    def begin(ended, arrays):
        fit = Checked(*(getattr(ended, name) for name in Checked._fields))
        return final_check.begin(fit)

    def turn(state: CheckState, ended, arrays):
        fit, solver = of(arrays)
        ftol = solver.tolerances(ended.scale.dtype)[0]
        return final_check.take_turn(fit, fit.p0, ended.scale, ftol, state)

    def finish(state: CheckState, ended, arrays):
        ended = ended._replace(**final_check.finish(state)._asdict())
        return ended, jnp.int32(Engine.FUSED)

    return loop(begin, final_check.goes_on, turn, finish, ended, arrays)


def _checked(of: Any, ended: Any, kind: Any, arrays: Any) -> tuple[Loop, Any]:
    """Return the check of the range of squares as a loop, and what it ends in."""

    def begin(ended, kind, arrays) -> RangeState:
        return range_check.begin(of(arrays)[0], ended)

    def turn(state: RangeState, ended, kind, arrays) -> RangeState:
        fit, _ = of(arrays)
        return range_check.check(fit.largest, fit.p0, ended.p, ended.norms, state)

    def finish(state: RangeState, ended, kind, arrays):
        return ended._replace(status=state.status), kind

    going = lambda state: state.doubtful
    return loop(begin, going, turn, finish, ended, kind, arrays)
