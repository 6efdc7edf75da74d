"""How often `Sum.guess` leads `curve_fit` to the minimum that the truth leads to.

    python -m benchmarks.sums

Spectra of one to four peaks on a constant or sloping background, 201 points from 0 to
100 with noise of 0.1: Gaussians and Lorentzians of height 1 to 5 and width 1 to 6 at
random places. "resolved" keeps centres 2.5 widths of the wider peak apart, "anywhere"
lets them coincide, "dips" gives each height of resolved ones a random sign. Found means
that the fit from the guess ends at a chi-square no higher than that of the fit from the
true parameters, within 1e-6 of it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from benchmarks._report import save
from lmjax import models

X = np.linspace(0.0, 100.0, 201)
NOISE = 0.1
FITS = 25  # of each number of peaks, kind and background
# least distance of centres in widths, whether heights have random signs
SETS = {"resolved": (2.5, False), "anywhere": (0.0, False), "dips": (2.5, True)}


def one_spectrum(kind, peaks: int, degree: int, apart: float, dips: bool, rng):
    """Return (truth, y)."""
    while True:
        centre = np.sort(rng.uniform(5.0, 95.0, peaks))
        width = rng.uniform(1.0, 6.0, peaks)
        wider = np.maximum(width[1:], width[:-1])
        if np.all(np.diff(centre) > apart * wider):
            break
    height = rng.uniform(1.0, 5.0, peaks) * (rng.choice([-1, 1], peaks) if dips else 1)
    parts = {
        f"peak{k}": kind(*map(jnp.asarray, (height[k], centre[k], width[k])))
        for k in range(peaks)
    }
    line = [rng.uniform(-5.0, 10.0), rng.uniform(-0.05, 0.05)][: degree + 1]
    truth = models.Sum(background=models.Polynomial(jnp.asarray(line)), **parts)
    return truth, np.asarray(truth(X)) + rng.normal(0.0, NOISE, X.size)


def found(kind, peaks: int, degree: int, apart: float, dips: bool) -> int:
    """Return how many of `FITS` spectra end at the minimum."""
    rng = np.random.default_rng([peaks, degree, int(10 * apart), dips])
    spectra = [one_spectrum(kind, peaks, degree, apart, dips, rng) for _ in range(FITS)]
    truths, curves = jax.tree.map(lambda *leaves: jnp.stack(leaves), *spectra)
    level = functools.partial(models.Polynomial.guess, degree=degree)
    parts = {f"peak{k}": kind for k in range(peaks)}

    def both(truth, y):
        start = models.Sum.guess(X, y, background=level, **parts)
        return [lmjax.curve_fit(begin, X, y).chi2 for begin in (start, truth)]

    ours, best = jax.jit(jax.vmap(both))(truths, curves)
    return int(np.sum(np.asarray(ours) <= (1.0 + 1e-6) * np.asarray(best)))


def main() -> None:
    """Count, print and keep the results."""
    jax.config.update("jax_enable_x64", True)
    results = {}
    for name, (apart, dips) in SETS.items():
        results[name] = {
            str(peaks): sum(
                found(kind, peaks, degree, apart, dips)
                for kind in (models.Gaussian, models.Lorentzian)
                for degree in (0, 1)
            )
            for peaks in (1, 2, 3, 4)
        }
        print(name, results[name], f"of {4 * FITS} each", flush=True)
    save("sums", {"of": 4 * FITS, "found by number of peaks": results})


if __name__ == "__main__":
    main()
