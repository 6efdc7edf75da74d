"""The Voigt profile by Weideman's rational expansion of the Faddeeva function."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models._model import Parameter

TERMS = 32  # error 4e-14 of the peak (24 terms: 1e-10), 2e-7 relative in wings of 1e-7


def _coefficients(terms):
    """Return L and the coefficients of p, highest power first.

    They are Fourier coefficients of ``exp(-t^2) (L^2 + t^2)`` with ``t = L tan(a/2)``:
    a trapezoidal sum over the circle, exact to rounding for a smooth function.
    """
    half = 2 * terms
    length = np.sqrt(terms / np.sqrt(2.0))
    angle = np.arange(-half + 1, half) * np.pi / half
    t = length * np.tan(angle / 2.0)
    values = np.exp(-(t**2)) * (length**2 + t**2)
    orders = np.arange(1, terms + 1)
    fourier = np.cos(orders[:, None] * angle[None, :]) @ values / (2 * half)
    return float(length), [float(value) for value in fourier[::-1]]


LENGTH, COEFFICIENTS = _coefficients(TERMS)
ROOT_PI = math.sqrt(math.pi)


def voigt_profile(u: Array, sigma: Parameter, gamma: Parameter) -> Array:
    """Return the convolution of a Gaussian and a Lorentzian, both of unit area.

    With ``z = (u + i gamma) / s`` and ``s = sigma sqrt(2)`` the profile is
    ``Re w(z) / (s sqrt(pi))``, where ``w(z) = 2 p(Z) / (L - iz)^2 + 1 / (sqrt(pi) (L -
    iz))`` and ``Z = (L + iz) / (L - iz)``. Multiplying numerators and denominators by s
    removes the division by it: the same expression becomes the Lorentzian at sigma = 0.
    Signs of sigma and gamma do not count.

    References:
        Weideman (1994), "Computation of the complex error function", SIAM J. Numer.
        Anal. 31, 1497-1518.
    """
    # The floor keeps the height of a delta function, 1 / (pi gamma), and its slope from
    # overflowing: 7e-16 in float32.
    floor = float(jnp.finfo(jnp.result_type(u, sigma, gamma)).tiny) ** 0.4
    s, g = math.sqrt(2.0) * jnp.abs(sigma), jnp.maximum(jnp.abs(gamma), floor)
    # The profile is homogeneous of degree -1 in (u, s, g). The unit h is a constant to
    # autodiff, as its choice changes nothing.
    h = jax.lax.stop_gradient(LENGTH * s + g + jnp.abs(u))
    u, s, g = u / h, s / h, g / h
    real, imag = LENGTH * s + g, -u  # L - iz
    norm = real**2 + imag**2
    inv_real, inv_imag = real / norm, -imag / norm
    num = LENGTH * s - g  # real part of L + iz, whose imaginary part is u
    z_real = num * inv_real - u * inv_imag
    z_imag = num * inv_imag + u * inv_real
    p_real, p_imag = jnp.zeros_like(z_real), jnp.zeros_like(z_real)
    for c in COEFFICIENTS:
        p_real, p_imag = (
            p_real * z_real - p_imag * z_imag + c,
            p_real * z_imag + p_imag * z_real,
        )
    square_real = inv_real**2 - inv_imag**2
    square_imag = 2.0 * inv_real * inv_imag
    leading = 2.0 * s * (p_real * square_real - p_imag * square_imag)
    return (leading + inv_real / ROOT_PI) / (ROOT_PI * h)
