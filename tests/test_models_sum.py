"""Models add up, keep their names, and go through `curve_fit` as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tolerances import assert_close

import lmjax
from lmjax import models

X = jnp.linspace(0.0, 10.0, 41)
LEFT = models.Gaussian(3.0, 3.0, 0.6)
RIGHT = models.Gaussian(2.0, 6.0, 0.9)
LINE = models.Polynomial([0.5, 0.1])


def test_sum_is_the_sum_under_class_names():
    total = LEFT + RIGHT + LINE
    assert list(total.parts) == ["gaussian", "gaussian_2", "polynomial"]
    assert_close(total(X), LEFT(X) + RIGHT(X) + LINE(X))
    assert total["gaussian_2"] is RIGHT


def test_sums_of_sums_are_flat():
    total = (LEFT + LINE) + (RIGHT + LINE)
    names = ["gaussian", "polynomial", "gaussian_2", "polynomial_2"]
    assert list(total.parts) == names
    assert_close(total(X), LEFT(X) + RIGHT(X) + 2.0 * LINE(X))
    named = models.Sum(first=LEFT) + models.Sum(first=RIGHT)
    assert list(named.parts) == ["first", "first_2"]


def test_fit_of_a_sum_recovers_every_part_by_name():
    truth = models.Sum(left=LEFT, right=RIGHT, background=LINE)
    start = models.Sum(
        left=models.Gaussian(1.0, 2.5, 1.0),
        right=models.Gaussian(1.0, 6.5, 1.0),
        background=models.Polynomial([0.0, 0.0]),
    )
    fit = lmjax.curve_fit(start, X, truth(X) + 0.01 * jnp.sin(40.0 * X))
    for name in ("left", "right"):
        got, expected = fit.params[name], truth[name]
        assert np.allclose(got.centre, expected.centre, atol=0.02)
        assert np.allclose(got.amplitude, expected.amplitude, atol=0.05)
    report = fit.report()
    for name in ("parts.left.amplitude", "parts.background.coefficients[1]"):
        assert name in report
    assert_close(fit.params(X), fit.predict(X))


def test_bounds_and_fixed_reach_a_part():
    truth = LEFT + LINE
    fit = lmjax.curve_fit(
        models.Gaussian(2.0, 3.3, 0.5) + LINE,
        X,
        truth(X),
        bounds=({"gaussian": {"width": 0.7}}, None),
        fixed={"parts": {"polynomial": True}},  # the field may be named, too
    )
    assert fit.params["gaussian"].width == 0.7
    assert np.all(fit.params["polynomial"].coefficients == LINE.coefficients)


def test_explicit_fields_and_guess_end_at_the_same_fit(rng):
    t = np.linspace(0.0, 5.0, 30)
    y = 2.0 * np.exp(-0.7 * t) + 0.4 + rng.normal(0.0, 0.02, t.size)
    by_hand = models.Exponential(amplitude=1.0, rate=0.5, offset=0.0)
    fits = [
        lmjax.curve_fit(start, t, y)
        for start in (by_hand, models.Exponential.guess(t, y))
    ]
    # 1e-6: both stop where the cost is flat to rounding
    assert_close(fits[0].params, fits[1].params, factor=100.0)
    assert isinstance(fits[0].params, models.Exponential)
    assert fits[0].stderr.rate > 0.0


def test_batch_of_fitted_models_is_a_model():
    rates = jnp.array([0.5, 1.0, 2.0])
    curves = jnp.exp(-rates[:, None] * X[None, :])

    @quick.jit
    @jax.vmap
    def fit_one(y):
        return lmjax.curve_fit(models.Exponential.guess(X, y), X, y).params

    fitted = fit_one(curves)
    assert_close(fitted.rate, rates)
    assert_close(jax.vmap(lambda model: model(X))(fitted), curves)


def test_sum_needs_a_part_and_a_model():
    with pytest.raises(ValueError, match="at least one model"):
        models.Sum()
    with pytest.raises(TypeError):
        LEFT + 1.0
