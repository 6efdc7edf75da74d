"""Convolution inside a batch of fits: by FFT, by a Toeplitz matrix.

    python -m benchmarks.convolve

Decays of three parameters through a response of an eighth of their length, with
Jacobians, in microseconds per step and fit; the response common to all fits, or one for
each.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from benchmarks._report import save

FITS, ROUNDS, LENGTHS = 1_000, 5, (64, 128, 256, 512, 1024)
SOLVER = lmjax.LevenbergMarquardt(ftol=1e-6, max_steps=50)


def by_matrix(signal, response):
    """Return the same as ``lmjax.convolve`` by a product with a Toeplitz matrix."""
    n, k = signal.size, response.size
    lag = np.arange(n)[:, None] - np.arange(n)[None, :]
    padded = jnp.concatenate([response, jnp.zeros(1, response.dtype)])
    matrix = padded[np.where((lag >= 0) & (lag < k), lag, k)]
    return jnp.dot(matrix, signal, precision="highest")


WAYS = {"fft": lmjax.convolve, "matrix": by_matrix}


def microseconds(convolve, n: int, own: bool) -> float:
    """Return the time per step and fit, the least of a few rounds."""
    rng = np.random.default_rng(0)
    t, k = np.arange(n) / n, max(n // 8, 8)
    response = np.exp(-0.5 * ((np.arange(k) - k / 2) / (n / 80)) ** 2)
    responses = jnp.asarray(response / response.sum())

    def model(p, response):
        return p[0] * convolve(jnp.exp(-p[1] * t), response) + p[2]

    truth = jnp.asarray(rng.uniform([50, 4, 0], [100, 12, 2], (FITS, 3)))
    mean = jax.vmap(model, (0, None))(truth, responses)
    y = mean + rng.normal(size=mean.shape)
    if own:
        responses = jnp.broadcast_to(responses, (FITS, k))

    def fit_one(y, response):
        start = jnp.array([60.0, 6.0, 0.0])
        fit = lmjax.curve_fit(model, response, y, start, solver=SOLVER)
        return fit.params, fit.num_steps

    fits = jax.jit(jax.vmap(fit_one, (0, 0 if own else None)))
    steps, times = int(fits(y, responses)[1].sum()), []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        jax.block_until_ready(fits(y, responses))
        times.append(time.perf_counter() - started)
    return 1e6 * min(times) / steps


def main():
    """Run, print and save."""
    jax.config.update("jax_enable_x64", True)
    results = {}
    for own in (False, True):
        kind = "own" if own else "common"
        for n in LENGTHS:
            if own and n > 256:
                continue  # a matrix per fit: gigabytes
            row = {way: microseconds(fn, n, own) for way, fn in WAYS.items()}
            results[f"{kind}_{n}"] = row
            print(f"{kind} response, {n} samples: {row}")
    print("saved", save("convolve", results).name)


if __name__ == "__main__":
    main()
