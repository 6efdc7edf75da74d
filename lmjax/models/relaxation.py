"""Relaxation times in magnetic resonance: T1 and T2.

Times may be in any unit as long as it is the same for the independent variable and the
result (ms are common). T1 and T2 are positive; a step of the solver to a negative value
gives a steep but finite curve, which the solver turns down.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax.models import _guess
from lmjax.models._model import Model, Parameter, real
from lmjax.models._stable import exp, ratio
from lmjax.models.decays import RATES, search_rate


class InversionRecovery(Model):
    """Signed signal after an inversion pulse: ``s0 (1 - inversion exp(-x / t1))``.

    Args:
        s0: Signal at equilibrium, in units of y.
        inversion: Without unit: 2 for a perfect inversion, 1 for saturation recovery.
        t1: Longitudinal relaxation time, in units of x (the inversion time).

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> ti = jnp.array([50.0, 200.0, 500.0, 1000.0, 2000.0, 4000.0])
        >>> y = lmjax.models.InversionRecovery(s0=100.0, inversion=1.9, t1=900.0)(ti)
        >>> fit = lmjax.curve_fit(lmjax.models.InversionRecovery.guess(ti, y), ti, y)
        >>> print(f"{fit.params.t1:.1f}")
        900.0

    References:
        Barral et al. (2010), Magn. Reson. Med. 64, 1057-1067: signals ``a + b exp(-TI /
        T1)``, here with ``a = s0`` and ``b = -s0 inversion``.
    """

    s0: Parameter
    inversion: Parameter
    t1: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.s0 * (1.0 - self.inversion * exp(-ratio(real(x), self.t1)))

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "InversionRecovery":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        amplitude, rate, offset = search_rate(data, RATES)
        start = InversionRecovery(offset, -ratio(amplitude, offset), 1.0 / rate)
        return _guess.finite(start, data)


class MagnitudeInversionRecovery(Model):
    """Size of the signal after an inversion: ``|s0 (1 - inversion exp(-x / t1))|``.

    Args:
        s0: Signal at equilibrium, in units of y.
        inversion: Without unit: 2 for a perfect inversion, 1 for saturation recovery.
        t1: Longitudinal relaxation time, in units of x (the inversion time).

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> ti = jnp.array([50.0, 200.0, 500.0, 1000.0, 2000.0, 4000.0])
        >>> truth = lmjax.models.MagnitudeInversionRecovery(100.0, 1.9, t1=900.0)
        >>> guess = lmjax.models.MagnitudeInversionRecovery.guess(ti, truth(ti))
        >>> fit = lmjax.curve_fit(guess, ti, truth(ti))
        >>> print(f"{fit.params.t1:.1f}")
        900.0

    References:
        Barral et al. (2010), Magn. Reson. Med. 64, 1057-1067.
    """

    s0: Parameter
    inversion: Parameter
    t1: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        recovered = 1.0 - self.inversion * exp(-ratio(real(x), self.t1))
        return jnp.abs(self.s0 * recovered)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "MagnitudeInversionRecovery":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        _, span = _guess.low_and_span(data.x)
        # the kink makes basins narrow: finer steps than for the signed curve. Below 1
        # (incomplete saturation) there is none, and no curve is zero at a point.
        rate, inversion = _guess.grid(
            np.geomspace(0.1, 200.0, 48), np.r_[0.3:1.0:0.15, 1.02, 1.1:2.25:0.1]
        )
        t1 = span / _guess.column(rate, data)
        inversion = _guess.column(inversion, data)
        shapes = MagnitudeInversionRecovery(1.0, inversion, t1)(_guess.row(data))
        best = _guess.search(shapes, data, constant=False)
        i = best.which
        start = MagnitudeInversionRecovery(best.scale, inversion[i, 0], t1[i, 0])
        return _guess.finite(start, data)


class VariableFlipAngle(Model):
    """Steady state of a spoiled gradient echo (Ernst), to measure T1.

    ``s0 sin(a) (1 - E) / (1 - E cos(a))`` with ``E = exp(-tr / t1)``; the independent
    variable is the pair ``(a, tr)`` of flip angle and repetition time, each an array of
    the shape of the signal or a single number.

    Args:
        s0: Signal of the fully relaxed magnetisation, in units of y.
        t1: Longitudinal relaxation time, in units of tr. Angles are in radians.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> angle, tr = jnp.deg2rad(jnp.array([3.0, 6.0, 10.0, 20.0, 30.0])), 20.0
        >>> signal = jnp.array([3405.4, 5200.6, 5126.6, 3701.5, 2517.0])
        >>> guess = lmjax.models.VariableFlipAngle.guess((angle, tr), signal)
        >>> fit = lmjax.curve_fit(guess, (angle, tr), signal)
        >>> print(f"T1 = {fit.params.t1:.0f} ms")
        T1 = 2046 ms

    References:
        Ernst and Anderson (1966), Rev. Sci. Instrum. 37, 93-102; Fram et al. (1987),
        Magn. Reson. Imaging 5, 201-208. The data of the example are voxel 1 of the
        OSIPI T1 test set, whose reference is 2045.6 ms.
    """

    s0: Parameter
    t1: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        angle, tr = real(x[0]), real(x[1])
        decay = exp(-ratio(tr, self.t1))
        lost = 1.0 - decay
        # 1 - E cos(a), without cancellation at small angles
        denominator = lost + 2.0 * decay * jnp.sin(0.5 * angle) ** 2
        return self.s0 * jnp.sin(angle) * ratio(lost, denominator)

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "VariableFlipAngle":
        """Return a start for a fit to the signal ``y`` at ``x = (angle, tr)``."""
        data = _guess.clean(tuple(x), y)
        shortest = jnp.min(jnp.where(data.x[1] > 0.0, data.x[1], jnp.inf))
        unit = jnp.where(jnp.isfinite(shortest), shortest, 1.0)
        t1 = unit * _guess.column(np.geomspace(0.3, 3e4, 40), data)
        shapes = VariableFlipAngle(1.0, t1)(_guess.row(data))
        best = _guess.search(shapes, data, constant=False)
        return _guess.finite(VariableFlipAngle(best.scale, t1[best.which, 0]), data)


class T2Decay(Model):
    """Spin-echo decay: ``s0 exp(-x / t2)``.

    Args:
        s0: Signal at echo time 0, in units of y.
        t2: Transverse relaxation time, in units of x (the echo time).

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> te = jnp.array([10.0, 20.0, 40.0, 80.0])
        >>> y = jnp.array([82.0, 67.0, 45.0, 20.0])
        >>> fit = lmjax.curve_fit(lmjax.models.T2Decay.guess(te, y), te, y)
        >>> print(f"T2 = {fit.params.t2:.1f} +- {fit.stderr.t2:.1f}")
        T2 = 49.8 +- 0.2

    References:
        Carr and Purcell (1954), Phys. Rev. 94, 630-638.
    """

    s0: Parameter
    t2: Parameter

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return self.s0 * exp(-ratio(real(x), self.t2))

    @staticmethod
    @_guess.compiled
    def guess(x: Any, y: Any) -> "T2Decay":
        """Return a start for a fit to the points (x, y)."""
        data = _guess.clean(x, y)
        amplitude, rate, _ = search_rate(data, RATES, constant=False)
        return _guess.finite(T2Decay(amplitude, 1.0 / rate), data)
