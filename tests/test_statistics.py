"""Covariance, bands and criteria against closed forms, numpy and scipy.stats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import lmjax
from lmjax._linalg.normal_inverse import inverse
from lmjax._statistics.statistics import student_t_quantile

X = np.linspace(-1.0, 3.0, 25)
DESIGN = np.stack([np.ones_like(X), X, X**2], axis=1)
TRUTH = np.array([1.0, -0.5, 0.25])


def parabola(p, x):
    return p[0] + p[1] * x + p[2] * x**2


def inverse_and_rank(jac):
    jac = jnp.asarray(jac)
    squares = jnp.sum(jac**2, axis=0)
    return inverse(jac.T @ jac, squares, lambda jac: jac, jac, jac.shape[0])[:3]


def data(rng, noise=0.1):
    return DESIGN @ TRUTH + noise * rng.normal(size=X.size)


@pytest.mark.parametrize("dof", [1, 2, 5, 30, 1000, 1001, 1e6, 1e10])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_student_t_quantile(level, dof):
    expected = scipy.stats.t.ppf(0.5 + level / 2, dof)
    assert float(student_t_quantile(level, dof)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dof", [40, 200, 1e6, 1e7, 1e9])
@pytest.mark.parametrize("level", [0.6827, 0.95])
def test_student_t_quantile_in_single(level, dof):
    with jax.enable_x64(False):
        got = float(student_t_quantile(level, dof))
    assert got == pytest.approx(scipy.stats.t.ppf(0.5 + level / 2, dof), rel=3e-5)


def test_student_t_quantile_without_end_is_normal():
    expected = scipy.stats.norm.ppf(0.975)
    assert float(student_t_quantile(0.95, jnp.inf)) == pytest.approx(expected, rel=1e-9)


def columns(kind, rng):
    jac = rng.normal(size=(20, 4)) * np.array([1e-6, 1.0, 1e3, 1e8])
    if kind == "nearly dependent":
        jac[:, 3] = 1e8 * jac[:, 1] + 1e-1 * rng.normal(size=20)
    if kind == "many columns":
        jac = rng.normal(size=(40, 11))
    return jac


@pytest.mark.parametrize("kind", ["well scaled", "nearly dependent", "many columns"])
def test_inverse_of_the_normal_matrix(kind, rng):
    jac = columns(kind, rng)
    inverse, rank, open_ = inverse_and_rank(jac)
    assert not open_.any()
    scale = np.linalg.norm(jac, axis=0)
    expected = np.linalg.pinv(jac / scale, rcond=1e-14)
    expected = expected @ expected.T / np.outer(scale, scale)
    np.testing.assert_allclose(inverse, expected, rtol=1e-5)
    assert rank == jac.shape[1]


def test_dependent_columns_give_the_least_norm_inverse(rng):
    jac = rng.normal(size=(20, 3))
    jac[:, 2] = 2.0 * jac[:, 0]
    inverse, rank, open_ = inverse_and_rank(jac)
    assert open_.tolist() == [True, False, True]
    scale = np.linalg.norm(jac, axis=0)
    pinv = np.linalg.pinv(jac / scale, rcond=1e-10)
    expected = pinv @ pinv.T / np.outer(scale, scale)
    assert rank == 2
    np.testing.assert_allclose(inverse, expected, rtol=1e-8, atol=1e-12)


def test_linear_model_has_the_textbook_statistics(rng):
    y = data(rng)
    fit = lmjax.curve_fit(parabola, X, y, jnp.zeros(3))
    best, rss, *_ = np.linalg.lstsq(DESIGN, y, rcond=None)
    variance = rss[0] / (X.size - 3)
    covariance = variance * np.linalg.inv(DESIGN.T @ DESIGN)
    np.testing.assert_allclose(fit.params, best, rtol=1e-9)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-9)
    np.testing.assert_allclose(fit.stderr, np.sqrt(np.diag(covariance)), rtol=1e-9)
    errors = np.sqrt(np.diag(covariance))
    expected = covariance / np.outer(errors, errors)
    np.testing.assert_allclose(fit.correlation, expected, rtol=1e-9)
    assert float(fit.chi2) == pytest.approx(rss[0])
    assert int(fit.dof) == X.size - 3
    # lmfit's definitions
    base = X.size * np.log(rss[0] / X.size)
    assert float(fit.aic) == pytest.approx(base + 2 * 3)
    assert float(fit.bic) == pytest.approx(base + 3 * np.log(X.size))


def test_bands_of_a_linear_model(rng):
    y = data(rng)
    fit = lmjax.curve_fit(parabola, X, y, jnp.zeros(3))
    at = np.array([-2.0, 0.5, 4.0])
    rows = np.stack([np.ones_like(at), at, at**2], axis=1)
    best, rss, *_ = np.linalg.lstsq(DESIGN, y, rcond=None)
    variance = rss[0] / (X.size - 3)
    curve = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(DESIGN.T @ DESIGN), rows)
    t = scipy.stats.t.ppf(0.95, X.size - 3)  # two-sided 90 %
    for band, spread in (
        (fit.confidence_band, np.sqrt(variance * curve)),
        (fit.prediction_band, np.sqrt(variance * (curve + 1.0))),
    ):
        low, high = band(jnp.asarray(at), 0.9)
        np.testing.assert_allclose(low, rows @ best - t * spread, rtol=1e-8)
        np.testing.assert_allclose(high, rows @ best + t * spread, rtol=1e-8)


def test_absolute_sigma_uses_the_normal_quantile_and_no_scaling(rng):
    y = data(rng)
    fit = lmjax.curve_fit(parabola, X, y, jnp.zeros(3), sigma=0.1, absolute_sigma=True)
    covariance = 0.01 * np.linalg.inv(DESIGN.T @ DESIGN)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-9)
    low, high = fit.confidence_band(jnp.zeros(1))
    half = scipy.stats.norm.ppf(0.975) * np.sqrt(covariance[0, 0])
    np.testing.assert_allclose((high - low) / 2, [half], rtol=1e-8)
    assert float(fit.aic) == pytest.approx(float(fit.chi2) + 6)


def test_no_degrees_of_freedom_means_no_errors():
    fit = lmjax.curve_fit(parabola, X[:3], DESIGN[:3] @ TRUTH, jnp.zeros(3))
    assert bool(fit.success)
    assert np.isnan(fit.reduced_chi2)
    assert np.all(np.isinf(np.diagonal(fit.covariance)))
    assert "No degrees of freedom" in fit.report()
    for band in (fit.confidence_band(X), fit.prediction_band(X)):
        np.testing.assert_array_equal(np.stack(band), np.outer([-np.inf, np.inf], X**0))


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    # 95 % of 10,000 seeded replicas; the standard deviation of that count is 0.22 %
    decay = lambda p, x: p[0] * jnp.exp(-p[1] * x)
    x = jnp.linspace(0.0, 3.0, 15)
    truth = jnp.array([2.0, 1.1])
    noise = 0.05 * jax.random.normal(jax.random.key(5), (10_000, 15), dtype=float)
    start = jnp.array([1.5, 1.0])

    @jax.jit
    @jax.vmap
    def covered(e):
        fit = lmjax.curve_fit(decay, x, decay(truth, x) + e, start)
        t = student_t_quantile(0.95, 13.0)
        low, high = fit.confidence_band(x[4:5])
        inside = (low <= decay(truth, x[4:5])) & (decay(truth, x[4:5]) <= high)
        return jnp.abs(fit.params - truth) <= t * fit.stderr, inside[0]

    params, band = covered(noise)
    np.testing.assert_allclose(np.mean(params, axis=0), 0.95, atol=0.01)
    np.testing.assert_allclose(np.mean(band), 0.95, atol=0.01)


def test_noise_of_a_prediction_broadcasts_to_it():
    fit = lmjax.curve_fit(parabola, X, DESIGN @ TRUTH + np.cos(9 * X), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"sigma: .*\(25,\), got \(3,\)"):
        fit.prediction_band(X, sigma=np.ones(3))
