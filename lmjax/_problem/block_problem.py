"""A problem of many small residuals, as the solver sees it.

It offers what `lmjax._problem.problem.Problem` does: a flat residual, its linear model,
its cost. The residual holds the blocks of one group after the other, the blocks of a
group on the last axis.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.structure import Structure, join
from lmjax._problem.block_residual import BlockGroup, ParamLeaf
from lmjax._problem.bounds import Constraints


class BlockProblem(eqx.Module):
    """A problem of blocks in flat arrays: a pytree, so that it vmaps.

    Attributes:
        groups: Its residuals.
        constraints: Bounds, fixed parameters and manifolds.
        structure: The pattern.
        manifolds: Manifold of each leaf or None.
        linear_solver: The linear solver.
        leaves: The leaves of the parameters.
        m: Number of residuals.
    """

    groups: tuple[BlockGroup, ...]
    constraints: Constraints
    structure: Structure
    manifolds: tuple[Any, ...]
    linear_solver: Any
    leaves: tuple[ParamLeaf, ...] = eqx.field(static=True)
    m: int = eqx.field(static=True)
    user_jac: None = None
    term: None = None
    arrow: None = None
    linear: None = None
    jacobian: str = eqx.field(default="blocks", static=True)

    def residual_fn(self, p: Float[Array, " a"]) -> Float[Array, " m"]:
        """Return the flat residual."""
        return join([g.residual(p, self.leaves, self.manifolds) for g in self.groups])

    def along(self, p: Float[Array, " a"]) -> tuple[Callable, Float[Array, " n"]]:
        """Return the residual as a function of a step from ``p``, and no step."""
        zero = jnp.zeros((self.structure.size,), p.dtype)
        return lambda v: self.residual_fn(self.constraints.shifted(p, v)), zero

    def linearize(
        self, p: Float[Array, " a"], r: Float[Array, " m"], matrix_free: bool
    ) -> BlockLinearization:
        """Return the linear model of the cost at ``p``, whose residual is ``r``."""
        residuals, columns, lost = [], [], []
        store = getattr(self.linear_solver, "store", None)
        for group, part in zip(self.groups, self.structure.split(r), strict=True):
            jac = group.columns(p, self.leaves, self.manifolds)
            if group.loss is not None:
                weights = group.weights(part)
                part, jac = weights[None] * part, weights[None, None] * jac
            residuals.append(part)
            if store is not None:
                held = jac.astype(store)
                # the gradient keeps all its digits, or the minimum would move
                rounding = jac - held.astype(jac.dtype)
                lost.append(jnp.sum(rounding * part[None], axis=1))
                jac = held
            columns.append(jac)
        extra = None if store is None else self.structure.add_up(lost)
        return BlockLinearization(
            join(residuals), tuple(columns), self.structure, extra
        )

    def second_derivative(
        self, p: Float[Array, " a"], direction: Float[Array, " n"]
    ) -> Float[Array, " m"]:
        """Return ``d^2 r(p + s direction) / ds^2`` at s = 0, weighted as J is."""
        fn, zero = self.along(p)
        slope = lambda v: jax.jvp(fn, (v,), (direction,))[1]
        bend = self.structure.split(jax.jvp(slope, (zero,), (direction,))[1])
        parts = []
        for (group, part), own in zip(self._parts(fn(zero)), bend, strict=True):
            weights = 1.0 if group.loss is None else group.weights(part)[None]
            parts.append(weights * own)
        return join(parts)

    def zero_linearization(self, p: Float[Array, " a"]) -> BlockLinearization:
        """Return a linear model of zeros, for a problem that has not been evaluated."""
        store = getattr(self.linear_solver, "store", None)
        dtype = p.dtype if store is None else jnp.dtype(store)
        columns = tuple(
            jnp.zeros((g.pattern.width, g.pattern.outputs, g.pattern.blocks), dtype)
            for g in self.groups
        )
        extra = None if store is None else jnp.zeros((self.structure.size,), p.dtype)
        residual = jnp.zeros((self.m,), p.dtype)
        return BlockLinearization(residual, columns, self.structure, extra)

    def _parts(self, r):
        return zip(self.groups, self.structure.split(r), strict=True)

    def half_terms(self, r: Float[Array, " m"]) -> Array:
        """Return what each residual or block adds to the cost."""
        return jnp.concatenate([g.half_terms(part) for g, part in self._parts(r)])

    def reduction_terms(
        self, r: Float[Array, " m"], r_new: Float[Array, " m"]
    ) -> Array:
        """Return how much each share of the cost falls from r to r_new."""
        new = self.structure.split(r_new)
        return jnp.concatenate(
            [
                g.reduction_terms(part, other)
                for (g, part), other in zip(self._parts(r), new, strict=True)
            ]
        )

    @property
    def has_second_derivatives(self) -> bool:
        """Whether second derivatives set the scale of the first step."""
        return False
