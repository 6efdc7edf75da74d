"""Convolution with an instrument response against NumPy, SciPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special

import lmjax
from tests.tolerances import TOL


def circular(signal, response):
    """Return the circular convolution, term by term."""
    n = signal.size
    total = np.zeros(n)
    for j, weight in enumerate(response):
        total += weight * np.roll(signal, j)
    return total


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (64, 64), (50, 90), (97, 1)])
def test_equals_the_first_samples_of_numpys_convolution(rng, n, k, dtype):
    signal, response = rng.normal(size=n), rng.normal(size=k)
    got = lmjax.convolve(signal.astype(dtype), response.astype(dtype))
    assert got.dtype == dtype
    expected = np.convolve(signal, response)[:n]
    atol = TOL[np.dtype(dtype)] * np.max(np.abs(expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("n", "k"), [(8, 8), (9, 4), (100, 37)])
def test_periodic_equals_the_circular_sum(rng, n, k):
    signal, response = rng.normal(size=n), rng.normal(size=k)
    got = lmjax.convolve(signal, response, periodic=True)
    np.testing.assert_allclose(got, circular(signal, response), atol=1e-12)


@pytest.mark.parametrize("n", [20, 21])
def test_whole_shift_moves_by_samples(rng, n):
    signal, response = rng.normal(size=n), rng.normal(size=9)
    whole = np.convolve(signal, response)
    plain, around = (
        jax.jit(
            lambda shift, periodic=periodic: lmjax.convolve(
                signal, response, shift=shift, periodic=periodic
            )
        )
        for periodic in (False, True)
    )
    for shift in (0, 1, 3, -2, -9, 9):
        moved = np.zeros(n + 40)
        moved[20 + shift : 20 + shift + whole.size] = whole[: n + 20 - shift]
        np.testing.assert_allclose(plain(float(shift)), moved[20 : 20 + n], atol=1e-12)
        expected = np.roll(circular(signal, response), shift)
        np.testing.assert_allclose(around(float(shift)), expected, atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_fractional_shift_of_a_gaussian_is_a_gaussian_elsewhere(periodic):
    # wide enough for its spectrum to end before the highest frequency
    n, width, centre = 80, 2.5, 35.0
    index = np.arange(n)
    gauss = lambda centre: np.exp(-0.5 * ((index - centre) / width) ** 2)
    impulse = np.zeros(n)
    impulse[0] = 1.0
    moved = lambda shift: lmjax.convolve(
        impulse, gauss(centre), shift=shift, periodic=periodic
    )
    for shift in (0.3, 0.5, -7.77):
        np.testing.assert_allclose(moved(shift), gauss(centre + shift), atol=1e-12)
    slope = jax.jacfwd(moved)(0.3)
    z = (index - centre - 0.3) / width
    np.testing.assert_allclose(slope, gauss(centre + 0.3) * z / width, atol=1e-12)


def test_exponential_through_a_box_is_a_geometric_sum():
    n, k, ratio = 60, 12, 0.9
    index = np.arange(n)
    got = lmjax.convolve(ratio**index, np.ones(k))
    terms = np.minimum(index + 1, k)
    expected = ratio ** (index - terms + 1.0) * (1 - ratio**terms) / (1 - ratio)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_exponential_through_a_gaussian_is_the_known_integral():
    """Exponentially modified Gaussian, ``exp(..) erfc(..) / 2``, at fine spacing."""
    step, tau, width, centre = 0.005, 0.7, 0.15, 1.0
    t = step * np.arange(1200)
    decay = np.exp(-t / tau)
    decay[0] /= 2.0  # half of the first interval lies before the jump
    response = np.exp(-0.5 * ((t - centre) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    z = (width / tau - (t - centre) / width) / np.sqrt(2.0)
    exact = 0.5 * np.exp(0.5 * (width / tau) ** 2 - (t - centre) / tau)
    exact *= scipy.special.erfc(z)
    got = step * lmjax.convolve(decay, response)
    # the trapezoidal rule leaves step^2 / 12 times the slope of the integrand where it
    # begins (Euler-Maclaurin)
    slope = response * np.abs((t - centre) / width**2 - 1.0 / tau)
    atol = 1.05 * step**2 / 12.0 * np.max(slope)
    np.testing.assert_allclose(got, exact, rtol=0, atol=atol)


def test_periodic_decay_keeps_its_shape():
    """Earlier pulses only scale an exponential: the sum over them is geometric."""
    n, tau = 64, 40.0
    t = np.arange(3 * n)
    response = np.exp(-0.5 * ((np.arange(n) - 10.0) / 2.0) ** 2)
    long = np.convolve(np.exp(-np.arange(60 * n) / tau), response)
    expected = sum(long[i * n : (i + 1) * n] for i in range(60))
    one = lmjax.convolve(np.exp(-t[:n] / tau), response, periodic=True)
    got = one / (1.0 - np.exp(-n / tau))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_derivatives_are_the_matrices_of_the_convolution(rng):
    signal, response = map(jnp.asarray, rng.normal(size=(2, 15)))
    fn = lambda signal, response: lmjax.convolve(signal, response)
    zeros = np.zeros(15)
    by_signal = scipy.linalg.toeplitz(response, zeros)
    by_response = scipy.linalg.toeplitz(signal, zeros)
    for mode in (jax.jacfwd, jax.jacrev):
        got = mode(fn, argnums=(0, 1))(signal, response)
        np.testing.assert_allclose(got[0], by_signal, atol=1e-12)
        np.testing.assert_allclose(got[1], by_response, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.ones((2, 3)), np.ones(2)), {}, ValueError, "signal: .*vmap"),
        ((np.ones(3), np.ones(0)), {}, ValueError, "response: .*row"),
        ((np.ones(3), np.ones(4)), {"periodic": True}, ValueError, "response: .*3 sam"),
        (
            (np.ones(3), np.ones(2)),
            {"shift": np.ones(2)},
            ValueError,
            "shift: .*number",
        ),
        ((np.ones(3) + 1j, np.ones(2)), {}, TypeError, "signal: .*real"),
        ((np.ones(3), None), {}, TypeError, "response: expected samples, got None"),
    ],
    ids=[
        "two axes",
        "empty",
        "longer than the period",
        "two shifts",
        "complex",
        "None",
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        lmjax.convolve(*arguments, **options)


def test_whole_numbers_are_converted():
    got = lmjax.convolve(np.array([1, 2, 3]), np.array([1, 1]))
    np.testing.assert_allclose(got, [1.0, 3.0, 5.0], atol=1e-12)


BINS, PERIOD = 64, 12.5
TIME = PERIOD / BINS * np.arange(BINS)


def lifetime(p, response):
    decay = jnp.exp(-jnp.asarray(TIME, p["tau"].dtype) / p["tau"])
    seen = lmjax.convolve(decay, response, shift=p["shift"], periodic=True)
    return p["amplitude"] * seen + p["background"]


def photons(rng, count):
    """Photon counts of pixels that all have a response of their own."""
    centre = rng.uniform(9.0, 11.0, (count, 1))
    response = np.exp(-0.5 * ((np.arange(BINS) - centre) / 1.5) ** 2)
    response /= response.sum(axis=1, keepdims=True)
    truth = {
        "amplitude": jnp.asarray(rng.uniform(3e3, 1e4, count)),
        "tau": jnp.asarray(rng.uniform(1.0, 4.0, count)),
        "shift": jnp.asarray(rng.uniform(-1.0, 1.0, count)),
        "background": jnp.asarray(rng.uniform(1.0, 20.0, count)),
    }
    mean = jax.vmap(lifetime)(truth, jnp.asarray(response))
    return truth, jnp.asarray(response), jnp.asarray(rng.poisson(mean).astype(float))


@pytest.mark.slow
def test_lifetimes_with_a_response_and_a_shift_per_pixel(rng):
    truth, response, counts = photons(rng, 40)
    start = {"amplitude": 1.0, "tau": 2.0, "shift": 0.0, "background": 0.0}

    def fit_one(counts, response):
        return lmjax.curve_fit(
            lifetime,
            response,
            counts,
            start,
            sigma=jnp.sqrt(jnp.maximum(counts, 1.0)),
            absolute_sigma=True,
            linear={"amplitude": True, "background": True},
        )

    fits = jax.jit(jax.vmap(fit_one))(counts, response)
    assert fits.in_batch.all()
    assert fits.success.all()
    for name in ("tau", "shift"):
        pull = (fits.params[name] - truth[name]) / fits.stderr[name]
        assert np.max(np.abs(pull)) < 4.5
        assert 0.7 < np.std(pull) < 1.4
    alone = fit_one(counts[3], response[3])
    np.testing.assert_allclose(fits.params["tau"][3], alone.params["tau"], rtol=1e-7)
