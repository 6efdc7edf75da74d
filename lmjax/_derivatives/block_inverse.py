"""The inverse of the normal matrix of a problem of blocks."""

from typing import Any

import equinox as eqx
import jax
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
        well_conditioned: Whether the factorisation went through.
    """

    matrix: Factored
    inverse_norms: Float[Array, " n"]
    well_conditioned: Flag

    def times(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the product with a vector."""
        scale = self.inverse_norms
        return jnp.where(scale > 0.0, scale * self.matrix.solve(scale * v), v)


def block_inverse(
    linearization: BlockLinearization,
    inverse_norms: Float[Array, " n"],
    linear_solver: Any,
) -> BlockInverse:
    """Return the inverse of ``J^T J``, factored once."""
    dtype = inverse_norms.dtype
    # what moves the whole world costs nothing: a trace of damping keeps it in place
    damping = jnp.asarray(jnp.finfo(dtype).eps ** 0.5, dtype)
    matrix = factored(linear_solver, linearization.rescale(inverse_norms), damping)
    known = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(matrix.factors)]
    return BlockInverse(matrix, inverse_norms, jnp.all(jnp.array([True, *known])))
