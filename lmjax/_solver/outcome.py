"""What a fit leaves behind, whatever ran it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax._problem.bounds import Constraints
from lmjax._problem.problem import Problem
from lmjax._solver.state import Record, State
from lmjax._solver.status import Engine, ParamStatus


class Outcome(NamedTuple):
    """A fit that has ended, in flat arrays.

    Attributes:
        p: Best parameters.
        r: Residual there, before any loss; the prediction, with a likelihood.
        cost: Half the sum of squares, of losses or of deviances.
        status: A `Status` value.
        num_steps: Steps proposed.
        num_accepted: Steps taken.
        optimality: Largest cosine between the residual and a free column of J.
        damping: Lambda at the end.
        normal_matrix: ``J^T J`` of the linear model of the cost, as the linearization
            forms it; None where n is large.
        free: Which parameters may move at ``p``.
        norms: Norms of the columns of J at ``p``.
        lost: Which parameters have lost their effect on the residual at ``p``.
        engine: What ran, an `Engine` value.
        lane_steps: Steps that were computed for this fit, its share of what other fits
            made it wait included.
        record: History or None.
        start_cost: Cost at the start of a fit of blocks, else None.
    """

    p: Float[Array, " n"]
    r: Float[Array, " m"]
    cost: Float[Array, ""]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_accepted: Int[Array, ""]
    optimality: Float[Array, ""]
    damping: Float[Array, ""]
    normal_matrix: Any
    free: Bool[Array, " n"]
    norms: Float[Array, " n"]
    lost: Bool[Array, " n"]
    engine: Int[Array, ""]
    lane_steps: Float[Array, ""]
    record: Record | None
    start_cost: Float[Array, ""] | None = None

    @property
    def idle(self) -> Bool[Array, " n"]:
        """Which parameters have no effect on the residual at ``p``."""
        return self.norms == 0.0

    def param_status(
        self, constraints: Constraints, p0: Float[Array, " a"]
    ) -> Int[Array, " a"]:
        """Return what became of each parameter; on a manifold, of each element."""
        moved = constraints.moved(p0, self.p)
        status = jnp.where(moved, ParamStatus.FREE, ParamStatus.UNMOVED)
        status = jnp.where(self.lost, ParamStatus.UNDETERMINED, status)
        status = jnp.where(self.idle, ParamStatus.IDLE, status)
        if constraints.box is not None:
            at_lower = constraints.coordinates(self.p) <= constraints.box[0]
            side = jnp.where(at_lower, ParamStatus.AT_LOWER, ParamStatus.AT_UPPER)
            status = jnp.where(self.free, status, side)
        if constraints.fixed is not None:
            status = jnp.where(constraints.fixed, ParamStatus.FIXED, status)
        if constraints.charts is not None:
            status = constraints.charts.of_elements(status)
        return status.astype(jnp.int8)


def outcome_of(state: State, problem: Problem, solver) -> Outcome:
    """Return what a single fit leaves behind."""
    point = state.point
    forms = solver.forms_normal_matrix(problem.m, point.norms.size)
    forms |= problem.arrow is not None
    forms &= problem.jacobian != "blocks"
    free = jnp.ones_like(point.norms, bool) if point.free is None else point.free
    return Outcome(
        p=point.p,
        r=point.r,
        cost=point.cost,
        status=state.status,
        num_steps=state.num_steps,
        num_accepted=state.num_accepted,
        optimality=point.optimality,
        damping=state.lam,
        normal_matrix=point.linearization.normal_matrix() if forms else None,
        free=free,
        norms=point.norms,
        lost=jnp.zeros_like(free),
        engine=jnp.int32(Engine.LOOP),
        lane_steps=state.num_steps.astype(point.p.dtype),
        record=state.record,
        start_cost=state.start_cost,
    )
