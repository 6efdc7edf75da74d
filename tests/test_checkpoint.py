"""Jobs that resume: nothing is lost, nothing is mixed up, trouble is one clear line."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax._batch import checkpoint
from lmjax._batch.checkpoint import MANIFEST, Checkpoint
from lmjax._batch.packing import result_type, table

ROOT = Path(__file__).parents[1]
COUNT, CHUNK = 640, 64


def fit_one(row):
    """Fit nothing: a chunk is to take no time."""
    return {"mean": jnp.mean(row), "largest": jnp.max(row), "count": jnp.int32(3)}


def make(count=COUNT):
    return np.random.default_rng(0).normal(size=(count, 5))


def run(folder, fit=fit_one, data=None, **options):
    data = make() if data is None else data
    options = {"chunk_size": CHUNK, "checkpoint": folder} | options
    return lmjax.fit_batch(fit, data, **options)


@pytest.fixture(scope="module")
def whole():
    return lmjax.fit_batch(fit_one, make(), chunk_size=CHUNK)


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def chunks_of(folder):
    return sorted(folder.glob("chunk_*.npz"))


class Slices:
    """What h5py offers; reading the chunk that begins at ``last`` is interrupted."""

    def __init__(self, array, last=None):
        self.array, self.last = array, last
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        if self.last is not None and rows.start >= self.last:
            raise KeyboardInterrupt
        return self.array[rows]


def test_interrupted_job_goes_on_where_it_stopped(whole, tmp_path):
    folder = tmp_path / "new" / "job"
    with pytest.raises(KeyboardInterrupt):
        run(folder, data=Slices(make(), 384))
    kept = chunks_of(folder)
    assert kept
    assert not list(folder.glob("*.part*"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert_same(run(folder), whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert len(chunks_of(folder)) == COUNT // CHUNK


def test_chunks_can_be_read_in_several_threads(tmp_path):
    # A callback makes the collector give way to other threads, as that of jax does.
    many = lambda numbers: lambda row: [row * k for k in range(8)]
    data = table(np.zeros((3, 1)))
    results = result_type(many, [], data.row)
    saved = Checkpoint(tmp_path, checkpoint.describe(3, data.row, results, ""), results)
    saved.begin(3)
    leaves = [np.full((3, 1), float(k)) for k in range(8)]
    saved.save(0, 0, leaves)
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    give_way = lambda phase, info: sum(range(50))
    gc.callbacks.append(give_way)
    gc.set_threshold(3, 3, 3)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            loaded = list(pool.map(lambda _: saved.load(0, 0), range(100)))
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not saved.damaged
    for out in loaded:
        np.testing.assert_array_equal(out, leaves)


def test_checkpoint_remembers_the_chunk_size(whole, tmp_path):
    run(tmp_path, chunk_size=128)
    assert_same(run(tmp_path, chunk_size=None), whole)
    with pytest.raises(ValueError, match="begun with chunk_size 128, got 64; leave"):
        run(tmp_path)


# ---- another job in the same folder


def line(x, slope=2.0):
    return slope * jnp.mean(x)


SCALE = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
OTHERS = {
    "start": (lambda x: line(x, 2.0), lambda x: line(x, 2.5), "what fit_one computes"),
    "constant": (
        lambda x: (SCALE * x).sum(),
        lambda x: ((SCALE + 1e-9) * x).sum(),
        "what fit_one computes",
    ),
    "constant-of-jitted": (
        jax.jit(lambda x: (SCALE * x).sum()),
        jax.jit(lambda x: ((SCALE + 1e-9) * x).sum()),
        "what fit_one computes",
    ),
    "branch": (
        lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
        lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.tan, x),
        "what fit_one computes",
    ),
    "names": (
        lambda x: {"a": x[0], "b": x[1]},
        lambda x: {"a": x[0], "c": x[1]},
        "names, shapes or dtypes of what fit_one returns",
    ),
    "count": (lambda x: (x[0], x[1]), lambda x: x[0], "the structure of what fit_one"),
    "kind": (lambda x: (x[0], x[1]), lambda x: [x[0], x[1]], "the structure of what"),
    "dtype": (lambda x: x[0], lambda x: x[0].astype("float32"), '"float64".*"float32"'),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_function_is_refused(name, tmp_path):
    first, second, difference = OTHERS[name]
    expected = run(tmp_path, first)
    with pytest.raises(ValueError, match="holds another job, which differs in") as got:
        run(tmp_path, second)
    text = str(got.value)
    assert str(tmp_path) in text
    assert got.match(difference)
    assert "Name another folder" in text
    assert "\n" not in text
    assert_same(run(tmp_path, first), expected)  # the folder is as it was


def test_a_fit_knows_its_start_and_its_model(tmp_path):
    t = np.linspace(0.0, 2.0, 5)
    decay = lambda p, t: p[0] * jnp.exp(-p[1] * t)
    growth = lambda p, t: p[0] * jnp.exp(p[1] * t)

    def fit(model, start):
        return lambda y: lmjax.curve_fit(model, t, y, jnp.array(start)).params

    data = np.exp(-t) * np.linspace(1.0, 2.0, 64)[:, None]
    first = run(tmp_path, fit(decay, [1.0, 0.5]), data)
    assert_same(run(tmp_path, fit(decay, [1.0, 0.5]), data), first)
    for other in (fit(decay, [1.0, 0.6]), fit(growth, [1.0, 0.5])):
        with pytest.raises(ValueError, match="what fit_one computes"):
            run(tmp_path, other, data)


def test_a_changed_attribute_is_another_function(tmp_path):
    class Scaled:
        factor = 2.0

        def fit(self, x):
            return self.factor * x[0]

    scaled = Scaled()
    first = run(tmp_path / "a", scaled.fit)
    scaled.factor = 3.0
    with pytest.raises(ValueError, match="what fit_one computes"):
        run(tmp_path / "a", scaled.fit)
    # what is stored under the new description is computed by the new function
    np.testing.assert_allclose(run(tmp_path / "b", scaled.fit), 1.5 * first)


def test_other_data_are_refused(tmp_path):
    data = make()
    run(tmp_path, data=data[:128])
    with pytest.raises(ValueError, match=r"the number of fits \(128 there, 640 here\)"):
        run(tmp_path)
    with pytest.raises(ValueError, match="dtypes of the data"):
        run(tmp_path, data=data[:128].astype("float32"))
    with pytest.raises(ValueError, match=f"{tmp_path} were others; name another"):
        run(tmp_path, data=data[128:256])


def test_x64_is_part_of_the_job(tmp_path):
    data = make().astype("float32")
    run(tmp_path, data=data)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"jax_enable_x64 \(true there, false here\)"),
    ):
        run(tmp_path, data=data)


HASH = """
import jax
import numpy as np
import lmjax
from lmjax._jax.program_hash import program_hash
t = np.linspace(0.0, 4.0, 16)
def model(p, t):
    return p["a"] * jax.numpy.exp(-p["k"] * t)
