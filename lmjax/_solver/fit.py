"""What the loop needs of a fit: of one alone, or of a block of fits."""

from typing import Any, Protocol

from jaxtyping import Array, Bool, Float

from lmjax._problem.bounds import Conditions
from lmjax._solver.proposal import Point, Proposal


class Fit(Protocol):
    """One fit or a block of them; `OneFit`, `Lanes` and `Lane` are the three kinds.

    One fit keeps its residual and forms J when a step is taken. The fits of a block
    form J with every residual and keep sums of products of its columns.
    """

    @property
    def conditions(self) -> Conditions:
        """Bounds and fixed parameters."""
        ...

    @property
    def m(self) -> int:
        """Number of residuals."""
        ...

    @property
    def squares_condition(self) -> bool:
        """Whether steps come from the normal equations."""
        ...

    def start(self, p: Float[Array, "n *f"]) -> Point:
        """Return the first point."""
        ...

    def curvatures(self, point: Point) -> Float[Array, "n *f"] | None:
        """Return ``|r| |d^2 r / dp_j^2|`` per parameter, None where it is not known."""
        ...

    def visit(self, p: Float[Array, "n *f"]) -> Any:
        """Return what is worked out at ``p`` before a step there is judged."""
        ...

    def compare(self, point: Point, dp: Array, visit: Any, /) -> tuple[Array, ...]:
        """Return the visit's cost, how far it fell, ``|J dp|^2`` and ``|J p|^2``."""
        ...

    def settle_if(
        self, accept: Bool[Array, "*f"], trial: Proposal, point: Point
    ) -> Point:
        """Return the trial point with its linear model, where it may be accepted."""
        ...

    def either(self, first: Bool[Array, "*f"], a: Point, b: Point) -> Point:
        """Return one of two points."""
        ...

    def solve(self, linearization: Any, lam: Float[Array, "*f"]) -> tuple[Array, Array]:
        """Return the damped step and the pivots behind it."""
        ...

    def cost_rounding(self, cost: Float[Array, "*f"]) -> Float[Array, "*f"]:
        """Return the rounding of a difference of costs."""
        ...
