"""Likelihoods: formulas against scipy.stats, fits against scipy.optimize, bad data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
from tolerances import assert_close

import lmjax
from benchmarks import rice
from lmjax import Status
from lmjax.likelihoods import Binomial, Likelihood, Poisson, Rician, _rice

T = np.linspace(0.0, 5.0, 20)
START = np.array([4.0, 1.0, 1.0])
BOX = (0.0, 40.0)


def decay(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def curve(p):
    return p[0] * np.exp(-p[1] * T) + p[2]


def slopes(p):
    """Return the Jacobian of the decay."""
    e = np.exp(-p[1] * T)
    return np.stack([e, -p[0] * T * e, np.ones_like(T)], axis=1)


def response(p, x):
    return jax.nn.sigmoid(p[0] + p[1] * x)


def rician_logpdf(y, f, s):
    return scipy.stats.rice.logpdf(y, f / s, scale=s)


def poisson_logpmf(y, f):
    """Return the log-probability of counts that need not be whole."""
    return scipy.special.xlogy(y, f) - f - scipy.special.gammaln(y + 1.0)


# likelihood, log-density by scipy, data, predictions
CASES = {
    "poisson": (
        Poisson(),
        poisson_logpmf,
        np.array([0.0, 0.0, 1.0, 3.0, 20.0, 5e4]),
        np.array([1e-3, 2.0, 0.5, 3.5, 15.0, 5.1e4]),
    ),
    "poisson with read noise": (
        Poisson(read_noise=1.5),
        lambda y, f: poisson_logpmf(y + 1.5**2, f + 1.5**2),
        np.array([-2.0, 0.0, 0.3, 3.0, 20.0]),
        np.array([0.5, -1.0, 0.5, 3.5, 15.0]),
    ),
    "binomial": (
        Binomial(trials=20.0),
        lambda y, f: scipy.stats.binom.logpmf(y, 20, f),
        np.array([0.0, 1.0, 7.0, 20.0, 20.0]),
        np.array([0.1, 0.1, 0.5, 0.97, 0.3]),
    ),
    "rician": (
        Rician(sigma=2.0),
        lambda y, f: rician_logpdf(y, np.abs(f), 2.0),
        np.array([0.5, 2.0, 3.0, 3.0, 9.0, 100.0]),
        np.array([0.1, 0.5, 3.0, -1.0, 7.0, 99.0]),
    ),
}
by_case = pytest.mark.parametrize("name", CASES)


# ---- formulas


@by_case
def test_log_ratio_is_that_of_the_density(name):
    likelihood, log_density, y, f = CASES[name]
    f_new = 0.7 * f
    got = likelihood.log_ratio(jnp.asarray(f), jnp.asarray(f_new), jnp.asarray(y))
    assert_close(got, log_density(y, f_new) - log_density(y, f), factor=1e-2)


@by_case
def test_slope_is_the_derivative_of_the_density(name):
    likelihood, log_density, y, f = CASES[name]
    h = 1e-5 * np.abs(f)
    expected = (log_density(y, f - h) - log_density(y, f + h)) / (2 * h)
    got = likelihood.slope(jnp.asarray(f), jnp.asarray(y))
    np.testing.assert_allclose(
        got, expected, rtol=1e-5, atol=1e-6
    )  # central difference


@by_case
def test_best_is_the_maximum_of_the_density(name):
    likelihood, log_density, y, _ = CASES[name]
    got = np.asarray(likelihood.best(jnp.asarray(y)))
    for one, best in zip(y, got, strict=True):
        low, high = (0.0, 1.0) if "binomial" in name else (1e-9, 3.0 * abs(one) + 1.0)
        if "read noise" in name:
            low = -(1.5**2) + 1e-9
        with np.errstate(all="ignore"):  # log 0 at the ends
            found = scipy.optimize.minimize_scalar(
                lambda f, one=one: -log_density(one, f),
                bounds=(low, high),
                method="bounded",
                options={"xatol": 1e-9},
            )
        # a flat maximum: half of the digits
        np.testing.assert_allclose(best, found.x, rtol=1e-5, atol=1e-4)


def test_fisher_information_is_the_mean_squared_slope_of_counts():
    n = np.arange(200.0)
    for f in (0.01, 1.0, 30.0):
        p = np.exp(poisson_logpmf(n, f))
        slope = np.asarray(Poisson().slope(jnp.full(200, f), jnp.asarray(n)))
        got = float(Poisson().information(f))
        np.testing.assert_allclose(got, np.sum(p * slope**2), rtol=1e-12)
    for f in (0.01, 0.4, 0.999):
        p = scipy.stats.binom.pmf(n[:21], 20, f)
        slope = Binomial(20.0).slope(jnp.full(21, f), jnp.asarray(n[:21]))
        got = float(Binomial(20.0).information(f))
        np.testing.assert_allclose(got, np.sum(p * np.asarray(slope) ** 2), rtol=1e-12)


@pytest.mark.parametrize("a", [0.01, 0.05, 0.5, 1.0, 2.0, 3.5, 6.0, 12.0, 50.0, 400.0])
def test_rician_information_is_the_integral_of_the_squared_slope(a):
    def integrand(t):
        ratio = scipy.special.i1e(a * t) / scipy.special.i0e(a * t)
        return scipy.stats.rice.pdf(t, a) * (a - t * ratio) ** 2

    limits = max(a - 12.0, 0.0), a + 12.0
    expected, _ = scipy.integrate.quad(integrand, *limits, epsrel=1e-10, limit=200)
    for s in (1.0, 3.0):
        got = Rician(s).information(jnp.asarray([s * a]))
        np.testing.assert_allclose(got, expected / s**2, rtol=1e-6)


def test_rician_series_are_those_of_the_script():
    for stored, fitted in zip(
        (_rice.INFORMATION, _rice.PEAK), rice.series(), strict=True
    ):
        np.testing.assert_allclose(stored, fitted, rtol=0, atol=1e-11)


def test_rician_density_has_two_derivatives_where_there_is_no_signal():
    # log L = log y - y^2/2 - f^2/2 + (y f)^2 / 4 + O(f^4) with sigma 1
    y = jnp.array([1.0, 3.0])
    cost = lambda f: -jnp.sum(Rician(1.0).log_ratio(jnp.ones(2), f, y))
    assert_close(jax.grad(cost)(jnp.zeros(2)), np.zeros(2))
    curvature = quick.jit(jax.hessian(cost))(jnp.zeros(2))
    assert_close(curvature, np.diag(1.0 - np.asarray(y) ** 2 / 2))


@by_case
def test_deviance_of_a_perfect_fit_is_zero_and_no_other_is_below(name):
    likelihood, _, y, f = CASES[name]
    best = likelihood.best(jnp.asarray(y))
    assert_close(likelihood.log_ratio(best, best, jnp.asarray(y)), np.zeros_like(y))
    half = np.asarray(likelihood.log_ratio(jnp.asarray(f), best, jnp.asarray(y)))
    assert (half > -1e-9).all()


def test_deviance_of_many_counts_keeps_its_digits_in_float32():
    y = np.full(4, 1e6, np.float32)
    f = y + np.array([3.0, -30.0, 300.0, -3000.0], np.float32)
    fd, yd = f.astype(float), y.astype(float)
    expected = fd - yd - yd * np.log(fd / yd)
    got = Poisson().log_ratio(jnp.asarray(f), jnp.asarray(y), jnp.asarray(y))
    assert got.dtype == np.float32
    # the formula as it stands would be off by 0.1: rounding of 1e6
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(fd - yd).max())


# ---- fits


def poisson_maximum(y, s2):
    """Return where SciPy finds the least cost, and then no gradient (complex steps)."""

    def cost(p):
        f = curve(p) + s2
        return np.sum(f - y * np.log(f)) if (f.real > 0).all() else np.inf

    def gradient(p):
        return np.array([cost(p + s).imag / 1e-30 for s in 1e-30j * np.eye(3)])

    rough = scipy.optimize.minimize(cost, START, method="Nelder-Mead")
    return scipy.optimize.root(gradient, rough.x, tol=1e-13).x


COUNTS = np.random.default_rng(3).poisson(curve([9.0, 0.8, 0.7])).astype(float)
NOISE = np.linspace(0.4, 1.6, T.size)
NOISY = np.random.default_rng(4).poisson(curve([20.0, 0.8, 2.0])) + NOISE * np.cos(T)
DEAD = np.random.default_rng(5).binomial(12, 1 / (1 + np.exp(2.0 - T))).astype(float)


@pytest.fixture(scope="module")
def poisson_fit():
    return lmjax.curve_fit(decay, T, COUNTS, START, likelihood="poisson")


def test_poisson_fit_is_scipys_maximum_of_the_likelihood(poisson_fit):
    assert (COUNTS == 0).any()
    assert bool(poisson_fit.success)
    assert_close(poisson_fit.params, poisson_maximum(COUNTS, 0.0))


def test_poisson_errors_are_those_of_the_inverse_fisher_information(poisson_fit):
    p = np.asarray(poisson_fit.params)
    jac = slopes(p)
    expected = np.linalg.inv(jac.T @ (jac / curve(p)[:, None]))
    assert_close(poisson_fit.covariance, expected)
    assert_close(poisson_fit.stderr, np.sqrt(np.diag(expected)))


def test_statistics_of_a_poisson_fit(poisson_fit):
    f = curve(np.asarray(poisson_fit.params))
    deviance = 2 * np.sum(f - COUNTS + scipy.special.xlogy(COUNTS, COUNTS / f))
    assert_close(poisson_fit.deviance, deviance)
    assert_close(poisson_fit.chi2, deviance)
    assert_close(poisson_fit.pearson_chi2, np.sum((COUNTS - f) ** 2 / f))
    assert_close(poisson_fit.residual, f - COUNTS)
    assert_close(poisson_fit.aic, deviance + 6)
    assert_close(poisson_fit.bic, deviance + 3 * np.log(20))


def test_band_of_a_poisson_fit_takes_the_normal_quantile(poisson_fit):
    low, high = poisson_fit.confidence_band(T)
    jac = slopes(np.asarray(poisson_fit.params))
    spread = np.sqrt(np.sum(jac @ np.asarray(poisson_fit.covariance) * jac, axis=1))
    assert_close(high - low, 2 * scipy.stats.norm.ppf(0.975) * spread)
    with pytest.raises(ValueError, match="prediction_band: .*Poisson"):
        poisson_fit.prediction_band(T)


def test_report_names_likelihood_and_deviance(poisson_fit):
    report = poisson_fit.report()
    assert "likelihood           Poisson" in report
    assert f"deviance             {float(poisson_fit.deviance):.8g}" in report
    assert "reduced" not in report


def test_poisson_fit_with_read_noise_is_scipys():
    noise = Poisson(read_noise=NOISE)
    fit = lmjax.curve_fit(decay, T, NOISY, START, likelihood=noise)
    assert (NOISY + NOISE**2 > 0).all()
    assert_close(fit.params, poisson_maximum(NOISY + NOISE**2, NOISE**2))


def test_binomial_fit_is_logistic_regression_by_reweighting():
    x = np.stack([np.ones_like(T), T], axis=1)
    p = np.zeros(2)
    for _ in range(50):
        mean = 1 / (1 + np.exp(-x @ p))
        information = x.T @ (x * (12 * mean * (1 - mean))[:, None])
        p = p + np.linalg.solve(information, x.T @ (DEAD - 12 * mean))
    noise = Binomial(trials=12)
    fit = lmjax.curve_fit(response, T, DEAD, np.zeros(2), likelihood=noise)
    assert bool(fit.success)
    assert_close(fit.params, p)
    assert_close(fit.covariance, np.linalg.inv(information))


def test_binomial_by_name_has_one_trial():
    y = (DEAD > 6).astype(float)
    y[[3, 15]] = 1.0, 0.0
    named = lmjax.curve_fit(response, T, y, np.zeros(2), likelihood="binomial")
    one = lmjax.curve_fit(response, T, y, np.zeros(2), likelihood=Binomial(1.0))
    assert bool(named.success)
    np.testing.assert_array_equal(named.params, one.params)


def test_rician_fit_is_scipys():
    rng = np.random.default_rng(6)
    noise = 1.5 * (rng.normal(size=T.size) + 1j * rng.normal(size=T.size))
    y = np.abs(curve([12.0, 0.9, 0.0]) + noise)
    both = lambda p, t: p[0] * jnp.exp(-p[1] * t)
    fit = lmjax.curve_fit(both, T, y, np.array([8.0, 1.0]), likelihood=Rician(1.5))
    flat = lambda p: -np.sum(rician_logpdf(y, p[0] * np.exp(-p[1] * T), 1.5))
    expected = scipy.optimize.minimize(
        flat, [8.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}
    )
    assert bool(fit.success)
    # without a gradient: half of SciPy's digits
    np.testing.assert_allclose(fit.params, expected.x, rtol=2e-7)


def test_likelihood_of_ones_own_may_be_least_squares():
    class Normal(Likelihood):
        sigma: float

        def best(self, y):
            return y

        def log_ratio(self, f, f_new, y):
            return 0.5 * (f - f_new) * ((f - y) + (f_new - y)) / self.sigma**2

        def slope(self, f, y):
            return (f - y) / self.sigma**2

        def information(self, f):
            return jnp.full_like(f, 1.0 / self.sigma**2)

    own = lmjax.curve_fit(decay, T, NOISY, START, likelihood=Normal(0.7))
    usual = lmjax.curve_fit(decay, T, NOISY, START, sigma=0.7, absolute_sigma=True)
    assert own.likelihood == "Normal"
    assert_close(own.params, usual.params)
    assert_close(own.covariance, usual.covariance)
    assert_close(own.chi2, usual.chi2)


def test_poisson_fit_in_float32_agrees(poisson_fit):
    t, y, start = (a.astype(np.float32) for a in (T, COUNTS, START))
    fit = lmjax.curve_fit(decay, t, y, start, likelihood="poisson")
    assert fit.params.dtype == fit.covariance.dtype == np.float32
    assert bool(fit.success)
    assert_close(fit.params, np.asarray(poisson_fit.params))
    assert_close(fit.stderr, np.asarray(poisson_fit.stderr))


def test_integer_counts_are_those_in_floats(poisson_fit):
    fit = lmjax.curve_fit(
        decay, T, COUNTS.astype(int), START, likelihood=Poisson(np.zeros(T.size))
    )
    assert_close(fit.params, np.asarray(poisson_fit.params))


def test_jacobian_of_the_users_gives_the_same_fit(poisson_fit):
    def jac(p, t):
        e = jnp.exp(-p[1] * t)
        return jnp.stack([e, -p[0] * t * e, jnp.ones_like(t)], axis=1)

    solver = lmjax.LevenbergMarquardt(jac=jac)
    fit = lmjax.curve_fit(decay, T, COUNTS, START, likelihood="poisson", solver=solver)
    assert_close(fit.params, np.asarray(poisson_fit.params))


# ---- batches and bad data


@pytest.fixture(scope="module")
def batch():
    """Return a compiled batch of fits with read noise per fit, and its data."""

    def one(y, read_noise, mask):
        noise = Poisson(read_noise)
        fit = lmjax.curve_fit(decay, T, y, START, likelihood=noise, mask=mask)
        kept = fit.params, fit.covariance, fit.deviance, fit.residual, fit.status
        return kept, fit.in_batch

    rng = np.random.default_rng(7)
    y = rng.poisson(curve([9.0, 0.8, 1.5]), (6, T.size)).astype(float)
    read_noise = np.linspace(0.0, 1.0, 6)
    return jax.jit(jax.vmap(one)), one, (y, read_noise, np.ones(y.shape, bool))


def test_batch_runs_the_engine_and_equals_single_fits(batch):
    many, one, data = batch
    got, in_batch = many(*data)
    assert np.all(in_batch)
    for i in range(6):
        expected, alone = one(*(x[i] for x in data))
        assert not alone
        for a, b in zip(got[:-1], expected[:-1], strict=True):
            assert_close(a[i], np.asarray(b), factor=10)


@pytest.fixture(scope="module")
def influence(batch):
    """Return the compiled gradient of a parameter by the data."""
    _, one, _ = batch
    return quick.jit(jax.grad(lambda *data: one(*data)[0][0][1]))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_impossible_count_spoils_its_own_lane_only(batch, bad):
    many, _, (y, read_noise, mask) = batch
    spoiled = y.copy()
    spoiled[0, 4] = bad
    got, expected = many(spoiled, read_noise, mask)[0], many(y, read_noise, mask)[0]
    assert got[-1][0] == Status.NONFINITE_START
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a[1:], b[1:])


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_masked_points_count_for_nothing(batch, influence, bad):
    many, _, (y, read_noise, mask) = batch
    mask = mask.copy()
    mask[:, [2, 17]] = False
    spoiled = np.where(mask, y, bad)
    got, _ = many(spoiled, read_noise, mask)
    kept = mask[0]
    fit = lmjax.curve_fit(
        decay, T[kept], y[3][kept], START, likelihood=Poisson(read_noise[3])
    )
    assert_close((got[0][3], got[2][3]), (np.asarray(fit.params), float(fit.deviance)))
    moved = influence(spoiled[3], read_noise[3], mask[3])
    assert np.isfinite(moved).all()
    np.testing.assert_array_equal(moved[~kept], 0.0)


def test_omitted_nan_is_masked(poisson_fit):
    y = np.append(COUNTS, np.nan)
    fit = lmjax.curve_fit(
        decay, np.append(T, 9.0), y, START, likelihood="poisson", nan_policy="omit"
    )
    assert_close(fit.params, np.asarray(poisson_fit.params))
    assert float(fit.residual[-1]) == 0.0


def constant(p, x):
    return p + 0.0 * x


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [
        ("poisson", -1.0),
        ("binomial", 2.0),
        (Binomial(3.0), -1.0),
        (Rician(1.0), -0.5),
        (Rician(0.0), 1.0),
        (Poisson(-1.0), 1.0),
    ],
    ids=str,
)
def test_impossible_concrete_data_raise(likelihood, y):
    data = np.array([1.0, y, 0.0, 1.0])
    fit = lambda y, **rest: lmjax.curve_fit(
        constant, np.arange(4.0), y, 0.5, likelihood=likelihood, **rest
    )
    with pytest.raises(ValueError, match=r"y: impossible for \w+\(.*got"):
        fit(data)
    if likelihood == "binomial":
        assert bool(fit(data, mask=np.array([True, False, True, True])).success)


def test_negative_value_beyond_the_read_noise_counts_as_nothing():
    y = np.where(COUNTS == 0.0, -5.0, COUNTS)
    fit = lmjax.curve_fit(decay, T, y, START, likelihood=Poisson(read_noise=1.0))
    clipped = np.where(y < -1.0, -1.0, y)
    other = lmjax.curve_fit(decay, T, clipped, START, likelihood=Poisson(1.0))
    assert bool(fit.success)
    assert_close(fit.params, np.asarray(other.params))


def test_nothing_counted_at_all():
    y = np.zeros(T.size)
    held = lmjax.curve_fit(decay, T, y, START, likelihood="poisson", bounds=BOX)
    assert bool(held.success)
    assert_close(np.asarray(held.params)[[0, 2]], np.zeros(2))
    assert float(held.deviance) == 0.0
    free = lmjax.curve_fit(decay, T, y, START, likelihood="poisson")
    assert int(free.status) < 0 or float(free.deviance) < 1e-6
    assert np.isfinite(free.params).all()


def test_bound_of_zero_holds_where_nothing_was_counted():
    y = np.where(T < 1.0, 5.0, 0.0)
    fit = lmjax.curve_fit(decay, T, y, START, likelihood="poisson", bounds=BOX)
    assert bool(fit.success)
    assert float(fit.params[2]) == 0.0
    assert int(fit.param_status[2]) == lmjax.ParamStatus.AT_LOWER


@pytest.mark.slow
def test_derivative_where_the_model_underflows():
    # f_k = a q^k: the likelihood is greatest where sum f = N and sum k f = m N, N being
    # the sum of y and m the mean k: q = m / (1 + m), whichever points had counts
    k, step = np.arange(20.0, dtype=np.float32), 0.25
    y = np.where(k < 2, [40.0] + 19 * [1.0], 0.0).astype(np.float32)
    fall = lambda p, k: p[0] * jnp.exp(-p[1] * step * k)
    start = np.array([30.0, 19.0], np.float32)

    def rate(y):
        return lmjax.curve_fit(fall, k, y, start, likelihood="poisson").params[1]

    total, mean = 41.0, 1 / 41
    assert_close(rate(y), np.log(1 + 1 / mean) / step)
    expected = -(k - mean) / (total * mean * (1 + mean) * step)
    # below the root of the least number of the dtype, f has no influence left
    seen = np.finfo("float32").tiny ** 0.5 < 40.0 * 42.0**-k
    assert seen.sum() == 13
    assert_close(jax.grad(rate)(y), np.where(seen, expected, 0.0))


def test_start_outside_the_domain_is_reported():
    fit = lmjax.curve_fit(decay, T, COUNTS, -START, likelihood="poisson")
    assert int(fit.status) == Status.NONFINITE_START


@pytest.mark.parametrize(
    "rest", [{"sigma": 1.0}, {"absolute_sigma": True}, {"loss": "huber"}], ids=str
)
def test_no_other_noise_beside_a_likelihood(rest):
    (name,) = rest
    with pytest.raises(ValueError, match=f"{name}: .*likelihood="):
        lmjax.curve_fit(decay, T, COUNTS, START, likelihood="poisson", **rest)


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("rician", r"Rician\(sigma\)"),
        ("gaussian", "sigma="),
        ("poison", "'poisson'.*'poison'"),
    ],
)
def test_unknown_name_says_what_to_write(word, advice):
    with pytest.raises(ValueError, match=f"likelihood: .*{advice}"):
        lmjax.curve_fit(decay, T, COUNTS, START, likelihood=word)


def test_likelihood_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"likelihood: .*Poisson\(\).*3"):
        lmjax.curve_fit(decay, T, COUNTS, START, likelihood=3)


def test_map_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"likelihood.read_noise: .*\(20,\).*\(7,\)"):
        lmjax.curve_fit(decay, T, COUNTS, START, likelihood=Poisson(np.ones(7)))


# ---- derivatives


def poisson_params(y, s):
    noise = Poisson(read_noise=s)
    return lmjax.curve_fit(decay, T, y, START, likelihood=noise).params


def test_derivative_by_the_counts_is_the_implicit_one(poisson_fit):
    # g = J^T (1 - y/f), H = J^T diag(y / f^2) J + sum (1 - y/f) d^2 f
    p = np.asarray(poisson_fit.params)
    f, jac = curve(p), slopes(p)
    e = np.exp(-p[1] * T)
    second = np.zeros((T.size, 3, 3))
    second[:, 0, 1] = second[:, 1, 0] = -T * e
    second[:, 1, 1] = p[0] * T**2 * e
    hessian = jac.T @ (jac * (COUNTS / f**2)[:, None])
    hessian += np.einsum("i,ijk->jk", 1 - COUNTS / f, second)
    expected = np.linalg.solve(hessian, (jac / f[:, None]).T)
    got = quick.jit(jax.jacrev(lambda y: poisson_params(y, 0.0)))(COUNTS)
    assert_close(got, expected, factor=10)


def test_derivative_by_the_read_noise_is_that_of_differences():
    s, h = 0.8, 1e-4
    of = lambda s: poisson_params(NOISY, s)
    got = quick.jit(jax.jacfwd(of))(s)
    ends = [np.asarray(poisson_params(NOISY, s + k * h)) for k in (-2, -1, 1, 2)]
    expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.slow
def test_rician_derivatives_are_those_of_differences():
    y = np.abs(curve([6.0, 0.7, 0.0]) + 0.9 * np.sin(7.0 * T))
    both = lambda p, t: p[0] * jnp.exp(-p[1] * t)

    @quick.jit
    def of(sigma):
        noise = Rician(sigma)
        fit = lmjax.curve_fit(both, T, y, np.array([5.0, 1.0]), likelihood=noise)
        return jnp.concatenate([fit.params, fit.stderr, fit.deviance[None]])

    s, h = 1.1, 1e-4
    ends = [np.asarray(of(s + k * h)) for k in (-2, -1, 1, 2)]
    expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    np.testing.assert_allclose(jax.jacfwd(of)(s), expected, rtol=1e-5)
