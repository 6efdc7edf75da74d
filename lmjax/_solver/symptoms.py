"""What became of the parameters of a fit that has ended, where no status tells."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._linalg.linearization import sums
from lmjax._problem.bounds import Conditions
from lmjax._solver import roundoff
from lmjax._solver.proposal import free_part
from lmjax._solver.state import State


class Symptoms(NamedTuple):
    """What became of the parameters, where a status alone does not tell.

    Attributes:
        lost: Which free parameters have lost their effect.
        held: Whether a bound holds a parameter: an amplitude held at 0 takes the effect
            of its rate with it.
        cancels: Whether the effects of the free parameters cancel each other.
        zero: Whether the residual is no more than rounding.
    """

    lost: Bool[Array, "n *f"]
    held: Bool[Array, "*f"]
    cancels: Bool[Array, "*f"]
    zero: Bool[Array, "*f"]

    @property
    def of_fit(self) -> tuple[Bool[Array, "*f"], ...]:
        """What the status of the fit has to say: an effect lost, runaways, zero."""
        return jnp.any(self.lost, axis=0) & ~self.held, self.cancels, self.zero


def symptoms_of(
    state: State,
    p0: Float[Array, "n *f"],
    effect: Float[Array, "*f"],
    conditions: Conditions,
) -> Symptoms:
    """Return what became of the parameters, given ``|J p|^2`` of the free ones."""
    point = state.point
    effects, *free_effects = sums(
        (point.norms * point.p) ** 2,
        *roundoff.squared_effects(point.norms, free_part(point), p0),
    )
    rounding = roundoff.residual_rounding(effects, point.cost)
    cancels = roundoff.cancels(effect, *free_effects)
    gone = roundoff.without_effect(point.norms, point.p, p0, state.scale, rounding)
    if point.free is not None:
        gone &= point.free
    held = jnp.any(conditions.active(point.p, point.grad), axis=0)
    zero = roundoff.is_zero(point.cost, rounding, cancels)
    return Symptoms(gone, held, cancels, zero)
