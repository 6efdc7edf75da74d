"""Counts and successes.

The deviances of `Poisson` and `Binomial` are those of McCullagh and Nelder (1989),
"Generalized Linear Models", section 2.3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from lmjax.likelihoods._base import Likelihood, Number, Points, numbers

# Counts of which so few are expected weigh as if this many were. Information of 1 / f
# is infinite at f = 0, where bounds and all-zero data may lead; nobody counts 1e7
# times as often as there is something to count.
FEWEST = 1e-7


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

    read_noise: Number = eqx.field(default=0.0, converter=numbers("read_noise"))

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

    trials: Number = eqx.field(converter=numbers("trials"))

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
