"""How parameters move that lie on manifolds: rotations, poses, unit vectors.

A step is a vector of the tangent space, of fewer numbers than the parameters. Flat
parameters hold one leaf after the other; the flat step holds their tangents in the same
order. Leaves without a manifold are their own tangents.
"""

from collections.abc import Callable
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
        return p[..., self.start : end].reshape(*p.shape[:-1], self.rows, self.size)

    def tangent_of(self, v: Array) -> Array:
        """Return the leaf from a flat step, an element per row."""
        end = self.tangent_start + self.rows * self.tangent_size
        part = v[..., self.tangent_start : end]
        return part.reshape(*v.shape[:-1], self.rows, self.tangent_size)

    def repeated(self, flat: Array) -> Array:
        """Return the first value of each element, flat, once per number of its step."""
        first = self.of(flat)[..., :1]
        spread = jnp.repeat(first, self.tangent_size, axis=-1)
        return spread.reshape(*flat.shape[:-1], self.rows * self.tangent_size)


class Charts(eqx.Module):
    """How all parameters move.

    Attributes:
        manifolds: The manifold of each leaf, None for plain numbers.
        leaves: What is known of their sizes.
        engine: What evaluates a function of one element under `jax.vmap`; None for XLA.
    """

    manifolds: tuple[Any, ...]
    leaves: tuple[ChartLeaf, ...] = eqx.field(static=True)
    engine: Callable | None = eqx.field(default=None, static=True)

    @property
    def size(self) -> int:
        """Numbers of a step."""
        last = self.leaves[-1]
        return last.tangent_start + last.rows * last.tangent_size

    def _joined(self, of_leaf: Callable[[ChartLeaf, Any], Array]) -> Array:
        """Return what a function makes of each leaf and its manifold, as one array."""
        pairs = zip(self.leaves, self.manifolds, strict=True)
        return jnp.concatenate([of_leaf(*pair).ravel() for pair in pairs])

    def shifted(self, p: Float[Array, " a"], v: Float[Array, " n"]):
        """Return where a step leads."""

        def moved(leaf, manifold):
            x, step = leaf.of(p), leaf.tangent_of(v)
            if manifold is None:
                return x + step
            held, rest = eqx.partition(manifold, eqx.is_array)
            one = lambda held, x, v: eqx.combine(held, rest).retract(x, v)
            one = one if self.engine is None else self.engine(one)
            return jax.vmap(one, in_axes=(None, 0, 0))(held, x, step)

        return self._joined(moved)

    def difference(self, p: Float[Array, " a"], q: Float[Array, " a"]):
        """Return the step that leads from p to q."""

        def step(leaf, manifold):
            x, y = leaf.of(p), leaf.of(q)
            return y - x if manifold is None else jax.vmap(manifold.local)(x, y)

        return self._joined(step)

    def coordinates(self, p: Float[Array, " a"]) -> Float[Array, " n"]:
        """Return the parameters, with the size of an element for each of its tangents.

        For rules that ask how large a parameter is, such as those for rounding.
        """
        return self._spread(p, lambda x: jnp.max(jnp.abs(x), axis=1, keepdims=True))

    def from_here(self, p: Float[Array, " a"], q: Float[Array, " a"]):
        """Return plain parameters of q, and steps from p to q on manifolds."""

        def found(leaf, manifold):
            x, y = jax.lax.stop_gradient(leaf.of(p)), leaf.of(q)
            return y if manifold is None else jax.vmap(manifold.local)(x, y)

        return self._joined(found)

    def clipped(self, p: Float[Array, " a"], box: tuple[Array, Array]):
        """Return the parameters, those without a manifold inside their bounds."""

        def inside(leaf, manifold):
            x = leaf.of(p)
            if manifold is not None:
                return x
            return jnp.clip(x, *(leaf.tangent_of(side) for side in box))

        return self._joined(inside)

    def flags(self, flat: Bool[Array, " a"]) -> Bool[Array, " n"]:
        """Return flags of tangents: set where one is set in the element."""
        return self._spread(flat, lambda x: jnp.any(x, axis=1, keepdims=True))

    def bounds(self, flat: Float[Array, " a"], none: float) -> Float[Array, " n"]:
        """Return bounds of the tangents: ``none`` on manifolds."""
        return self._spread(flat, lambda x: jnp.full((len(x), 1), none, x.dtype))

    def _spread(self, flat: Array, of_element: Callable[[Array], Array]) -> Array:
        """Return values of parameters; on a manifold one per element, for each tangent.

        Args:
            flat: A value per parameter.
            of_element: From the values of elements (rows, size) to one each (rows, 1).
        """

        def spread(leaf, manifold):
            x = leaf.of(flat)
            if manifold is None:
                return x
            return jnp.broadcast_to(of_element(x), (leaf.rows, leaf.tangent_size))

        return self._joined(spread)

    def of_elements(self, status: Int[Array, " n"]) -> Int[Array, " a"]:
        """Return a status per parameter from one per tangent: the least of an element.

        FREE is the least: an element of which some tangents are held is free.
        """

        def least(leaf, manifold):
            codes = leaf.tangent_of(status)
            if manifold is None:
                return codes
            codes = jnp.min(codes, axis=1, keepdims=True)
            return jnp.broadcast_to(codes, (leaf.rows, leaf.size))

        return self._joined(least)


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
            tangent_size = manifold.tangent_size
            size = element_size(manifold, shape)
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


def element_size(manifold: Any, shape: tuple[int, ...]) -> int:
    """Return the numbers of an element: what a manifold says, or the last axis."""
    return getattr(manifold, "size", shape[-1] if shape else 1)


def is_manifold(x: Any) -> bool:
    """Return whether an object is a manifold."""
    return hasattr(x, "retract") and hasattr(x, "local")
