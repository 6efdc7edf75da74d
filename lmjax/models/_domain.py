"""Starts stay where data can be.

Where all data are positive (or zero) a start is, too, at every point; where all lie in
[0, 1], it is below 1 as well: outside, a likelihood of counts or of successes is zero,
and a fit could not begin. A curve outside is mixed with another one inside, as little
as that takes; the result is a curve of the same model.

``data`` are the points of `_guess.clean`.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Share of the other curve that is kept between a start and where data cannot be: above
# rounding in float32 even if all but one in a thousand points are zero.
MARGIN = 1e-3


def share_of_mean(
    curve: Float[Array, " m"], data: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return how much of the mean of the data brings a curve inside, and that mean."""
    mean = jnp.sum(data.y) / jnp.maximum(jnp.sum(data.keep), 1.0)
    curve = jnp.where(data.keep > 0.0, curve, mean)
    low, high, most = jnp.min(curve), jnp.max(curve), 1.0 / data.unit
    bounded = jnp.all(data.y >= 0.0)
    below = _share(MARGIN * mean, low, mean, bounded & (low <= 0.0))
    proportion = bounded & jnp.all(data.y <= most) & (high >= most)
    above = _share(MARGIN * (most - mean), most - high, most - mean, proportion)
    return jnp.maximum(below, above), mean


def share_of(
    inner: Float[Array, " m"], curve: Float[Array, " m"], data: Any
) -> Float[Array, ""]:
    """Return how much of a curve that is positive makes another one positive."""
    inner = jnp.where(data.keep > 0.0, inner, 0.0)
    needed = jnp.all(data.y >= 0.0) & (curve <= 0.0)
    return jnp.max(_share(MARGIN * inner, curve, inner, needed))


def possible(
    shapes: Float[Array, "g m"], data: Any, positive: Any
) -> Bool[Array, " g"]:
    """Return which shapes vanish at no ``positive`` point with a positive datum."""
    free = (data.y <= 0.0) | ~jnp.asarray(positive)
    vanishes = jnp.any((shapes <= 0.0) & ~free[None, :], axis=1)
    return ~vanishes | jnp.any(data.y < 0.0)


def shrunk(curve: Float[Array, " m"], data: Any) -> Float[Array, ""]:
    """Return the factor that keeps a curve below 1 where all data lie in [0, 1]."""
    high, most = jnp.max(curve), 1.0 / data.unit
    proportion = jnp.all((data.y >= 0.0) & (data.y <= most)) & (high >= most)
    return jnp.where(proportion, (1.0 - MARGIN) * most / high, 1.0)


def _share(goal, value, inner, needed):
    """Return how much of ``inner`` lifts ``value`` to ``goal``, 0 unless needed."""
    room = inner - value
    needed = needed & (inner > goal) & (room > 0.0)
    return jnp.where(needed, (goal - value) / jnp.where(needed, room, 1.0), 0.0)
