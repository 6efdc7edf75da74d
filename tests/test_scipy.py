"""Scripts written for SciPy give SciPy's answers after one changed import."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import lmjax.scipy

X = np.linspace(0.0, 4.0, 40)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def numpy_decay(x, a, b, c):
    return a * np.exp(-b * x) + c


@pytest.fixture
def y(rng):
    return numpy_decay(X, 2.0, 1.3, 0.5) + 0.05 * rng.normal(size=X.size)


ACTIVE = ([0.0, 0.0, 0.6], [9.0, 9.0, 1.0])  # the truth is 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"p0": [1.0, 1.0, 0.0]},
        {"sigma": np.linspace(0.04, 0.06, X.size), "absolute_sigma": True},
        {"bounds": ACTIVE, "p0": [1.0, 1.0, 0.7]},
        {"bounds": scipy.optimize.Bounds([0.0] * 3, [5.0] * 3), "p0": [1.0, 1.0, 1.0]},
    ],
    ids=["defaults", "start", "sigma", "active bounds", "Bounds"],
)
def test_curve_fit_gives_the_answer_of_scipy(y, options):
    popt, pcov = lmjax.scipy.curve_fit(decay, X, y, **options)
    expected, covariance = scipy.optimize.curve_fit(numpy_decay, X, y, **options)
    np.testing.assert_allclose(popt, expected, rtol=1e-5)
    # at a bound SciPy gives the errors of a free parameter
    inside = np.isfinite(pcov).all()
    assert inside == (options.get("bounds") != ACTIVE)
    if inside:
        np.testing.assert_allclose(pcov, covariance, rtol=1e-4)


def test_curve_fit_full_output_and_integer_data():
    popt, _, info, message, code = lmjax.scipy.curve_fit(
        lambda x, a, b: a + b * x, [0, 1, 2, 3], [1, 3, 5, 7], [1, 1], full_output=True
    )
    np.testing.assert_allclose(popt, [1.0, 2.0], rtol=1e-9)
    assert code in (1, 2, 3, 4)
    assert message.startswith("Converged")
    np.testing.assert_allclose(info["fvec"], 0.0, atol=1e-9)


def test_curve_fit_takes_a_jacobian(y):
    def jac(x, a, b, c):
        e = jnp.exp(-b * x)
        return jnp.stack([e, -a * x * e, jnp.ones_like(x)], axis=1)

    popt, _ = lmjax.scipy.curve_fit(decay, X, y, jac=jac)
    np.testing.assert_allclose(popt, lmjax.scipy.curve_fit(decay, X, y)[0], rtol=1e-9)


def test_curve_fit_raises_as_scipy_does(y):
    with pytest.raises(RuntimeError, match="Optimal parameters not found"):
        lmjax.scipy.curve_fit(decay, X, y, [50.0, 20.0, -9.0], maxfev=1)
    with pytest.raises(ValueError, match="ydata"):
        lmjax.scipy.curve_fit(decay, X, np.full_like(y, np.nan))
    with pytest.raises(ValueError, match="p0"):
        lmjax.scipy.curve_fit(lambda x: x, X, y)


# derivative of the loss by z
SLOPES = {
    "linear": np.ones_like,
    "soft_l1": lambda z: (1.0 + z) ** -0.5,
    "cauchy": lambda z: 1.0 / (1.0 + z),
}


@pytest.mark.parametrize("loss", SLOPES)
def test_least_squares_gives_the_answer_of_scipy(y, loss):
    y[[3, 20]] += 2.0
    options = {"loss": loss, "f_scale": 0.1, "args": (y,)}
    got = lmjax.scipy.least_squares(
        lambda p, y: decay(X, *p) - y, [1.0, 1.0, 0.0], **options
    )
    expected = scipy.optimize.least_squares(
        lambda p, y: numpy_decay(X, *p) - y, [1.0, 1.0, 0.0], xtol=1e-12, **options
    )
    np.testing.assert_allclose(got.x, expected.x, rtol=1e-3)
    np.testing.assert_allclose(got.cost, expected.cost, rtol=1e-6)
    np.testing.assert_allclose(got.fun, expected.fun, atol=1e-3)
    assert got.success
    assert got.status in (1, 2, 3)
    # J of the model, its rows scaled for the slope of the loss
    a, b, _ = got.x
    e = np.exp(-b * X)
    slope = SLOPES[loss]((got.fun / 0.1) ** 2)
    jac = np.sqrt(slope)[:, None] * np.stack([e, -a * X * e, np.ones_like(X)], axis=1)
    np.testing.assert_allclose(got.jac, jac, rtol=1e-12, atol=1e-14)
    if loss == "linear":
        np.testing.assert_allclose(got.jac, expected.jac, atol=1e-5)  # by differences


def test_least_squares_says_which_bound_is_active(y):
    residual = lambda p: decay(X, *p) - y
    bounds = ([0.0, 0.0, 0.6], [9.0, 9.0, 9.0])
    got = lmjax.scipy.least_squares(residual, [1.0, 1.0, 0.7], bounds=bounds)
    assert got.active_mask.tolist() == [0, 0, -1]
    assert got.x[2] == 0.6


def test_robust_gradient_vanishes_at_the_minimum(y):
    residual = lambda p: decay(X, *p) - np.where(X[3] == X, 9.0, y)
    options = {"loss": "soft_l1", "f_scale": 0.05, "ftol": 1e-14, "xtol": 1e-14}
    got = lmjax.scipy.least_squares(residual, np.ones(3), **options)
    expected = scipy.optimize.least_squares(
        lambda p: np.asarray(residual(p)), np.ones(3), **options
    )
    np.testing.assert_allclose(got.x, expected.x, rtol=1e-5)
    slope = np.abs(got.jac).T @ np.abs(got.fun)
    assert (np.abs(got.grad) < 1e-5 * slope).all()


def test_unknown_numbers_of_parameters_are_not_guessed(y):
    with pytest.raises(ValueError, match="p0: expected a start"):
        lmjax.scipy.curve_fit(lambda x, *p: p[0] * x, X, y)

    def line(x, slope, *, offset=0.5):
        return slope * x + offset

    popt, _ = lmjax.scipy.curve_fit(line, X, y)
    expected, _ = scipy.optimize.curve_fit(line, X, y)
    np.testing.assert_allclose(popt, expected, rtol=1e-6)


def test_parameter_held_by_a_bound_has_no_error_of_zero(y):
    bounds = ACTIVE
    _, pcov = lmjax.scipy.curve_fit(decay, X, y, [1.0, 1.0, 0.7], bounds=bounds)
    assert np.isinf(pcov[2, 2])
    assert np.isfinite(pcov[:2, :2]).all()
    with pytest.raises(ValueError, match="x0: .*bounds"):
        lmjax.scipy.curve_fit(decay, X, y, [1.0, 1.0, 0.5], bounds=bounds)
