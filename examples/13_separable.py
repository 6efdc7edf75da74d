"""How do I fit fluorescence decays, blurred by the instrument, without good starts?

Two rates per pixel, photon counts, a response that comes a little late. Amplitudes and
background enter linearly: marked so, they are solved for in every step, and their start
plays no part. Without the mark, the same start leads the fits astray.

Expect: all pixels at the minimum in about a dozen steps with the mark, none of them
without; median rates within 3 % of the truth.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

jax.config.update("jax_enable_x64", True)

PIXELS, BINS, PERIOD, SEED = 300, 128, 12.5, 5
FAST, SLOW, DELAY = 2.0, 0.33, 0.7
TIME = PERIOD / BINS * np.arange(BINS)
RESPONSE = 0.266 * np.exp(-0.5 * ((np.arange(BINS) - 12.0) / 1.5) ** 2)
START = {"a": -1.0, "b": 500.0, "fast": 3.0, "slow": 0.2, "delay": 0.0, "dark": 1e3}
LINEAR = {"a": True, "b": True, "dark": True}


def counts(p, response):
    """Return the expected photons per bin; the laser comes once per period."""
    decay = p["a"] * jnp.exp(-TIME * p["fast"]) + p["b"] * jnp.exp(-TIME * p["slow"])
    seen = lmjax.convolve(decay, response, shift=p["delay"], periodic=True)
    return seen + p["dark"]


def simulate():
    """Return photon counts, one pixel per row."""
    rng = np.random.default_rng(SEED)
    truth = {
        "a": jnp.asarray(rng.uniform(2e3, 4e3, PIXELS)),
        "b": jnp.asarray(rng.uniform(1e3, 3e3, PIXELS)),
        "fast": jnp.full(PIXELS, FAST),
        "slow": jnp.full(PIXELS, SLOW),
        "delay": jnp.full(PIXELS, DELAY),
        "dark": jnp.asarray(rng.uniform(5.0, 20.0, PIXELS)),
    }
    mean = jax.vmap(counts, (0, None))(truth, RESPONSE)
    return truth, jnp.asarray(rng.poisson(mean).astype(float))


@partial(jax.jit, static_argnames="marked")
def fitted(photons, starts, marked):
    """Return parameters, cost and number of steps of every pixel."""
    solver = lmjax.LevenbergMarquardt(max_steps=200)
    options = {"linear": LINEAR if marked else None, "solver": solver}

    def fit_one(y, start):
        sigma = jnp.sqrt(jnp.maximum(y, 1.0))
        fit = lmjax.curve_fit(counts, RESPONSE, y, start, sigma=sigma, **options)
        return fit.params, fit.cost, fit.num_steps

    return jax.vmap(fit_one)(photons, starts)


def main():
    """Fit all pixels with and without the mark."""
    truth, photons = simulate()
    common = jax.tree.map(lambda x: np.full(PIXELS, x), START)
    _, best, _ = fitted(photons, truth, marked=True)
    for name, marked in (("without the mark", False), ("linear", True)):
        params, cost, steps = fitted(photons, common, marked)
        found = jnp.mean(cost < best * (1.0 + 1e-6))
        print(f"{name:16}: {found:.1%} at the minimum, {jnp.mean(steps):.0f} steps")
    for name in ("fast", "slow", "delay"):
        print(f"{name}: median {jnp.median(params[name]):.3f}, truth {truth[name][0]}")
    assert found > 0.99


if __name__ == "__main__":
    main()
