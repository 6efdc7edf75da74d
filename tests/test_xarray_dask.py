"""`lmjax.xarray.curvefit` of dask arrays, also on a cluster."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from maps import decay, image_of
from processes import run_python

import lmjax
import lmjax.xarray
from lmjax.xarray import _fits

curvefit = lmjax.xarray.curvefit


@pytest.fixture
def image(rng):
    return image_of(rng)


def test_result_is_lazy_and_the_same(image):
    straight = curvefit(image, "t", decay)
    lazy = curvefit(image.chunk(row=2, column=1), "t", decay)
    assert all(variable.chunks for variable in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.compute(), straight)


def test_lazy_starts_bounds_and_coordinates(image):
    rows = xr.DataArray([1.0, 3.0, 5.0], dims="row", coords={"row": image.row})
    own = image.t + rows / 10.0
    given = {"p0": {"n0": rows}, "bounds": {"tau": (0.1, 9.0 * rows)}}
    straight = curvefit(image, own, decay, reduce_dims="t", **given)
    lazy = curvefit(image.chunk(row=1), own, decay, reduce_dims="t", **given)
    xr.testing.assert_identical(lazy.compute(), straight)
    given = {"p0": {"n0": rows.chunk(row=1)}, "bounds": given["bounds"]}
    lazy = curvefit(image, own.chunk(row=1), decay, reduce_dims="t", **given)
    assert lazy.curvefit_coefficients.chunks
    xr.testing.assert_identical(lazy.compute(), straight)


def test_failure_is_raised_when_it_is_computed(image):
    image[1, 1, 0] = np.inf
    lazy = curvefit(image.chunk(row=1), "t", decay)
    with pytest.raises(lmjax.FitError, match="1 of 2 fits failed\n1 NONFINITE_START"):
        lazy.compute()


def test_points_of_a_fit_in_several_chunks_are_refused(image):
    with pytest.raises(ValueError, match="one chunk along 't'.*3 in curve; rechunk"):
        curvefit(image.rename("curve").chunk(t=5), "t", decay)


def test_blocks_of_all_sizes_share_one_program(image):
    traces = []

    def counted(t, n0, tau):
        traces.append(1)
        return decay(t, n0, tau)

    stack = xr.concat([image] * 100, "row")
    curvefit(stack.chunk(row=300), "t", counted).compute()
    of_one_block, traces[:] = len(traces), []
    curvefit(stack.chunk(row=70), "t", counted).compute(scheduler="threads")
    assert 0 < len(traces) <= of_one_block


def test_copies_in_a_process_are_one_object(image, monkeypatch):
    made = []
    init = _fits.Block.__init__
    keep = lambda self, *given: (made.append(self), init(self, *given))[1]
    monkeypatch.setattr(_fits.Block, "__init__", keep)
    curvefit(image[0, 0], "t", lambda t, a: a * jnp.exp(-t))
    first, second = (pickle.loads(pickle.dumps(made[0])) for _ in range(2))
    assert first is second


# Workers of dask import the script that starts them, so it is one.
CLUSTER = """
import os, signal, sys, time
from pathlib import Path
import jax.numpy as jnp
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster
import lmjax.xarray

folder = Path(sys.argv[1])

def decay(t, n0, tau):
    # a line per trace, in a file per process
    with open(folder / f"{os.getpid()}.traces", "a") as file:
        file.write(".\\n")
    return n0 * jnp.exp(-t / tau)

def main():
    rng = np.random.default_rng(1)
    t = xr.DataArray(np.linspace(0.0, 3.0, 30), dims="t")
    t = t.assign_coords(t=t)
    tau = xr.DataArray(0.5 + rng.random((150, 40)), dims=("row", "column"))
    noise = 0.01 * rng.standard_normal((150, 40, 30))
    data = 2.0 * np.exp(-t / tau).transpose("row", "column", "t") + noise
    straight = lmjax.xarray.curvefit(data, "t", decay)
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        lazy = lmjax.xarray.curvefit(data.chunk(row=4), "t", decay)
        future = client.compute(lazy)
        victim = next(iter(client.run(os.getpid).values()))
        while not (folder / f"{victim}.traces").exists():
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        same = future.result().identical(straight)
    print("identical", same)
    print("victim", victim, "client", os.getpid())

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_cluster_that_loses_a_worker(tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    printed = run_python(str(script), str(tmp_path)).split()
    assert printed[:2] == ["identical", "True"]
    victim, client = printed[3], printed[5]
    traces = {f.stem: len(f.read_text().split()) for f in tmp_path.glob("*.traces")}
    straight = traces.pop(client)
    assert victim in traces
    assert len(traces) >= 2
    assert max(traces.values()) <= straight
