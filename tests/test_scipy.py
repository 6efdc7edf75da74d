"""`curve_fit` of lmjax.scipy answers, raises and warns as SciPy's, called beside it."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import Bounds, OptimizeWarning

import lmjax.scipy

X = np.linspace(0.0, 4.0, 40)
NOISE = np.linspace(0.04, 0.06, X.size)
CORRELATED = 0.05**2 * 0.5 ** np.abs(np.subtract.outer(range(40), range(40)))


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def numpy_decay(x, a, b, c):
    return a * np.exp(-b * x) + c


def numpy_decay_jac(x, a, b, c):
    e = np.exp(-b * x)
    return np.stack([e, -a * x * e, np.ones_like(x)], axis=1)


def decay_jac(x, a, b, c):
    e = jnp.exp(-b * x)
    return jnp.stack([e, -a * x * e, jnp.ones_like(x)], axis=1)


def line(x, a, b):
    return a * x + b


@pytest.fixture
def y(rng):
    return numpy_decay(X, 2.0, 1.3, 0.5) + 0.05 * rng.normal(size=X.size)


# SciPy stops digits short at its defaults
TIGHT = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
ACTIVE = ([0.0, 0.0, 0.6], [9.0, 9.0, 1.0])  # the truth is 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"p0": [1, 1, 0]},
        {"sigma": 0.05, "absolute_sigma": True},
        {"sigma": NOISE, "absolute_sigma": True},
        {"sigma": CORRELATED},
        {"bounds": ([0.0, -np.inf, 0.1], [5.0, 3.0, np.inf])},
        {"bounds": Bounds([0.0] * 3, [5.0] * 3), "method": "dogbox"},
        {"method": "trf", "loss": "soft_l1", "f_scale": 0.1},
    ],
    ids=["lm", "p0", "number", "sigma", "matrix", "trf", "dogbox", "robust"],
)
def test_curve_fit_gives_the_answer_of_scipy(y, options):
    popt, pcov = lmjax.scipy.curve_fit(decay, X, y, **options)
    if np.ndim(options.get("sigma", y)) == 0:  # SciPy refuses it beside jac
        options = options | {"sigma": np.full_like(y, options["sigma"])}
    expected, covariance = scipy.optimize.curve_fit(
        numpy_decay, X, y, jac=numpy_decay_jac, **options, **TIGHT
    )
    np.testing.assert_allclose(popt, expected, rtol=1e-6)
    np.testing.assert_allclose(pcov, covariance, rtol=1e-6)


def test_default_tolerances_end_as_near_to_the_minimum_as_those_of_scipy(y):
    tight = {"ftol": 1e-15, "xtol": 1e-15}
    best, _ = scipy.optimize.curve_fit(numpy_decay, X, y, **tight)
    popt, _ = lmjax.scipy.curve_fit(decay, X, y)
    np.testing.assert_allclose(popt, best, rtol=3e-8)


def test_parameter_held_by_a_bound_has_no_error(y):
    options = {"p0": [1.0, 1.0, 0.7], "bounds": ACTIVE}
    popt, pcov = lmjax.scipy.curve_fit(decay, X, y, **options)
    expected, _ = scipy.optimize.curve_fit(numpy_decay, X, y, **options)
    np.testing.assert_allclose(popt, expected, rtol=1e-5)
    assert popt[2] == 0.6
    assert np.isinf(pcov[2, 2])
    # the others have the errors of a fit with that parameter as a constant
    _, two = scipy.optimize.curve_fit(
        lambda x, a, b: numpy_decay(x, a, b, 0.6),
        X,
        y,
        popt[:2],
        jac=lambda x, a, b: numpy_decay_jac(x, a, b, 0.6)[:, :2],
    )
    np.testing.assert_allclose(pcov[:2, :2], two, rtol=1e-6)


def test_start_is_in_the_middle_of_the_bounds():
    seen = []

    def model(x, a, b, c, d):
        seen.append((a, b, c, d))
        return a * x + b + c * x**2 + d * np.sqrt(x)

    bounds = [2.0, 3.0, -np.inf, -np.inf], [4.0, np.inf, 5.0, np.inf]
    scipy.optimize.curve_fit(model, X, 3 * X + 4, bounds=bounds)
    result = lmjax.scipy._curve_fit._middle(*map(np.asarray, bounds))
    assert result.tolist() == list(map(float, seen[0])) == [3.0, 4.0, 4.0, 1.0]


def spoiled(values, rows):
    values = np.array(values, float)
    values[..., rows] = np.nan
    return values


@pytest.mark.parametrize("sigma", [None, NOISE, CORRELATED], ids=["", "row", "matrix"])
def test_points_with_nan_in_x_or_y_are_left_out(y, sigma):
    x, y = spoiled(X, [3, 7]), spoiled(y, [7, 30])
    options = {"sigma": sigma, "nan_policy": "omit"}
    popt, pcov = lmjax.scipy.curve_fit(decay, x, y, **options)
    expected, covariance = scipy.optimize.curve_fit(
        numpy_decay, x, y, jac=numpy_decay_jac, **options, **TIGHT
    )
    np.testing.assert_allclose(popt, expected, rtol=1e-6)
    np.testing.assert_allclose(pcov, covariance, rtol=1e-6)


def test_nan_in_one_row_of_several_predictors(rng):
    x = rng.normal(size=(2, 30))
    y = 2.0 * x[0] - x[1] + rng.normal(size=30)
    x = np.stack([spoiled(x[0], [4]), spoiled(x[1], [9])])
    plane = lambda x, a, b: a * x[0] + b * x[1]
    popt, pcov = lmjax.scipy.curve_fit(plane, x, y, nan_policy="omit")
    expected, covariance = scipy.optimize.curve_fit(plane, x, y, nan_policy="omit")
    np.testing.assert_allclose(popt, expected, rtol=1e-6)
    np.testing.assert_allclose(pcov, covariance, rtol=1e-6)


FIVE = np.arange(5.0)
NAN = spoiled(FIVE, [2])
BAD = {
    "NaN in x": (NAN, FIVE, {}),
    "NaN in y": (FIVE, NAN, {}),
    "infinite": (FIVE, np.full(5, np.inf), {}),
    "propagate": (FIVE, FIVE, {"nan_policy": "propagate"}),
    "policy": (FIVE, FIVE, {"nan_policy": "drop"}),
    "raise": (FIVE, NAN, {"nan_policy": "raise"}),
    "empty": ([], [], {}),
    "empty y": ([1.0], [], {}),
    "sigma shape": (FIVE, FIVE, {"sigma": np.ones(4)}),
    "sigma not definite": (FIVE, FIVE, {"sigma": -np.eye(5)}),
    "lm with bounds": (FIVE, FIVE, {"method": "lm", "bounds": (0, 1)}),
    "method": (FIVE, FIVE, {"method": "newton"}),
    "outside": (FIVE, FIVE, {"p0": [1, 1], "bounds": (5, 6)}),
    "crossed": (FIVE, FIVE, {"bounds": (6, 5)}),
    "three bounds": (FIVE, FIVE, {"bounds": (0, 1, 2)}),
    "args": (FIVE, FIVE, {"args": (1,)}),
    "too few points": ([1.0, 2.0], [1.0, 2.0], {"p0": [1, 1, 1]}),
    "unknown": (FIVE, FIVE, {"no_such_option": 1}),
    "max_nfev of lm": (FIVE, FIVE, {"max_nfev": 10}),
    "maxfev": (FIVE, np.exp(FIVE), {"method": "trf", "maxfev": 1}),
    "maxfev of lm": (FIVE, FIVE + 5.0, {"maxfev": 1}),
    "jac": (FIVE, FIVE, {"method": "trf", "jac": "4-point"}),
    "loss": (FIVE, FIVE, {"method": "trf", "loss": "hinge"}),
    "strings": (FIVE, list("abcde"), {}),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_requests_raise_what_scipy_raises(case):
    x, y, options = case
    with pytest.raises((ValueError, TypeError, RuntimeError)) as expected:
        scipy.optimize.curve_fit(line, x, y, **options)
    with pytest.raises(expected.type) as got:
        lmjax.scipy.curve_fit(line, x, y, **options)
    assert type(got.value) is expected.type
    assert len(str(got.value)) > 20


def test_number_of_parameters_that_f_does_not_name():
    for fit in (scipy.optimize.curve_fit, lmjax.scipy.curve_fit):
        with pytest.raises(ValueError, match="number of fit parameters"):
            fit(lambda x, *p: p[0] * x, X, X)

    def scaled(x, slope, *, offset=0.5):
        return slope * x + offset

    popt, _ = lmjax.scipy.curve_fit(scaled, X, 2 * X)
    expected, _ = scipy.optimize.curve_fit(scaled, X, 2 * X)
    np.testing.assert_allclose(popt, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "points"),
    [(lambda x, a, b: a * x, 5), (line, 2)],
    ids=["parameter without effect", "as many points as parameters"],
)
def test_covariance_that_cannot_be_estimated_warns(model, points):
    x, y = FIVE[:points], FIVE[:points] ** 2
    for fit in (scipy.optimize.curve_fit, lmjax.scipy.curve_fit):
        with pytest.warns(OptimizeWarning, match="could not be estimated"):
            _, pcov = fit(model, x, y)
        assert np.isinf(pcov).all()


def test_full_output_is_that_of_scipy(y):
    got = lmjax.scipy.curve_fit(decay, X, y, full_output=True)
    expected = scipy.optimize.curve_fit(numpy_decay, X, y, full_output=True)
    info, wanted = got[2], expected[2]
    assert set(info) == set(wanted) | {"advice"}
    assert got[4] in (1, 2, 3)
    assert expected[4] in (1, 2, 3)
    assert "relative" in got[3]
    assert "relative" in expected[3]
    np.testing.assert_allclose(info["fvec"], wanted["fvec"], atol=1e-6)
    assert info["ipvt"].tolist() == wanted["ipvt"].tolist()
    assert info["fjac"].shape == wanted["fjac"].shape
    # MINPACK keeps more than R below the diagonal
    upper = lambda fjac: np.triu(fjac.T[:3])
    np.testing.assert_allclose(upper(info["fjac"]), upper(wanted["fjac"]), atol=1e-5)
    np.testing.assert_allclose(info["qtf"], wanted["qtf"], atol=1e-4)
    assert 1 < info["nfev"] < wanted["nfev"]  # which counts difference quotients
    bounded = lmjax.scipy.curve_fit(decay, X, y, bounds=(0, 9), full_output=True)
    assert set(bounded[2]) == {"nfev", "fvec", "advice"}
    assert bounded[3].endswith("termination condition is satisfied.")


@pytest.mark.parametrize("method", ["lm", "trf"])
def test_jacobian_is_weighted_as_the_residual(y, method):
    options = {"sigma": CORRELATED, "method": method}
    exact = lmjax.scipy.curve_fit(decay, X, y, **options)
    given = lmjax.scipy.curve_fit(decay, X, y, jac=decay_jac, **options)
    np.testing.assert_allclose(given[0], exact[0], rtol=1e-9)
    np.testing.assert_allclose(given[1], exact[1], rtol=1e-7)


def test_x_keeps_its_values_and_y_is_spread():
    def piecewise(x, a, b):
        # the values of x choose, those of parameters may not
        assert x.max() > 3
        return jnp.concatenate([a * x[x < 2], b * x[x >= 2]])

    y = np.where(X < 2, 3 * X, 5 * X)
    popt, _ = lmjax.scipy.curve_fit(piecewise, X, y)
    np.testing.assert_allclose(popt, [3.0, 5.0], rtol=1e-9)
    count = lambda x, a: a * jnp.arange(4.0)
    popt, _ = lmjax.scipy.curve_fit(count, None, [0, 2, 4, 6])
    np.testing.assert_allclose(popt, [2.0], rtol=1e-9)
    residual = lambda x, a, b: a * x + b - (2 * x - 1)
    popt, pcov = lmjax.scipy.curve_fit(residual, list(range(9)), 0)
    assert pcov.shape == (2, 2)
    np.testing.assert_allclose(popt, [2.0, -1.0], rtol=1e-9)
    named = {"u": X, "v": X**2}
    model = lambda x, a, b: a * x["u"] + b * x["v"]
    popt, _ = lmjax.scipy.curve_fit(model, named, 2 * X - X**2)
    np.testing.assert_allclose(popt, [2.0, -1.0], rtol=1e-9)


def test_results_may_be_written_to(y):
    popt, pcov = lmjax.scipy.curve_fit(decay, X, y)
    popt[0] = pcov[0, 0] = 1.0
    assert popt.dtype == pcov.dtype == np.float64


def test_masked_data_are_refused(y):
    with pytest.raises(ValueError, match="ydata.*masked"):
        lmjax.scipy.curve_fit(decay, X, np.ma.masked_greater(y, 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        popt, _ = lmjax.scipy.curve_fit(decay, X, np.ma.masked_greater(y, 99.0))
    assert popt.shape == (3,)


def test_failure_is_a_runtime_error_that_says_why():
    # amplitude and offset run away with opposite signs
    x = np.linspace(0.0, 1.0, 30)
    curve = lambda x, a, b, c: a * jnp.exp(-b * x) + c
    with pytest.raises(RuntimeError, match="Optimal parameters not found: .*maxfev"):
        lmjax.scipy.curve_fit(curve, x, x**2, [50.0, 20.0, -9.0], maxfev=3)
