"""Chunks, devices, checkpoints: the results of one vmap, and nothing is lost."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import lmjax

ROOT = Path(__file__).parents[1]
T = np.linspace(0.0, 4.0, 16)


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t)


def fit_one(y):
    fit = lmjax.curve_fit(decay, T, y, {"a": 1.0, "k": 1.0})
    known = {"k": fit.params["k"], "error": fit.stderr["k"], "status": fit.status}
    return known | {"engine": fit.engine}


def make(count):
    rng = np.random.default_rng(0)
    a, k = rng.uniform(0.5, 2.0, (2, count, 1))
    return a * np.exp(-k * T) + 0.01 * rng.normal(size=(count, T.size))


@pytest.fixture(scope="module")
def curves():
    return make(640)


@pytest.fixture(scope="module")
def whole(curves):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(fit_one))(curves))


def assert_same(got, expected):
    """Compare fits to the last bit, and errors, which come after the fits.

    Those are worked out in loops as long as the batch, whose last elements take another
    instruction than the others.
    """
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        if name == "error":
            np.testing.assert_allclose(got[name], array, rtol=1e-12)
        else:
            np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("chunk_size", [64, 192, 640, None])
def test_chunks_equal_the_whole_to_the_last_bit(curves, whole, chunk_size):
    assert_same(lmjax.fit_batch(fit_one, curves, chunk_size=chunk_size), whole)


def test_a_number_of_fits_that_no_chunk_divides(curves, whole):
    got = lmjax.fit_batch(fit_one, curves[:601], chunk_size=100)
    assert_same(got, jax.tree.map(lambda x: x[:601], whole))


def test_a_memory_map_is_read_chunk_by_chunk(curves, whole, tmp_path):
    path = tmp_path / "curves.dat"
    curves.tofile(path)
    mapped = np.memmap(path, curves.dtype, "r", shape=curves.shape)
    assert_same(lmjax.fit_batch(fit_one, mapped, chunk_size=128), whole)


class Store:
    """What h5py and zarr offer: a shape, a dtype, slices."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.most = (
            array,
            array.shape,
            array.dtype,
            0,
        )

    def __getitem__(self, rows):
        part = self.array[rows]
        self.most = max(self.most, len(part))
        return part


def test_anything_that_slices_will_do_and_only_chunks_are_read(curves, whole):
    store = Store(curves)
    assert_same(lmjax.fit_batch(fit_one, store, chunk_size=128), whole)
    assert store.most == 128


def test_integer_frames_reach_the_fit_as_they_are():
    frames = np.random.default_rng(0).integers(0, 200, (70, T.size)).astype(np.uint16)
    seen = []

    def fit(frame):
        seen.append(frame.dtype)
        return lmjax.curve_fit(
            lambda p, t: p + 0.0 * t, T, frame.astype(float), jnp.array(1.0)
        ).params

    np.testing.assert_allclose(lmjax.fit_batch(fit, frames), frames.mean(1), rtol=1e-9)
    assert set(seen) == {np.dtype("uint16")}


@pytest.mark.parametrize("wide", [True, False])
def test_the_context_of_precision_holds_in_every_thread(wide):
    data = np.arange(200.0).reshape(100, 2)
    with jax.enable_x64(wide):
        got = lmjax.fit_batch(lambda row: row.sum(), data, chunk_size=64)
    assert got.dtype == (np.float64 if wide else np.float32)


def test_a_second_call_compiles_nothing(curves):
    traces = []

    def fit(y):
        traces.append(1)
        return fit_one(y)

    lmjax.fit_batch(fit, curves[:64])
    first = len(traces)
    lmjax.fit_batch(fit, curves[64:128])
    assert len(traces) == first


class Probe:
    """Fits with an attribute that somebody changes."""

    delay = 0.0

    def __init__(self):
        self.delay = 0.0

    def model(self, p, t):
        return p * jnp.exp(-(t - self.delay))

    def fit(self, y):
        return lmjax.curve_fit(self.model, T, y, 1.0).params


