"""Where in an image is decay slow, and how sure is each pixel?

A series of images is a labelled array. `lmjax.xarray.curvefit` fits every pixel and
keeps the labels. Data in chunks (dask, Zarr, NetCDF) are fitted when they are computed,
on one machine or on a cluster.

Expect the Dataset of results, 90 ms in the centre and 40 ms at the rim, and the same
map from chunks.
"""

import argparse

import jax.numpy as jnp
import numpy as np
import xarray as xr

import lmjax.xarray


def simulate():
    """Return images at twelve echo times, some pixels of them saturated."""
    rng = np.random.default_rng(0)
    t = xr.DataArray(np.linspace(5.0, 120.0, 12), dims="echo", name="echo")
    y, x = (xr.DataArray(np.linspace(-1, 1, 64), dims=dim, name=dim) for dim in "yx")
    slow = x**2 + y**2 < 0.3
    t2 = xr.where(slow, 90.0, 40.0)
    images = 100.0 * np.exp(-t / t2)
    images = images + rng.normal(size=images.shape)
    images = images.assign_coords(echo=t.values, y=y.values, x=x.values)
    return images.where((images < 90.0) | (images.x < 0.9)).rename("signal")


def decay(t, amplitude, t2):
    """Return the signal at echo time t, in ms."""
    return amplitude * jnp.exp(-t / t2)


def main():
    """Fit the map, in memory and in chunks, and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", help="save a picture of the map here")
    target = parser.parse_args().plot
    images = simulate()
    start, bounds = {"amplitude": 80.0, "t2": 50.0}, {"t2": (1.0, 500.0)}
    fits = lmjax.xarray.curvefit(images, "echo", decay, p0=start, bounds=bounds)
    print(fits)

    t2 = fits.curvefit_coefficients.sel(param="t2")
    error = fits.curvefit_stderr.sel(param="t2")
    centre = t2.sel(x=0.0, y=0.0, method="nearest")
    print(f"T2 in the centre {centre.item():.1f} ms, at the rim {t2[0, 0].item():.1f}")
    print(f"median error {error.median().item():.2f} ms")
    print("converged:", int((fits.curvefit_status > 0).sum()), "of", t2.size)

    chunks = images.chunk(y=16)
    lazy = lmjax.xarray.curvefit(chunks, "echo", decay, p0=start, bounds=bounds)
    print("the same in chunks:", lazy.compute().identical(fits))
    if target:
        t2.plot(size=4).get_figure().savefig(target)


if __name__ == "__main__":
    main()
