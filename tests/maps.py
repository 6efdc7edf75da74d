"""Decays on a small map, and the comparison with xarray's own curvefit."""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import lmjax.xarray

T = np.linspace(0.0, 4.0, 15)


def decay(t, n0, tau=1.0):
    return n0 * jnp.exp(-t / tau)


def decay_numpy(t, n0, tau=1.0):
    return n0 * np.exp(-t / tau)


def plane(xy, a, b, c):
    x, y = xy
    return a * jnp.sin(b * x) + c * y


def plane_numpy(xy, a, b, c):
    x, y = xy
    return a * np.sin(b * x) + c * y


def image_of(rng):
    """Return decays with noise on a map of 3 x 2 places."""
    n0 = xr.DataArray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dims=("row", "column"))
    tau = xr.DataArray([0.7, 1.4], dims="column")
    t = xr.DataArray(T, dims="t", coords={"t": T})
    data = decay_numpy(t, n0, tau).transpose("row", "column", "t")
    data = data + 0.01 * rng.standard_normal(data.shape)
    return data.assign_coords(row=[10, 20, 30], place=("column", ["left", "right"]))


def agree(ours, theirs, rtol=2e-5):
    """Compare coefficients and covariances, in the order of dimensions of xarray's."""
    for name in theirs.data_vars:
        other = ours[name]
        assert other.dims == theirs[name].dims
        assert set(other.coords) == set(theirs[name].coords)
        for label, coord in theirs[name].coords.items():
            assert coord.equals(other.coords[label])
        scale = np.nanmax(np.abs(theirs[name].values))
        np.testing.assert_allclose(other, theirs[name], rtol=rtol, atol=1e-6 * scale)


BOTH = decay, decay_numpy


def compared(data, coords, pair=BOTH, **given):
    """Return our fit, after the comparison with xarray's."""
    ours = lmjax.xarray.curvefit(data, coords, pair[0], **given)
    agree(ours, data.curvefit(coords, pair[1], **given))
    return ours
