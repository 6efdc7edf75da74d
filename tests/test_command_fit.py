"""``lmjax fit`` from files of every kind, next to SciPy."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from processes import ROOT
from scipy.optimize import curve_fit

import lmjax
from lmjax._command.main import main

T = np.linspace(0.0, 5.0, 30)
RNG = np.random.default_rng(11)
RATES = np.array([0.5, 0.8, 1.2])
CURVES = 2.0 * np.exp(-RATES[:, None] * T) + 0.3 + 0.01 * RNG.standard_normal((3, 30))
STACK = np.broadcast_to(CURVES[:, None], (3, 2, 30)) + 0.01 * RNG.standard_normal(
    (3, 2, 30)
)


def decay(t, amplitude, rate, offset):
    return amplitude * np.exp(-rate * t) + offset


def by_scipy(t, y):
    keep = np.isfinite(y)
    popt, pcov = curve_fit(decay, t[keep], y[keep], [1.0, 1.0, 0.0], xtol=1e-13)
    return popt, np.sqrt(np.diag(pcov))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"t": T, "a": CURVES[0], "b": CURVES[1], "c": CURVES[2]}).to_csv(
        "wide.csv", index=False
    )
    np.savetxt("t.csv", T, header="t", comments="")
    return tmp_path


def fit(*arguments):
    assert main(["fit", *map(str, arguments)]) == 0


def compare(table, curves, rtol=1e-6):
    """Check a table against SciPy, row by row."""
    assert len(table) == len(curves)
    for (_, row), (t, y) in zip(table.iterrows(), curves, strict=True):
        popt, errors = by_scipy(t, y)
        for k, name in enumerate(("amplitude", "rate", "offset")):
            assert row[name] == pytest.approx(popt[k], rel=rtol, abs=rtol)
            assert row[f"{name}_stderr"] == pytest.approx(errors[k], rel=1e-3)
        residual = (decay(t, *popt) - y)[np.isfinite(y)]
        assert row["chi2"] == pytest.approx(residual @ residual, rel=1e-3)
        assert lmjax.Status[row["status"]].success


READERS = {
    ".csv": pd.read_csv,
    ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    ".parquet": pd.read_parquet,
    ".feather": pd.read_feather,
    ".xlsx": pd.read_excel,
}


@pytest.mark.parametrize("suffix", READERS)
def test_tables_in_and_out(suffix, folder):
    frame = pd.read_csv("wide.csv")
    frame.loc[4, "b"] = np.nan
    writers = {
        ".csv": lambda to: frame.to_csv(to, index=False),
        ".tsv": lambda to: frame.to_csv(to, index=False, sep="\t"),
        ".parquet": frame.to_parquet,
        ".feather": frame.to_feather,
        ".xlsx": lambda to: frame.to_excel(to, index=False),
    }
    writers[suffix](f"in{suffix}")
    fit(f"in{suffix}", "--model", "Exponential", "--out", f"out{suffix}")
    table = READERS[suffix](f"out{suffix}")
    assert list(table["curve"]) == ["a", "b", "c"]
    compare(table, [(T, frame[name].to_numpy()) for name in "abc"])


def test_a_row_per_point(folder):
    rows = [
        (well, dose, t, y)
        for k, (well, dose) in enumerate([("B2", 1.0), ("A1", 1.0), ("A1", 2.0)])
        for t, y in list(zip(T, CURVES[k], strict=True))[: 20 + 5 * k]
    ]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rows, columns=["well", "dose", "time", "signal"])
    order = [0, *rng.permutation(np.arange(1, len(frame)))]  # the first stays first
    frame.iloc[order].to_csv("long.csv", index=False)
    fit("long.csv", "--model", "Exponential", "--by", "well,dose", "--out", "o.csv")
    table = pd.read_csv("o.csv").sort_values(["well", "dose"])
    assert list(table["well"]) == ["A1", "A1", "B2"]
    groups = frame.groupby(["well", "dose"])
    compare(table, [(g["time"].to_numpy(), g["signal"].to_numpy()) for _, g in groups])


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".parquet"])
def test_keys_are_text(suffix, folder):
    keys = ["01", "1", "1E2", "NA"]
    rows = [
        (key, t, y)
        for key, c in zip(keys, [*CURVES, CURVES[0]], strict=True)
        for t, y in zip(T, c, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["rate", "t", "y"])
    write = {
        ".csv": frame.to_csv,
        ".xlsx": frame.to_excel,
        ".parquet": frame.to_parquet,
    }
    write[suffix](f"in{suffix}", index=False)
    fit(f"in{suffix}", "--model", "Exponential", "--by", "rate", "--out", "o.csv")
    table = pd.read_csv("o.csv", dtype={"rate_key": str}, keep_default_na=False)
    assert list(table["rate_key"]) == keys  # not the fitted rate
    compare(table.astype({"rate": float}), [(T, y) for y in [*CURVES, CURVES[0]]])


def test_other_separators(folder):
    frame = pd.read_csv("wide.csv")
    frame.to_csv("in.csv", index=False, sep=";", decimal=",")
    options = ("--separator", ";", "--decimal", ",", "--out", "o.csv")
    fit("in.csv", "--model", "Exponential", *options)
    compare(pd.read_csv("o.csv"), [(T, y) for y in CURVES])


def test_curves_without_data_have_no_results(folder, capsys):
    frame = pd.read_csv("wide.csv")
    frame["empty"] = np.nan
    frame["short"] = np.where(np.arange(30) < 2, frame["a"], np.nan)
    frame.to_csv("in.csv", index=False)
    fit("in.csv", "--model", "Exponential", "--out", "o.csv")
    table = pd.read_csv("o.csv", index_col="curve")
    assert table.loc["empty", ["rate", "rate_stderr", "chi2"]].isna().all()
    assert not lmjax.Status[table.loc["empty", "status"]].success
    assert "1 fits that converged have no standard errors" in capsys.readouterr().out


def test_points_with_an_unknown_sigma_are_left_out(folder):
    frame = pd.read_csv("wide.csv")
    frame["s"] = np.where(np.arange(30) == 7, np.nan, 0.01)
    frame.loc[7, ["a", "b", "c"]] = 99.0
    frame.to_csv("in.csv", index=False)
    fit("in.csv", "--model", "Exponential", "--sigma", "s", "--out", "o.csv")
    kept = np.where(np.arange(30) == 7, np.nan, CURVES)
    found = pd.read_csv("o.csv")
    for name, k in (("rate", 1), ("amplitude", 0)):
        wanted = [by_scipy(T, y)[0][k] for y in kept]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6)


ONE = "import jax.numpy as jnp\n\ndef f(x, k):\n    return jnp.exp(-k * x)\n"


def test_a_model_of_one_parameter(folder):
    (folder / "one.py").write_text(ONE)
    pd.DataFrame({"t": T, "y": np.exp(-0.7 * T)}).to_csv("in.csv", index=False)
    fit("in.csv", "--model", "one.py:f", "--start", "k=1", "--out", "o.csv")
    assert pd.read_csv("o.csv")["k"][0] == pytest.approx(0.7, rel=1e-8)


def maps_of(path):
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {name: file[name][()] for name in file}
    if path.suffix == ".zarr":
        group = zarr.open(path, mode="r")
        return {name: group[name][:] for name in group.array_keys()}
    with np.load(path) as archive:
        return dict(archive)


def write_stack(path, array, axis=-1):
    array = np.moveaxis(array, -1, axis)
    if path == "s.npy":
        np.save(path, array)
    elif path == "s.npz":
        np.savez(path, y=array)
    elif path == "s.h5":
        with h5py.File(path, "w") as file:
            file["group/y"], file["t"] = array, T
    elif path == "s.zarr":
        names = ["row", "column"]
        names.insert(axis % 3, "time")
        made = zarr.create_array(
            path,
            shape=array.shape,
            chunks=(1, 2, 30),
            dtype=array.dtype,
            dimension_names=names,
        )
        made[:] = array
    elif path == "s.nii.gz":
        image = nibabel.Nifti1Image(array[:, :, None], np.diag([2.0, 2.0, 5.0, 1.0]))
        nibabel.save(image, path)
    else:
        tifffile.imwrite(path, array.astype(np.float32), photometric="minisblack")


STACKS = {
    "s.npy": (["--x", "t.csv"], "m.npz"),
    "s.npz": (["--x", "t.csv"], "m.zarr"),
    "s.h5": (["--x", "t", "--y", "group/y"], "m.h5"),
    "s.zarr": (["--x", "t.csv", "--axis", "time"], "m.h5"),
}


@pytest.mark.parametrize("path", STACKS)
def test_stacks_in_and_maps_out(path, folder):
    options, out = STACKS[path]
    write_stack(path, STACK)
    fit(path, "--model", "Exponential", *options, "--out", out)
    maps = maps_of(folder / out)
    assert maps["rate"].shape == (3, 2)
    table = pd.DataFrame({name: values.ravel() for name, values in maps.items()})
    table["status"] = [lmjax.Status(int(code)).name for code in table["status"]]
    compare(table, [(T, y) for y in STACK.reshape(6, 30)])


def test_nifti_keeps_its_place_in_space(folder):
    write_stack("s.nii.gz", STACK)
    fit("s.nii.gz", "--model", "Exponential", "--x", "t.csv", "--out", "m.nii.gz")
    source, made = nibabel.load("s.nii.gz"), nibabel.load("m_rate.nii.gz")
    np.testing.assert_array_equal(made.affine, source.affine)
    assert made.header.get_zooms() == source.header.get_zooms()[:3]
    wanted = [by_scipy(T, y)[0][1] for y in STACK.reshape(6, 30)]
    np.testing.assert_allclose(made.get_fdata().ravel(), wanted, rtol=1e-5)


def test_tiff_in_float32(folder):
    write_stack("s.tif", STACK)
    fit("s.tif", "--model", "Exponential", "--x", "t.csv", "--out", "m.tif")
    wanted = [by_scipy(T, y)[0][1] for y in STACK.reshape(6, 30)]
    np.testing.assert_allclose(tifffile.imread("m_rate.tif").ravel(), wanted, rtol=1e-3)


def test_points_along_the_first_axis(folder):
    np.save("s.npy", np.moveaxis(STACK, -1, 0))
    points = ",".join(map(repr, T.tolist()))
    arguments = ("--axis", "0", "--x", points, "--out", "o.csv")
    fit("s.npy", "--model", "Exponential", *arguments)
    table = pd.read_csv("o.csv")
    assert list(table["axis_1"]) == [0, 0, 1, 1, 2, 2]
    compare(table, [(T, y) for y in STACK.reshape(6, 30)])


def test_a_mask_leaves_pixels_out(folder):
    np.save("s.npy", STACK)
    mask = np.array([[1, 0], [0, 0], [1, 1]])
    np.save("mask.npy", mask)
    arguments = ("--x", "t.csv", "--mask", "mask.npy")
    fit("s.npy", "--model", "Exponential", *arguments, "--out", "m.npz")
    maps = maps_of(folder / "m.npz")
    np.testing.assert_array_equal(np.isfinite(maps["rate"]), mask == 1)
    np.testing.assert_array_equal(maps["status"] != 0, mask == 1)


def test_images_of_spots(folder):
    x, y = np.meshgrid(np.arange(9.0), np.arange(7.0))
    spot = lambda a, b: 5.0 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 4.5) + 1.0
    np.save("s.npy", np.stack([spot(4.2, 3.1), spot(3.7, 2.6)]))
    fit("s.npy", "--model", "Gaussian2D", "--axis", "1,2", "--out", "o.csv")
    table = pd.read_csv("o.csv")
    np.testing.assert_allclose(table["centre_x"], [4.2, 3.7], atol=1e-6)
    np.testing.assert_allclose(table["centre_y"], [3.1, 2.6], atol=1e-6)
    np.testing.assert_allclose(np.abs(table["width"]), 1.5, rtol=1e-6)


def test_options_reach_the_fit(folder):
    options = ["--fix", "offset=0.3", "--bounds", "rate=0.7:", "--start", "amplitude=1"]
    more = ["--sigma", "0.01", "--absolute-sigma", "--loss", "huber", "--ftol", "1e-10"]
    fit("wide.csv", "--model", "Exponential", *options, *more, "--out", "o.csv")
    table = pd.read_csv("o.csv")
    assert list(table["offset"]) == [0.3] * 3
    assert table["offset_stderr"].isna().all()
    assert table["rate"][0] == 0.7
    held = lambda t, amplitude, rate: decay(t, amplitude, rate, 0.3)
    start = [1.0, 1.0]
    _, pcov = curve_fit(held, T, CURVES[1], start, [0.01] * 30, absolute_sigma=True)
    error = table["rate_stderr"][1]
    assert error == pytest.approx(np.sqrt(pcov[1, 1]), rel=0.2)  # some are outliers


def test_sums_of_models(folder):
    x = np.linspace(0.0, 10.0, 80)
    peak = lambda a, c, w: a * np.exp(-((x - c) ** 2) / (2 * w**2))
    y = peak(3.0, 3.0, 0.5) + peak(2.0, 7.0, 0.7) + 0.4 + 0.1 * x
    pd.DataFrame({"x": x, "y": y}).to_csv("in.csv", index=False)
    options = ("--bounds", "gaussian.width=0:5,gaussian_2.width=0:5", "--out", "o.csv")
    fit("in.csv", "--model", "Gaussian+Gaussian+Polynomial:1", *options)
    (row,) = pd.read_csv("o.csv").to_dict("records")
    found = sorted((row[f"{p}.centre"], row[f"{p}.width"]) for p in PEAKS)
    np.testing.assert_allclose(found, [(3.0, 0.5), (7.0, 0.7)], rtol=1e-6)
    assert row["polynomial.coefficients[1]"] == pytest.approx(0.1, rel=1e-6)


PEAKS = ("gaussian", "gaussian_2")


def test_parameters_in_common(folder):
    fit("wide.csv", "--model", "Exponential", "--share", "offset", "--out", "o.csv")
    table = pd.read_csv("o.csv")
    assert table["offset"].nunique() == 1

    def together(_, offset, *rest):
        parts = np.reshape(rest, (3, 2))
        return np.concatenate([decay(T, a, k, offset) for a, k in parts])

    start = [0.0, *[1.0, 1.0] * 3]
    popt, pcov = curve_fit(together, np.tile(T, 3), CURVES.ravel(), start, xtol=1e-12)
    errors = np.sqrt(np.diag(pcov))
    np.testing.assert_allclose(table["offset"][0], popt[0], rtol=1e-5)
    np.testing.assert_allclose(table["offset_stderr"][0], errors[0], rtol=1e-3)
    np.testing.assert_allclose(table["rate"], popt[2::2], rtol=1e-5)
    np.testing.assert_allclose(table["rate_stderr"], errors[2::2], rtol=1e-3)


OWN = """
import jax.numpy as jnp

