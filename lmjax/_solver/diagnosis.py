"""What happened to the parameters of a fit that has ended, where no status tells."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._linalg.linearization import sums
from lmjax._problem.bounds import Constraints
from lmjax._solver import roundoff
from lmjax._solver.point import Point, free_part


class Diagnosis(NamedTuple):
    """What happened to the parameters, where a status alone does not tell.

    Attributes:
        lost: Which free parameters have lost their effect.
        held: Whether a bound holds a parameter: an amplitude held at 0 takes the effect
            of its rate with it.
        cancels: Whether the effects of the free parameters cancel each other.
        zero: Whether the residual is no more than rounding.
        residual_rounding: Largest change of the residual by rounding, as a norm.
    """

    lost: Bool[Array, "n *f"]
    held: Bool[Array, "*f"]
    cancels: Bool[Array, "*f"]
    zero: Bool[Array, "*f"]
    residual_rounding: Float[Array, "*f"]

    @property
    def of_fit(self) -> tuple[Bool[Array, "*f"], ...]:
        """What `stopping.explained` asks: an effect lost, runaways, zero."""
        return jnp.any(self.lost, axis=0) & ~self.held, self.cancels, self.zero


def diagnose(
    point: Point,
    p0: Float[Array, "n *f"],
    scale: Float[Array, "n *f"],
    effect: Float[Array, "*f"],
    constraints: Constraints,
) -> Diagnosis:
    """Return what happened to the parameters.

    Args:
        point: Where the fit ended.
        p0: Where it began.
        scale: Largest norms that the columns of J have had, fading.
        effect: ``|J p|^2`` of the free parameters.
        constraints: Bounds and fixed parameters.
    """
    p, p0 = constraints.coordinates(point.p), constraints.coordinates(p0)
    effects, *free_effects = sums(
        (point.norms * p) ** 2,
        *roundoff.squared_effects(point.norms, free_part(point, constraints), p0),
    )
    residual_rounding = roundoff.residual_rounding(effects, point.cost)
    cancels = roundoff.effects_cancel(effect, *free_effects)
    lost = roundoff.without_effect(point.norms, p, p0, scale, residual_rounding)
    if point.free is not None:
        lost &= point.free
    held = jnp.any(constraints.active(point.p, point.grad), axis=0)
    zero = roundoff.is_zero(point.cost, residual_rounding, cancels)
    return Diagnosis(lost, held, cancels, zero, residual_rounding)
