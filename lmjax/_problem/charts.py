"""How parameters move that lie on manifolds: rotations, poses, unit vectors.

A step is a vector of the tangent space, of fewer numbers than the parameters. Flat
parameters hold one leaf after the other; the flat step holds their tangents in the same
order. Leaves without a manifold are their own tangents.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class ChartLeaf(NamedTuple):
    """One leaf of the parameters.

    Attributes:
        start: Where it begins in the flat parameters.
        tangent_start: Where it begins in a flat step.
        rows: How many elements it holds.
        size: Numbers of an element.
        tangent_size: Numbers of its step.
    """

    start: int
    tangent_start: int
    rows: int
    size: int
    tangent_size: int

    def of(self, p: Array) -> Array:
        """Return the leaf from the flat parameters, an element per row."""
        end = self.start + self.rows * self.size
        return p[self.start : end].reshape(self.rows, self.size)

    def tangent_of(self, v: Array) -> Array:
        """Return the leaf from a flat step, an element per row."""
        end = self.tangent_start + self.rows * self.tangent_size
        return v[self.tangent_start : end].reshape(self.rows, self.tangent_size)


class Charts(eqx.Module):
    """How all parameters move.

    Attributes:
        manifolds: The manifold of each leaf, None for plain numbers.
        leaves: What is known of their sizes.
    """

    manifolds: tuple[Any, ...]
    leaves: tuple[ChartLeaf, ...] = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Numbers of a step."""
        last = self.leaves[-1]
        return last.tangent_start + last.rows * last.tangent_size

    def _pairs(self):
        return zip(self.leaves, self.manifolds, strict=True)

    def shifted(self, p: Float[Array, " a"], v: Float[Array, " n"]):
        """Return where a step leads."""
        parts = []
        for leaf, manifold in self._pairs():
            x, step = leaf.of(p), leaf.tangent_of(v)
            moved = (
                x + step if manifold is None else jax.vmap(manifold.retract)(x, step)
            )
            parts.append(moved.ravel())
        return jnp.concatenate(parts)

    def difference(self, p: Float[Array, " a"], q: Float[Array, " a"]):
        """Return the step that leads from p to q."""
        parts = []
        for leaf, manifold in self._pairs():
            x, y = leaf.of(p), leaf.of(q)
            step = y - x if manifold is None else jax.vmap(manifold.local)(x, y)
            parts.append(step.ravel())
        return jnp.concatenate(parts)

    def coordinates(self, p: Float[Array, " a"]) -> Float[Array, " n"]:
        """Return the parameters, with the size of an element for each of its tangents.

        For rules that ask how large a parameter is, such as those for rounding.
        """
        parts = []
        for leaf, manifold in self._pairs():
            x = leaf.of(p)
            if manifold is not None:
                largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
                x = jnp.broadcast_to(largest, (leaf.rows, leaf.tangent_size))
            parts.append(x.ravel())
        return jnp.concatenate(parts)

    def from_here(self, p: Float[Array, " a"], q: Float[Array, " a"]):
        """Return plain parameters of q, and steps from p to q on manifolds."""
        parts = []
        for leaf, manifold in self._pairs():
            x, y = jax.lax.stop_gradient(leaf.of(p)), leaf.of(q)
            step = y if manifold is None else jax.vmap(manifold.local)(x, y)
            parts.append(step.ravel())
        return jnp.concatenate(parts)

    def clipped(self, p: Float[Array, " a"], box: tuple[Array, Array]):
        """Return the parameters, those without a manifold inside their bounds."""
        parts = []
        for leaf, manifold in self._pairs():
            x = leaf.of(p)
            if manifold is None:
                x = jnp.clip(x, *(leaf.tangent_of(side) for side in box))
            parts.append(x.ravel())
        return jnp.concatenate(parts)

    def flags(self, flat: Bool[Array, " a"]) -> Bool[Array, " n"]:
        """Return flags of tangents: set where one is set in the element."""
        parts = []
        for leaf, manifold in self._pairs():
            marks = leaf.of(flat)
            if manifold is not None:
                some = jnp.any(marks, axis=1, keepdims=True)
                marks = jnp.broadcast_to(some, (leaf.rows, leaf.tangent_size))
            parts.append(marks.ravel())
        return jnp.concatenate(parts)

    def bounds(self, flat: Float[Array, " a"], none: float) -> Float[Array, " n"]:
        """Return bounds of the tangents: ``none`` on manifolds."""
        parts = []
        for leaf, manifold in self._pairs():
            side = leaf.of(flat)
            if manifold is not None:
                side = jnp.full((leaf.rows, leaf.tangent_size), none, flat.dtype)
            parts.append(side.ravel())
        return jnp.concatenate(parts)

    def of_elements(self, status: Int[Array, " n"]) -> Int[Array, " a"]:
        """Return a status per parameter from one per tangent: the least of an element.

        FREE is the least: an element of which some tangents are held is free.
        """
        parts = []
        for leaf, manifold in self._pairs():
            codes = leaf.tangent_of(status)
            if manifold is not None:
                least = jnp.min(codes, axis=1, keepdims=True)
                codes = jnp.broadcast_to(least, (leaf.rows, leaf.size))
            parts.append(codes.ravel())
        return jnp.concatenate(parts)


def charts_of(leaves: list[Any], manifolds: list[Any]) -> Charts | None:
    """Return how leaves of parameters move; None if no leaf has a manifold.

    Raises:
        ValueError: If a leaf does not hold elements of its manifold.
    """
    if all(manifold is None for manifold in manifolds):
        return None
    found, start, tangent_start = [], 0, 0
    for leaf, manifold in zip(leaves, manifolds, strict=True):
        shape = jnp.shape(leaf)
        if manifold is None:
            rows, size = int(jnp.size(leaf)), 1
            tangent_size = 1
        else:
            size, tangent_size = manifold.size, manifold.tangent_size
            if not shape or shape[-1] != size:
                raise ValueError(
                    f"manifold: expected a last axis of {size} for {manifold!r}, got "
                    f"parameters of shape {shape}"
                )
            rows = int(jnp.size(leaf)) // size
        found.append(ChartLeaf(start, tangent_start, rows, size, tangent_size))
        start += rows * size
        tangent_start += rows * tangent_size
    return Charts(tuple(manifolds), tuple(found))


def is_manifold(x: Any) -> bool:
    """Return whether an object is a manifold."""
    return hasattr(x, "retract") and hasattr(x, "local")
