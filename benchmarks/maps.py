"""What `lmjax.xarray.curvefit` costs beside `lmjax.fit_batch`, also on a cluster.

``python -m benchmarks.maps`` fits stacks of decays in memory both ways, by turns, and
then a million curves in a Zarr store: by `fit_batch` in this process, and by two worker
processes of dask. Both write their results into another store.
"""

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
import zarr
from distributed import Client, LocalCluster

import lmjax
import lmjax.xarray
from benchmarks._report import save

POINTS = 40
T = np.linspace(0.0, 3.0, POINTS)
# Rows and columns of the maps in memory, and how often each is fitted.
STACKS = {64: 60, 512: 9}
STORE_ROWS, STORE_COLUMNS, ROWS_PER_CHUNK = 1000, 1000, 50
STORE_RUNS = 5
WORKERS = 2


def decay(t, amplitude, rate):
    """Return a decay, as xarray wants it."""
    return amplitude * jnp.exp(-rate * t)


def fit_one(y):
    """Return what `curvefit` returns of one curve."""
    model = lambda p, t: decay(t, *p)
    fit = lmjax.curve_fit(model, T, y, jnp.ones(2), nan_policy="omit")
    errors = fit.covariance, fit.stderr
    return fit.params, *errors, fit.status, fit.cost, fit.num_steps


def stack(rows, columns, rng):
    """Return decays with noise on a map."""
    amplitude = 1.0 + rng.random((rows, columns, 1))
    rate = 0.5 + rng.random((rows, columns, 1))
    noise = 0.01 * rng.standard_normal((rows, columns, POINTS))
    values = amplitude * np.exp(-rate * T) + noise
    return xr.DataArray(values, dims=("y", "x", "t"), coords={"t": T}, name="decay")


def seconds(work):
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(first, second, runs):
    """Return times of two calls that take turns, after one call of each."""
    seconds(first), seconds(second)
    pairs = [(seconds(first), seconds(second)) for _ in range(runs)]
    return [list(column) for column in zip(*pairs, strict=True)]


def row(ours, batch):
    """Return the times of both, and what `curvefit` costs beside `fit_batch`."""
    return {
        "runs": len(ours),
        "curvefit_s": {"fastest": min(ours), "median": median(ours)},
        "fit_batch_s": {"fastest": min(batch), "median": median(batch)},
        "ratio_of_fastest": round(min(ours) / min(batch), 3),
        "ratio_of_medians": round(median(ours) / median(batch), 3),
    }


def in_memory(rng):
    """Yield a result per stack."""
    for side, runs in STACKS.items():
        data = stack(side, side, rng)
        rows = data.values.reshape(-1, POINTS)
        times = compare(
            lambda data=data: lmjax.xarray.curvefit(data, "t", decay),
            lambda rows=rows: lmjax.fit_batch(fit_one, rows),
            runs,
        )
        yield {"shape": [side, side, POINTS], **row(*times)}


def peak_mb(client):
    """Return the largest memory that any worker has had."""
    return round(max(client.run(own_peak_mb).values()))


def own_peak_mb():
    """Return the largest memory that this process has had, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 1024


def on_workers(folder, rng):
    """Return the times of a Zarr store, and the memory of the workers."""
    store, out = folder / "data.zarr", folder / "fits.zarr"
    chunk = (ROWS_PER_CHUNK, STORE_COLUMNS, POINTS)
    data = stack(STORE_ROWS, STORE_COLUMNS, rng)
    data.to_zarr(store, encoding={"decay": {"chunks": chunk}}, consolidated=False)
    flat = zarr.create_array(
        folder / "rows.zarr",
        data=data.values.reshape(-1, POINTS),
        chunks=(ROWS_PER_CHUNK * STORE_COLUMNS, POINTS),
    )
    del data

    def in_process():
        for i, leaf in enumerate(lmjax.fit_batch(fit_one, flat)):
            path = folder / "batch.zarr" / str(i)
            chunks = (flat.chunks[0], *leaf.shape[1:])
            zarr.create_array(path, data=leaf, chunks=chunks, overwrite=True)

    def on_cluster(rows=STORE_ROWS):
        curves = xr.open_zarr(store, consolidated=False).decay[:rows]
        fits = lmjax.xarray.curvefit(curves, "t", decay)
        fits.to_zarr(out, mode="w", consolidated=False)

    settings = {"threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(n_workers=WORKERS, **settings) as cluster, Client(cluster) as own:
        on_cluster(STORE_ROWS // 10)
        early = peak_mb(own)
        times = compare(on_cluster, in_process, STORE_RUNS)
        late = peak_mb(own)
    return {
        "curves": STORE_ROWS * STORE_COLUMNS,
        "workers": WORKERS,
        "data_mb": round(8 * STORE_ROWS * STORE_COLUMNS * POINTS / 2**20),
        "peak_mb_after_a_tenth": early,
        "peak_mb_after_all": late,
        **row(*times),
    }


def main():
    """Measure, print and save."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    results = {"in_memory": list(in_memory(rng))}
    folder = Path(tempfile.mkdtemp())
    try:
        results["store"] = on_workers(folder, rng)
    finally:
        shutil.rmtree(folder)
    print(save("maps", results).read_text())


if __name__ == "__main__":
    main()
