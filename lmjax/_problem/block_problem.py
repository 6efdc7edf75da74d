"""A problem of many small residuals, as the solver sees it.

It offers what `lmjax._problem.problem.Problem` does: a flat residual, its linear model,
its cost. The residual holds the blocks of one group after the other, the blocks of a
group on the last axis.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax.closures import Program
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.structure import Group, Structure, join
from lmjax._problem.bounds import Constraints


class ParamLeaf(NamedTuple):
    """One leaf of the parameters.

    Attributes:
        start: Where it begins in the flat parameters.
        shape: Its shape; rows are its first axis.
        size: Numbers of a row.
    """

    start: int
    shape: tuple[int, ...]
    size: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.shape[0] if self.shape else 1

    def of(self, p: Array) -> Array:
        """Return the leaf from the flat parameters, a row per row."""
        end = self.start + self.rows * self.size
        return p[self.start : end].reshape(self.rows, self.size)


class BlockGroup(eqx.Module):
    """Residual blocks of one kind, ready to be evaluated.

    Attributes:
        fn: Residual of one block.
        args: Its data, blocks first.
        inverse_sigma: Inverse standard deviations (outputs, k), or None.
        mask: Which blocks count, or None.
        loss: Robust loss of a block, or None.
        loss_scale: Norm at which it bends.
        pattern: What the blocks see.
        spans: For each leaf that they pick from: which slots it has in the pattern, and
            whether ``fn`` sees several rows at once.
        structure: Structure of the parameters.
        reverse: Whether J comes from reverse mode, a pass per residual of a block.
        engine: What evaluates a function of one block under `jax.vmap`; None for XLA.
    """

    fn: Callable
    args: tuple
    inverse_sigma: Any
    mask: Bool[Array, " k"] | None
    loss: Callable | None
    loss_scale: Any
    pattern: Group
    spans: tuple[tuple[int, int, int, bool], ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)
    reverse: bool = eqx.field(static=True)
    engine: Callable | None = eqx.field(default=None, static=True)

    def _seen(self, p, leaves):
        """Return what the slots see of the flat parameters, numbers first."""
        found = []
        for slot, rows in zip(self.pattern.slots, self.pattern.rows, strict=True):
            part = leaves[slot.leaf].of(p)
            found.append(part.ravel() if slot.whole else part[rows].T)
        return found

    def _one(self, fn, leaves, manifolds, dtype) -> Callable:
        """Return the residual of one block, from a step, its slots and its data."""

        def residual(step, seen, args):
            # leaves that it does not see have no part in it
            values = [jnp.zeros(leaf.shape, dtype) for leaf in leaves]
            moved, start = [], 0
            for slot, x in zip(self.pattern.slots, seen, strict=True):
                if step is not None:
                    v = step[start : start + slot.size]
                    x = _moved(manifolds[slot.leaf], x, v)
                start += slot.size
                moved.append(x)
            for leaf, first, last, several in self.spans:
                shape = leaves[leaf].shape
                if self.pattern.slots[first].whole:
                    values[leaf] = moved[first].reshape(shape)
                    continue
                rows = [x.reshape(shape[1:]) for x in moved[first:last]]
                values[leaf] = jnp.stack(rows) if several else rows[0]
            params = jax.tree.unflatten(self.structure, values)
            params = fn.cast(params) if isinstance(fn, Program) else params
            out = fn(params, *args)
            return jnp.ravel(out).astype(dtype)

        return residual

    def residual(self, p, leaves, manifolds) -> Float[Array, "out k"]:
        """Return the residuals of all blocks."""
        of_one = lambda one, seen, args: one(None, seen, args)
        return self._counted(self.mapped(of_one, p, leaves, manifolds))

    def columns(self, p, leaves, manifolds) -> Float[Array, "w out k"]:
        """Return the derivatives of all blocks by what they see."""
        width, outputs = self.pattern.width, self.pattern.outputs

        def forward(one, seen, args):
            zero = jnp.zeros((width,), p.dtype)
            along = lambda v: jax.jvp(lambda v: one(v, seen, args), (zero,), (v,))[1]
            return jax.vmap(along)(jnp.eye(width, dtype=p.dtype))

        def backward(one, seen, args):
            zero = jnp.zeros((width,), p.dtype)
            back = jax.vjp(lambda v: one(v, seen, args), zero)[1]
            return jax.vmap(back, out_axes=1)(jnp.eye(outputs, dtype=p.dtype))[0]

        of_one = backward if self.reverse else forward
        return self._counted(self.mapped(of_one, p, leaves, manifolds))

    def mapped(
        self, of_one: Callable, p, leaves, manifolds
    ) -> Float[Array, "*numbers k"]:
        """Return what a function makes of each block.

        Args:
            of_one: From the residual of one block (of a step, slots and data), the
                slots and the data.
            p: Flat parameters.
            leaves: Their leaves.
            manifolds: Manifold of each leaf or None.
        """
        held, rest = eqx.partition((self.fn, manifolds), eqx.is_array)

        def of_block(held, seen, args):
            fn, manifolds = eqx.combine(held, rest)
            return of_one(self._one(fn, leaves, manifolds, p.dtype), seen, args)

        axes = [None if slot.whole else -1 for slot in self.pattern.slots]
        every = jax.vmap(
            of_block if self.engine is None else self.engine(of_block),
            in_axes=(None, axes, 0),
            out_axes=-1,
            axis_size=self.pattern.blocks,
        )
        return every(held, self._seen(p, leaves), self.args)

    def _counted(self, values: Float[Array, "*w out k"]) -> Float[Array, "*w out k"]:
        """Return values in units of sigma, zero where masked."""
        if self.inverse_sigma is not None:
            values = values * jnp.broadcast_to(self.inverse_sigma, values.shape)
        if self.mask is None:
            return values
        return jnp.where(jnp.broadcast_to(self.mask, values.shape), values, 0.0)

    def squares(self, r: Float[Array, "out k"]) -> Float[Array, " k"]:
        """Return the squared norm of each block in units of ``loss_scale``."""
        return jnp.sum((r / self.loss_scale) ** 2, axis=0)

    def weights(self, r: Float[Array, "out k"]) -> Float[Array, " k"]:
        """Return the factor of each block's residual and J that makes them robust.

        ``sqrt(rho')``: the exact gradient, and a positive curvature. The second-order
        term of Triggs would make the curvature of every outlier vanish.
        """
        z, loss = self.squares(r), self.loss
        assert loss is not None
        slope = jax.jvp(loss, (z,), (jnp.ones_like(z),))[1]
        return jnp.sqrt(jnp.maximum(slope, 0.0))

    def half_terms(self, r: Float[Array, "out k"]) -> Array:
        """Return what each block, or each of its residuals, adds to the cost."""
        if self.loss is None:
            return 0.5 * (r * r).ravel()
        return 0.5 * self.loss_scale**2 * self.loss(self.squares(r))

    def reduction_terms(self, r: Array, r_new: Array) -> Array:
        """Return how much each share of the cost falls from r to r_new."""
        if self.loss is None:
            return 0.5 * ((r - r_new) * (r + r_new)).ravel()
        return self.half_terms(r) - self.half_terms(r_new)


def _moved(manifold, x: Array, v: Array) -> Array:
    if manifold is None:
        return x + v
    steps = v.reshape(-1, manifold.tangent_size)
    elements = x.reshape(len(steps), -1)
    if len(elements) == 1:
        return manifold.retract(elements[0], steps[0])
    return jax.vmap(manifold.retract)(elements, steps).ravel()


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