def fit(y):
    start = {"a": 1.0, "k": 1.0}
    return lmjax.curve_fit(model, t, y, start, loss="huber", linear=None)
if WARM:  # traces that are kept must not show
    jax.jit(jax.vmap(fit))(np.ones((2, 16), "float32"))
    jax.grad(lambda y: fit(y).params["k"])(np.ones(16, "float32"))
print(program_hash(fit, jax.ShapeDtypeStruct((16,), "float32")))
"""


def test_a_program_has_the_same_hash_in_every_process():
    from processes import run_python

    found = {
        run_python("-c", HASH.replace("WARM", warm), PYTHONHASHSEED=seed)
        for warm, seed in (("False", "1"), ("True", "2"))
    }
    assert len(found) == 1


# ---- what can be data, result or function


class Slope(eqx.Module):
    """A function with an array of jax, one of another byte order, and a number."""

    weights: jax.Array
    offsets: np.ndarray
    power: float

    def __call__(self, x):
        return jnp.sum(self.weights * x**self.power + self.offsets)


def test_a_module_with_arrays_is_a_function(tmp_path):
    data = np.abs(make())
    slope = Slope(jnp.arange(5.0), np.arange(5.0).astype(">f8"), 2.0)
    expected = (np.arange(5.0) * data**2.0 + np.arange(5.0)).sum(axis=1)
    np.testing.assert_allclose(run(None, slope, data), expected)
    np.testing.assert_allclose(run(tmp_path, slope, data), expected)
    other = eqx.tree_at(lambda s: s.weights, slope, jnp.arange(5.0) + 1e-9)
    with pytest.raises(ValueError, match="what fit_one computes"):
        run(tmp_path, other, data)
    again = Slope(jnp.arange(5.0) + 1.0, np.arange(5.0), 2.0)
    np.testing.assert_allclose(run(None, again, data), expected + (data**2).sum(axis=1))


def test_bfloat16_comes_back_as_it_was(tmp_path):
    low = lambda x: (x.astype(jnp.bfloat16), x[0] > 0.0)
    first = run(tmp_path, low)
    assert first[0].dtype == jnp.bfloat16
    chunks_of(tmp_path)[2].unlink()
    assert_same(run(tmp_path, low), first)
    assert_same(first, run(None, low))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_are_data_and_results(impl, tmp_path):
    keys = jax.random.split(jax.random.key(7, impl=impl), 100)

    def draw(row):
        new, use = jax.random.split(row["key"])
        return {"next": new, "number": jax.random.normal(use) + row["x"][0]}

    data = {"key": keys, "x": make(100)}
    expected = jax.vmap(draw)(data)
    if impl == "rbg":  # what it draws depends on the size of the batch
        expected["number"] = run(None, draw, data)["number"]
    for _ in range(2):
        got = run(tmp_path, draw, data)
        assert jnp.issubdtype(got["next"].dtype, jax.dtypes.prng_key)
        assert got["next"].dtype == keys.dtype
        np.testing.assert_array_equal(
            jax.random.key_data(got["next"]), jax.random.key_data(expected["next"])
        )
        np.testing.assert_allclose(got["number"], expected["number"], rtol=1e-14)
        chunks_of(tmp_path)[0].unlink()
    others = {"key": keys[::-1], "x": data["x"]}
    with pytest.raises(ValueError, match="were others"):
        run(tmp_path, draw, others)


# ---- damage

DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "tail-lost": lambda content: content[:-20],
    "garbage": lambda content: bytes(range(256)) * 4,
    "zeros": lambda content: bytes(len(content)),
    "one-bit": lambda content: (
        content[: (k := content.index(b"leaf_1.npy") + 180)]
        + bytes([content[k] ^ 4])
        + content[k + 1 :]
    ),
    "array": lambda content: b"\x93NUMPY\x01\x00v\x00{'descr'",
    "pickle": lambda content: b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_chunk_is_computed_again_and_named(name, whole, tmp_path):
    run(tmp_path)
    path = chunks_of(tmp_path)[3]
    content = path.read_bytes()
    path.write_bytes(DAMAGE[name](content))
    with pytest.warns(UserWarning, match="computed again") as caught:
        assert_same(run(tmp_path), whole)
    (warning,) = caught
    assert path.name in str(warning.message)
    assert str(tmp_path) in str(warning.message)
    assert warning.filename == __file__
    assert_same(run(tmp_path), whole)  # in silence: it has been stored again


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 2}', b"null"],
    ids=["empty", "cut", "list", "bytes", "fields", "null"],
)
def test_a_damaged_manifest_is_one_clear_line(content, tmp_path):
    run(tmp_path)
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match="damaged|format 1") as got:
        run(tmp_path)
    assert str(tmp_path) in str(got.value)
    assert "another" in str(got.value)
    assert "\n" not in str(got.value)


def test_a_folder_of_another_version_is_refused(tmp_path):
    old = {"fits": COUNT, "rows": [[[5], "float64"]], "chunk_size": CHUNK}
    (tmp_path / MANIFEST).write_text(json.dumps(old))
    with pytest.raises(ValueError, match=f"{tmp_path} was written in format 1"):
        run(tmp_path)


def test_chunks_without_a_manifest_are_refused(tmp_path):
    run(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} holds chunks but no job.json"):
        run(tmp_path)


def test_a_chunk_of_another_job_is_refused(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", lambda row: fit_one(2.0 * row))
    name = chunks_of(tmp_path / "a")[1].name
    (tmp_path / "a" / name).replace(tmp_path / "b" / name)
    with pytest.raises(ValueError, match=f"{name} in .* belongs to another job"):
        run(tmp_path / "b", lambda row: fit_one(2.0 * row))


# ---- two at once


def test_two_threads_do_not_share_a_folder(whole, tmp_path):
    reached, go_on = threading.Event(), threading.Event()

    class Waiting(Slices):
        def __getitem__(self, rows):
            reached.set()
            assert go_on.wait(60.0)
            return super().__getitem__(rows)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, tmp_path, data=Waiting(make()))
        assert reached.wait(60.0)
        try:
            with pytest.raises(RuntimeError, match=f"{tmp_path} is in use") as got:
                run(tmp_path)
        finally:
            go_on.set()
        assert f"(process {os.getpid()})" in str(got.value)
        assert_same(first.result(), whole)
    assert_same(run(tmp_path), whole)


def test_a_lock_that_the_system_does_not_know_is_a_warning(
    whole, tmp_path, monkeypatch
):
    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("lmjax._batch.lock._lock", refuse)
    with pytest.warns(UserWarning, match=f"{tmp_path} cannot be locked"):
        assert_same(run(tmp_path), whole)


JOB = """
import sys
import numpy as np, jax
jax.config.update("jax_enable_x64", True)
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import lmjax
from test_checkpoint import Slices, fit_one, make
print("ready", flush=True)
class Slow(Slices):
    def __getitem__(self, rows):
        import time
        time.sleep(0.02)
        return super().__getitem__(rows)
