"""Enzyme kinetics: rate of a reaction against concentrations."""

from typing import Any

import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import ratio

# Constants in units of the largest concentration, a factor 1.5 apart.
CONSTANTS = np.geomspace(1e-4, 100.0, 35)
# For a grid of pairs, of which there are the square as many.
PAIRED = np.geomspace(1e-3, 30.0, 24)


class MichaelisMenten(Model):
    """Michaelis-Menten rate: ``vmax * x / (km + x)``.

    Args:
        vmax: Rate at saturation, in units of y.
        km: Concentration at half of it, in units of x; positive.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> x = jnp.array([0.02, 0.06, 0.11, 0.22, 0.56, 1.10])
        >>> y = jnp.array([67.0, 84.0, 98.0, 131.0, 144.0, 160.0])
        >>> fit = lmjax.curve_fit(lmjax.models.MichaelisMenten.guess(x, y), x, y)
        >>> print(f"{fit.params.vmax:.1f}, {fit.params.km:.4f}")
        157.4, 0.0451

    References:
        Michaelis and Menten (1913), Biochem. Z. 49, 333-369; the data of the example
        are some of the untreated cells of the puromycin study in R's ``datasets``.
    """

    vmax: Parameter
    km: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        x = real(x)
        return self.vmax * ratio(x, self.km + x)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "MichaelisMenten":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        km = _guess.largest(data.x) * _guess.column(CONSTANTS, data)
        shapes = MichaelisMenten(1.0, km)(_guess.row(data))
        best = _guess.search(shapes, data, constant=False)
        return _guess.finite(MichaelisMenten(best.scale, km[best.which, 0]), data)


class CompetitiveInhibition(Model):
    """Michaelis-Menten rate with an inhibitor that competes for the enzyme.

    ``vmax * s / (km * (1 + i / ki) + s)``; the independent variable is the pair ``(s,
    i)``.

    Args:
        vmax: Rate at saturation, in units of y.
        km: Substrate concentration at half of it without inhibitor, in units of s.
        ki: Dissociation constant of the inhibitor, in units of i; positive.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> s, i = jnp.meshgrid(jnp.array([1.0, 2.0, 5.0, 9.0]), jnp.array([0.0, 3.0]))
        >>> y = lmjax.models.CompetitiveInhibition(vmax=10.0, km=2.0, ki=1.5)((s, i))
        >>> guess = lmjax.models.CompetitiveInhibition.guess((s, i), y)
        >>> fit = lmjax.curve_fit(guess, (s, i), y)
        >>> print(f"{fit.params.km:.3f}, {fit.params.ki:.3f}")
        2.000, 1.500

    References:
        Cornish-Bowden (2012), "Fundamentals of Enzyme Kinetics", 4th edition, on
        competitive inhibition.
    """

    vmax: Parameter
    km: Parameter
    ki: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        s, i = real(x[0]), real(x[1])
        return self.vmax * ratio(s, self.km * (1.0 + ratio(i, self.ki)) + s)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "CompetitiveInhibition":
        """Return a start for a fit to the rates ``y`` at ``x = (s, i)``."""
        data = _guess.clean(tuple(x), y)
        km, ki = _guess.grid(PAIRED, PAIRED)
        km = _guess.largest(data.x[0]) * _guess.column(km, data)
        ki = _guess.largest(data.x[1]) * _guess.column(ki, data)
        shapes = CompetitiveInhibition(1.0, km, ki)(_guess.row(data))
        best = _guess.search(shapes, data, constant=False)
        i = best.which
        return _guess.finite(
            CompetitiveInhibition(best.scale, km[i, 0], ki[i, 0]), data
        )
