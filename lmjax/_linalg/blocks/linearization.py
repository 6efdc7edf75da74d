"""The linear model of a problem of many small blocks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax.types import Scalar
from lmjax._linalg.blocks.structure import Structure, contract, join


class BlockLinearization(eqx.Module):
    """Residual, and the columns of J block by block.

    Attributes:
        residual: Residual, group by group.
        columns: For each group the derivative of its blocks by what they see, maybe in
            less precision than the residual.
        structure: The pattern.
        extra: What is added to the gradient ``J^T r``, or None.
    """

    residual: Float[Array, " m"]
    columns: tuple[Float[Array, "w out k"], ...]
    structure: Structure
    extra: Float[Array, " n"] | None = None

    @property
    def wide(self) -> "BlockLinearization":
        """The same with columns in the precision of the residual."""
        dtype = self.residual.dtype
        columns = tuple(c.astype(dtype) for c in self.columns)
        return BlockLinearization(self.residual, columns, self.structure, self.extra)

    @property
    def grad(self) -> Float[Array, " n"]:
        """The gradient."""
        grad = self.rmv(self.residual)
        return grad if self.extra is None else grad + self.extra

    def with_gradient(self, grad: Float[Array, " n"]) -> "BlockLinearization":
        """Return the model of ``|J dp|^2 / 2 + grad . dp``."""
        residual = jnp.zeros_like(self.residual)
        return BlockLinearization(residual, self.columns, self.structure, grad)

    def mv(self, v: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return ``J v``."""
        structure, wide = self.structure, self.wide.columns
        return join(
            [
                contract(columns, structure.gather(v, group)[:, None], 0)
                for columns, group in zip(wide, structure.groups, strict=True)
            ]
        )

    def rmv(self, u: Float[Array, " m"]) -> Float[Array, " n"]:
        """Return ``J^T u``."""
        parts = self.structure.split(u)
        terms = [
            contract(columns, part[None], 1)
            for columns, part in zip(self.wide.columns, parts, strict=True)
        ]
        return self.structure.add_up(terms)

    def moments(self) -> tuple[Float[Array, " n"], Float[Array, " n"], Scalar]:
        """Return the gradient ``J^T r``, the column norms of J, the norm of r."""
        norms = jnp.sqrt(self.structure.squares(self.wide.columns))
        return self.grad, norms, jnp.linalg.norm(self.residual)

    def rescale(self, factor: Float[Array, " n"]) -> "BlockLinearization":
        """Return the model with its columns multiplied by ``factor``."""
        structure = self.structure
        columns = tuple(
            columns * structure.gather(factor, group)[:, None].astype(columns.dtype)
            for columns, group in zip(self.columns, structure.groups, strict=True)
        )
        extra = None if self.extra is None else self.extra * factor
        return BlockLinearization(self.residual, columns, structure, extra)

    def with_residual(self, residual: Float[Array, " m"]) -> "BlockLinearization":
        """Return the model with another right-hand side."""
        return BlockLinearization(residual, self.columns, self.structure)

    def shifted(self, dp: Float[Array, " n"]) -> "BlockLinearization":
        """Return the model seen from ``p + dp``."""
        return self.with_residual(self.residual + self.mv(dp))