lmjax.fit_batch(fit_one, Slow(make()), chunk_size=64, checkpoint={folder!r})
print("done", flush=True)
"""


def start_job(folder):
    code = JOB.format(root=str(ROOT), folder=str(folder))
    job = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert job.stdout.readline() == "ready\n"
    return job


def wait_for(happened, job):
    while not happened():
        assert job.poll() is None or happened()
        time.sleep(0.001)


def test_a_process_that_is_killed_loses_nothing_and_frees_its_folder(whole, tmp_path):
    rng = np.random.default_rng(17)
    for round_ in range(3):
        job = start_job(tmp_path)
        wanted = len(chunks_of(tmp_path)) + round_
        wait_for(lambda wanted=wanted: len(chunks_of(tmp_path)) >= wanted, job)
        if round_ == 1 and job.poll() is None:
            with pytest.raises(RuntimeError, match=f"in use .*process {job.pid}"):
                run(tmp_path)
        time.sleep(rng.uniform(0.0, 0.05))
        job.send_signal(signal.SIGKILL)
        job.wait()
        job.stdout.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no chunk was damaged
        assert_same(run(tmp_path), whole)
    assert not list(tmp_path.glob("*.part*"))


# ---- the disk


class Disk:
    """What a power cut leaves: the bytes and names that were brought to the disk."""

    def __init__(self, monkeypatch):
        self.bytes, self.names, self.events = {}, {}, 0
        self.fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.sync)

    def sync(self, file):
        self.fsync(file)
        status, path = os.fstat(file), Path(os.readlink(f"/proc/self/fd/{file}"))
        self.events += 1
        if path.is_dir():
            inside = {}
            for entry in path.iterdir():
                with suppress(FileNotFoundError):  # another thread gave it its name
                    inside[entry.name] = entry.stat().st_ino
            self.names[path] = inside
        else:
            self.bytes[status.st_ino] = path.read_bytes()

    def survivors(self, folder):
        """Return the names in a folder after a power cut, and what is in the files.

        A file whose name was written and whose bytes were not is empty.
        """
        names = self.names.get(folder, {})
        return {name: self.bytes.get(inode, b"") for name, inode in names.items()}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("last", [0, 64, 192, 448, None])
def test_a_power_cut_costs_chunks_at_most(last, whole, tmp_path, monkeypatch):
    folder = tmp_path / "a" / "job"
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        if last is None:
            run(folder)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(folder, data=Slices(make(), last))
        left = disk.survivors(folder)
    # the folders themselves are on the disk
    assert "job" in disk.names[tmp_path / "a"]
    assert "a" in disk.names[tmp_path]
    assert json.loads(left[MANIFEST])["fits"] == COUNT
    # every chunk that has its name there is whole, and all that were finished have it
    named = [path.name for path in chunks_of(folder)]
    assert sorted(name for name in left if name.startswith("chunk")) == named
    assert all(left[name] == (folder / name).read_bytes() for name in named)
    after = tmp_path / "after"
    after.mkdir()
    for name, content in left.items():
        (after / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(after), whole)


def test_bytes_reach_the_disk_before_their_name_does(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda file: order.append("sync"))
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda *given: (order.append("name"), replace(*given))
    )
    run(tmp_path, data=make(64))
    assert order == ["sync", "name", "sync"] * 2  # job.json and one chunk


def test_a_full_disk_is_one_clear_line_and_loses_nothing(whole, tmp_path, monkeypatch):
    room = [5]

    fsync = os.fsync

    def full(file):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=f"{tmp_path} cannot be written") as got:
            run(tmp_path)
    assert got.value.errno == errno.ENOSPC
    assert "No space left on device" in str(got.value)
    assert "\n" not in str(got.value)
    assert not list(tmp_path.glob("*.part*"))
    kept = {path: path.stat().st_mtime_ns for path in chunks_of(tmp_path)}
    assert kept
    assert_same(run(tmp_path), whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 64 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
        reason = done.stderr.strip()
    except FileNotFoundError as error:
        done, reason = None, str(error)
    if done is None or done.returncode:
        pytest.skip(f"no small disk can be mounted here: {reason}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_that_fills_up(small_disk):
    large = lambda row: jnp.full(20, row[0])  # 10 KiB a chunk
    with pytest.raises(OSError, match=f"{small_disk} cannot be written") as got:
        run(small_disk, large)
    assert got.value.errno == errno.ENOSPC
    kept = chunks_of(small_disk)
    assert kept
    assert not list(small_disk.glob("*.part*"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert_same(run(small_disk, large), run(None, large))


READ_ONLY = """
import os, sys
import numpy as np, jax
sys.path[:0] = [{root!r}]
import lmjax
fit = lambda row: row.sum()
run = lambda **options: lmjax.fit_batch(fit, np.ones((64, 2), "float32"), **options)
run(checkpoint={other!r})  # loads all that is loaded late
os.seteuid(65534)
try:
    run(checkpoint={folder!r})