@pytest.mark.parametrize("kept", [False, True])
def test_an_attribute_that_changed_is_seen(kept, tmp_path):
    probe, t = Probe(), np.asarray(T)
    rows = np.exp(-t) * np.ones((64, 1), np.float32)
    for i, delay in enumerate((0.0, 0.5)):
        probe.delay = delay
        folder = tmp_path / str(i) if kept else None
        found = lmjax.fit_batch(probe.fit, rows, checkpoint=folder)
        np.testing.assert_allclose(found, np.exp(-delay), rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros((0, 3)), {}, "at least one row"),
        ((np.zeros((3, 2)), np.zeros((4, 2))), {}, "same number of rows"),
        (3.0, {}, "one row per fit"),
        (np.float64(3.0), {}, "one row per fit"),
        (np.zeros((3, 2)), {"chunk_size": 0}, "chunk_size"),
        (
            np.zeros((3, 2)),
            {"mesh": jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))},
            "mesh",
        ),
    ],
)
def test_bad_requests_name_the_argument(data, options, message):
    with pytest.raises(ValueError, match=message):
        lmjax.fit_batch(fit_one, data, **options)


def test_progress_counts_every_fit(curves, capfd):
    lmjax.fit_batch(fit_one, curves[:128], chunk_size=64, progress=True)
    assert "128/128" in capfd.readouterr().err


SCRIPT = """
import os, sys
import numpy as np, jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, {root!r})
sys.path.insert(0, {root!r} + "/tests")
{before}
import lmjax
from test_fit_batch import fit_one, make
options = {{"chunk_size": 128, "checkpoint": {folder!r}}}
out = lmjax.fit_batch(fit_one, make(640), **options)
again = lmjax.fit_batch(fit_one, make(640), **options)
assert all((out[name] == again[name]).all() for name in out)
np.savez({path!r}, **out)
"""


def script(path, before=""):
    folder = str(path.parent / "job")  # all processes share it
    code = SCRIPT.format(root=str(ROOT), before=before, path=str(path), folder=folder)
    return [sys.executable, "-c", code]


def assert_saved(path, whole):
    with np.load(path) as saved:
        assert_same({name: saved[name] for name in saved.files}, whole)


def test_two_devices_equal_one_to_the_last_bit(whole, tmp_path):
    flags = "--xla_force_host_platform_device_count=2"
    path = tmp_path / "two.npz"
    before = "assert len(jax.devices()) == 2"
    env = os.environ | {"XLA_FLAGS": flags}
    subprocess.run(script(path, before), env=env, check=True, timeout=300)
    assert_saved(path, whole)


