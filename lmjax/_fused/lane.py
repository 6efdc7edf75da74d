"""One fit of a batch as functions of scalars, traced by jax from the loop's own source.

What runs over the points stands apart: a pass over the data is a primitive of its own,
``visit``, whose sums come from a loop that `lmjax._fused.kernel` writes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive
from jaxtyping import Array

from lmjax import _last_look, _loop, _stopping
from lmjax._block import Ended, Lanes, bends_of_one, end, rows_of_one
from lmjax._last_look import Judged, Looking
from lmjax._linearize import DenseLinearization, NormalLinearization, gram_pairs
from lmjax._problem import NOT_TWICE_DIFFERENTIABLE
from lmjax._projection import eliminate
from lmjax._proposal import point_at

visit_p = Primitive("visit")
visit_p.multiple_results = True
visit_p.def_abstract_eval(
    lambda *p, which, count: [ShapedArray((), p[0].dtype)] * count
)
ROWS, BENDS, TRIANGLE = 0, 1, 2


class Lane(Lanes):
    """A single fit that is known by its sums only.

    Attributes:
        twice: Whether the residual has second derivatives.
    """

    twice: bool

    def visit(self, p: Array) -> tuple[NormalLinearization, Array]:
        """Return the normal equations and the cost at ``p``."""
        pairs = gram_pairs(self.n)
        robust = self.data.term is not None
        found = self._pass(ROWS, p, len(pairs) + robust)
        gram = found[: len(pairs)]
        cost = found[-1] if robust else 0.5 * gram[-1]
        return NormalLinearization(tuple(gram), self.n), cost

    def _pass(self, which: int, p: Array, count: int) -> list[Array]:
        return visit_p.bind(*(p[i] for i in range(self.n)), which=which, count=count)

    def squared_bends(self, p: Array) -> list[Array]:
        """Return the square of each second derivative, summed over the points."""
        if not self.twice:
            raise NotImplementedError
        return self._pass(BENDS, p, self.n)

    def look(self, p: Array) -> tuple[Array, Array, DenseLinearization]:
        """Return the cost, the residual and J after a rotation that left n + 1 rows."""
        pairs = gram_pairs(self.n)
        found = self._pass(TRIANGLE, p, len(pairs) + (self.data.term is not None))
        entries = dict(zip(pairs, found, strict=False))
        rows, zero = range(self.n + 1), jnp.zeros_like(found[0])
        column = lambda j: jnp.stack([entries.get((i, j), zero) for i in rows])
        *columns, r = map(column, rows)
        cost = found[-1] if len(found) > len(pairs) else 0.5 * jnp.sum(r * r)
        return cost, r, DenseLinearization(r, jnp.stack(columns))

    def eliminate(self, columns: Array, r: Array) -> tuple:
        """Return what `lmjax._projection.eliminate` does, without loops."""
        return eliminate(list(columns), r, written_out=self.m)

    def stage(self, fn: Any) -> Any:
        """Return ``fn()``."""
        return fn()


class Loop(NamedTuple):
    """A loop of one fit: functions of its state and of what goes with it.

    Attributes:
        begin: From what goes with it to the state before the first turn.
        going: From the state to whether there is another turn.
        turn: From the state and what goes with it to the next state.
        finish: From the state and what goes with it to the result.
        state: Shapes and dtypes of the state.
    """

    begin: ClosedJaxpr
    going: ClosedJaxpr
    turn: ClosedJaxpr
    finish: ClosedJaxpr
    state: list[jax.ShapeDtypeStruct]


class Traced(NamedTuple):
    """The functions of one fit.

    Attributes:
        fit: The fit: goes with the arrays of problem, solver and start, and ends in
            what is known then, an `Ended`.
        look: The last look: goes with that and with these arrays, and ends likewise.
        rows: From these arrays, the parameters and the unit vectors to what is summed
            over the points: the columns of J, the residual and perhaps the cost.
        bends: The same for second derivatives, if there are any.
    """

    fit: Loop
    look: Loop
    rows: ClosedJaxpr
    bends: ClosedJaxpr | None


def _pack(state: _loop.State) -> list[Array]:
    point = state.point
    floats = [point.p, jnp.stack(point.linearization.gram), state.scale, point.cost]
    counts = [state.num_steps, state.num_accepted, state.status]
    return [*floats, state.lam, state.growth, state.mark, *counts]


def _unpack(lane: Lane, state: list[Array]) -> _loop.State:
    p, gram, scale, cost, lam, growth, mark, steps, accepted, status = state
    n = p.shape[0]
    gram = tuple(gram[i] for i in range(gram.shape[0]))
    point = point_at(lane.conditions, p, None, NormalLinearization(gram, n), cost)
    counts = steps, accepted, status
    return _loop.State(point, lam, growth, mark, scale, *counts, None)


def trace(arrays: Any, rest: Any) -> Traced:
    """Return the functions of one fit.

    Args:
        arrays: Shapes of the arrays of problem, solver and start of one fit.
        rest: What is no array of them.
    """
    start = arrays[2]

    def problem_of(arrays):
        return eqx.combine(arrays[0], rest[0])

    units = jax.ShapeDtypeStruct((*start.shape, *start.shape), start.dtype)
    rows_of = lambda arrays, p, units: rows_of_one(problem_of(arrays), p, units)
    bends = None
    if problem_of(arrays).has_second_derivatives:
        bends_of = lambda arrays, p, units: bends_of_one(problem_of(arrays), p, units)
        try:
            bends = jax.make_jaxpr(bends_of)(arrays, start, units)
        except NOT_TWICE_DIFFERENTIABLE:
            bends = None

    def of(arrays):
        problem, solver, p0 = eqx.combine(arrays, rest)
        twice = bends is not None
        going = jnp.array(True)
        return Lane(problem, None, problem.conditions, p0, going, twice), solver

    fit, ended = _fit(of, arrays)
    rows = jax.make_jaxpr(rows_of)(arrays, start, units)
    return Traced(fit, _look(of, arrays, ended), rows, bends)


def _fit(of: Callable, arrays: Any) -> tuple[Loop, Any]:
    """Return the fit as a loop, and what it ends in."""

    def begin(arrays):
        lane, solver = of(arrays)
        return _pack(_loop.init(lane, lane.p0, solver))

    def turn(state, arrays):
        lane, solver = of(arrays)
        return _pack(_loop.step(_unpack(lane, state), lane, solver))

    def finish(state, arrays) -> Ended:
        lane, _ = of(arrays)
        return end(_unpack(lane, state), lane.p0, lane.conditions)

    first, state = jax.make_jaxpr(begin, return_shape=True)(arrays)
    last, ended = jax.make_jaxpr(finish, return_shape=True)(state, arrays)
    going = jax.make_jaxpr(lambda state: _stopping.unfinished(state[-1]))(state)
    return Loop(first, going, jax.make_jaxpr(turn)(state, arrays), last, state), ended


def _look(of: Callable, arrays: Any, ended: Any) -> Loop:
    """Return the last look as a loop."""

    def begin(ended, arrays):
        judged = Judged(*(getattr(ended, name) for name in Judged._fields))
        return _last_look.begin(judged)

    def turn(state: Looking, ended, arrays):
        lane, solver = of(arrays)
        ftol = solver.tolerances(ended.scale.dtype)[0]
        return _last_look.take_turn(lane, lane.p0, ended.scale, ftol, state)

    def finish(state: Looking, ended, arrays):
        return ended._replace(**_last_look.finish(state)._asdict())

    first, state = jax.make_jaxpr(begin, return_shape=True)(ended, arrays)
    return Loop(
        first,
        jax.make_jaxpr(_last_look.going)(state),
        jax.make_jaxpr(turn)(state, ended, arrays),
        jax.make_jaxpr(finish)(state, ended, arrays),
        jax.tree.leaves(state),
    )
