"""Likelihoods: fits to counts and magnitudes, whose noise is not Gaussian.

``curve_fit(..., likelihood=...)`` minimises half the deviance, ``sum_i log L(best_i;
y_i) - log L(f_i; y_i)`` with f what the model returns and ``best`` the f under which y
is most probable: a maximum of the likelihood, zero for a perfect fit. Gaussian noise
needs none of this: that is what ``sigma`` is for.

The deviances of `Poisson` and `Binomial` are those of McCullagh and Nelder (1989),
"Generalized Linear Models", section 2.3.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmjax import _rice
from lmjax._arrays import as_array
from lmjax._checks import check_real

NAMES = ("Likelihood", "Poisson", "Rician", "Binomial")

# Counts of which so few are expected weigh as if this many were. Information of 1 / f
# is infinite at f = 0, where bounds and all-zero data may lead; nobody counts 1e7
# times as often as there is something to count.
FEWEST = 1e-7

# Magnitudes below this share of the noise weigh as if they were as large. Information
# of f^2 is none at f = 0, where a fit to nothing but noise leads: it should arrive.
FAINTEST = 1e-2

Number = float | Float[Array, "..."]
Points = Float[Array, " m"]


def _numbers(name: str) -> Callable[[Any], Any]:
    """Return what makes of a value what a field holds: a number or an array."""

    def converted(value: Any) -> Any:
        if isinstance(value, list):
            value = as_array(name, value)
        check_real(name, value)
        return value

    return converted


class Likelihood(eqx.Module):
    """The noise of the data, point by point: subclass it for one of your own.

    The methods work on arrays, one element per point; `sample` is for `lmjax.bootstrap`
    alone. Numbers and arrays in fields
    are data: they may be traced, differ per fit and be differentiated; arrays must
    broadcast to y.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> class Exponential(lmjax.likelihoods.Likelihood):
        ...     '''Waiting times y whose mean is f.'''
        ...
        ...     def best(self, y):
        ...         return jnp.where(y > 0, y, jnp.nan)
        ...
        ...     def log_ratio(self, f, f_new, y):
        ...         return jnp.log(f / f_new) + y / f - y / f_new
        ...
        ...     def slope(self, f, y):
        ...         return (f - y) / f**2
        ...
        ...     def information(self, f):
        ...         return 1 / f**2
        >>> mean, x, y = lambda p, x: p + 0 * x, jnp.arange(3.0), jnp.array([1, 3, 5.0])
        >>> fit = lmjax.curve_fit(mean, x, y, 1.0, likelihood=Exponential())
        >>> print(f"{fit.params:.3f} +- {fit.stderr:.3f}")
        3.000 +- 1.732
    """

    @abc.abstractmethod
    def best(self, y: Points) -> Points:
        """Return the f under which y is most probable, NaN where y is impossible."""

    @abc.abstractmethod
    def log_ratio(self, f: Points, f_new: Points, y: Points) -> Points:
        """Return ``log(L(f_new; y) / L(f; y))``.

        +inf where only f is impossible, -inf where only f_new is. Keep the digits where
        the two are close, and it must be twice differentiable by autodiff.
        """

    @abc.abstractmethod
    def slope(self, f: Points, y: Points) -> Points:
        """Return the derivative of ``-log L`` by f; finite even where L vanishes."""

    @abc.abstractmethod
    def information(self, f: Points) -> Points:
        """Return the Fisher information about f, ``E[slope^2]``, above zero."""

    def sample(self, key: PRNGKeyArray, f: Points) -> Points:
        """Return observations drawn at random, given f."""
        raise NotImplementedError(
            f"likelihood: lmjax.bootstrap draws data with the method sample(key, f), "
            f"which {type(self).__name__} does not have"
        )


class Poisson(Likelihood):
    """Counts y with mean f; with read noise, as an sCMOS camera's in photo-electrons.

    Both are one: ``y + s^2`` is taken as a count with mean ``f + s^2``, whose mean and
    variance are right for every s. Each f should be positive; a trial with ``f + s^2 <=
    0`` where something was counted, or below 0 anywhere, is refused. At ``f = 0`` with
    nothing counted the fit is finite, so bounds at 0 hold as others do. Fewer than 1e-7
    expected counts weigh as 1e-7.

    Args:
        read_noise: Standard deviation s of the Gaussian read noise in the units of y, a
            number or one per pixel. With it, y may be negative: where ``y + s^2`` is as
            well, it counts as 0. Without it, a negative y raises, or fails the fit
            inside a trace.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> x, y = jnp.arange(4.0), jnp.array([9.0, 4.0, 1.0, 0.0])
        >>> decay = lambda p, x: p["a"] * jnp.exp(-p["rate"] * x)
        >>> start = {"a": 8.0, "rate": 1.0}
        >>> fit = lmjax.curve_fit(decay, x, y, start, likelihood="poisson")
        >>> print(f"{fit.params['rate']:.3f} {fit.deviance:.3f}")
        1.139 0.923

    References:
        Huang et al. (2013), "Video-rate nanoscopy using sCMOS camera-specific
        single-molecule localization algorithms", Nature Methods 10, for the shift.
    """

    read_noise: Number = eqx.field(default=0.0, converter=_numbers("read_noise"))

    def best(self, y: Points) -> Points:
        """Return y, or what is left of it where ``y + s^2`` is clipped."""
        counts = self._counts(y)
        possible = (counts >= 0.0) & (self.read_noise >= 0.0)
        return jnp.where(possible, counts, jnp.nan) - self.read_noise**2

    def log_ratio(self, f: Points, f_new: Points, y: Points) -> Points:
        """Return ``f - f_new + y log(f_new / f)`` of the shifted numbers."""
        shift = self.read_noise**2
        return _log_ratio(f + shift, f_new + shift, self._counts(y))

    def slope(self, f: Points, y: Points) -> Points:
        """Return ``(f - y) / f`` of the shifted numbers."""
        return _slope(f + self.read_noise**2, self._counts(y))

    def information(self, f: Points) -> Points:
        """Return ``1 / (f + s^2)``."""
        return 1.0 / jnp.maximum(f + self.read_noise**2, FEWEST)

    def sample(self, key: PRNGKeyArray, f: Points) -> Points:
        """Return counts, with normal read noise."""
        counted, read = jax.random.split(key)
        counts = jax.random.poisson(counted, f).astype(f.dtype)
        return counts + self.read_noise * jax.random.normal(read, f.shape, f.dtype)

    def _counts(self, y):
        counts = y + self.read_noise**2
        return jnp.where(self.read_noise > 0.0, jnp.maximum(counts, 0.0), counts)


class Binomial(Likelihood):
    """Successes y out of a number of trials; the model returns their probability.

    A trial with a probability outside [0, 1], or at an end that the data exclude, is
    refused.

    Args:
        trials: Number of trials, positive; a number or one per point. 1, for yes or no,
            is ``likelihood="binomial"``.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> dose, dead = jnp.array([0.0, 1.0, 2.0, 3.0]), jnp.array([1.0, 4, 9, 16])
        >>> response = lambda p, x: jax.nn.sigmoid(p["slope"] * (x - p["ld50"]))
        >>> start = {"slope": 1.0, "ld50": 1.0}
        >>> noise = lmjax.likelihoods.Binomial(trials=20)
        >>> fit = lmjax.curve_fit(response, dose, dead, start, likelihood=noise)
        >>> print(f"{fit.params['ld50']:.2f} +- {fit.stderr['ld50']:.2f}")
        2.07 +- 0.21
    """

    trials: Number = eqx.field(converter=_numbers("trials"))

    def best(self, y: Points) -> Points:
        """Return ``y / trials``."""
        possible = (y >= 0.0) & (y <= self.trials) & (self.trials > 0.0)
        return jnp.where(possible, y / self.trials, jnp.nan)

    def log_ratio(self, f: Points, f_new: Points, y: Points) -> Points:
        """Return the sum over successes and failures, as if both were Poisson counts.

        Their means add up to the number of trials, so the linear terms cancel.
        """
        n = self.trials
        successes = _log_ratio(n * f, n * f_new, y)
        return successes + _log_ratio(n * (1.0 - f), n * (1.0 - f_new), n - y)

    def slope(self, f: Points, y: Points) -> Points:
        """Return ``(n f - y) / (f (1 - f))``."""
        n = self.trials
        return n * (_slope(n * f, y) - _slope(n * (1.0 - f), n - y))

    def information(self, f: Points) -> Points:
        """Return ``n / (f (1 - f))``."""
        n = self.trials
        least = FEWEST / n
        return n / jnp.maximum(f, least) + n / jnp.maximum(1.0 - f, least)

    def sample(self, key: PRNGKeyArray, f: Points) -> Points:
        """Return numbers of successes."""
        return jax.random.binomial(key, self.trials, f, f.shape, f.dtype)


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

    sigma: Number = eqx.field(converter=_numbers("sigma"))

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


def _log_ratio(f: Points, f_new: Points, y: Points) -> Points:
    """Return the log of the ratio of two Poisson likelihoods of the count y."""
    # y = 0 allows f = 0; second derivatives, 1 / f^2, must not overflow even so
    safe = lambda f: jnp.maximum(f, jnp.finfo(f.dtype).tiny ** 0.5)
    possible = lambda f: (f > 0.0) | ((f == 0.0) & (y == 0.0))
    value = (f - f_new) + y * _log_quotient(safe(f_new), safe(f))
    value = jnp.where(possible(f_new), value, -jnp.inf)
    return jnp.where(possible(f), value, jnp.inf)


def _slope(f: Points, y: Points) -> Points:
    """Return ``1 - y/f``, with `FEWEST` for the f that divides."""
    least = jnp.maximum(f, FEWEST)
    return ((f - y) + (least - f)) * (1.0 / least)


@jax.custom_jvp
def _log_quotient(a: Array, b: Array) -> Array:
    """Return ``log(a / b)`` of positive numbers, with every digit where a is near b."""
    inverse = 1.0 / b
    ratio = a * inverse
    # what rounding of the ratio hides from the logarithm: half the cost of a log1p
    lost = ((a - b) * inverse - (ratio - 1.0)) / ratio
    return jnp.log(ratio) + jnp.where(jnp.abs(ratio - 1.0) < 0.5, lost, 0.0)


@_log_quotient.defjvp
def _(primals, tangents):
    (a, b), (da, db) = primals, tangents
    return _log_quotient(a, b), da / a - db / b
