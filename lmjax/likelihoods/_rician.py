"""Magnitudes of complex numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from lmjax.likelihoods import _rice
from lmjax.likelihoods._base import Likelihood, Number, Points, numbers

# Magnitudes below this share of the noise weigh as if they were as large. Information
# of f^2 is none at f = 0, where a fit to nothing but noise leads: it should arrive.
FAINTEST = 1e-2


class Rician(Likelihood):
    """Magnitudes y of a complex signal, as in MR; the model returns the noiseless one.

    The density is ``y / s^2 exp(-(y^2 + f^2) / (2 s^2)) I0(y f / s^2)``, even in f. Its
    Fisher information comes from a series good to 1e-7. It goes with ``f^2`` below the
    noise: magnitudes say least about the faintest signals. Where noise alone explains
    the data best, f goes to 0 and with it the information (held at that of a hundredth
    of the noise): give the amplitude a lower bound of 0 and the fit ends there; without
    one it ends close to it as STALLED. A negative y raises, or fails the fit inside a
    trace.

    Args:
        sigma: Standard deviation s of the noise in the real and in the imaginary part,
            positive; a number or one per point. (In a background without signal the
            mean of ``y^2`` is ``2 s^2``.)

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t, y = jnp.arange(5.0), jnp.array([10.2, 5.8, 4.1, 2.3, 1.9])
        >>> decay = lambda p, t: p["a"] * jnp.exp(-p["rate"] * t)
        >>> noise = lmjax.likelihoods.Rician(sigma=1.0)
        >>> start = {"a": 8.0, "rate": 1.0}
        >>> fit = lmjax.curve_fit(decay, t, y, start, likelihood=noise)
        >>> print(f"{fit.params['rate']:.2f} +- {fit.stderr['rate']:.2f}")
        0.51 +- 0.10

    References:
        Gudbjartsson and Patz (1995), "The Rician distribution of noisy MRI data",
        Magnetic Resonance in Medicine 34.
    """

    sigma: Number = eqx.field(converter=numbers("sigma"))

    def best(self, y: Points) -> Points:
        """Return the most probable f: 0 up to ``y^2 = 2 s^2``, about y far above."""
        a2 = _rice.peak((y / self.sigma) ** 2)
        root = jnp.sqrt(jnp.where(a2 > 0.0, a2, 1.0))
        best = self.sigma * jnp.where(a2 > 0.0, root, a2)
        return jnp.where((y >= 0.0) & (self.sigma > 0.0), best, jnp.nan)

    def log_ratio(self, f: Points, f_new: Points, y: Points) -> Points:
        """Return the ratio in ``exp(-(f - y)^2 / (2 s^2)) (exp(-w) I0(w))``."""
        a, b, t = self._magnitude(f), self._magnitude(f_new), y / self.sigma
        parabola = 0.5 * (a - b) * ((a - t) + (b - t))
        return parabola + _rice.log_i0e(b * t) - _rice.log_i0e(a * t)

    def slope(self, f: Points, y: Points) -> Points:
        """Return ``(f - y I1(w) / I0(w)) / s^2`` with ``w = f y / s^2``."""
        a, t = self._magnitude(f), y / self.sigma
        slope = (a - t * _rice.bessel_ratio(a * t)) / self.sigma
        return jnp.where(f < 0.0, -slope, slope)

    def information(self, f: Points) -> Points:
        """Return ``f^2 / s^4`` for faint signals, up to ``1 / s^2`` for strong ones."""
        v = jnp.maximum((f / self.sigma) ** 2, FAINTEST**2)
        return _rice.information(v) / self.sigma**2

    def sample(self, key: PRNGKeyArray, f: Points) -> Points:
        """Return the magnitude of f with normal noise in both of its parts."""
        real, imaginary = self.sigma * jax.random.normal(key, (2, *f.shape), f.dtype)
        return jnp.hypot(f + real, imaginary)

    def _magnitude(self, f):
        # not jnp.abs, whose derivative at 0 is 0
        return jnp.where(f < 0.0, -f, f) / self.sigma
