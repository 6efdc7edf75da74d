"""A block of independent fits, side by side on the last axis of every array.

`FitBlock` is what `lmjax._solver.loop` needs of a problem, for many fits at once. Every
trial is linearised at once. Of ``[J r]`` only its Gram matrix survives, so J is in
memory for one block of fits only. The damped system is solved by a Cholesky
factorisation written out entry by entry.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax import sharded
from lmjax._jax.vmap_last_axis import evaluate
from lmjax._linalg.linearization import NormalLinearization, gram_pairs
from lmjax._linalg.solvers.dense import solve_written_out
from lmjax._problem.bounds import Constraints
from lmjax._problem.problem import NOT_TWICE_DIFFERENTIABLE, Problem
from lmjax._solver import stopping
from lmjax._solver.diagnosis import diagnose
from lmjax._solver.point import Point, free_part, point_at
from lmjax._solver.state import State


class FitBlock(eqx.Module):
    """A block of fits, each on its own lane of the last axis.

    Attributes:
        data: The problem; leaves that differ per fit have the lanes on the last axis.
        flags: Which leaves do, in the structure of the arrays among them.
        conditions: Bounds and fixed parameters per lane.
        p0: Where they start.
        begun: Which fits are under way; the others have not seen their start.
    """

    data: Problem
    flags: Any
    constraints: Constraints
    p0: Float[Array, "n f"]
    begun: Bool[Array, "*f"]

    @property
    def squares_condition(self) -> bool:
        """Whether steps come from the normal equations: they do."""
        return True

    @property
    def n(self) -> int:
        """Number of parameters."""
        return self.p0.shape[0]

    @property
    def m(self) -> int:
        """Number of residuals."""
        return self.data.m

    @property
    def first(self) -> Float[Array, "n f"]:
        """The first points of the fits."""
        return self.constraints.project(self.p0)

    def evaluate(self, p: Float[Array, "n f"]) -> tuple[NormalLinearization, Array]:
        """Return the normal equations and the cost: at ``p``, or of the first point."""
        start = jnp.where(self.begun, p, self.first)
        columns = self._values(rows_of_one, start)
        pairs = gram_pairs(self.n)
        sums = [jnp.sum(columns[i] * columns[j], axis=0) for i, j in pairs]
        gram = jnp.stack(sums)
        cost = 0.5 * gram[-1]
        if self.data.term is not None:
            cost = jnp.sum(columns[-1], axis=0)
        return NormalLinearization(gram, self.n), cost

    def _values(self, fn: Any, p: Float[Array, "n f"]) -> list[Float[Array, "m f"]]:
        """Return ``fn(problem, p, units)``, arrays over the points, on each lane."""
        arrays, rest = eqx.partition(self.data, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)

        def rows(units, p, *leaves):
            problem = eqx.combine(jax.tree.unflatten(structure, leaves), rest)
            return fn(problem, p, units, _one_by_one)

        units = np.eye(self.n, dtype=p.dtype)
        flags = [True, *jax.tree.leaves(self.flags)]
        return evaluate(rows, units, flags, [p, *leaves], p.shape[-1])

    def bends(self, p: Float[Array, "n f"]) -> Sequence[Float[Array, " f"]] | None:
        """Return `squared_bends`, None where they are not known."""
        if not self.data.has_second_derivatives:
            return None
        try:
            return self.squared_bends(p)
        except NOT_TWICE_DIFFERENTIABLE:
            return None

    def squared_bends(self, p: Float[Array, "n f"]) -> Sequence[Float[Array, " f"]]:
        """Return the square of each second derivative, summed over the points."""
        bends = self._values(bends_of_one, p)
        return [jnp.sum(bend * bend, axis=0) for bend in bends]

    def curvatures(self, point: Point) -> Float[Array, "n f"] | None:
        """Return ``|r| |d^2 r / dp_j^2|`` per parameter, None where it is not known."""
        return curvatures(point, self.bends(point.p))

    def start(self, p: Float[Array, "n f"]) -> Point:
        """Return the first point."""
        return self.point(p, self.evaluate(p))

    def point(self, p: Float[Array, "n f"], evaluated) -> Point:
        """Return the point ``p``, once visited."""
        return point_at(self.constraints, p, None, *evaluated)

    def compare(self, point: Point, dp, evaluated) -> tuple[Array, ...]:
        """Return the visit's cost, how far it fell, ``|J dp|^2`` and ``|J p|^2``."""
        _, cost = evaluated
        bend = point.linearization.curvature(dp)
        return cost, point.cost - cost, bend, self.effect(point)

    def effect(self, point: Point) -> Float[Array, " f"]:
        """Return ``|J p|^2`` over the free parameters."""
        return point.linearization.curvature(free_part(point, self.constraints))

    def linearize_if(self, accept, p, evaluated, cost, old: Point) -> Point:
        """Return the point at ``p``: it is linearised already."""
        return self.point(p, evaluated)

    def select(self, first: Bool[Array, " f"], a: Point, b: Point) -> Point:
        """Return one of two points for each lane."""
        return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)

    def solve(self, linearization: NormalLinearization, lam) -> tuple[Array, Array]:
        """Return the damped step by Cholesky's factorisation, NaN if there is none.

        And the pivots behind it.
        """
        rows, grad = linearization.rows(), linearization.grad()
        step, pivots = solve_written_out(rows, grad, lam)
        return -jnp.stack(step), jnp.stack(pivots)

    def cost_rounding(self, cost: Float[Array, " f"]) -> Float[Array, " f"]:
        """Return the rounding of a difference of two costs, each a sum of m terms."""
        return jnp.finfo(cost.dtype).eps * self.m**0.5 * cost


