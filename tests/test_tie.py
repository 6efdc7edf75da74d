"""Tied parameters against lmfit's expressions, in batches, and told clearly."""

import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import pytest
from tolerances import assert_close

import lmjax
from lmjax import models
from lmjax._fit import curve_fit

X = np.linspace(0.0, 10.0, 61)
TRUTH = {"a1": 3.0, "c1": 3.0, "s1": 0.6, "a2": 1.5, "c2": 6.0, "s2": 0.6, "b": 0.5}
START = {"a1": 2.0, "c1": 2.8, "s1": 0.8, "a2": 1.0, "c2": 6.2, "s2": 1.0, "b": 0.0}


def two_peaks(p, x):
    bell = lambda a, c, s: a * jnp.exp(-((x - c) ** 2) / (2.0 * s**2))
    first, second = (bell(p[f"a{k}"], p[f"c{k}"], p[f"s{k}"]) for k in (1, 2))
    return first + second + p["b"]


def alike(p):
    """Equal widths, and a known ratio of amplitudes."""
    return {**p, "s2": p["s1"], "a2": 0.5 * p["a1"]}


def spectrum(rng):
    return np.asarray(two_peaks(TRUTH, X)) + rng.normal(0.0, 0.05, X.size)


def by_lmfit(model, params, y, **options):
    """Return lmfit's fit to ``y`` with sharper tolerances."""
    residual = lambda p: np.asarray(model(p.valuesdict(), X)) - y
    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "epsfcn": 1e-12}
    return lmfit.minimize(residual, params, **tight, **options)


def assert_like_lmfit(fit, expected):
    for name, parameter in expected.params.items():
        value, error = fit.all_params[name], fit.all_stderr[name]
        assert np.isclose(value, parameter.value, rtol=1e-6), name
        # lmfit's Jacobian is one of finite differences
        assert np.isclose(error, parameter.stderr, rtol=1e-3), name
    for name in ("chi2", "aic", "bic"):
        theirs = getattr(expected, {"chi2": "chisqr"}.get(name, name))
        assert np.isclose(getattr(fit, name), theirs, rtol=1e-9), name
    assert fit.dof == expected.nfree


def test_two_peaks_of_equal_width_are_those_of_lmfit(rng):
    y = spectrum(rng)
    fit = lmjax.curve_fit(two_peaks, X, y, START, tie=alike)
    params = lmfit.create_params(**START)
    params["s2"].expr, params["a2"].expr = "s1", "0.5 * a1"
    assert_like_lmfit(fit, by_lmfit(two_peaks, params, y))
    assert fit.params["s2"] is None
    assert fit.num_free == 5


def test_shares_that_add_up_to_one_are_those_of_lmfit(rng):
    def three(p, x):
        terms = (p[f"w{k}"] * jnp.exp(-rate * x) for k, rate in enumerate((0.2, 1, 5)))
        return p["scale"] * sum(terms)

    share = lambda p: {**p, "w2": 1.0 - p["w0"] - p["w1"]}
    truth = {"scale": 4.0, "w0": 0.5, "w1": 0.3, "w2": 0.2}
    y = np.asarray(three(truth, X)) + rng.normal(0.0, 0.01, X.size)
    start = {"scale": 3.0, "w0": 0.4, "w1": 0.4}
    fit = lmjax.curve_fit(three, X, y, start, tie=share)
    params = lmfit.create_params(**start, w2={"expr": "1 - w0 - w1"})
    assert_like_lmfit(fit, by_lmfit(three, params, y))


def test_what_follows_from_a_fit_knows_the_ties(rng):
    y = spectrum(rng)
    fit = lmjax.curve_fit(two_peaks, X, y, START, tie=alike)
    by_hand = lambda p, x: two_peaks(alike(p), x)
    free = {k: v for k, v in START.items() if k not in ("s2", "a2")}
    expected = lmjax.curve_fit(by_hand, X, y, free)
    for method in (fit.confidence_band, fit.prediction_band):
        assert_close(method(X), getattr(expected, method.__name__)(X))
    assert_close(fit.predict(X), two_peaks(fit.all_params, X))
    profile = lmjax.profile(fit, X, y, "a1").interval
    other = lmjax.profile(expected, X, y, "a1").interval
    assert_close([side["a1"] for side in profile], [side["a1"] for side in other])
    assert expected.all_params is expected.params


def test_a_batch_of_tied_fits_runs_in_the_fused_engine(rng):
    curves = np.stack([spectrum(rng) for _ in range(5)])
    fit_one = lambda y: lmjax.curve_fit(two_peaks, X, y, START, tie=alike)
    fits = jax.jit(jax.vmap(fit_one))(curves)
    assert np.all(fits.engine == lmjax.Engine.FUSED)
    one = fit_one(curves[3])
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[3], tree)
    assert_close(pick(fits.all_params), one.all_params, factor=100.0)
    assert_close(pick(fits.all_stderr), one.all_stderr, factor=100.0)
    chunked = lmjax.fit_batch(lambda y: fit_one(y).all_stderr, curves, chunk_size=2)
    assert_close(chunked, fits.all_stderr, factor=100.0)


def test_fits_of_different_traces_have_one_structure(rng):
    curves = np.stack([spectrum(rng) for _ in range(3)])
    few = lmjax.LevenbergMarquardt(max_steps=2)
    fit_one = lambda y, solver: lmjax.curve_fit(
        two_peaks, X, y, START, tie=alike, solver=solver
    )
    fits = jax.vmap(lambda y: fit_one(y, few))(curves)
    assert not fits.success.any()
    rescued = lmjax.rescue(
        fits, lambda y: fit_one(y, lmjax.LevenbergMarquardt()), curves
    )
    assert rescued.success.all()
    assert rescued.all_params["s2"].shape == (3,)


