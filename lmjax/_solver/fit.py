"""What the loop needs of a fit: of one alone, or of a block of fits."""

from typing import Any, Protocol

from jaxtyping import Array, Bool, Float

from lmjax._problem.bounds import Constraints
from lmjax._solver.point import Point


class Fit(Protocol):
    """One fit or a block of them: `SingleFit`, `FitBlock`, or `ScalarFit`.

    One fit keeps its residual and forms J when a step is taken. The fits of a block
    form J with every residual and keep sums of products of its columns.
    """

    @property
    def p0(self) -> Float[Array, "n *f"]:
        """The start, as it was given."""
        ...

    @property
    def constraints(self) -> Constraints:
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

    def start(self, p: Float[Array, "n *f"], /) -> Point:
        """Return the first point."""
        ...

    def curvatures(self, point: Point, /) -> Float[Array, "n *f"] | None:
        """Return ``|r| |d^2 r / dp_j^2|`` per parameter, None where it is not known."""
        ...

    def evaluate(self, p: Float[Array, "n *f"], /) -> Any:
        """Return what the comparison with another point needs of ``p``."""
        ...

    def compare(self, point: Point, dp: Array, evaluated: Any, /) -> tuple[Array, ...]:
        """Return the cost after a step, how far it fell, ``|J dp|^2``, ``|J p|^2``."""
        ...

    def linearize_if(
        self,
        accept: Bool[Array, "*f"],
        p: Array,
        evaluated: Any,
        cost: Array,
        old: Point,
    ) -> Point:
        """Return the point at ``p`` with its linear model, or the old one."""
        ...

    def select(self, first: Bool[Array, "*f"], a: Point, b: Point, /) -> Point:
        """Return one of two points."""
        ...

    def solve(
        self, linearization: Any, lam: Float[Array, "*f"], /
    ) -> tuple[Array, Array]:
        """Return the damped step and the pivots behind it."""
        ...

    def cost_rounding(self, cost: Float[Array, "*f"], /) -> Float[Array, "*f"]:
        """Return the rounding of a difference of costs."""
        ...
