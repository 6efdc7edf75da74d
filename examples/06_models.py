"""How do I fit a ready-made model, and how do I put several together?

First a decay with its own start; then a spectrum of two peaks on a sloping background,
each part under a name of its own and each peak guessed from its half of the range.
Last, 300 noisy spectra in one batch, each with its own start.

Expect: every true value lies within about three of its standard errors. In the batch
all fits converge, and about 68 % of the true positions of the small peak lie within one
standard error.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

jax.config.update("jax_enable_x64", True)
models = lmjax.models

X = np.linspace(0.0, 20.0, 161)
TRUTH = models.Sum(
    large=models.Gaussian(amplitude=5.0, centre=7.0, width=0.8),
    small=models.Lorentzian(amplitude=2.0, centre=12.5, width=0.6),
    background=models.Polynomial([1.0, 0.05]),
)
SPLIT = 80  # the peaks lie on either side of this point
NOISE = 0.1
NUM_SPECTRA = 300
SEED = 3


def start(y):
    """Guess each peak in its part of the range, above a low level of the whole."""
    level = jnp.percentile(y, 20.0)
    background = models.Polynomial(jnp.stack([level, jnp.zeros_like(level)]))
    large = models.Gaussian.guess(X[:SPLIT], y[:SPLIT] - level)
    small = models.Lorentzian.guess(X[SPLIT:], y[SPLIT:] - level)
    return models.Sum(large=large, small=small, background=background)


def fit_one(y):
    """Fit one spectrum; return the position of the small peak."""
    fit = lmjax.curve_fit(start(y), X, y)
    return fit.params["small"].centre, fit.stderr["small"].centre, fit.status


def main():
    """Fit a decay, one spectrum and a batch of spectra."""
    rng = np.random.default_rng(SEED)
    t = np.linspace(0.0, 4.0, 40)
    decay = models.Exponential(amplitude=3.0, rate=1.2, offset=0.5)
    y = decay(t) + rng.normal(0.0, 0.05, t.size)
    fit = lmjax.curve_fit(models.Exponential.guess(t, y), t, y)
    print(f"rate {fit.params.rate:.3f} +- {fit.stderr.rate:.3f}, truth {decay.rate}\n")

    spectrum = TRUTH(X) + rng.normal(0.0, NOISE, X.size)
    fit = lmjax.curve_fit(start(spectrum), X, spectrum).raise_if_failed()
    for name in ("large", "small"):
        for field in ("amplitude", "centre", "width"):
            value, error = (getattr(m[name], field) for m in (fit.params, fit.stderr))
            truth = getattr(TRUTH[name], field)
            print(f"{name} {field:<10}{value:8.3f} +- {error:.3f}, truth {truth}")

    spectra = TRUTH(X) + rng.normal(0.0, NOISE, (NUM_SPECTRA, X.size))
    centre, error, status = jax.jit(jax.vmap(fit_one))(spectra)
    within = np.abs(centre - TRUTH["small"].centre) < error
    print(f"\n{int((status > 0).sum())} of {NUM_SPECTRA} spectra converged; ", end="")
    print(f"truth within one standard error: {np.mean(within):.1%}")


if __name__ == "__main__":
    main()
