"""The functions that the Rician likelihood is made of, in units of its sigma.

A magnitude t measured where the noiseless one is a has the density
``t exp(-(t^2 + a^2) / 2) I0(a t)``. Bessel functions enter scaled by ``exp(-w)``, so
nothing overflows, and every derivative is written out: those of ``|w|`` in the scaled
functions would be wrong at ``w = 0``.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float

# Chebyshev coefficients by `python -m benchmarks.rice`, which integrates numerically.
INFORMATION = (
    1.02890680035,
    0.00166700944486,
    -0.0341204420776,
    -0.000545264997009,
    0.00485609777924,
    -0.000757047707812,
    0.000258141923896,
    -0.000330210124397,
    6.53436396063e-05,
    -2.69038260603e-05,
    2.99410603855e-05,
    -3.83857902439e-06,
    3.69734245186e-06,
    -3.04504473711e-06,
    2.76299237992e-08,
    -6.87702579228e-07,
    2.5443522254e-07,
    3.24366480576e-08,
    1.22097339917e-07,
)
PEAK = (
    1.44306081004,
    0.506546800219,
    0.0586669503151,
    -0.00738032036474,
    -0.00177135786105,
    0.000964753623497,
    1.74916692943e-05,
    -0.000148617432284,
    3.69224590021e-05,
    1.75561625041e-05,
    -1.32979537196e-05,
    4.51084138196e-07,
    2.96660843132e-06,
)


@jax.custom_jvp
def log_i0e(w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``log(exp(-w) I0(w))`` for w >= 0."""
    return jnp.log(i0e(w))


@log_i0e.defjvp
def _(primals, tangents):
    # I0' = I1: Abramowitz and Stegun 9.6.27
    (w,), (dw,) = primals, tangents
    return log_i0e(w), (bessel_ratio(w) - 1.0) * dw


@jax.custom_jvp
def bessel_ratio(w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``I1(w) / I0(w)`` for w >= 0."""
    return i1e(w) / i0e(w)


@bessel_ratio.defjvp
def _(primals, tangents):
    # I1' = I0 - I1 / w: Abramowitz and Stegun 9.6.26
    (w,), (dw,) = primals, tangents
    ratio = bessel_ratio(w)
    small = w < jnp.finfo(w.dtype).eps
    over_w = jnp.where(small, 0.5, ratio / jnp.where(small, 1.0, w))
    return ratio, (1.0 - over_w - ratio**2) * dw


def information(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the Fisher information about a of one magnitude, ``v = a^2``.

    It has no closed form. It runs from v (no slope without signal: the density is even
    in a) to 1 (a normal density); what is left over is a smooth function of
    ``v / (v + 3)``, good to 1e-7.
    """
    t = 1.0 - 6.0 / (v + 3.0)
    return v / (1.0 + v) * _chebyshev(INFORMATION, t)


def peak(t2: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the square of the a that makes t most probable, ``t2 = t^2``.

    Zero up to t^2 = 2, where noise alone explains t best. Good to 2e-6, and the
    logarithm of the density there, being stationary, to 1e-9.
    """
    above = jnp.maximum(t2 - 2.0, 0.0)
    return above * _chebyshev(PEAK, 4.0 / (above + 2.0) - 1.0)


def _chebyshev(coefficients: tuple[float, ...], t):
    """Return ``sum_k c_k T_k(t)`` by Clenshaw's recurrence."""
    later, last = jnp.zeros_like(t), jnp.zeros_like(t)
    for c in reversed(coefficients[1:]):
        later, last = c + 2.0 * t * later - last, later
    return coefficients[0] + t * later - last
