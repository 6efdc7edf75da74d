"""`lmjax.xarray.curvefit` next to xarray's own, which calls SciPy at every place."""

import numpy as np
import pytest
import xarray as xr
from maps import T, compared, decay, decay_numpy, image_of, plane, plane_numpy

import lmjax
import lmjax.xarray


@pytest.fixture
def image(rng):
    return image_of(rng)


def test_one_curve(image):
    fits = compared(image[0, 0], "t")
    assert fits.curvefit_status.ndim == 0
    assert lmjax.Status(fits.curvefit_status.item()).success


@pytest.mark.parametrize("order", [("t", "row", "column"), ("row", "t", "column")])
def test_map_in_any_order_of_dimensions(image, order):
    fits = compared(image.transpose(*order), "t")
    straight = lmjax.xarray.curvefit(image, "t", decay)
    xr.testing.assert_allclose(fits.transpose(*straight.dims), straight)


def test_errors_cost_and_steps(image):
    fits = lmjax.xarray.curvefit(image, ["t"], decay)
    fitted = decay_numpy(
        image.t,
        *(fits.curvefit_coefficients.sel(param=p) for p in ("n0", "tau")),
    )
    cost = 0.5 * ((image - fitted) ** 2).sum("t")
    np.testing.assert_allclose(fits.curvefit_cost, cost, rtol=1e-10)
    variance = np.diagonal(fits.curvefit_covariance, axis1=-2, axis2=-1)
    np.testing.assert_allclose(fits.curvefit_stderr**2, variance, rtol=1e-12)
    assert (fits.curvefit_num_steps > 0).all()
    meanings = fits.curvefit_status.attrs["flag_meanings"].split()
    values = fits.curvefit_status.attrs["flag_values"]
    named = {lmjax.Status(int(value)).name for value in values}
    assert named == set(meanings)


def test_missing_points_are_skipped(image):
    image[0, 0, 3] = image[1, 1, :5] = np.nan
    compared(image, "t")


@pytest.mark.parametrize("errors", ["raise", "ignore"])
def test_place_without_data_is_nan(image, errors):
    image[2, 0] = np.nan
    fits = compared(image, "t", errors=errors)
    assert np.isnan(fits.curvefit_stderr[2, 0]).all()
    assert np.isfinite(fits.curvefit_stderr).sum() == 10
    assert fits.curvefit_status[2, 0] == lmjax.Status.SINGULAR


def test_missing_points_fail_if_they_count(image):
    image[0, 0, 3] = np.nan
    with pytest.raises(lmjax.FitError, match="1 of 6 fits failed\n1 NONFINITE_START"):
        lmjax.xarray.curvefit(image, "t", decay, skipna=False)
    fits = lmjax.xarray.curvefit(image, "t", decay, skipna=False, errors="ignore")
    assert fits.curvefit_status[0, 0] == lmjax.Status.NONFINITE_START
    assert np.isnan(fits.curvefit_coefficients[0, 0]).all()
    assert np.isfinite(fits.curvefit_coefficients).sum() == 10


def test_several_coordinates(rng):
    x, y = np.linspace(0.0, 2.0, 9), np.linspace(-1.0, 1.0, 7)
    grid = xr.DataArray(np.zeros((9, 7, 4)), dims=("x", "y", "t"))
    grid = grid.assign_coords(x=x, y=y)
    values = plane_numpy(
        (grid.x, grid.y), xr.DataArray([1.0, 2.0, 3.0, 4.0], dims="t"), 1.3, 0.5
    )
    data = grid + values + 0.01 * rng.standard_normal(grid.shape)
    pair = plane, plane_numpy
    fits = compared(data, ["x", "y"], pair)
    swapped = compared(data.transpose("t", "y", "x"), ("x", "y"), pair)
    xr.testing.assert_allclose(fits, swapped)


def test_coordinate_given_as_an_array(image):
    compared(image, [image.t])
    minutes = image.t.copy(data=T / 60.0)
    compared(image, minutes, reduce_dims="t", p0={"tau": 0.01})


def test_coordinate_that_varies_over_the_map(image):
    own = image.t + xr.DataArray([0.0, 0.3, 0.6], dims="row", coords={"row": image.row})
    compared(image, own, reduce_dims="t")


def test_reduced_dimensions_go_into_one_fit(image):
    fits = compared(image, "t", reduce_dims="row")
    assert fits.curvefit_coefficients.dims == ("column", "param")
    compared(image, "t", reduce_dims=["row", "column"])


def test_dataset(image):
    data = xr.Dataset({"first": image, "second": 2.0 * image}, attrs={"of": "all"})
    fits = compared(data, "t")
    assert fits.attrs == {"of": "all"}
    assert "second_curvefit_stderr" in fits
    assert "first_curvefit_status" in fits


def test_attributes_of_an_array_are_kept(image):
    image.attrs["camera"] = 3
    assert lmjax.xarray.curvefit(image, "t", decay).attrs == {"camera": 3}