except OSError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
@pytest.mark.parametrize("kind", ["new", "begun"])
def test_a_folder_of_somebody_else_is_one_clear_line(kind, tmp_path):
    above = tmp_path / "above"
    folder = above / "job"
    folder.mkdir(parents=True)
    if kind == "begun":
        run(folder)
    else:
        folder.rmdir()
    for path in (above, *above.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o005)  # may be read, not written
    code = READ_ONLY.format(
        root=str(ROOT), folder=str(folder), other=str(tmp_path / "other")
    )
    env = {k: v for k, v in os.environ.items() if "CACHE" not in k.upper()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PermissionError")
    assert f"checkpoint: {folder} cannot be written (Permission denied)" in done.stdout
    assert done.stdout.count("\n") == 1


def test_chunks_of_two_dtypes_are_refused(tmp_path):
    counts = np.arange(128) + 2**40 * (np.arange(128) > 64)
    with (
        jax.enable_x64(False),
        pytest.raises(
            TypeError,
            match="checkpoint: expected results of int32, got float32 from fit 64",
        ),
    ):
        run(tmp_path, lambda count: 2 * count, counts)


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(OSError, match=f"checkpoint: {path} is a file"):
        run(path)


def test_a_host_callback_that_does_something_else_is_another_job(tmp_path):
    def job(factor):
        host = lambda y: np.asarray(y.sum() * factor, y.dtype)
        like = jax.ShapeDtypeStruct((), jnp.result_type(float))
        return lambda y: jax.pure_callback(host, like, y, vmap_method="sequential")

    rows = np.ones((2, 3), jnp.result_type(float))
    first = lmjax.fit_batch(job(1.0), rows, checkpoint=tmp_path / "job")
    np.testing.assert_array_equal(first, 3.0)
    again = lmjax.fit_batch(job(1.0), rows, checkpoint=tmp_path / "job")
    np.testing.assert_array_equal(again, 3.0)
    with pytest.raises(ValueError, match="holds another job"):
        lmjax.fit_batch(job(2.0), rows, checkpoint=tmp_path / "job")
