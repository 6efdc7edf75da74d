"""Box bounds by projection, with an active set.

A parameter that sits on a bound while the gradient points out of the box is *active*:
it leaves the linear system for this step. The others move freely and are projected back
onto the box. No change of variables is used: the slope of such a map vanishes at the
bound, so every point there would look optimal.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def project(
    p: Float[Array, " n"], lower: Float[Array, " n"], upper: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Return the point of the box nearest to ``p``."""
    return jnp.clip(p, lower, upper)


def active(
    p: Float[Array, " n"],
    grad: Float[Array, " n"],
    lower: Float[Array, " n"],
    upper: Float[Array, " n"],
) -> Bool[Array, " n"]:
    """Return which parameters sit on a bound that descent would push them through."""
    return ((p <= lower) & (grad > 0.0)) | ((p >= upper) & (grad < 0.0))
