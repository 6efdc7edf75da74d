"""The inverse of the normal matrix of a problem of blocks."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax.types import Flag
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.solvers.blocks import Factored, factored


class BlockInverse(eqx.Module):
    """The inverse of ``J^T J`` of a problem of blocks, nearly undamped.

    Attributes:
        matrix: ``J^T J`` in units of the columns, factored.
        inverse_norms: Inverse norms of the columns, zero where not free.
        well_conditioned: True.
    """

    matrix: Factored
    inverse_norms: Float[Array, " n"]
    well_conditioned: Flag

    def times(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        scale = self.inverse_norms
        x = self.matrix.solve(scale * v)
        # of a factorisation that did not go through the diagonal is left
        x = scale * jnp.where(jnp.all(jnp.isfinite(x)), x, scale * v)
        return jnp.where(scale > 0.0, x, v)


def block_inverse(
    linearization: BlockLinearization,
    inverse_norms: Float[Array, " n"],
    linear_solver: Any,
) -> BlockInverse:
    """Return the inverse of ``J^T J``, factored once."""
    dtype = inverse_norms.dtype
    # what moves the whole world costs nothing: a trace of damping keeps it in place
    damping = jnp.asarray(jnp.finfo(dtype).eps ** (2 / 3), dtype)
    matrix = factored(linear_solver, linearization.rescale(inverse_norms), damping)
    return BlockInverse(matrix, inverse_norms, jnp.array(True))
