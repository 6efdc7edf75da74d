"""What likelihoods are for: less scatter and less bias, over seeded replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax.likelihoods import Poisson, Rician

# A minute of fits: `python -m pytest -m slow tests/test_likelihood_statistics.py`.
pytestmark = pytest.mark.slow

# Replicas: the mean of so many squared errors is known to 1 % (one sigma).
SPOTS, DECAYS = 20_000, 4_000

ROW, COLUMN = np.indices((12, 12), np.float32)
PIXELS = (COLUMN.ravel(), ROW.ravel())


def spot(p, pixels, xp=jnp):
    """Return Gpufit's gauss2d: amplitude, x, y, width, offset."""
    x, y = pixels
    r2 = (x - p[1]) ** 2 + (y - p[2]) ** 2
    return p[0] * xp.exp(-r2 / (2 * p[3] ** 2)) + p[4]


def bound(truth, variance):
    """Return the Cramer-Rao bound of each parameter of a spot by differences."""
    h = 1e-4
    jac = [
        (spot(truth + s, PIXELS, np) - spot(truth - s, PIXELS, np)) / (2 * h)
        for s in h * np.eye(5)
    ]
    jac = np.stack(jac, axis=1)
    return np.diag(np.linalg.inv(jac.T @ (jac / variance[:, None])))


def batch_of(**choice):
    """Return a compiled batch of spot fits that share what is not data."""

    @jax.jit
    @jax.vmap
    def fit_one(y, start):
        fit = lmjax.curve_fit(spot, PIXELS, y, start, **choice)
        return fit.params, fit.stderr, fit.in_batch, fit.success

    return fit_one


def starts(truth, rng):
    """Return starts scattered as in Gpufit's example."""
    start = truth * rng.uniform(0.8, 1.2, (SPOTS, 5))
    start[:, 1:3] = truth[1:3] + truth[3] * rng.uniform(-0.2, 0.2, (SPOTS, 2))
    return start.astype(np.float32)


# Gpufit's spot has amplitude 10 and offset 10. So faint, no estimator reaches the
# bound: 1.5 % of the fits, least squares too, end with a width without limit, and the
# mean squared error is theirs alone. Ten times brighter the bound is within reach, and
# with a faint background the noise differs most from pixel to pixel.
BRIGHT = np.array([100.0, 5.5, 5.5, 3.0, 1.0])


@pytest.fixture(scope="module")
def bright_spots():
    """Return data and starts of bright spots."""
    rng = np.random.default_rng(11)
    y = rng.poisson(spot(BRIGHT, PIXELS, np), (SPOTS, 144)).astype(np.float32)
    return y, starts(BRIGHT, rng)


def test_poisson_spots_reach_the_cramer_rao_bound(bright_spots):
    p, stderr, in_batch, success = map(
        np.asarray, batch_of(likelihood="poisson")(*bright_spots)
    )
    assert in_batch.all()
    assert success.all()
    limit = bound(BRIGHT, spot(BRIGHT, PIXELS, np))
    np.testing.assert_allclose(np.mean((p - BRIGHT) ** 2, axis=0), limit, rtol=0.03)
    np.testing.assert_allclose(np.mean(stderr**2, axis=0), limit, rtol=0.03)
    covered = np.mean(np.abs(p - BRIGHT) < 1.96 * stderr, axis=0)
    # five sigma of a share of 20,000 around 95 %
    np.testing.assert_allclose(covered, 0.95, atol=0.0077)


def test_least_squares_spots_do_not(bright_spots):
    p = np.asarray(batch_of()(*bright_spots)[0])
    limit = bound(BRIGHT, spot(BRIGHT, PIXELS, np))
    excess = np.mean((p - BRIGHT) ** 2, axis=0) / limit
    # position, width and offset; the amplitude is where the light is
    assert (excess[1:] > 1.25).all()
    assert excess[4] > 1.8


def test_read_noise_map_beats_plain_poisson_on_a_scmos_camera():
    rng = np.random.default_rng(12)
    truth = np.array([40.0, 5.5, 5.5, 1.5, 2.0])
    # two electrons in most pixels, ten times as much in the hottest
    read_noise = rng.lognormal(0.7, 1.0, 144).astype(np.float32)
    mean = spot(truth, PIXELS, np)
    y = rng.poisson(mean, (SPOTS, 144)) + read_noise * rng.normal(size=(SPOTS, 144))
    y, start = y.astype(np.float32), starts(truth, rng)
    error = {}
    for name, data, noise in (
        ("map", y, Poisson(read_noise)),
        ("plain", np.maximum(y, 0.0), Poisson()),
    ):
        p, _, _, success = map(np.asarray, batch_of(likelihood=noise)(data, start))
        assert success.mean() > 0.999
        error[name] = np.mean((p[success] - truth) ** 2, axis=0)
    assert (error["plain"] > 1.4 * error["map"]).all()
    # a shifted Poisson distribution is not quite that of the data
    limit = bound(truth, mean + read_noise**2)
    np.testing.assert_allclose(error["map"], limit, rtol=0.06)


def test_rician_removes_the_bias_of_faint_decays():
    rng = np.random.default_rng(13)
    t = np.linspace(10.0, 160.0, 16)
    truth = np.array([12.0, 40.0])  # amplitude in units of the noise, T2
    signal = truth[0] * np.exp(-t / truth[1])
    noise = rng.normal(size=(2, DECAYS, t.size))
    y = np.hypot(signal + noise[0], noise[1])
    model = lambda p, t: p[0] * jnp.exp(-t / p[1])

    def fits(likelihood):
        def fit_one(y):
            fit = lmjax.curve_fit(model, t, y, truth, likelihood=likelihood)
            return fit.params, fit.stderr

        return map(np.asarray, jax.jit(jax.vmap(fit_one))(y))

    rician, stderr = fits(Rician(1.0))
    plain, _ = fits(None)
    bias, plain_bias = (np.mean(p, axis=0) - truth for p in (rician, plain))
    # least squares takes the floor of the noise for signal: a quarter of T2 too much
    assert plain_bias[1] > 8.0
    assert abs(bias[1]) < 0.05 * plain_bias[1]
    assert abs(bias[0]) < 0.15 * abs(plain_bias[0])
    scatter = np.std(rician, axis=0)
    np.testing.assert_allclose(np.sqrt(np.mean(stderr**2, axis=0)), scatter, rtol=0.05)