def test_float32_stays_float32(rng):
    single = lambda tree: jax.tree.map(np.float32, tree)
    y = single(spectrum(rng))
    fit = lmjax.curve_fit(two_peaks, single(X), y, single(START), tie=alike)
    assert fit.success
    leaves = jax.tree.leaves((fit.all_params, fit.all_stderr))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


def test_derivatives_go_through_ties(rng):
    y = jnp.asarray(spectrum(rng))

    def ratio(y, share):
        tie = lambda p: {**p, "s2": p["s1"], "a2": share * p["a1"]}
        fit = lmjax.curve_fit(two_peaks, X, y, START, tie=tie)
        return fit.all_params["a2"], fit.all_stderr["a2"]

    moved = jax.jvp(ratio, (y, 0.5), (jnp.cos(y), 1.0))[1]
    h = 1e-4
    high, low = (ratio(y + s * h * jnp.cos(y), 0.5 + s * h) for s in (1.0, -1.0))
    expected = [(a - b) / (2.0 * h) for a, b in zip(high, low, strict=True)]
    assert np.allclose(moved, expected, rtol=1e-5)


def test_a_sum_of_models_is_tied_by_replace(rng):
    left, right = models.Gaussian(2.0, 2.8, 0.8), models.Gaussian(1.0, 6.2, 1.0)
    start = models.Sum(left=left, right=right, floor=models.Polynomial([0.0]))

    def tie(m):
        width, height = m["left"].width, 0.5 * m["left"].amplitude
        return m.replace(right=m["right"].replace(width=width, amplitude=height))

    y = spectrum(rng)
    fit = lmjax.curve_fit(start, X, y, tie=tie)
    expected = lmjax.curve_fit(two_peaks, X, y, START, tie=alike)
    assert_close(fit.chi2, expected.chi2)
    assert_close(fit.all_params["right"].amplitude, expected.all_params["a2"], 100.0)
    assert_close(fit.all_stderr["right"].amplitude, expected.all_stderr["a2"], 100.0)
    assert_close(fit.all_params(X), fit.predict(X))
    assert "parts.right.width" in fit.report().split("Tied parameters")[1]


def test_bounds_and_fixed_are_about_the_free_parameters(rng):
    y = spectrum(rng)
    options = {"bounds": ({"s1": 0.7}, None), "fixed": {"a1": True}}
    fit = lmjax.curve_fit(two_peaks, X, y, START, tie=alike, **options)
    assert fit.params["s1"] == fit.all_params["s2"] == 0.7
    assert fit.all_params["a2"] == 1.0
    # neither depends on a parameter with an error
    assert np.isnan(fit.all_stderr["s2"])
    assert np.isnan(fit.all_stderr["a2"])
    assert np.isfinite(fit.all_stderr["c2"])


def test_a_fresh_lambda_compiles_nothing(rng):
    y = spectrum(rng)

    def fit(ratio):
        tie = lambda p: {**p, "s2": p["s1"], "a2": ratio * p["a1"]}
        return lmjax.curve_fit(two_peaks, X, y, START, tie=tie).all_params

    fit(0.5)
    before = curve_fit._fit._cache_size()
    other = fit(0.4)
    assert curve_fit._fit._cache_size() == before
    assert_close(other["a2"], 0.4 * other["a1"])


@pytest.mark.parametrize(
    ("tie", "error", "words"),
    [
        (3.0, TypeError, "tie: expected a function"),
        (lambda p: None, TypeError, "tie: .* one that returns None"),
        (lambda p: dict(TRUTH), ValueError, "tie: .* reads none of them; .* a1, a2"),
    ],
)
def test_a_tie_that_cannot_be_is_refused(tie, error, words):
    with pytest.raises(error, match=words):
        lmjax.curve_fit(two_peaks, X, X, START, tie=tie)


def test_conditions_on_a_tied_parameter_are_refused():
    for options in ({"bounds": (None, {"s2": 1.0})}, {"fixed": {"s2": True}}):
        with pytest.raises(ValueError, match="expected free parameters, got 's2'"):
            lmjax.curve_fit(two_peaks, X, X, START, tie=alike, **options)


def test_the_fit_remembers_its_tie(rng):
    y = spectrum(rng)
    fit = lmjax.curve_fit(two_peaks, X, y, START, tie=alike)
    words = "tie: expected to be left out, as the fit remembers the tie"
    key = jax.random.key(0)
    requests = (
        lambda **options: lmjax.profile(fit, X, y, "a1", **options),
        lambda **options: lmjax.contour(fit, X, y, ("a1", "c1"), **options),
        lambda **options: lmjax.bootstrap(key, fit, X, y, **options),
    )
    for ask in requests:
        with pytest.raises(TypeError, match=words):
            ask(tie=alike)


def test_an_error_within_says_how_tie_is_called():
    with pytest.raises(KeyError) as caught:
        lmjax.curve_fit(two_peaks, X, X, START, tie=lambda p: {**p, "s2": p["width"]})
    assert "lmjax calls tie(params)" in caught.value.__notes__
    with pytest.raises(ValueError, match="no part is called 'centre'"):
        models.Sum(left=models.Gaussian(1.0, 0.0, 1.0)).replace(centre=1.0)
