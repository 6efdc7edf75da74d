"""The inverse of the normal matrix of a problem of blocks."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax.types import Flag
from lmjax._linalg.blocks.linearization import BlockLinearization


class BlockInverse(eqx.Module):
    """The inverse of ``J^T J`` of a problem of blocks, nearly undamped.

    Attributes:
        linearization: The linear model in units of its columns.
        inverse_norms: Inverse norms of the columns, zero where not free.
        linear_solver: The linear solver.
        well_conditioned: True.
    """

    linearization: BlockLinearization
    inverse_norms: Float[Array, " n"]
    linear_solver: Any
    well_conditioned: Flag

    def times(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        scale = self.inverse_norms
        model = self.linearization.with_gradient(-scale * v)
        # what moves the whole world costs nothing: a trace of damping keeps it in place
        damping = jnp.asarray(jnp.finfo(v.dtype).eps ** 0.5, v.dtype)
        step = scale * self.linear_solver(model, damping)
        return jnp.where(scale > 0.0, step, v)
