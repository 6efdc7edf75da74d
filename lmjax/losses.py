"""Robust losses: how much a large residual may count.

The cost is ``1/2 * sum_i c^2 * rho((r_i / c)^2)`` with the scale ``c`` given as
``loss_scale``: residuals well below ``c`` count as usual, larger ones count less. Each
loss is a plain function ``rho(z)`` of ``z = (r/c)^2`` with ``rho(z) ~ z`` near zero; a
function of your own works just as well, its derivatives come from autodiff.

The definitions of `huber`, `soft_l1`, `cauchy` and `arctan` are those of
``scipy.optimize.least_squares``; those of `tukey`, `welsch` and `geman_mcclure` follow
Zhang (1997), "Parameter estimation techniques: a tutorial with application to conic
fitting", table 1, normalised so that ``rho'(0) = 1``.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

NAMES = (
    "linear",
    "huber",
    "soft_l1",
    "cauchy",
    "arctan",
    "tukey",
    "welsch",
    "geman_mcclure",
)


def linear(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Plain least squares: ``z``."""
    return z


def huber(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Quadratic up to ``|r| = c``, then linear: ``z`` or ``2 sqrt(z) - 1``. Convex.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> lmjax.losses.huber(jnp.array([0.25, 4.0]))
        Array([0.25, 3.  ], dtype=float32)
    """
    # sqrt has an infinite slope at 0: feed it 1 wherever its branch is not taken.
    outside = jnp.where(z > 1.0, z, 1.0)
    return jnp.where(z > 1.0, 2.0 * jnp.sqrt(outside) - 1.0, z)


def soft_l1(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Smooth blend of quadratic and linear: ``2 (sqrt(1 + z) - 1)``. Convex."""
    # the same value without the cancellation of sqrt(1 + z) - 1 for small z
    return 2.0 * z / (jnp.sqrt(1.0 + z) + 1.0)


def cauchy(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logarithmic growth: ``log(1 + z)``. Not convex: the start matters."""
    return jnp.log1p(z)


def arctan(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Bounded: ``arctan(z)``. Not convex."""
    return jnp.arctan(z)


def tukey(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Tukey's biweight: ``(1 - (1 - z)^3) / 3``, constant beyond ``|r| = c``."""
    inside = jnp.minimum(z, 1.0)
    return inside * (1.0 - inside + inside**2 / 3.0)


def welsch(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Bounded, smooth everywhere: ``1 - exp(-z)``."""
    return -jnp.expm1(-z)


def geman_mcclure(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Bounded: ``z / (1 + z)``."""
    return z / (1.0 + z)
