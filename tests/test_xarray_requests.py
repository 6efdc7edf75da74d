"""What `lmjax.xarray.curvefit` refuses, and what it says."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from maps import T, decay, decay_numpy

import lmjax.xarray
from lmjax import models


@pytest.fixture
def image():
    t = xr.DataArray(T, dims="t", coords={"t": T})
    n0 = xr.DataArray([1.0, 2.0], dims="row", coords={"row": [10, 20]})
    return decay_numpy(t, n0, 1.5).transpose("row", "t").assign_coords(wall=2.0)


def along(dim, *values, **coords):
    return xr.DataArray(list(values), dims=dim, coords=coords)


REQUESTS = {
    "unknown coordinate": (
        {"coords": "time"},
        "coords: expected a DataArray or one of row, t, wall, got 'time'",
    ),
    "no coordinate": ({"coords": []}, "coords: expected at least one coordinate"),
    "coordinate that is no dimension": (
        {"coords": "wall"},
        "coords: expected a coordinate that is a dimension of the data, row, t; got "
        "wall",
    ),
    "coordinate along something else": (
        {"coords": ["t", along("z", 1.0, 2.0)]},
        "coords has unexpected dimensions z; expected some of row, t",
    ),
    "unknown dimension": (
        {"reduce_dims": "z"},
        "reduce_dims: expected some of row, t, got 'z'",
    ),
    "start of an unknown parameter": (
        {"p0": {"rate": 1.0}},
        "p0: expected names among n0, tau; got 'rate'",
    ),
    "starts without names": (
        {"p0": [1.0, 2.0]},
        r"p0: expected a dict from names of parameters \(n0, tau\), got",
    ),
    "start along an unknown dimension": (
        {"p0": {"n0": along("z", 1.0, 2.0)}},
        "initial guess for 'n0' has unexpected dimensions z; expected some of row",
    ),
    "start along the dimension of a fit": (
        {"p0": {"n0": along("t", *T)}},
        "initial guess for 'n0' has unexpected dimensions t; expected some of row",
    ),
    "start that is a list": (
        {"p0": {"n0": [1.0, 2.0]}},
        "initial guess for 'n0': expected a number or a DataArray",
    ),
    "start that is a word": ({"p0": {"n0": "one"}}, "expected a number or a DataArray"),
    "start with other coordinates": (
        {"p0": {"n0": along("row", 1.0, 2.0, row=[1, 2])}},
        "cannot align",
    ),
    "bound along an unknown dimension": (
        {"bounds": {"n0": (0.0, along("z", 1.0, 2.0))}},
        "upper bound for 'n0' has unexpected dimensions z; expected some of row",
    ),
    "bounds that do not broadcast": (
        {"bounds": {"n0": (along("row", 0.0, 0.0, 0.0), 1.0)}},
        "cannot (align|reindex)",
    ),
    "bound alone": (
        {"bounds": {"n0": 0.0}},
        r"expected a pair \(lower, upper\)",
    ),
    "bounds of all at once": (
        {"bounds": (0.0, 1.0)},
        "bounds: expected a dict from names of parameters",
    ),
    "bounds that cross": (
        {"bounds": {"n0": (2.0, 1.0)}},
        "bounds: expected lower <= upper for 'n0', got 2, 1",
    ),
    "fixed by value": (
        {"fixed": {"n0": 2.0}},
        "expected True or False for 'n0'",
    ),
    "too few names": (
        {"param_names": ["n0"], "model": lambda t, n0, tau: decay(t, n0, tau)},
        "param_names: expected 2 names, one for each of n0, tau, got",
    ),
    "names twice": ({"param_names": ["a", "a"]}, "expected distinct names in a list"),
    "names in one string": ({"param_names": "ab"}, "expected distinct names in a list"),
    "names unknown": (
        {"model": lambda t, *p: p[0] * t},
        "param_names: expected the names of the parameters, because the arguments",
    ),
    "names of a model": (
        {"model": models.Exponential(1.0, 1.0, 0.0), "param_names": ["a", "b"]},
        "param_names: expected 3 names, one for each of amplitude, rate, offset",
    ),
    "no model": ({"model": 3.0}, r"model: expected a function f\(x, a, b\) or a model"),
    "model in NumPy": ({"model": decay_numpy}, "write the function in jax.numpy"),
    "model of another shape": (
        {"model": lambda t, a: a * jnp.ones(3)},
        "model: expected what y holds",
    ),
    "class without a guess": (
        {"model": models.Product},
        r"model: expected a class with guess\(x, y\), got Product",
    ),
    "wrong choice": ({"errors": "warn"}, "errors: expected one of raise, ignore"),
    "skipna as a word": ({"skipna": "no"}, "skipna: expected True or False"),
    "sigma along an unknown dimension": (
        {"sigma": along("z", 1.0, 2.0)},
        "sigma has unexpected dimensions z",
    ),
    "dtype": ({"dtype": "int32"}, "dtype: expected float32 or float64, got 'int32'"),
    "unknown loss": ({"loss": "hubert"}, "loss: expected one of"),
    "a name of the result": (
        {"obj": along("t", *T, t=T, param=1.0)},
        "obj: expected no dimension or coordinate called 'param', .*rename it",
    ),
    "no data": ({"obj": np.ones(3)}, "obj: expected a Dataset or a DataArray"),
    "empty Dataset": ({"obj": xr.Dataset(coords={"t": T})}, "expected a Dataset with"),
    "data in words": (
        {"obj": along("t", *"abc", t=[1.0, 2.0, 3.0])},
        "obj: expected real numbers, got <U1",
    ),
    "complex data": (
        {"obj": along("t", 1j, 2.0, t=[1.0, 2.0])},
        "obj: expected real numbers, got complex128",
    ),
    "times": (
        {"obj": along("t", 1.0, 2.0, t=np.array([0, 1], "datetime64[ns]"))},
        "coords: t: expected real numbers, got datetime64.*convert times first",
    ),
    "variable without the dimension": (
        {"obj": xr.Dataset({"a": ("t", T), "b": ("row", [1.0])}, {"t": T})},
        "obj: expected data along t, got 'b' with dimensions row; leave it out",
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_bad_request_is_named(image, case):
    changes, message = REQUESTS[case]
    request = {"obj": image, "coords": "t", "model": decay, **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        lmjax.xarray.curvefit(**request)


def test_map_without_places(image):
    fits = lmjax.xarray.curvefit(image[:0], "t", decay)
    assert fits.curvefit_covariance.shape == (0, 2, 2)
