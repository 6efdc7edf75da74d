"""Residual blocks of one kind: their residuals, and derivatives by what they see."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax.closures import Program
from lmjax._linalg.blocks.structure import Group


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

    @property
    def num_used(self) -> Any:
        """Residuals of the blocks that count."""
        if self.mask is None:
            return self.pattern.blocks * self.pattern.outputs
        return jnp.sum(self.mask, dtype=jnp.int32) * self.pattern.outputs

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
