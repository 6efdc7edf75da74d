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


def test_product_is_the_product_under_class_names():
    product = LEFT * LINE * RIGHT
    assert list(product.parts) == ["gaussian", "polynomial", "gaussian_2"]
    assert_close(product(X), LEFT(X) * LINE(X) * RIGHT(X))
    both = LEFT * LINE + RIGHT
    assert list(both.parts) == ["product", "gaussian"]
    assert_close(both(X), LEFT(X) * LINE(X) + RIGHT(X))
    start = both.replace(gaussian=RIGHT.replace(centre=6.4))
    # two heights of one product: one of them is fixed
    fixed = {"product": {"polynomial": {"coefficients": [True, False]}}}
    fit = lmjax.curve_fit(start, X, both(X), fixed=fixed)
    assert_close(fit.params["gaussian"].centre, RIGHT.centre)
    assert_close(fit.params["product"]["gaussian"].width, LEFT.width)
    with pytest.raises(TypeError):
        LEFT * 2.0


TRIO = models.Sum(
    narrow=models.Lorentzian(4.0, 2.0, 0.2),
    left=models.Gaussian(3.0, 5.0, 0.5),
    right=models.Gaussian(2.0, 7.0, 0.7),
    floor=models.Polynomial([-3.0, 0.4]),
)
# the highest peak is that of the first part
KINDS = {
    "narrow": models.Lorentzian,
    "left": models.Gaussian,
    "floor": models.Polynomial,
    "right": models.Gaussian,
}
FINE = jnp.linspace(0.0, 10.0, 201)


def fitted(y, x=FINE):
    """Return chi2 and centres of the fit from the guess, by position."""
    fit = lmjax.curve_fit(models.Sum.guess(x, y, **KINDS), x, y)
    names = ("left", "right", "narrow")
    return fit.chi2, jnp.sort(jnp.stack([fit.params[name].centre for name in names]))


def test_guess_of_a_sum_leads_to_the_minimum_for_peaks_and_dips_in_a_batch(rng):
    curve = TRIO(FINE)
    y = curve + jnp.asarray(rng.normal(0.0, 0.02, FINE.size))
    batch = jnp.stack([y, -y, 1e6 * y])
    chi2, centres = quick.jit(jax.vmap(fitted))(batch)
    best = lmjax.curve_fit(TRIO, FINE, y)
    assert np.allclose(chi2, best.chi2 * np.array([1.0, 1.0, 1e12]), rtol=1e-6)
    assert np.allclose(centres, [2.0, 5.0, 7.0], atol=0.02)


def test_guess_of_a_sum_asks_nothing_of_the_points(rng):
    order = rng.permutation(X.size)
    x, y = (np.asarray(v, np.float32)[order] for v in (X, (LEFT + LINE)(X)))
    x, y = np.append(x, [1.0, np.nan]), np.append(y, [np.nan, 3.0])
    x, y = x.astype(np.float32), y.astype(np.float32)
    kinds = {"peak": models.Gaussian, "floor": models.Polynomial}
    guess = models.Sum.guess(x, y, **kinds)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(guess)} == {"float32"}
    assert np.isclose(guess["peak"].centre, LEFT.centre, atol=0.1)
    flat = models.Sum.guess([0, 1, 2], [1, 1, 1], **kinds)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(flat))


def test_guess_of_a_sum_takes_functions_and_names_what_is_wrong():
    level = lambda x, y: models.Polynomial.guess(x, y, degree=0)
    guess = models.Sum.guess(X, LEFT(X) + 1.0, peak=models.Gaussian, floor=level)
    assert guess["floor"].coefficients.shape == (1,)
    assert np.isclose(guess["peak"].centre, 3.0, atol=0.1)
    with pytest.raises(ValueError, match="at least one model"):
        models.Sum.guess(X, X)
    with pytest.raises(TypeError, match=r"parts\['a'\]: expected a function, guess"):
        models.Sum.guess(X, X, a=3.0)
    with pytest.raises(TypeError, match=r"parts\['a'\]: expected a class with a guess"):
        models.Sum.guess(X, X, a=int)
