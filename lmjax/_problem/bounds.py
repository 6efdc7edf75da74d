"""Which parameters may move: box bounds by projection with an active set, fixed ones.

A parameter that sits on a bound while the gradient points out of the box is *active*:
it leaves the linear system for this step. The others move freely and are projected back
onto the box. No change of variables is used: the slope of such a map vanishes at the
bound, so every point there would look optimal.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax.paths import ravel_prefix
from lmjax._problem.charts import Charts


class Constraints(eqx.Module):
    """Bounds and fixed parameters of one fit, or of a block of fits on the last axis.

    Attributes:
        box: Lower and upper bounds, or None.
        fixed: Flags of parameters that keep their start value, or None.
        charts: How parameters on manifolds move, or None for plain numbers. Bounds and
            flags belong to the numbers of a step then.
    """

    box: tuple[Float[Array, "n *f"], Float[Array, "n *f"]] | None
    fixed: Bool[Array, "n *f"] | None
    charts: Charts | None = None

    def project(self, p: Float[Array, "a *f"]) -> Float[Array, "a *f"]:
        """Return the point of the box nearest to ``p``."""
        if self.box is None:
            return p
        if self.charts is not None:
            return self.charts.clipped(p, self.box)
        return jnp.clip(p, *self.box)

    def shifted(
        self, p: Float[Array, "a *f"], dp: Float[Array, "n *f"]
    ) -> Float[Array, "a *f"]:
        """Return where a step leads, bounds aside."""
        return p + dp if self.charts is None else self.charts.shifted(p, dp)

    def difference(
        self, p: Float[Array, "a *f"], q: Float[Array, "a *f"]
    ) -> Float[Array, "n *f"]:
        """Return the step that leads from ``p`` to ``q``."""
        return q - p if self.charts is None else self.charts.difference(p, q)

    def moved(
        self, p: Float[Array, "a *f"], q: Float[Array, "a *f"]
    ) -> Bool[Array, "n *f"]:
        """Return which numbers of the step from ``p`` to ``q`` may not be zero."""
        return p != q if self.charts is None else self.charts.flags(p != q)

    def coordinates(self, p: Float[Array, "a *f"]) -> Float[Array, "n *f"]:
        """Return the size of the parameters, one number for each of a step."""
        return p if self.charts is None else self.charts.coordinates(p)

    def size(self, p: Float[Array, "a *f"]) -> int:
        """Return how many numbers a step has."""
        return p.shape[0] if self.charts is None else self.charts.size

    def active(
        self, p: Float[Array, "n *f"], grad: Float[Array, "n *f"]
    ) -> Bool[Array, "n *f"]:
        """Return which parameters sit on a bound that descent would push through."""
        if self.box is None:
            return jnp.zeros(grad.shape, bool)
        lower, upper = self.box
        p = self.coordinates(p)
        return ((p <= lower) & (grad > 0.0)) | ((p >= upper) & (grad < 0.0))

    def free(
        self, p: Float[Array, "n *f"], grad: Float[Array, "n *f"]
    ) -> Bool[Array, "n *f"] | None:
        """Return which parameters may move; None means all of them."""
        free = None if self.fixed is None else ~self.fixed
        if self.box is not None:
            inside = ~self.active(p, grad)
            free = inside if free is None else free & inside
        return free

    def pinned_values(
        self, p: Float[Array, " n"], p0: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Return what each parameter is held at, if it is held at ``p``.

        On a manifold it is the step from ``p`` to there.
        """
        if self.charts is not None:
            p, p0 = self.charts.from_here(p, p), self.charts.from_here(p, p0)
        held = p
        if self.box is not None:
            lower, upper = self.box
            held = jnp.where(p <= lower, lower, upper)
        if self.fixed is not None:
            # a fixed start outside its bounds is moved inside, as `project` does
            inside = p0 if self.box is None else jnp.clip(p0, *self.box)
            held = jnp.where(self.fixed, inside, held)
        return held

    def infeasible(self) -> Bool[Array, "*f"] | None:
        """Return whether some lower bound exceeds its upper bound (or is NaN)."""
        if self.box is None:
            return None
        lower, upper = self.box
        return ~jnp.all(lower <= upper, axis=0)


def constraints_of(
    bounds: Any, fixed: Any, charts: Charts | None, params0: Any, dtype: Any
) -> Constraints:
    """Return the constraints of flat parameters from what a user gave."""
    box = None
    if bounds is not None:
        lower, upper = bounds
        lower = ravel_prefix("bounds[0]", lower, params0, -jnp.inf, dtype)
        upper = ravel_prefix("bounds[1]", upper, params0, jnp.inf, dtype)
        if charts is not None:
            lower = charts.bounds(lower, -jnp.inf)
            upper = charts.bounds(upper, jnp.inf)
        box = lower, upper
    if fixed is not None:
        fixed = ravel_prefix("fixed", fixed, params0, False, bool)
        fixed = fixed if charts is None else charts.flags(fixed)
    return Constraints(box, fixed, charts)
