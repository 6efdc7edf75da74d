"""What is known at one set of parameters, its linear model included."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._linalg.arrowhead import ArrowLinearization
from lmjax._linalg.linearization import Linearization
from lmjax._problem.bounds import Constraints


class Point(NamedTuple):
    """Everything known at one set of parameters.

    Attributes:
        p: Parameters.
        r: Residual (prediction, with a likelihood); None where only sums are kept.
        linearization: Linear model of the cost, unscaled; see
            `lmjax._linalg.linearization`.
        cost: Half the sum of squares, of losses or of deviances.
        grad: Gradient of the cost.
        norms: Norms of the columns of the linearization.
        free: Flags of the parameters that may move, or None for all.
        optimality: Largest cosine between the residual and a free column.
    """

    p: Float[Array, "n *f"]
    r: Any
    linearization: Any
    cost: Float[Array, "*f"]
    grad: Float[Array, "n *f"]
    norms: Float[Array, "n *f"]
    free: Bool[Array, "n *f"] | None
    optimality: Float[Array, "*f"]


def point_at(
    constraints: Constraints,
    p,
    r,
    linearization: Linearization | ArrowLinearization,
    cost,
) -> Point:
    """Return the point at ``p``, given its linear model."""
    grad, norms, size = linearization.moments()
    free = constraints.free(p, grad)
    # |J_j . r| / (|J_j| |r|): dimensionless; 0 for a column or a residual of zeros
    size = norms * size
    usable = size > 0.0 if free is None else (size > 0.0) & free
    cosines = jnp.where(usable, jnp.abs(grad) / jnp.where(usable, size, 1.0), 0.0)
    return Point(p, r, linearization, cost, grad, norms, free, jnp.max(cosines, axis=0))


def free_part(point: Point, constraints: Constraints) -> Float[Array, "n *f"]:
    """Return the parameters, zero where they may not move."""
    p = constraints.coordinates(point.p)
    return p if point.free is None else jnp.where(point.free, p, 0.0)


def first_scale(
    point: Point, curvatures: Float[Array, "n *f"] | None
) -> Float[Array, "n *f"]:
    """Return the scale of the first step: the norms of the columns, and their change.

    ``sqrt(|J_j|^2 + |r| |d^2 r / dp_j^2|)``, the second term an upper bound of what the
    linear model leaves out of the Hessian's diagonal. With the columns alone the
    first step may end on a plateau where every gradient vanishes: of 198 decays from
    (1, 1, 0), 59 did not reach their minimum (53 with MINPACK); with this scale all
    did.

    Args:
        point: The first point.
        curvatures: The second terms, None where they are not known.
    """
    if curvatures is None:
        return point.norms
    scale = jnp.sqrt(point.norms**2 + curvatures)
    return jnp.where(jnp.isfinite(scale), scale, point.norms)


def isfinite(point: Point) -> Bool[Array, "*f"]:
    """Return whether the linearization is finite: all of J enters grad and norms."""
    return jnp.all(jnp.isfinite(point.grad) & jnp.isfinite(point.norms), axis=0)


def inverse_scale(point: Point, scale) -> Float[Array, "n *f"]:
    """Return the factor from scaled to actual steps, 0 where none is allowed."""
    factor = 1.0 / jnp.where(scale > 0.0, scale, 1.0)
    return factor if point.free is None else jnp.where(point.free, factor, 0.0)
