"""Errors of derived quantities against the formulas that textbooks write out."""

import jax
import jax.numpy as jnp
import numpy as np
import quick

import lmjax

X = np.linspace(0.0, 3.0, 12)
CURVES = np.stack(
    [a * np.exp(-X / t) + 0.05 * np.cos(9.0 * X) for a, t in ((2.0, 1.0), (1.0, 2.0))]
)
START = {"amplitude": 1.0, "tau": 1.0}


def decay(p, x):
    return p["amplitude"] * jnp.exp(-x / p["tau"])


def fit_one(y, **options):
    return lmjax.curve_fit(decay, X, y, START, **options)


def derived(p):
    rate = 1.0 / p["tau"]
    return {"area": p["amplitude"] * p["tau"], "both": jnp.stack([rate, p["tau"]])}


def test_product_and_inverse_have_the_textbook_errors():
    fit = fit_one(CURVES[0])
    value, error = fit.propagate(derived)
    a, t = float(fit.params["amplitude"]), float(fit.params["tau"])
    (var_a, cov), (_, var_t) = np.asarray(fit.covariance)
    np.testing.assert_allclose(value["area"], a * t)
    area = np.sqrt(t**2 * var_a + a**2 * var_t + 2 * a * t * cov)
    np.testing.assert_allclose(error["area"], area, rtol=1e-12)
    expected = [np.sqrt(var_t) / t**2, np.sqrt(var_t)]
    np.testing.assert_allclose(error["both"], expected, rtol=1e-12)


def test_batch_gives_what_each_fit_gives():
    batch = quick.jit(jax.vmap(fit_one))(CURVES)
    together = batch.propagate(derived)
    assert together[0]["both"].shape == (2, 2)
    for i in range(2):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], batch).propagate(derived)
        got = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, alone
        )


def test_fixed_parameter_is_a_constant():
    fit = fit_one(CURVES[0], fixed={"tau": True})
    value, error = fit.propagate(derived)
    np.testing.assert_allclose(value["both"], [1.0, 1.0])
    np.testing.assert_array_equal(error["both"], [0.0, 0.0])
    np.testing.assert_allclose(error["area"], fit.stderr["amplitude"])


def test_callable_model_is_handed_over_whole():
    model = lmjax.models.Exponential(1.0, rate=1.0, offset=0.0)
    fit = lmjax.curve_fit(model, X, CURVES[0])
    at_one, error = fit.propagate(lambda model: model(1.0))
    low, high = fit.confidence_band(jnp.array([1.0]), 0.6826894921370859)
    t = (high - low)[0] / 2 / error
    assert 1.0 < t < 1.1  # Student's t at one sigma and 9 degrees of freedom
    np.testing.assert_allclose(at_one, fit.predict(1.0))


def test_error_of_a_quantity_has_a_derivative():
    error = lambda y: fit_one(y).propagate(lambda p: p["tau"])[1]
    direct = lambda y: fit_one(y).stderr["tau"]
    both = quick.jit(lambda y: (jax.grad(error)(y), jax.grad(direct)(y)))(CURVES[0])
    np.testing.assert_allclose(*both, rtol=1e-9)
