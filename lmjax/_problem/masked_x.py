"""x at points that do not count: which are missing, and what stands there instead.

A leaf of x is an input per point if its first or last axes are those of y.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def _points_last(shape: tuple[int, ...], points: tuple[int, ...]) -> bool | None:
    """Return whether the points of y are the last axes of a leaf of x, or the first.

    None if they are neither: the leaf is no input per point.
    """
    k = len(points)
    if shape[len(shape) - k :] == points:
        return True
    return False if shape[:k] == points else None


def missing(x: Any, points: tuple[int, ...]) -> Bool[Array, "..."]:
    """Return at which points an input is NaN; ``points`` is the shape of y."""
    gone = jnp.zeros(points, bool)
    for leaf in jax.tree.leaves(x):
        last = _points_last(jnp.shape(leaf), points)
        if last is None or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        spare = jnp.ndim(leaf) - len(points)
        axes = range(spare) if last else range(len(points), jnp.ndim(leaf))
        gone |= jnp.any(jnp.isnan(leaf), axis=tuple(axes))
    return gone


def safe_inputs(
    x: Any, mask: Bool[Array, "..."], beyond: Bool[Array, "..."] | None = None
) -> Any:
    """Replace masked inputs that would do harm by those of a point that counts.

    Harm is done by NaN, by infinity, and by points ``beyond`` the domain of the model.
    Masking the result of the model is not enough: the reverse-mode gradient of a
    discarded NaN is still NaN. Other inputs stay, masked or not: a convolution needs
    them all. Leaves are per point if their first or last axes are those of mask.
    """
    k, first = mask.ndim, jnp.argmax(mask)

    def fill(leaf):
        shape = jnp.shape(leaf)
        last = _points_last(shape, mask.shape)
        if last is None:
            return leaf
        if last:
            rest = shape[: len(shape) - k]
            spread = lambda flags: jnp.broadcast_to(
                flags.reshape((1,) * len(rest) + mask.shape), shape
            )
            usual = jnp.reshape(leaf, (*rest, -1))[..., first]
            usual = jnp.reshape(usual, (*rest, *(1,) * k))
        else:
            rest = shape[k:]
            spread = lambda flags: jnp.broadcast_to(
                flags.reshape(mask.shape + (1,) * len(rest)), shape
            )
            usual = jnp.reshape(leaf, (-1, *rest))[first]
        bad = ~jnp.isfinite(leaf)
        if beyond is not None:
            bad |= spread(beyond)
        bad &= spread(~mask)
        return jnp.where(bad, jnp.broadcast_to(usual, shape), leaf)

    return jax.tree.map(fill, x)
