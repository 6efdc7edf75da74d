"""Attenuation of the magnetic resonance signal by diffusion.

The independent variable is the b-value; diffusivities come in its inverse (b in s/mm2
gives mm2/s).
"""

from typing import Any

import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import exp, ratio
from lmjax.models.decays import RATES, search_rate, search_two_rates


class Diffusion(Model):
    """Free diffusion along one direction: ``s0 exp(-x adc)``.

    Args:
        s0: Signal at b = 0, in units of y.
        adc: Apparent diffusion coefficient, in units of 1/x.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> b = jnp.array([0.0, 500.0, 1000.0])
        >>> y = jnp.array([100.0, 61.0, 37.0])
        >>> fit = lmjax.curve_fit(lmjax.models.Diffusion.guess(b, y), b, y)
        >>> print(f"{1e3 * fit.params.adc:.2f} um2/ms")
        0.99 um2/ms

    References:
        Stejskal and Tanner (1965), J. Chem. Phys. 42, 288-292; Le Bihan et al. (1986),
        Radiology 161, 401-407.
    """

    s0: Parameter
    adc: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.s0 * exp(-self.adc * real(x))

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "Diffusion":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        # noise can make the signal rise with b
        rates = np.r_[RATES, -RATES[RATES < 3.0]]
        s0, adc, _ = search_rate(data, rates, constant=False)
        return _guess.finite(Diffusion(s0, adc), data)


class IVIM(Model):
    """Diffusion and perfusion, intravoxel incoherent motion: a sum of two decays.

    ``s0 ((1 - fraction) exp(-x diffusion) + fraction exp(-x perfusion))``

    Args:
        s0: Signal at b = 0, in units of y.
        fraction: Share of the signal that comes from flowing blood, without unit.
        perfusion: Pseudo-diffusion coefficient of that share, in units of 1/x.
        diffusion: Diffusion coefficient of the rest, in units of 1/x. The start has
            ``perfusion > diffusion``.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> b = jnp.array([0.0, 10, 20, 40, 80, 150, 300, 500, 800])
        >>> y = lmjax.models.IVIM(100.0, 0.2, perfusion=0.03, diffusion=0.001)(b)
        >>> fit = lmjax.curve_fit(lmjax.models.IVIM.guess(b, y), b, y)
        >>> print(f"{fit.params.fraction:.2f}, {fit.params.diffusion:.4f}")
        0.20, 0.0010

    References:
        Le Bihan et al. (1988), Radiology 168, 497-505.
    """

    s0: Parameter
    fraction: Parameter
    perfusion: Parameter
    diffusion: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        x = real(x)
        slow = exp(-self.diffusion * x)
        return self.s0 * (slow + self.fraction * (exp(-self.perfusion * x) - slow))

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "IVIM":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        fast_scale, fast, slow_scale, slow = search_two_rates(data)
        s0 = fast_scale + slow_scale
        return _guess.finite(IVIM(s0, ratio(fast_scale, s0), fast, slow), data)
