"""Parameters of `lmjax.xarray.curvefit`: starts, bounds, names, models, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import xarray as xr
from maps import T, compared, decay, decay_numpy, image_of

import lmjax
import lmjax.xarray
from lmjax import models

curvefit = lmjax.xarray.curvefit


@pytest.fixture
def image(rng):
    return image_of(rng)


def test_starts_by_number_and_by_map(image):
    compared(image, "t", p0={"n0": 4.0, "tau": 2.0})
    rows = xr.DataArray([1.0, 3.0, 5.0], dims="row", coords={"row": image.row})
    compared(
        image, "t", p0={"n0": rows, "tau": xr.DataArray([0.5, 1.0], dims="column")}
    )


def wave(x, a, k):
    return a * jnp.sin(k * x)


def wave_numpy(x, a, k):
    return a * np.sin(k * x)


def test_starts_by_map_decide_between_minima(rng):
    x = np.linspace(0.0, 10.0, 60)
    rates = xr.DataArray([1.0, 3.0], dims="place")
    data = wave_numpy(xr.DataArray(x, dims="x", coords={"x": x}), 2.0, rates)
    data = data + 0.01 * rng.standard_normal(data.shape)
    fits = compared(data, "x", (wave, wave_numpy), p0={"k": 0.9 * rates})
    np.testing.assert_allclose(fits.curvefit_coefficients.sel(param="k"), rates, 1e-2)


def test_bounds_by_number_and_by_map(image):
    compared(image, "t", bounds={"tau": (0.0, 10.0)})
    # started between the bounds, not at 1, and not held by one
    upper = xr.DataArray([10.0, 20.0, 30.0], dims="row", coords={"row": image.row})
    compared(image, "t", bounds={"tau": (0.1, upper), "n0": (-np.inf, 50.0)})


def test_bound_holds_where_it_is_in_the_way(image):
    upper = xr.DataArray([0.5, np.inf], dims="column")
    ours = curvefit(image, "t", decay, bounds={"tau": (0.1, upper), "n0": (None, 9.0)})
    theirs = image.curvefit("t", decay_numpy, bounds={"tau": (0.1, upper)})
    np.testing.assert_allclose(
        ours.curvefit_coefficients, theirs.curvefit_coefficients, rtol=1e-4
    )
    at_bound = ours.isel(column=0).sel(param="tau")
    np.testing.assert_allclose(at_bound.curvefit_coefficients, 0.5)
    assert np.isnan(at_bound.curvefit_stderr).all()
    assert (ours.curvefit_covariance.isel(column=0).sel(cov_i="tau") == 0.0).all()


def test_default_outside_the_bounds_starts_inside(image):
    # the default is 1; xarray moves it to the middle, or to one above the bound
    slower = image.assign_coords(t=10.0 * T)
    for upper in (400.0, np.inf):
        bounds = {"n0": (-np.inf, 20.0), "tau": (2.0, upper)}
        fits = compared(slower, "t", bounds=bounds)
        assert (fits.curvefit_coefficients.sel(param="tau") > 2.0).all()


def test_names_of_parameters(image):
    names = ["height", "time"]
    fits = compared(image, "t", param_names=names, p0={"time": 0.8})
    assert fits.param.values.tolist() == names
    many = lambda t, *p: decay(t, *p), lambda t, *p: decay_numpy(t, *p)
    compared(image, "t", many, param_names=names)


def test_arguments_that_are_no_parameters(image):
    # tau keeps its default
    fits = compared(image, "t", param_names=["n0"])
    bound = curvefit(image, "t", functools.partial(decay, tau=1.0))
    assert bound.param.values.tolist() == ["n0"]
    xr.testing.assert_allclose(bound, fits)


def test_fixed_parameter(image):
    tau = xr.DataArray([0.7, 1.4], dims="column")
    fits = curvefit(image, "t", decay, p0={"tau": tau}, fixed={"tau": True})
    coefficients = fits.curvefit_coefficients
    assert (coefficients.sel(param="tau") == tau).all()
    assert np.isnan(fits.curvefit_stderr.sel(param="tau")).all()
    # what is left is a straight line through zero
    shape = np.exp(-image.t / tau)
    exact = (image * shape).sum("t") / (shape**2).sum("t")
    np.testing.assert_allclose(coefficients.sel(param="n0"), exact, rtol=1e-9)


def test_class_of_a_model_guesses_at_every_place(image):
    data = image * xr.DataArray([1.0, -1e3, 1e6], dims="row")
    fits = curvefit(data, "t", models.Exponential)
    np.testing.assert_allclose(
        fits.curvefit_coefficients.sel(param="rate"),
        [[1 / 0.7, 1 / 1.4]] * 3,
        rtol=0.05,
    )
    bounds = {"offset": (0.0, 0.0)}
    held = curvefit(image, "t", models.Exponential, bounds=bounds, p0={"rate": 1.0})
    function = curvefit(image, "t", decay)
    np.testing.assert_allclose(
        1.0 / held.curvefit_coefficients.sel(param="rate"),
        function.curvefit_coefficients.sel(param="tau"),
        rtol=1e-5,
    )


def test_model_with_its_own_start(image):
    model = models.Exponential(3.0, 1.0, 0.0) + models.Polynomial([0.0, 0.0])
    fixed = {"parts.exponential.offset": True}
    fits = curvefit(image, "t", model, fixed=fixed)
    assert fits.param.values.tolist() == [
        "parts.exponential.amplitude",
        "parts.exponential.rate",
        "parts.exponential.offset",
        "parts.polynomial.coefficients[0]",
        "parts.polynomial.coefficients[1]",
    ]
    assert (fits.curvefit_status > 0).all()
    start = models.Exponential(3.0, 1.0, 0.0)
    alone = lmjax.curve_fit(start, T, image.values[1, 1])
    fits = curvefit(image[1, 1], "t", start)
    np.testing.assert_allclose(
        fits.curvefit_coefficients, jax.tree.leaves(alone.params), rtol=1e-7
    )


def test_model_of_two_coordinates_guesses():
    x, y = np.arange(9.0), np.arange(8.0)
    pixels = (
        xr.DataArray(x, dims="x", coords={"x": x}),
        xr.DataArray(y, dims="y", coords={"y": y}),
    )
    centre = xr.DataArray([3.0, 4.2], dims="spot")
    image = 5.0 * np.exp(-((pixels[0] - centre) ** 2 + (pixels[1] - 3.5) ** 2) / 4.0)
    fits = curvefit(image, ["x", "y"], models.Gaussian2D)
    np.testing.assert_allclose(
        fits.curvefit_coefficients.sel(param="centre_x"), centre, atol=1e-6
    )


@pytest.mark.parametrize("sigma", ["number", "place", "point", "both"])
def test_sigma(image, sigma):
    given = {
        "number": 0.5,
        "place": xr.DataArray([0.5, 2.0], dims="column"),
        "point": 0.1 + image.t,
        "both": 0.1 + abs(image),
    }[sigma]
    fits = curvefit(image, "t", decay, sigma=given, absolute_sigma=True)
    whole = xr.zeros_like(image) + given
    for place in ({"row": 0, "column": 1}, {"row": 2, "column": 0}):
        y, s = image.isel(place).values, whole.isel(place).values
        alone = scipy.optimize.curve_fit(
            decay_numpy, T, y, sigma=s, absolute_sigma=True
        )
        np.testing.assert_allclose(
            fits.curvefit_covariance.isel(place), alone[1], rtol=1e-4
        )


def test_likelihood_loss_and_solver(image, rng):
    counts = rng.poisson(20.0 * image.clip(0.0)).astype(float)
    counts = image.copy(data=counts)
    fits = curvefit(counts, "t", decay, likelihood="poisson", p0={"n0": 20.0})
    start = {"n0": 20.0, "tau": 1.0}
    model = lambda p, t: decay(t, p["n0"], p["tau"])
    alone = lmjax.curve_fit(model, T, counts.values[2, 1], start, likelihood="poisson")
    place = fits.isel(row=2, column=1)
    np.testing.assert_allclose(place.curvefit_stderr[0], alone.stderr["n0"], rtol=1e-5)

    image[..., 4] += 3.0
    robust = curvefit(image, "t", decay, loss="cauchy", loss_scale=0.02)
    plain = curvefit(image, "t", decay)
    off = lambda fits: abs(fits.curvefit_coefficients.sel(param="tau") - [0.7, 1.4])
    assert (off(robust) < 0.2 * off(plain)).all()

    few = lmjax.LevenbergMarquardt(max_steps=1)
    fits = curvefit(image, "t", decay, solver=few, errors="ignore")
    assert (fits.curvefit_status == lmjax.Status.MAX_STEPS).all()
    assert np.isnan(fits.curvefit_coefficients).all()


@pytest.mark.parametrize("x64", [False, True])
def test_dtype(image, x64):
    with jax.enable_x64(x64):
        double = curvefit(image, "t", decay)
        single = curvefit(image.astype("f4"), "t", decay)
        asked = curvefit(image, "t", decay, dtype="float32")
        counts = curvefit((1e6 * image).astype(int), "t", decay, p0={"n0": 1e6})
    assert double.curvefit_coefficients.dtype == np.float64
    assert counts.curvefit_covariance.dtype == np.float64
    assert single.curvefit_stderr.dtype == asked.curvefit_cost.dtype == np.float32
    theirs = image.curvefit("t", decay_numpy).curvefit_coefficients
    np.testing.assert_allclose(double.curvefit_coefficients, theirs, rtol=2e-5)
    np.testing.assert_allclose(asked.curvefit_coefficients, theirs, rtol=2e-4)


FACTOR = 1.0


def scaled(t, n0, tau):
    return FACTOR * decay(t, n0, tau)


def test_a_global_that_changed_counts(image, monkeypatch):
    before = curvefit(image, "t", scaled).curvefit_coefficients.sel(param="n0")
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    after = curvefit(image, "t", scaled).curvefit_coefficients.sel(param="n0")
    np.testing.assert_allclose(before, 2.0 * after, rtol=1e-5)
