"""Which parameters may move: box bounds by projection with an active set, fixed ones.

A parameter that sits on a bound while the gradient points out of the box is *active*:
it leaves the linear system for this step. The others move freely and are projected back
onto the box. No change of variables is used: the slope of such a map vanishes at the
bound, so every point there would look optimal.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Constraints(eqx.Module):
    """Bounds and fixed parameters of one fit, or of a block of fits on the last axis.

    Attributes:
        box: Lower and upper bounds, or None.
        fixed: Flags of parameters that keep their start value, or None.
    """

    box: tuple[Float[Array, "n *f"], Float[Array, "n *f"]] | None
    fixed: Bool[Array, "n *f"] | None

    def project(self, p: Float[Array, "n *f"]) -> Float[Array, "n *f"]:
        """Return the point of the box nearest to ``p``."""
        return p if self.box is None else jnp.clip(p, *self.box)

    def active(
        self, p: Float[Array, "n *f"], grad: Float[Array, "n *f"]
    ) -> Bool[Array, "n *f"]:
        """Return which parameters sit on a bound that descent would push through."""
        if self.box is None:
            return jnp.zeros(p.shape, bool)
        lower, upper = self.box
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
        """Return what each parameter is held at, if it is held at ``p``."""
        held = p
        if self.box is not None:
            lower, upper = self.box
            held = jnp.where(p <= lower, lower, upper)
        if self.fixed is not None:
            held = jnp.where(self.fixed, self.project(p0), held)
        return held

    def infeasible(self) -> Bool[Array, "*f"] | None:
        """Return whether some lower bound exceeds its upper bound (or is NaN)."""
        if self.box is None:
            return None
        lower, upper = self.box
        return ~jnp.all(lower <= upper, axis=0)
