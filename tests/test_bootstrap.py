"""The bootstrap against closed forms of linear models and NumPy's own resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.stats

import lmjax
from lmjax._problem.data import prepare

M = 20
X = np.linspace(-1.0, 2.0, M)
DESIGN = np.stack([np.ones(M), X], axis=1)
# noise that grows with x, so that the kinds differ
E = (0.2 + 0.3 * (X + 1.0)) * np.random.default_rng(11).normal(size=M)
Y = 1.0 + 0.5 * X + E
REPEATS, NUM = 8, 600  # several runs of one compiled function: 4,800 replicas


def line(p, x):
    return p[0] + p[1] * x


@pytest.fixture(scope="module")
def fit():
    return lmjax.curve_fit(line, X, Y, jnp.zeros(2))


def replicas(fit, kind):
    runs = [
        lmjax.bootstrap(jax.random.key(seed), fit, X, Y, num=NUM, kind=kind)
        for seed in range(REPEATS)
    ]
    assert all(run.num_failed == 0 for run in runs)
    return np.concatenate([run.params for run in runs])


def residuals(fit):
    return Y - DESIGN @ np.asarray(fit.params)


def sandwich(middle):
    """Return the covariance of estimates whose data vary by ``middle`` each."""
    pinv = np.linalg.pinv(DESIGN)
    return pinv @ np.diag(middle) @ pinv.T


def by_numpy(_):
    """Return the covariance over rows drawn and solved by NumPy."""
    rng = np.random.default_rng(3)
    rows = rng.integers(0, M, (20_000, M))
    solved = [np.linalg.lstsq(DESIGN[i], Y[i])[0] for i in rows]
    return np.cov(np.array(solved).T)


EXPECTED = {
    "residual": lambda fit: sandwich(np.full(M, np.sum(residuals(fit) ** 2) / (M - 2))),
    "parametric": lambda fit: sandwich(
        np.full(M, np.sum(residuals(fit) ** 2) / (M - 2))
    ),
    "wild": lambda fit: sandwich(residuals(fit) ** 2 * M / (M - 2)),
    "case": by_numpy,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPECTED)
def test_replicas_scatter_as_they_should(kind, fit):
    drawn = replicas(fit, kind)
    expected = EXPECTED[kind](fit)
    errors = np.sqrt(np.diag(expected))
    # a standard deviation over 4,800 replicas is known to 1 %, of long tails to 2 %
    np.testing.assert_allclose(np.std(drawn, axis=0), errors, rtol=0.05)
    correlation = np.corrcoef(drawn.T)[0, 1]
    assert correlation == pytest.approx(expected[0, 1] / np.prod(errors), abs=0.05)
    shift = np.mean(drawn, axis=0) - np.asarray(fit.params)
    # 5 standard errors of a mean, or a bias of case resampling of order 1/M
    assert np.all(np.abs(shift) < (5 / 4_800**0.5 + (kind == "case") / M) * errors)


@quick.jit
@jax.vmap
def lanes(key, y, mask, fixed):
    options = {"mask": mask, "fixed": fixed}
    fit = lmjax.curve_fit(line, X, y, jnp.array([0.0, 0.5]), **options)
    boot = lmjax.bootstrap(key, fit, X, y, num=64, **options)
    return boot, boot.stderr, boot.interval(0.5), boot.bias


@pytest.fixture(scope="module")
def outcomes():
    """Return a plain lane, one with masked outliers, one fixed, one with NaN."""
    keys = jax.random.split(jax.random.key(1), 4)
    y = np.stack([Y, np.where(X > 1.0, 1e6, Y), Y, np.where(X > 1.9, np.nan, Y)])
    mask = np.stack([np.ones(M, bool), X <= 1.0, np.ones(M, bool), np.ones(M, bool)])
    fixed = np.zeros((4, 2), bool)
    fixed[2, 1] = True
    return lanes(keys, y, mask, fixed)


def test_numbers_are_those_of_numpy(outcomes):
    boot, stderr, (low, high), bias = outcomes
    params = np.asarray(boot.params[0])
    assert params.shape == (64, 2)
    np.testing.assert_allclose(stderr[0], np.std(params, axis=0, ddof=1))
    tail = scipy.stats.norm.cdf(scipy.stats.t.ppf(0.25, M - 2))
    expected = np.quantile(params, [tail, 1 - tail], axis=0, method="weibull")
    np.testing.assert_allclose([low[0], high[0]], expected)
    np.testing.assert_allclose(bias[0], params.mean(axis=0) - boot.fit.params[0])


def test_batch_of_fits_has_the_same_numbers_after_vmap(outcomes):
    boot, stderr, interval, bias = outcomes
    # two programs: they may round differently
    np.testing.assert_allclose(boot.stderr, stderr, rtol=1e-13)
    np.testing.assert_allclose(boot.interval(0.5), interval, rtol=1e-13)
    np.testing.assert_allclose(boot.bias, bias, atol=1e-13)
    assert boot.num_failed.tolist() == [0, 0, 0, 64]


def test_masked_points_are_never_drawn(outcomes):
    boot = outcomes[0]
    assert np.max(np.abs(boot.params[1])) < 10.0


def test_fixed_parameter_has_no_scatter(outcomes):
    boot, stderr, _, _ = outcomes
    np.testing.assert_array_equal(boot.params[2][:, 1], 0.5)
    assert np.isnan(stderr[2, 1])
    assert stderr[2, 0] > 0.0


def test_failed_fit_has_only_failed_replicas(outcomes):
    boot, stderr, _, _ = outcomes
    assert np.all(boot.status[3] == lmjax.Status.NONFINITE_START)
    assert np.all(np.isnan(stderr[3]))


@pytest.mark.slow
def test_callable_model_keeps_its_form():
    x = jnp.linspace(0.0, 4.0, 20)
    y = 2.0 * jnp.exp(-x) + 0.02 * jnp.cos(9.0 * x)
    fit = lmjax.curve_fit(lmjax.models.Exponential.guess(x, y), x, y, sigma=0.02)
    boot = lmjax.bootstrap(jax.random.key(0), fit, x, y, num=50, sigma=0.02)
    assert isinstance(boot.params, lmjax.models.Exponential)
    assert boot.params.rate.shape == (50,)
    assert 0.3 < boot.stderr.rate / fit.stderr.rate < 3.0


NOISES = {
    "poisson": (lmjax.likelihoods.Poisson(), lambda f: (f, f)),
    "read noise": (lmjax.likelihoods.Poisson(2.0), lambda f: (f, f + 4.0)),
    "binomial": (
        lmjax.likelihoods.Binomial(20),
        lambda f: (20 * f / 9, 20 * f / 9 * (1 - f / 9)),
    ),
    "rician": (
        lmjax.likelihoods.Rician(1.5),
        lambda f: scipy.stats.rice.stats(f / 1.5, scale=1.5, moments="mv"),
    ),
}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_have_the_mean_and_variance_of_the_noise(name, dtype):
    noise, moments = NOISES[name]
    f = np.array([0.1, 1.0, 8.0], dtype)
    shown = f / 9 if name == "binomial" else f
    many = jnp.broadcast_to(shown, (100_000, 3))
    y = np.asarray(noise.sample(jax.random.key(0), many))
    assert y.dtype == dtype
    mean, variance = moments(f.astype(float))
    error = np.sqrt(variance / len(y))
    np.testing.assert_array_less(np.abs(y.mean(axis=0) - mean), 4 * error)
    # kurtosis of these is below 13: Poisson's is 3 + 1 / f
    np.testing.assert_array_less(
        abs(y.var(axis=0) / variance - 1), 4 * (13 / 1e5) ** 0.5
    )


@pytest.mark.slow
def test_counts_scatter_as_fisher_says_and_masked_ones_do_not_matter():
    mask = X > -0.9
    counts = np.where(mask, np.random.default_rng(5).poisson(20 + 10 * X), -7.0)
    options = {"likelihood": "poisson", "mask": mask}
    fit = lmjax.curve_fit(line, X, counts, jnp.array([10.0, 1.0]), **options)
    boot = lmjax.bootstrap(jax.random.key(2), fit, X, counts, num=2000, **options)
    assert boot.num_failed == 0
    # Fisher's errors are the limit of many counts; 2,000 replicas tell 1.6 %
    np.testing.assert_allclose(boot.stderr, fit.stderr, rtol=0.07)


def test_likelihood_without_samples_is_named():
    class Half(lmjax.likelihoods.Poisson):
        sample = lmjax.likelihoods.Likelihood.sample

    options = {"likelihood": Half()}
    counts = np.round(20 + 10 * X)
    fit = lmjax.curve_fit(line, X, counts, jnp.array([10.0, 1.0]), **options)
    with pytest.raises(NotImplementedError, match=r"sample\(key, f\), which Half"):
        lmjax.bootstrap(jax.random.key(0), fit, X, counts, **options)
    with pytest.raises(
        ValueError, match="kind: expected one of parametric, got 'wild'"
    ):
        lmjax.bootstrap(jax.random.key(0), fit, X, counts, kind="wild", **options)


@pytest.mark.parametrize("kind", ["array", "matrix", "factor"])
@pytest.mark.parametrize("masked", [False, True])
def test_colour_undoes_whiten(kind, masked, rng):
    root = rng.normal(size=(M, M)) + M * np.eye(M)
    sigma = {
        "array": jnp.linspace(0.5, 2.0, M),
        "matrix": jnp.asarray(root @ root.T),
        "factor": jax.scipy.linalg.cho_factor(root @ root.T),
    }[kind]
    mask = jnp.arange(M) % 3 > 0 if masked else None
    data = prepare(jnp.asarray(X), jnp.asarray(Y), sigma, mask, "omit", float)
    noise = rng.normal(size=M) * (1 if mask is None else np.asarray(mask))
    np.testing.assert_allclose(data.unwhiten(data.whiten(noise)), noise, atol=1e-12)


HALF = X > 0.5


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("residual", marks=pytest.mark.slow),
        pytest.param("wild", marks=pytest.mark.slow),
        pytest.param("parametric", marks=pytest.mark.slow),
        pytest.param("case", marks=pytest.mark.slow),
    ],
)
def test_points_left_out_are_no_points(kind):
    """Omitted or masked: the scatter is that of the points that were measured."""
    y = np.where(HALF, Y, np.nan)
    start, options = jnp.zeros(2), {"num": 1000, "kind": kind}

    def errors(x, y, **given):
        fit = lmjax.curve_fit(line, x, y, start, **given)
        boot = lmjax.bootstrap(jax.random.key(9), fit, x, y, **options, **given)
        assert boot.num_failed == 0
        return np.asarray(boot.stderr)

    alone = errors(X[HALF], Y[HALF])
    masked = errors(X, Y, mask=HALF)
    np.testing.assert_allclose(errors(X, y, nan_policy="omit"), masked, rtol=1e-6)
    # another draw of as many replicas, whose error is 2 %
    np.testing.assert_allclose(masked, alone, rtol=0.15)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "kind: 'case' counts a point twice by its weight",
            {"kind": "case", "loss": "soft_l1", "loss_scale": 1e6},
        ),
        ("kind: expected one of residual, case", {"kind": "jackknife"}),
        ("num: expected an int >= 2", {"num": 1}),
        ("kind: points with correlated errors", {"kind": "case", "sigma": np.eye(M)}),
    ],
)
def test_bad_request_is_refused(message, call, fit):
    with pytest.raises(ValueError, match=message):
        lmjax.bootstrap(jax.random.key(0), fit, X, Y, **call)


@pytest.mark.parametrize("key", [3, None, np.zeros(3)], ids=["seed", "None", "array"])
def test_no_random_key_is_refused(key, fit):
    with pytest.raises(TypeError, match=r"key: expected jax.random.key\(seed\), got"):
        lmjax.bootstrap(key, fit, X, Y)


@pytest.mark.slow
def test_percentile_intervals_cover_as_often_as_they_say():
    # 10,000 seeded data sets with 200 replicas each: two million fits
    x = jnp.linspace(0.0, 3.0, 40)
    truth = jnp.array([2.0, 1.1])
    decay = lambda p, x: p[0] * jnp.exp(-p[1] * x)

    @jax.jit
    @jax.vmap
    def covered(key, noise):
        y = decay(truth, x) + noise
        fit = lmjax.curve_fit(decay, x, y, jnp.array([1.5, 1.0]))
        boot = lmjax.bootstrap(key, fit, x, y, num=200)
        low, high = boot.interval()
        return (low <= truth) & (truth <= high)

    noise = 0.05 * jax.random.normal(jax.random.key(5), (10_000, 40), float)
    inside = covered(jax.random.split(jax.random.key(6), 10_000), noise)
    share = np.mean(inside, axis=0)
    assert np.all((share >= 0.93) & (share <= 0.97)), share
