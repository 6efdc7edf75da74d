"""What a fit is between two steps, and the history that it may keep."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

from lmjax._solver.point import Point


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
        mark: Cost when the last window of `lmjax._solver.stopping` began.
        scale: Fading maximum of the norm of each Jacobian column.
        num_steps: Steps proposed.
        num_accepted: Steps taken.
        status: A `Status` value.
        record: History or None.
        start_cost: Cost at the start of a fit of blocks, else None.
    """

    point: Point
    lam: Float[Array, "*f"]
    growth: Float[Array, "*f"]
    mark: Float[Array, "*f"]
    scale: Float[Array, "n *f"]
    num_steps: Int[Array, "*f"]
    num_accepted: Int[Array, "*f"]
    status: Int[Array, "*f"]
    record: Record | None
    start_cost: Float[Array, ""] | None = None
