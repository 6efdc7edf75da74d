"""Figures hold the data that they were given; nobody needs to look at them here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import lmjax
import lmjax.plot

X = np.linspace(0.0, 4.0, 20)
RNG = np.random.default_rng(4)
CURVES = 2.0 * np.exp(-X) + 0.05 * RNG.normal(size=(12, 20))
CURVES[3, 5] = np.nan
START = {"amplitude": 1.0, "rate": 0.5}
COUNT = 11  # of the fits above that can succeed


def decay(p, x):
    return p["amplitude"] * jnp.exp(-p["rate"] * x)


@pytest.fixture(scope="module")
def fits():
    return jax.jit(jax.vmap(lambda y: lmjax.curve_fit(decay, X, y, START)))(CURVES)


@pytest.fixture(scope="module")
def fit(fits):
    return jax.tree.map(lambda leaf: leaf[0], fits)


def drawn(figure, tmp_path):
    """Draw for real: what is only wrong when it is drawn shows."""
    figure.savefig(tmp_path / "figure.png")
    return figure


def points(ax, marker):
    return [line for line in ax.lines if line.get_marker() == marker]


def heights(ax):
    return sum(patch.get_height() for patch in ax.patches)


def test_fit_to_counts_has_no_band_of_new_data(tmp_path):
    counts = np.round(20.0 * CURVES[0].clip(0.0))
    start = {"amplitude": 30.0, "rate": 0.5}
    fit = lmjax.curve_fit(decay, X, counts, start, likelihood="poisson")
    top, bottom = drawn(lmjax.plot.fit(fit, X, counts), tmp_path).axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert sorted(labels) == ["95 % band", "data", "fit"]
    assert bottom.get_ylabel() == "residual"


def test_fit_of_several_data_sets_is_refused():
    model = lambda p, x: {"one": decay(p, x), "two": p["amplitude"] - 0.0 * x}
    y = {"one": CURVES[0], "two": np.full(20, 2.0)}
    fit = lmjax.curve_fit(model, X, y, START)
    with pytest.raises(ValueError, match="fit: expected a fit of one data set"):
        lmjax.plot.fit(fit, X, y)


def test_fit_shows_data_curve_bands_and_residuals(fit, tmp_path):
    figure = drawn(lmjax.plot.fit(fit, X, CURVES[0], level=0.9), tmp_path)
    top, bottom = figure.axes
    (data,) = points(top, "o")
    np.testing.assert_array_equal(data.get_xydata().T, [X, CURVES[0]])
    (curve,) = points(top, "None")
    at = curve.get_xdata()
    np.testing.assert_allclose(curve.get_ydata(), fit.predict(at))
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert sorted(labels) == ["90 % band", "90 % of new data", "data", "fit"]
    low, high = fit.confidence_band(at, 0.9)
    band = top.collections[-1].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(float(low.min()))
    assert band.max() == pytest.approx(float(high.max()))
    (residual,) = points(bottom, "o")
    scale = np.sqrt(float(fit.reduced_chi2))
    expected = (CURVES[0] - np.asarray(fit.predict(X))) / scale
    np.testing.assert_allclose(residual.get_ydata(), expected)


def test_error_bars_are_sigma_scaled_unless_absolute():
    sigma = np.linspace(0.04, 0.06, 20)
    for absolute in (True, False):
        fit = lmjax.curve_fit(
            decay, X, CURVES[0], START, sigma=sigma, absolute_sigma=absolute
        )
        top, _ = lmjax.plot.fit(fit, X, CURVES[0], sigma).axes
        (bars,) = top.containers[0].lines[2]
        lengths = np.array([np.ptp(path.vertices[:, 1]) for path in bars.get_paths()])
        scale = 1.0 if absolute else np.sqrt(float(fit.reduced_chi2))
        np.testing.assert_allclose(lengths, 2 * sigma * scale)


def test_given_axes_are_used(fit):
    axes = Figure().subplots(2, 1)
    assert lmjax.plot.fit(fit, X, CURVES[0], axes=axes) is axes[0].figure
    ax = Figure().subplots()
    assert lmjax.plot.correlation(fit, ax) is ax.figure
    with pytest.raises(ValueError, match="axes: expected 2 matplotlib Axes, got 1"):
        lmjax.plot.fit(fit, X, CURVES[0], axes=ax)


def test_correlation_prints_the_matrix(fit, tmp_path):
    ax = drawn(lmjax.plot.correlation(fit), tmp_path).axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), fit.correlation)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["amplitude", "rate"]
    assert ax.texts[1].get_text() == f"{fit.correlation[0, 1]:.2f}"


def test_convergence_tells_taken_from_refused_steps(tmp_path):
    rosenbrock = lambda p: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])
    bold = lmjax.Nielsen(initial=1e-8)
    solver = lmjax.LevenbergMarquardt(damping=bold, record_history=True)
    sol = lmjax.least_squares(rosenbrock, jnp.array([-1.2, 1.0]), solver=solver)
    cost, damping, gain = drawn(lmjax.plot.convergence(sol), tmp_path).axes
    refused = int(sol.num_steps - sol.num_accepted)
    assert refused > 0
    for ax, name in ((cost, "cost"), (damping, "damping"), (gain, "gain")):
        (taken,), (not_taken,) = points(ax, "o"), points(ax, "D")
        assert len(taken.get_xdata()) == sol.num_accepted
        assert len(not_taken.get_xdata()) == refused
        values = np.asarray(getattr(sol.history, name))[: int(sol.num_steps)]
        accepted = np.asarray(sol.history.accepted)[: int(sol.num_steps)]
        np.testing.assert_array_equal(taken.get_ydata(), values[accepted])
        np.testing.assert_array_equal(not_taken.get_ydata(), values[~accepted])


def test_profile_is_drawn_with_its_interval(fit, tmp_path):
    profile = lmjax.profile(fit, X, CURVES[0])
    figure = drawn(lmjax.plot.profile(profile), tmp_path)
    for k, (ax, name) in enumerate(zip(figure.axes, START, strict=True)):
        assert ax.get_xlabel() == name
        line = points(ax, "o")[0]
        z = np.interp(float(fit.params[name]), *line.get_data())
        assert z == pytest.approx(0.0, abs=1e-9)
        low, high = (float(side[name]) for side in profile.interval)
        ends = np.interp([low, high], *line.get_data())
        threshold = float(profile.threshold)
        np.testing.assert_allclose(ends, [-threshold, threshold], rtol=1e-6)
        assert ax.get_title() == f"{low:.4g} to {high:.4g}"
        linear = points(ax, "None")[0]
        slope = np.diff(linear.get_ydata()) / np.diff(linear.get_xdata())
        np.testing.assert_allclose(slope, 1.0 / profile.stderr[k])


def test_batch_counts_outcomes_and_shows_the_worst(fits, tmp_path):
    fits = jax.tree.map(np.asarray, fits)  # as fit_batch returns them
    units = {name: "mm" for name in list(START)[:1]}
    overview = lmjax.plot.batch(fits, CURVES, X, worst=3, units=units)
    figure = drawn(overview, tmp_path)
    top, bottom = figure.subfigs
    outcomes, quality, steps, *parameters = top.axes
    counts = {
        label.get_text(): int(patch.get_width())
        for label, patch in zip(
            outcomes.get_yticklabels(), outcomes.patches, strict=True
        )
    }
    assert counts.pop("NONFINITE_START") == 1
    assert sum(counts.values()) == COUNT
    # a per cent on either side is left out: here the two fits at the ends, if any
    assert COUNT - 2 <= heights(quality) <= COUNT
    assert heights(steps) >= COUNT - 1
    first, *others = START
    assert [ax.get_xlabel() for ax in parameters] == [f"{first} (mm)", *others]
    good = np.asarray(fits.success)
    for ax, name in zip(parameters, START, strict=True):
        middle = np.median(fits.params[name][good])
        assert ax.lines[0].get_xdata()[0] == pytest.approx(middle, abs=0.01)
        assert ax.get_title() == f"median {middle:.3g}"
    chi2 = np.nan_to_num(np.asarray(fits.reduced_chi2), nan=np.inf)
    chi2[3] = np.inf
    worst = np.argsort(-chi2)[:3]
    for ax, i in zip(bottom.axes, worst, strict=True):
        assert ax.get_title().startswith(f"fit {i}: ")
        np.testing.assert_array_equal(points(ax, "o")[0].get_ydata(), CURVES[i])


def test_curves_without_numbers_come_last(fits, tmp_path):
    empty = np.array(CURVES)
    empty[5] = np.nan
    figure = drawn(lmjax.plot.batch(fits, empty, X, worst=COUNT + 1), tmp_path)
    shown = figure.subfigs[1].axes
    assert shown[-1].get_title().startswith("fit 5: ")
    assert shown[-1].texts[0].get_text() == "no numbers"


@pytest.mark.slow
def test_batch_of_images_draws_images(tmp_path):
    grid = np.stack(np.mgrid[:4, :4]).astype(float)
    plane = lambda p, x: p["slope"] * x[0] + p["offset"]
    images = np.arange(3.0)[:, None, None] + grid[0] + 0.1 * grid[1]
    start = {"slope": 0.5, "offset": 0.0}
    fits = jax.vmap(lambda y: lmjax.curve_fit(plane, tuple(grid), y, start))(images)
    figure = drawn(lmjax.plot.batch(fits, images, tuple(grid), worst=2), tmp_path)
    shown = {ax.images[0].get_array().tobytes() for ax in figure.subfigs[1].axes}
    assert shown <= {image.tobytes() for image in images}


def test_batch_without_a_single_success_is_drawn(fits, tmp_path):
    failed = jax.tree.map(lambda leaf: leaf[3:4], fits)
    outcomes = drawn(lmjax.plot.batch(failed), tmp_path).axes[0]
    labels = [label.get_text() for label in outcomes.get_yticklabels()]
    widths = [patch.get_width() for patch in outcomes.patches]
    shown = {name: width for name, width in zip(labels, widths, strict=True) if width}
    assert shown == {"NONFINITE_START": 1}


def test_map_puts_values_into_the_mask_and_marks_failures(fits, tmp_path):
    mask = np.zeros((4, 5), bool)
    mask.ravel()[4:16] = True
    units = {name: "s" for name in START}
    figure = lmjax.plot.parameter_map(
        fits.params, mask, status=fits.status, units=units
    )
    figure = drawn(figure, tmp_path)
    for ax, name in zip(figure.axes[:2], START, strict=True):
        assert ax.get_title() == f"{name} (s)"
        image, failed = (image.get_array() for image in ax.images)
        good = np.delete(np.asarray(fits.params[name]), 3)
        np.testing.assert_array_equal(image.compressed(), good)
        assert not np.ma.getmaskarray(image)[mask].all()
        assert np.argwhere(~np.ma.getmaskarray(failed)).tolist() == [[1, 2]]
        low, high = ax.images[0].get_clim()
        np.testing.assert_allclose([low, high], np.percentile(good, [1, 99]))
    assert figure.legends


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            "x, y: expected one dimension",
            lambda f, b: lmjax.plot.fit(f, CURVES, CURVES),
        ),
        (
            ValueError,
            "fit: expected one, got a batch",
            lambda f, b: lmjax.plot.correlation(b),
        ),
        (
            TypeError,
            "fit: expected a CurveFit",
            lambda f, b: lmjax.plot.correlation(START),
        ),
        (
            ValueError,
            "sol: expected a step history",
            lambda f, b: lmjax.plot.convergence(f),
        ),
        (
            ValueError,
            "fits: expected a batch",
            lambda f, b: lmjax.plot.batch(f),
        ),
        (
            ValueError,
            "y: expected 12 curves",
            lambda f, b: lmjax.plot.batch(b, CURVES[:3]),
        ),
        (
            ValueError,
            "values: expected 6 fits",
            lambda f, b: lmjax.plot.parameter_map(b.params, (2, 3)),
        ),
        (
            ValueError,
            "names: expected 2, got 1",
            lambda f, b: lmjax.plot.parameter_map(b.params, (3, 4), ["a"]),
        ),
        (
            ValueError,
            "units: no parameter is called 'tau'; the names here are",
            lambda f, b: lmjax.plot.batch(b, units={"tau": "s"}),
        ),
        (
            ValueError,
            "units: no parameter is called 'tau'",
            lambda f, b: lmjax.plot.parameter_map(b.params, (3, 4), units={"tau": 1}),
        ),
        (
            TypeError,
            "where: expected booleans",
            lambda f, b: lmjax.plot.parameter_map(b.params, np.ones((3, 4))),
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_bad_request_is_refused(error, message, call, fit, fits):
    with pytest.raises(error, match=message):
        call(fit, fits)
