"""Damping rules: how lambda and the scale follow a step, and which steps are taken.

The damped system is ``(J^T J + lam * diag(scale^2)) dp = -J^T r``. ``lam -> 0`` is
Gauss-Newton (long steps), ``lam -> inf`` is scaled gradient descent (short ones).
``lam`` is dimensionless because the columns of J are measured in units of ``scale``.

A rule is any object with the two methods and the ``guarded`` attribute of `Nielsen`.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._errors.checks import check_above
from lmjax._jax.types import Flag, Scalar

# Share of the predicted reduction that a step must achieve. MINPACK's value: small
# enough to keep any real progress, large enough to refuse steps that achieve nothing.
MIN_GAIN = 1e-4

# `scale` is the largest norm that each column has had (Moré), so that a parameter whose
# column vanishes for a moment takes no huge step. Without fading it would freeze a
# parameter whose column was once 1e40 times larger (NIST MGH10, first start), so each
# good step multiplies it by this factor. Of 69 Moré-Garbow-Hillstrom runs, 54 found the
# global minimum without fading, 62 with 0.95 or 0.97, 59 with 0.9; fading at every
# step, good or bad, loses Wood and Brown-Dennis.
FADE = 0.95

# A gain this close to 1 says that the linear model was exact.
EXACT = 0.05

# The least lambda of a fit of blocks, in units of eps: products of columns round to a
# few of them, and a world that may float has nothing else to keep its matrix definite.
LEAST_OF_BLOCKS = 1e3


# A fit of blocks takes no undamped step at its end. Above this lambda a damped step may
# predict nothing because a narrow valley is hidden by the damping.
HARDLY_DAMPED = 1e-5


def hardly_damps(lam: Float[Array, "*f"]) -> Bool[Array, "*f"]:
    """Return whether damping hides nothing in a fit of blocks, or cannot be less."""
    return lam <= max(HARDLY_DAMPED, 2.0 * least_of_blocks(lam.dtype))


def least_of_blocks(dtype) -> float:
    """Return the least lambda of a fit of blocks."""
    return LEAST_OF_BLOCKS * float(jnp.finfo(dtype).eps)


def achieves_enough(rule, gain: Float[Array, "*f"]) -> Bool[Array, "*f"]:
    """Return whether a rule takes a step of this gain; an unguarded one takes all."""
    return gain > MIN_GAIN if rule.guarded else jnp.ones(gain.shape, bool)


def fading(
    gain: Float[Array, "*f"], accept: Bool[Array, "*f"], dtype
) -> Float[Array, "*f"]:
    """Return the factor on the scale that a step leaves behind."""
    return jnp.where(accept & (gain > 0.5), jnp.asarray(FADE, dtype), 1.0)


class Nielsen(eqx.Module):
    """Nielsen's smooth rule, the default.

    An accepted step multiplies lambda by ``max(shrink, 1 - (2 gain - 1)^3)``, or by
    ``fast_shrink`` where the linear model foresaw the reduction to within 5 %: damping
    has nothing to guard against there. A rejected one multiplies it by ``growth``,
    which then doubles, so a bad start is left quickly. With the cubic lambda jumps
    less than with the classical factor of ten.

    Args:
        initial: First lambda, relative to the normal matrix scaled to unit diagonal.
            None is 1, which found more global minima on the Moré-Garbow-Hillstrom
            problems than the customary 1e-3, and 1e-4 for `ResidualBlocks`, as in
            Ceres: their starts are good, and each step costs much. To go on from an
            earlier fit of similar data, give its ``Solution.damping`` (and start at
            its ``params``).
        shrink: Least factor of an accepted step. Nielsen uses 1/3; 1/4 reaches the same
            minima in fewer steps. 1/10 saves more but lost one global minimum of 69.
        fast_shrink: Factor where the gain is within 5 % of 1. 1/10 ends an easy fit in
            11 steps instead of 13 and reaches the same minima; 1/30, or 1/10 within
            20 %, loses some. ``fast_shrink=shrink`` is Nielsen's own rule.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(damping=lmjax.Nielsen(initial=1e-2))

    References:
        Nielsen (1999), IMM-REP-1999-05, "Damping parameter in Marquardt's method".
    """

    initial: float | Scalar | None = None
    shrink: float | Scalar = 0.25
    fast_shrink: float | Scalar = 0.1
    guarded: ClassVar[bool] = True  # steps with a poor gain are refused

    def __check_init__(self):
        if self.initial is not None:
            check_above("initial", self.initial, 0.0)
        check_above("shrink", self.shrink, 0.0)
        check_above("fast_shrink", self.fast_shrink, 0.0)

    def start(self, dtype) -> tuple[Scalar, Scalar]:
        """Return the first damping and growth factor."""
        initial = 1.0 if self.initial is None else self.initial
        return jnp.asarray(initial, dtype), jnp.asarray(2.0, dtype)

    def update(
        self, lam: Scalar, growth: Scalar, gain: Scalar, accept: Flag
    ) -> tuple[Scalar, Scalar]:
        """Return damping and growth for the next proposal.

        Args:
            lam: Damping used for the step just tried.
            growth: Factor to apply if the step was rejected; 2 after any acceptance.
            gain: Actual over predicted cost reduction; 1 means the linear model was
                exact.
            accept: Whether the step was taken.
        """
        # A gain far above 1 would send the cubic to -inf; max() already saturates
        # there.
        factor = jnp.maximum(
            self.shrink, 1.0 - (2.0 * jnp.minimum(gain, 2.0) - 1.0) ** 3
        )
        factor = jnp.where(jnp.abs(gain - 1.0) < EXACT, self.fast_shrink, factor)
        # An underflow to zero could never grow again.
        accepted = jnp.maximum(lam * factor, jnp.finfo(lam.dtype).tiny)
        return (
            jnp.where(accept, accepted, lam * growth),
            jnp.where(accept, 2.0, 2.0 * growth).astype(growth.dtype),
        )


class Classical(eqx.Module):
    """Marquardt's rule: divide lambda after a success, multiply it after a failure.

    Args:
        up: Factor that multiplies lambda after a rejected step, above 1.
        down: Divisor of lambda after an accepted step, above 1.
        initial: First lambda.

    Raises:
        ValueError: If ``up`` or ``down`` is a number that does not exceed 1.

    Example:
        >>> import lmjax
        >>> rule = lmjax.Classical(up=11.0, down=9.0)
        >>> solver = lmjax.LevenbergMarquardt(damping=rule)

    References:
        Marquardt (1963), J. SIAM 11, 431-441.
    """

    up: float | Scalar = 10.0
    down: float | Scalar = 10.0
    initial: float | Scalar = 1e-3
    guarded: ClassVar[bool] = True

    def __check_init__(self):
        check_above("initial", self.initial, 0.0)
        check_above("up", self.up, 1.0)
        check_above("down", self.down, 1.0)

    def start(self, dtype) -> tuple[Scalar, Scalar]:
        """Return the first damping and growth factor."""
        return jnp.asarray(self.initial, dtype), jnp.asarray(self.up, dtype)

    def update(
        self, lam: Scalar, growth: Scalar, gain: Scalar, accept: Flag
    ) -> tuple[Scalar, Scalar]:
        """Return damping and growth for the next proposal; ``growth`` never changes."""
        accepted = jnp.maximum(lam / self.down, jnp.finfo(lam.dtype).tiny)
        return jnp.where(accept, accepted, lam * growth), growth


class Fixed(eqx.Module):
    """Constant lambda: every finite step is taken, whatever its gain.

    ``Fixed(0.0)`` is the Gauss-Newton method, a large value is gradient descent.
    Neither converges reliably: this rule is for comparison.

    Args:
        value: The damping, zero or positive.

    Example:
        >>> import lmjax
        >>> gauss_newton = lmjax.LevenbergMarquardt(damping=lmjax.Fixed(0.0))
        >>> gradient_descent = lmjax.LevenbergMarquardt(damping=lmjax.Fixed(1e4))
    """

    value: float | Scalar = 0.0
    guarded: ClassVar[bool] = False

    def __check_init__(self):
        check_above("value", self.value, 0.0, inclusive=True)

    def start(self, dtype) -> tuple[Scalar, Scalar]:
        """Return the damping and a growth factor of 1."""
        return jnp.asarray(self.value, dtype), jnp.asarray(1.0, dtype)

    def update(
        self, lam: Scalar, growth: Scalar, gain: Scalar, accept: Flag
    ) -> tuple[Scalar, Scalar]:
        """Return damping and growth unchanged."""
        return lam, growth
