"""Joint regions of two parameters against lmfit, closed forms and the profile."""

import jax
import jax.numpy as jnp
import lmfit
import matplotlib.contour
import numpy as np
import pytest
import scipy.stats

import lmjax
import lmjax.plot

X = np.linspace(0.0, 10.0, 41)
Y = 3.0 * np.exp(-X / 2.0) + 0.5 + 0.2 * np.cos(17.0 * X)
START = {"a": 1.0, "tau": 1.0, "b": 0.0}


def decay(p, t):
    return p["a"] * jnp.exp(-t / p["tau"]) + p["b"]


@pytest.fixture(scope="module")
def fit():
    return lmjax.curve_fit(decay, X, Y, START)


def test_grid_is_that_of_lmfit(fit):
    region = lmjax.contour(fit, X, Y, ("tau", "b"), points=7)
    residual = lambda p: np.asarray(decay(p.valuesdict(), X)) - Y
    minimizer = lmfit.Minimizer(residual, lmfit.create_params(**START))
    best = minimizer.minimize(ftol=1e-15, xtol=1e-15)
    # lmfit wants the upper limit first, and has the second parameter on the rows
    limits = [(axis[-1], axis[0]) for axis in (region.first, region.second)]
    first, second, z = lmfit.conf_interval2d(
        minimizer, best, "tau", "b", 7, 7, limits=limits
    )
    np.testing.assert_allclose(region.first, first)
    np.testing.assert_allclose(region.second, second)
    # at the minimum, the root of the rounding of chi2
    np.testing.assert_allclose(region.z, z.T, rtol=1e-6, atol=1e-6)
    assert not region.found_lower_minimum
    centre = (region.first[3], region.second[3])
    np.testing.assert_allclose(centre, region.values)


def test_a_linear_model_has_the_ellipses_of_the_covariance():
    line = lambda p, x: p["slope"] * x + p["offset"] + p["bend"] * x**2
    start = {"slope": 0.0, "offset": 0.0, "bend": 0.0}
    sigma = 0.1 + 0.02 * X
    options = {"sigma": sigma, "fixed": {"bend": False}}
    fit = lmjax.curve_fit(line, X, Y, start, absolute_sigma=True, **options)
    region = lmjax.contour(fit, X, Y, ("slope", "offset"), points=5, **options)
    dx, dy = np.meshgrid(
        region.first - region.values[0],
        region.second - region.values[1],
        indexing="ij",
    )
    a, b, c = region.covariance[0, 0], region.covariance[0, 1], region.covariance[1, 1]
    square = (c * dx**2 - 2.0 * b * dx * dy + a * dy**2) / (a * c - b * b)
    np.testing.assert_allclose(region.z, np.sqrt(square), rtol=1e-5, atol=1e-6)
    probability = scipy.stats.chi2.cdf(square, 2)
    np.testing.assert_allclose(region.probability, probability, atol=1e-6)


def test_probability_is_that_of_fishers_f(fit):
    region = lmjax.contour(fit, X, Y, ["b", "a"], points=5, reach=2.0)
    expected = scipy.stats.f.cdf(region.z**2 / 2.0, 2, X.size - 3)
    np.testing.assert_allclose(region.probability, expected, atol=1e-12)
    assert region.names == ("b", "a")


def test_axes_have_the_names_of_a_plot(fit):
    region = lmjax.contour(fit, X, Y, ("tau", "b"), points=5, reach=2.0)
    for name, axis in zip(region.names, (region.x, region.y), strict=True):
        middle, end = fit.params[name], 2.0 * fit.stderr[name]
        expected = np.linspace(middle - end, middle + end, 5)
        np.testing.assert_allclose(axis, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_line_reaches_as_far_as_the_profile_does(fit):
    one_sigma = scipy.special.erf(np.sqrt(0.5))
    threshold = float(scipy.stats.t.ppf(0.5 + one_sigma / 2.0, X.size - 3))
    lower, upper = lmjax.profile(fit, X, Y, "tau", level=one_sigma).interval
    b, error = fit.params["b"], 1.5 * fit.stderr["b"]
    limits = ((lower["tau"], upper["tau"]), (b - error, b + error))
    region = lmjax.contour(fit, X, Y, ("tau", "b"), points=81, limits=limits)
    # along the edge, z is least where the profile is: at the threshold
    for edge in (region.z[0], region.z[-1]):
        assert np.isclose(edge.min(), threshold, rtol=1e-3)
        assert edge.min() >= threshold * (1.0 - 1e-6)


def test_a_batch_under_jit_is_each_on_its_own(fit):
    curves = np.stack([Y, 2.0 * Y])

    def one(y):
        fit = lmjax.curve_fit(decay, X, y, START)
        return lmjax.contour(fit, X, y, ("tau", "b"), points=4)

    regions = jax.jit(jax.vmap(one))(curves)
    alone = lmjax.contour(fit, X, Y, ("tau", "b"), points=4)
    # to the scale of y, tau is blind and z as well
    for z in regions.z:
        np.testing.assert_allclose(z, alone.z, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_grid_stays_within_bounds(fit):
    bounds = ({"b": 0.48}, None)
    fit = lmjax.curve_fit(decay, X, Y, START, bounds=bounds)
    region = lmjax.contour(fit, X, Y, ("tau", "b"), points=3, bounds=bounds)
    assert region.second[0] == 0.48
    assert np.all(np.isfinite(region.z))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"which": ("tau",)}, "which: expected the names of two parameters"),
        ({"which": ("tau", "rate")}, "which: no parameter is called 'rate'"),
        ({"points": 1}, "points: expected an int from 2 on, got 1"),
        ({"reach": -1.0}, "reach: expected a number above 0, got -1.0"),
        ({"limits": ((0.0, 1.0),)}, "limits: .* got shape"),
        ({"y": 2.0 * Y}, "expected the data of the fit"),
    ],
)
def test_odd_requests_are_refused(fit, change, words):
    given = {"fit": fit, "x": X, "y": Y, "which": ("tau", "b")} | change
    with pytest.raises(ValueError, match=words):
        lmjax.contour(**given)


def test_a_parameter_without_an_error_needs_limits():
    fixed = {"b": True}
    fit = lmjax.curve_fit(decay, X, Y, START, fixed=fixed)
    with pytest.raises(ValueError, match="of b and tau one has none here"):
        lmjax.contour(fit, X, Y, ("b", "tau"), fixed=fixed)


def test_figure_has_three_lines_and_three_ellipses(fit, tmp_path):
    figure = lmjax.plot.contour(lmjax.contour(fit, X, Y, ("tau", "b"), points=21))
    figure.savefig(tmp_path / "figure.png")
    (ax,) = figure.axes
    (lines,) = [
        thing
        for thing in ax.get_children()
        if isinstance(thing, matplotlib.contour.ContourSet)
    ]
    assert list(lines.levels) == [1.0, 2.0, 3.0]
    ellipses = [line for line in ax.lines if line.get_linestyle() == "--"]
    ends = [np.max(line.get_xdata()) - fit.params["tau"] for line in ellipses]
    expected = fit.stderr["tau"] * np.arange(1.0, 4.0)
    np.testing.assert_allclose(ends, expected, rtol=1e-3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tau", "b")