def curvatures(point: Point, bends: Sequence[Array] | None) -> Array | None:
    """Return ``|r| |d^2 r / dp_j^2|``, given the squares of the second factors."""
    if bends is None:
        return None
    return point.linearization.moments()[2] * jnp.sqrt(jnp.stack(bends))


def rows_of_one(
    problem: Problem, p: Float[Array, " n"], units: Array, each: Callable = jax.vmap
) -> list[Float[Array, " m"]]:
    """Return the columns of J, the residual and, with a term, the cost per point.

    ``units`` are the unit vectors, whose zeros the caller may know. ``each(fn)(units)``
    is what ``fn`` makes of each of them.
    """
    if problem.user_jac is not None:
        r = problem.residual_fn(p)
        jac = problem.user_jac(p)
        columns = [jac[:, j] for j in range(p.size)]
    else:
        r, linear = sharded.linearize(problem.residual_fn, p)
        columns = list(each(linear)(units))
    if problem.term is None:
        return [*columns, r]
    residual, row = problem.term.gauss_newton_rows(r)
    columns = [row * column for column in columns]
    return [*columns, residual, problem.half_terms(r)]


def bends_of_one(
    problem: Problem, p: Float[Array, " n"], units: Array, each: Callable = jax.vmap
) -> list[Float[Array, " m"]]:
    """Return the second derivative of the residual by each parameter."""
    return list(each(lambda unit: problem.second_derivative(p, unit))(units))


def _one_by_one(fn: Callable) -> Callable:
    """Return what makes a list of its own of each unit vector: their zeros differ."""
    return lambda units: [fn(units[j]) for j in range(units.shape[0])]


class Ended(NamedTuple):
    """What a block of fits leaves behind, fits last.

    Attributes:
        p: Parameters.
        cost: Cost there.
        optimality: Largest cosine between the residual and a free column of J.
        normal_matrix: ``J^T J``.
        norms: Norms of the columns of J.
        scale: Fading maxima of these norms.
        damping: Lambda.
        free: Which parameters may move.
        lost: Which free parameters have lost their effect on the residual.
        status: A `Status` value, or NEEDS_FINAL_CHECK.
        num_steps: Steps proposed.
        num_accepted: Steps taken.
    """

    p: Float[Array, "n *f"]
    cost: Float[Array, "*f"]
    optimality: Float[Array, "*f"]
    normal_matrix: Float[Array, "n n *f"]
    norms: Float[Array, "n *f"]
    scale: Float[Array, "n *f"]
    damping: Float[Array, "*f"]
    free: Bool[Array, "n *f"]
    lost: Bool[Array, "n *f"]
    status: Int[Array, "*f"]
    num_steps: Int[Array, "*f"]
    num_accepted: Int[Array, "*f"]


class Ran(NamedTuple):
    """What ran the fits of a batch.

    Attributes:
        kind: An `Engine` value.
        steps: Steps computed on behalf of each fit.
    """

    kind: Int[Array, " f"]
    steps: Float[Array, " f"]


def end(state: State, p0: Float[Array, "n *f"], constraints: Constraints) -> Ended:
    """Return what is left of fits that have ended, and how that is explained."""
    point = state.point
    effect = point.linearization.curvature(free_part(point, constraints))
    diagnosis = diagnose(point, p0, state.scale, effect, constraints)
    free = jnp.ones_like(point.p, bool) if point.free is None else point.free
    return Ended(
        p=point.p,
        cost=point.cost,
        optimality=point.optimality,
        normal_matrix=point.linearization.normal_matrix(),
        norms=point.norms,
        scale=state.scale,
        damping=state.lam,
        free=free,
        lost=diagnosis.lost,
        status=stopping.explained(state.status, *diagnosis.of_fit),
        num_steps=state.num_steps,
        num_accepted=state.num_accepted,
    )


class Packed(NamedTuple):
    """The state of a block as two arrays: selecting lanes is then two operations."""

    floats: Float[Array, "s f"]
    counts: Int[Array, "3 f"]

    @property
    def running(self) -> Bool[Array, " f"]:
        """Which lanes are not finished."""
        return stopping.unfinished(self.counts[2])


def pack(state: State) -> Packed:
    """Return what cannot be derived of a state."""
    point = state.point
    scalars = [x[None] for x in (point.cost, state.lam, state.growth, state.mark)]
    rows = [point.p, point.linearization.gram, state.scale, *scalars]
    counts = [state.num_steps, state.num_accepted, state.status]
    return Packed(jnp.concatenate(rows), jnp.stack(counts))


def unpack(packed: Packed, constraints: Constraints, n: int) -> State:
    """Return the state of a block."""
    q = len(gram_pairs(n))
    p, gram, scale, rest = jnp.split(packed.floats, [n, n + q, 2 * n + q])
    point = point_at(constraints, p, None, NormalLinearization(gram, n), rest[0])
    num_steps, num_accepted, status = packed.counts
    return State(
        point,
        rest[1],
        rest[2],
        rest[3],
        scale,
        num_steps,
        num_accepted,
        status,
        None,
    )