def as_scipy(t, amplitude, rate, offset):
    '''A decay.'''
    return amplitude * jnp.exp(-rate * t) + offset

def as_lmjax(p, t):
    return p["amplitude"] * jnp.exp(-p["rate"] * t) + p["offset"]
"""


@pytest.mark.parametrize("name", ["as_scipy", "as_lmjax"])
def test_a_model_of_ones_own(name, folder):
    (folder / "own.py").write_text(OWN)
    start = ("--start", "amplitude=1,rate=1", "--start", "offset=0")
    fit("wide.csv", "--model", f"own.py:{name}", *start, "--out", "o.csv")
    compare(pd.read_csv("o.csv"), [(T, y) for y in CURVES])


def test_without_a_target_the_table_is_printed(folder, capsys):
    fit("wide.csv", "--model", "Polynomial:2")
    out = capsys.readouterr().out
    assert out.split()[:3] == ["curve", "coefficients[0]", "coefficients[0]_stderr"]
    wanted = np.polyfit(T, CURVES[0], 2)[::-1]
    row = out.splitlines()[1].split()
    np.testing.assert_allclose([*map(float, row[1:7:2])], wanted, rtol=1e-4)
    assert "3 fits in" in out


def test_figure_and_page(folder):
    frame = pd.read_csv("wide.csv")
    frame["<bad>"] = np.nan
    frame.to_csv("in.csv", index=False)
    arguments = ("--plot", "f.png", "--report", "r.html", "--out", "o.csv")
    fit("in.csv", "--model", "Exponential", *arguments)
    for path in ("f.png", "f_fits.png"):
        assert (folder / path).read_bytes().startswith(b"\x89PNG")
    page = (folder / "r.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert "&lt;bad&gt;" in page
    assert "<bad>" not in page
    assert f"lmjax {lmjax.__version__}" in page
    assert "1 fits failed" in page


def test_strict_tells_of_failures(folder):
    frame = pd.read_csv("wide.csv")
    frame["bad"] = np.nan
    frame.to_csv("in.csv", index=False)
    arguments = ["fit", "in.csv", "--model", "Exponential", "--out", "o.csv"]
    assert main([*arguments, "--strict"]) == 1
    assert len(pd.read_csv("o.csv")) == 4
    assert main([*arguments, "--overwrite"]) == 0


def run(folder, *arguments, **options):
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lmjax", "fit", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_an_interrupted_run_goes_on(how, folder):
    rng = np.random.default_rng(3)
    rates = rng.uniform(0.5, 2.0, (120_000, 1))
    y = np.exp(-rates * T) + 0.01 * rng.standard_normal((120_000, 30))
    np.save("s.npy", y.astype(np.float32))
    command = ["s.npy", "--model", "StretchedExponential", "--x", "t.csv", "--out"]
    process = run(folder, *command, "o.csv")
    while process.poll() is None and not kept(folder):
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), err
    assert not (folder / "o.csv").exists()
    if how == signal.SIGINT:
        message = (
            "lmjax: stopped. o.csv.unfinished keeps what is done: --resume goes on."
        )
        assert err.strip() == message
    assert main(["fit", *command, "o.csv"]) == 2  # not by accident
    other = [*command, "o.csv", "--resume", "--max-steps", "7"]
    assert main(["fit", *other]) == 2  # not with other options
    assert kept(folder)
    assert main(["fit", *command, "o.csv", "--resume"]) == 0
    assert not kept(folder)
    assert main(["fit", *command, "whole.csv"]) == 0
    assert (folder / "o.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def kept(folder):
    """Return the files of finished chunks."""
    unfinished = folder / "o.csv.unfinished"
    return [path for path in unfinished.rglob("*") if "chunk" in path.name]


def test_the_page_about_files_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "files.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S)
    (files,) = (block for kind, block in blocks if kind == "python")
    exec(files, {})
    lines = [
        line for kind, block in blocks if kind == "sh" for line in block.split("\n")
    ]
    commands = [shlex.split(line)[1:] for line in lines if line]
    assert len(commands) >= 8
    for command in commands:
        assert main(command) == 0, command
    assert (tmp_path / "all.html").exists()
    fits = pd.read_csv("fits.csv")
    np.testing.assert_allclose(fits["rate"], [0.5, 0.8, 1.1], atol=0.1)


def test_the_page_names_every_option(capsys):
    page = (ROOT / "docs" / "files.md").read_text()
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    missing = {name for name in options if name not in page}
    assert missing <= {"--help", "--quiet"}
