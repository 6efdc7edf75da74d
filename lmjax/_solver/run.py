"""One fit from its start to its end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._problem.problem import Problem
from lmjax._solver import loop, stopping
from lmjax._solver.point import point_at
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.single_fit import BlockFit, fit_of
from lmjax._solver.state import State


def run(
    problem: Problem,
    p0: Float[Array, " n"],
    solver: LevenbergMarquardt,
    linear_solver: Callable,
) -> State:
    """Run one fit from ``p0`` until the status leaves RUNNING."""
    fit = fit_of(problem, linear_solver, p0)
    unfinished = lambda state: stopping.unfinished(state.status)
    if isinstance(fit, BlockFit):
        turn = lambda state: _start_or_step(state, fit, solver)
        return sharded.while_loop(unfinished, turn, _unstarted(fit, p0, solver))
    turn = lambda state: loop.step(state, fit, solver)
    return sharded.while_loop(unfinished, turn, loop.init(fit, p0, solver))


def _unstarted(fit: BlockFit, p0: Float[Array, " a"], solver) -> State:
    """Return the state of a fit of blocks whose start has not been linearised."""
    problem: Any = fit.problem
    zero = problem.zero_linearization(p0)

    def first():
        cost = jnp.zeros((), p0.dtype)
        point = point_at(fit.constraints, p0, zero.residual, zero, cost)
        return loop.begin(point, None, fit, solver)._replace(start_cost=cost)

    # nothing of the residual is traced for its shapes
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(first))
    return state._replace(
        point=state.point._replace(p=p0, linearization=zero),
        lam=jnp.ones_like(state.lam),
        status=jnp.int32(stopping.UNSTARTED),
    )


def _start_or_step(state: State, fit: BlockFit, solver) -> State:
    """Return the state after the next step, of which the first leads to the start.

    So J is compiled once, which takes most of the time that a user waits for a first
    answer: a start outside the loop would compile it twice.
    """
    proposed = loop.propose(state, fit, solver)
    evaluated = fit.evaluate(proposed.p)
    after, linearized = loop.decide_and_linearize(
        state, proposed, evaluated, fit, solver
    )
    after = after._replace(start_cost=state.start_cost)
    started = loop.begin(linearized, None, fit, solver)
    started = started._replace(start_cost=linearized.cost)
    unstarted = state.status == stopping.UNSTARTED
    return sharded.choose(unstarted, lambda: started, lambda: after)