def test_two_processes_share_the_work(whole, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(2):
        before = (
            f"jax.distributed.initialize('127.0.0.1:{port}', 2, {rank})\n"
            "assert jax.process_count() == 2"
        )
        command = script(tmp_path / f"rank{rank}.npz", before)
        running.append(subprocess.Popen(command))
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    for rank in range(2):
        assert_saved(tmp_path / f"rank{rank}.npz", whole)


def test_pad_ragged_then_mask_equals_each_curve_alone():
    curves = [row[:count] for row, count in zip(make(3), (16, 9, 12), strict=True)]
    y, mask = lmjax.pad_ragged(curves, fill=np.nan)

    def fit(y, t, mask=None):
        fit = lmjax.curve_fit(decay, t, y, {"a": 1.0, "k": 1.0}, mask=mask)
        return fit.params["k"], fit.stderr["k"], fit.num_points

    got = quick.jit(jax.vmap(fit, in_axes=(0, None, 0)))(y, T, mask)
    for row, curve in enumerate(curves):
        k, error, _ = quick.jit(fit)(curve, T[: len(curve)])
        assert got[2][row] == len(curve)
        np.testing.assert_allclose(got[0][row], k, rtol=1e-7)
        np.testing.assert_allclose(got[1][row], error, rtol=1e-6)


def test_padding_repeats_the_last_value_or_one_of_choice():
    curves = [[1.0, 2.0, 3.0], [4.0, 5.0], []]
    padded, mask = lmjax.pad_ragged(curves)
    np.testing.assert_array_equal(padded, [[1, 2, 3], [4, 5, 5], [0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(axis=1), [3, 2, 0])
    padded, _ = lmjax.pad_ragged(curves, fill=-1.0)
    np.testing.assert_array_equal(padded[1], [4, 5, -1])


@pytest.mark.parametrize("curves", [[1.0, 2.0], [np.ones((2, 2)), np.ones((3, 1))]])
def test_curves_of_other_shapes_are_named(curves):
    with pytest.raises(ValueError, match="curves: .*first axis only.*shapes"):
        lmjax.pad_ragged(curves)


def test_pad_ragged_needs_a_curve():
    with pytest.raises(ValueError, match="at least one curve"):
        lmjax.pad_ragged([])


def whole_fit(y, **options):
    solver = lmjax.LevenbergMarquardt(**options)
    return lmjax.curve_fit(decay, T, y, {"a": 1.0, "k": 1.0}, solver=solver)


def test_rescue_reruns_only_what_failed(curves):
    y = curves[:64].copy()
    y[5] = np.nan
    fits = jax.vmap(lambda y: whole_fit(y, max_steps=8))(y)
    failed = np.flatnonzero(np.asarray(fits.status) <= 0)
    assert 1 < failed.size < 64
    seen = []

    def again(row):
        seen.append(row.shape)
        return whole_fit(row)

    saved = lmjax.rescue(fits, again, y)
    good = np.setdiff1d(np.arange(64), failed)
    np.testing.assert_array_equal(
        saved.params["k"][good], np.asarray(fits.params["k"])[good]
    )
    assert (saved.status[np.setdiff1d(np.arange(64), [5])] > 0).all()
    assert saved.status[5] == lmjax.Status.NONFINITE_START
    assert lmjax.rescue(saved, again, y).status[5] <= 0


@pytest.mark.slow
def test_rescue_keeps_the_lower_cost_of_two_failures(curves):
    y = curves[:64]
    fits = jax.vmap(lambda y: whole_fit(y, max_steps=4))(y)
    worse = lmjax.rescue(fits, lambda y: whole_fit(y, max_steps=1), y)
    np.testing.assert_array_equal(worse.cost, fits.cost)


def test_a_function_that_returns_nothing_is_refused(curves):
    with pytest.raises(TypeError, match="fit_one: .* returns nothing"):
        lmjax.fit_batch(lambda y: None, curves)


def test_rescue_may_omit_points_that_the_first_try_used(curves):
    y = curves[:3].copy()
    y[1, 4] = np.nan
    fits = jax.vmap(whole_fit)(y)
    start = {"a": 1.0, "k": 1.0}
    again = lambda row: lmjax.curve_fit(decay, T, row, start, nan_policy="omit")
    saved = lmjax.rescue(fits, again, y)
    assert saved.success.all()
    assert saved.num_points.tolist() == [T.size, T.size - 1, T.size]
    alone = again(y[1])
    np.testing.assert_allclose(saved.params["k"][1], alone.params["k"], rtol=1e-9)


def test_multi_start_finds_the_deepest_valley():
    # many local minima; the deepest at 2
    wavy = lambda p: jnp.stack([p - 2.0, 3.0 * jnp.sin(2.0 * (p - 2.0))])
    starts = jnp.linspace(-6.0, 9.0, 11)
    fit = lambda p: lmjax.least_squares(wavy, p)
    alone = quick.jit(jax.vmap(lambda p: fit(p).cost))(starts)
    assert float(alone.max()) > 1.0
    best = lmjax.multi_start(fit, starts)
    assert float(best.params) == pytest.approx(2.0, abs=1e-6)


def test_multi_start_of_a_batch_picks_the_start_that_each_fit_needs():
    # only from close by does a wave find its rate; elsewhere the fit ends in a side
    # lobe, successful too
    wave = lambda rate, t: jnp.cos(rate * t)
    rates = np.array([4.1, 1.1, 5.6, 2.6])
    starts = jnp.array([1.0, 2.5, 4.0, 5.5])
    y = np.cos(rates[:, None] * T)

    @quick.jit
    def both(y):
        fit = lambda y, start: lmjax.curve_fit(wave, T, y, start)
        best = lambda y: lmjax.multi_start(lambda start: fit(y, start), starts)
        every = jax.vmap(jax.vmap(fit, (None, 0)), (0, None))
        return jax.vmap(best)(y), every(y, starts)

    best, every = both(y)
    found = np.abs(np.asarray(every.params) - rates[:, None]) < 1e-6
    assert found.tolist() == [[k == right for k in range(4)] for right in (2, 0, 3, 1)]
    assert np.asarray(every.success)[~found].any()
    assert best.success.all()
    np.testing.assert_allclose(best.params, rates, rtol=1e-9)
    np.testing.assert_allclose(best.cost, 0.0, atol=1e-18)


def test_multi_start_prefers_success_to_a_lower_cost():
    def fit(start):
        sol = lmjax.least_squares(lambda p: p - 1.0, start)
        status = jnp.where(start > 5.0, -1, sol.status)
        cost = jnp.where(start > 5.0, -1.0, sol.cost + 1.0)
        return sol.__class__(
            **{
                name: {"status": status, "cost": cost}.get(name, getattr(sol, name))
                for name in sol.__dataclass_fields__
            }
        )

    best = lmjax.multi_start(fit, jnp.array([9.0, 0.0, 9.0]))
    assert best.status > 0
    assert best.cost >= 1.0
