"""The models of the workloads, for jnp and numpy alike.

``model(params, x, xp)`` takes the array module last, so that SciPy runs the same
formula without JAX.
"""

import jax.numpy as jnp


def gauss2d(p, xy, xp=jnp):
    """Round two-dimensional Gaussian: amplitude, x, y, width, offset (Gpufit's)."""
    x, y = xy
    r2 = (x - p[1]) ** 2 + (y - p[2]) ** 2
    return p[0] * xp.exp(-r2 / (2 * p[3] ** 2)) + p[4]


def line(p, x, xp=jnp):
    """Straight line: offset, slope."""
    return p[0] + p[1] * x


def decay(p, t, xp=jnp):
    """Exponential decay with offset: ``a exp(-b t) + c``."""
    return p[0] * xp.exp(-p[1] * t) + p[2]


def diffusion_tensor(p, gradients, xp=jnp):
    """Diffusion-weighted signal ``S0 exp(-b g^T D g)``.

    Seven parameters: S0, then D by xx, yy, zz, xy, xz, yz. ``gradients`` holds the six
    products of b with the components of g that multiply them, the mixed ones doubled.
    """
    exponent = sum(p[1 + k] * b for k, b in enumerate(gradients))
    return p[0] * xp.exp(-exponent)


def peaks(p, x, xp=jnp):
    """Gaussian peaks on a line: centre, width and height of each, offset, slope."""
    total = p[-2] + p[-1] * x
    for centre, width, height in zip(p[:-2:3], p[1:-2:3], p[2:-2:3], strict=True):
        total = total + height * xp.exp(-(((x - centre) / width) ** 2))
    return total
