"""What ``lmjax fit`` cannot use: one line, exit code 2, nothing written."""

import gzip
import sys

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest

from lmjax._command.main import main

T = np.linspace(0.0, 4.0, 12)
TABLE = pd.DataFrame({"t": T, "a": np.exp(-T), "b": 2.0 * np.exp(-T)})
LONG = pd.DataFrame({"well": ["A", "B"] * 6, "t": T, "y": np.exp(-T)})
STACK = np.exp(-T) * np.ones((3, 4, 1))
OWN = "def f(x, a, k):\n    return a + k * x\n\ndef g(p, x):\n    return p['a'] * x\n"
OWN += "\ndef broken(x, a, b):\n    return nothing\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TABLE.to_csv("good.csv", index=False)
    LONG.to_csv("long.csv", index=False)
    np.save("good.npy", STACK)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def binary(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, make):
    """Write a file, and keep the first half of it."""

    def write(folder):
        make(folder / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return write


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["one"], file["two"] = STACK, STACK


def npz(folder):
    np.savez(folder / "in.npz", one=STACK, two=STACK)


def frame(**columns):
    return lambda folder: pd.DataFrame(columns).to_csv(folder / "in.csv", index=False)


# What is written, what is asked for beside the file, and what the message says.
FILES = {
    "no such table": ("in.csv", None, "there is no such file"),
    "no such stack": ("in.npy", None, "there is no such file"),
    "a folder": ("in.csv", lambda f: (f / "in.csv").mkdir(), "cannot be read"),
    "unknown kind": ("in.docx", text("in.docx", "x"), "expected a table"),
    "no suffix": ("in", text("in", "t,a\n0,1\n"), "expected a table"),
    "empty": ("in.csv", text("in.csv", ""), "the file is empty"),
    "blank lines": ("in.csv", text("in.csv", "\n\n"), "the file is empty"),
    "header alone": ("in.csv", text("in.csv", "t,a\n"), "the table has no rows"),
    "no header": ("in.csv", text("in.csv", "0,1\n1,2\n"), "names of columns"),
    "cells too many": ("in.csv", text("in.csv", "t,a\n0,1\n1,2,3\n"), "cannot be read"),
    "cells missing": (
        "in.csv",
        text("in.csv", "t,a,b\n0,1,2\n1,2\n"),
        "expected 3 cells in line 3, got 2",
    ),
    "text": (
        "in.csv",
        text("in.csv", "t,a\n0,1\n1,n/d\n"),
        "expected numbers in column 'a', got 'n/d' in row 2",
    ),
    "text in x": (
        "in.csv",
        text("in.csv", "t,a\nzero,1\n1,2\n"),
        "expected numbers in column 't', got 'zero' in row 1",
    ),
    "decimal commas between commas": (
        "in.csv",
        text("in.csv", "t,a\n0,0,2,3\n0,5,1,8\n1,0,1,5\n"),
        "cannot be read",
    ),
    "semicolons": ("in.csv", text("in.csv", "t;a\n0;1\n"), "--separator ';'"),
    "a column without a name": ("in.csv", text("in.csv", ",t,a\n0,0,1\n"), "no name"),
    "decimal commas": (
        "in.csv",
        text("in.csv", 't,a\n"0,5","1,5"\n'),
        "expected numbers in column 't', got '0,5'",
    ),
    "one name twice": ("in.csv", text("in.csv", "t,a,a\n0,1,2\n"), "are called 'a'"),
    "one column": ("in.csv", frame(t=T), "expected a column of y beside x"),
    "no numbers": ("in.csv", frame(t=T, a=np.nan), "holds no number"),
    "x without numbers": ("in.csv", frame(t=np.nan, a=T), "x holds no number"),
    "wrong encoding": (
        "in.csv",
        binary("in.csv", b"t,\xff\xfe\n0,1\n"),
        "cannot be read",
    ),
    "not tsv": ("in.tsv", text("in.tsv", "t,a\n0,1\n"), "expected a column of y"),
    "text as parquet": ("in.parquet", text("in.parquet", "t,a"), "cannot be read"),
    "text as feather": ("in.feather", text("in.feather", "t,a"), "cannot be read"),
    "text as excel": ("in.xlsx", text("in.xlsx", "t,a"), "cannot be read"),
    "half a parquet": (
        "in.parquet",
        cut("in.parquet", TABLE.to_parquet),
        "cannot be read",
    ),
    "half an excel": (
        "in.xlsx",
        cut("in.xlsx", lambda path: TABLE.to_excel(path, index=False)),
        "cannot be read",
    ),
    "half an hdf5": ("in.h5", cut("in.h5", hdf5), "cannot be read"),
    "half an npy": (
        "in.npy",
        cut("in.npy", lambda path: np.save(path, STACK)),
        "cannot be read",
    ),
    "half an npz": (
        "in.npz",
        cut("in.npz", lambda path: np.savez(path, a=STACK)),
        "cannot be read",
    ),
    "half a nifti": (
        "in.nii.gz",
        cut("in.nii.gz", lambda p: nibabel.save(nibabel.Nifti1Image(STACK, None), p)),
        "cannot be read",
    ),
    "text as nifti": ("in.nii", text("in.nii", "no image"), "cannot be read"),
    "text as gzip": (
        "in.nii.gz",
        binary("in.nii.gz", gzip.compress(b"no image")),
        "cannot be read",
    ),
    "text as tiff": ("in.tif", text("in.tif", "no image"), "cannot be read"),
    "text as hdf5": ("in.h5", text("in.h5", "no data"), "cannot be read"),
    "empty zarr": ("in.zarr", lambda f: (f / "in.zarr").mkdir(), "cannot be read"),
    "several arrays": (
        "in.npz",
        npz,
        "name an array with --y; the file holds one, two",
    ),
    "several sets": ("in.h5", lambda f: hdf5(f / "in.h5"), "holds one, two"),
    "objects": (
        "in.npy",
        lambda f: np.save(f / "in.npy", np.array([{}, 1], object), allow_pickle=True),
        "cannot be read",
    ),
    "words": (
        "in.npy",
        lambda f: np.save(f / "in.npy", np.array([["a", "b"]])),
        "expected real numbers",
    ),
    "complex numbers": (
        "in.npy",
        lambda f: np.save(f / "in.npy", STACK * 1j),
        "expected real numbers, got complex128",
    ),
    "one curve": (
        "in.npy",
        lambda f: np.save(f / "in.npy", T),
        "expected an array of curves, got shape (12,)",
    ),
}
MODEL = ("--model", "Exponential")
REQUESTS = {
    "no model": (["good.csv"], "--model"),
    "unknown model": (["good.csv", "--model", "Exp"], "there is no model 'Exp'"),
    "no such python": (["good.csv", "--model", "no.py:f"], "there is no file no.py"),
    "no such function": (["good.csv", "--model", "own.py:h"], "has no function 'h'"),
    "python with an error": (["good.csv", "--model", "bad.py:f"], "raises NameError"),
    "a model with an error": (
        ["good.csv", "--model", "own.py:broken", "--start", "a=1,b=1"],
        "own.py:broken raises NameError: name 'nothing' is not defined",
    ),
    "no starts": (["good.csv", "--model", "own.py:g"], "has no guess"),
    "a start missing": (
        ["good.csv", "--model", "own.py:f", "--start", "a=1"],
        "expected a value of 'k'",
    ),
    "a degree": (["good.csv", "--model", "Polynomial:two"], "expected a degree"),
    "unknown start": (["good.csv", *MODEL, "--start", "tau=1"], "no parameter 'tau'"),
    "a start of text": (["good.csv", *MODEL, "--start", "rate=fast"], "got 'fast'"),
    "a start twice": (
        ["good.csv", *MODEL, "--start", "rate=1,rate=2"],
        "'rate' is given twice",
    ),
    "a start alone": (["good.csv", *MODEL, "--start", "rate"], "expected name=value"),
    "unknown bound": (
        ["good.csv", *MODEL, "--bounds", "tau=0:1"],
        "no parameter 'tau'",
    ),
    "half a bound": (["good.csv", *MODEL, "--bounds", "rate=1"], "expected low:high"),
    "empty bounds": (["good.csv", *MODEL, "--bounds", "rate=2:1"], "leaves no value"),
    "unknown fixed": (["good.csv", *MODEL, "--fix", "tau"], "no parameter 'tau'"),
    "unknown shared": (["good.csv", *MODEL, "--share", "tau"], "no parameter 'tau'"),
    "unknown x": (["good.csv", *MODEL, "--x", "time"], "no column 'time'"),
    "unknown y": (["good.csv", *MODEL, "--y", "a,z"], "no column 'z'"),
    "y is x": (["good.csv", *MODEL, "--y", "t", "--x", "t"], "'t' is x"),
    "unknown by": (["long.csv", *MODEL, "--by", "plate"], "no column 'plate'"),
    "two y": (["long.csv", *MODEL, "--by", "well", "--y", "t,y"], "one column of x"),
    "an empty key": (["keys.csv", *MODEL, "--by", "well"], "is empty in row 2"),
    "sigma 0": (["good.csv", *MODEL, "--sigma", "0"], "expected a positive number"),
    "sigma in a column": (["good.csv", *MODEL, "--sigma", "t"], "got 0.0"),
    "sigma and counts": (
        ["good.csv", *MODEL, "--sigma", "1", "--likelihood", "poisson"],
        "--sigma: not with --likelihood",
    ),
    "a start of nan": (["good.csv", *MODEL, "--start", "rate=nan"], "got 'nan'"),
    "unknown fixed value": (["good.csv", *MODEL, "--fix", "tau=1"], "--start, --fix"),
    "x in a text file": (["good.npy", *MODEL, "--x", "own.py"], "got own.py"),
    "python that ends": (["good.csv", "--model", "end.py:f"], "raises SystemExit"),
    "over x": (
        ["good.npy", *MODEL, "--x", "good.csv", "--out", "good.csv", "--overwrite"],
        "is one of the files",
    ),
    "two results in one": (
        ["good.csv", *MODEL, "--out", "o.csv", "--report", "o.csv"],
        "expected a name with .html",
    ),
    "unknown sigma": (["good.csv", *MODEL, "--sigma", "s"], "no column 's'"),
    "by in a stack": (["good.npy", *MODEL, "--by", "well"], "--by: for tables"),
    "axis of a table": (["good.csv", *MODEL, "--axis", "1"], "--axis: for stacks"),
    "no such axis": (["good.npy", *MODEL, "--axis", "5"], "from -3 to 2"),
    "an axis by name": (["good.npy", *MODEL, "--axis", "time"], "got 'time'"),
    "three axes": (["good.npy", *MODEL, "--axis", "0,1,2"], "one or two of the 3"),
    "too few x": (["good.npy", *MODEL, "--x", "1,2,3"], "expected 12 points"),
    "x of text": (["good.npy", *MODEL, "--x", "1,b"], "expected a number, got 'b'"),
    "mask of a table": (["good.csv", *MODEL, "--mask", "good.npy"], "for stacks"),
    "mask too large": (["good.npy", *MODEL, "--mask", "good.npy"], "expected shape"),
    "unknown loss": (["good.csv", *MODEL, "--loss", "hubert"], "got 'hubert'"),
    "unknown likelihood": (["good.csv", *MODEL, "--likelihood", "gamma"], "likelihood"),
    "no steps": (["good.csv", *MODEL, "--max-steps", "0"], "max_steps"),
    "unknown option": (["good.csv", *MODEL, "--colour"], "--colour"),
    "unknown dtype": (["good.csv", *MODEL, "--dtype", "float16"], "float16"),
    "maps of a table": (["good.csv", *MODEL, "--out", "m.nii"], "a table has no maps"),
    "unknown target": (["good.csv", *MODEL, "--out", "o.doc"], "expected a table"),
    "no such folder": (["good.csv", *MODEL, "--out", "no/o.csv"], "no folder no"),
    "over the data": (
        ["good.csv", *MODEL, "--out", "good.csv"],
        "is one of the files",
    ),
    "over a file": (["good.csv", *MODEL, "--out", "old.csv"], "--overwrite replaces"),
    "over a map": (["good.npy", *MODEL, "--out", "old.npy"], "old_rate.npy exists"),
    "over a figure": (
        ["good.csv", *MODEL, "--plot", "old.png"],
        "--overwrite replaces",
    ),
    "over a page": (["good.csv", *MODEL, "--report", "old.html"], "--overwrite"),
    "a figure of text": (
        ["good.csv", *MODEL, "--plot", "f.txt"],
        "expected a name with",
    ),
    "resume what": (["good.csv", *MODEL, "--resume"], "needs --out"),
}


def refused(folder, capsys, arguments, message):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        code = main(["fit", *arguments])
    except SystemExit as stop:  # by the parser
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert not out
    assert err.count("\n") == 1, err
    assert message in err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_used(name, folder, capsys):
    path, write, message = FILES[name]
    if write is not None:
        write(folder)
    refused(folder, capsys, [path, *MODEL, "--out", "out.csv"], message)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_cannot_be_met(name, folder, capsys):
    (folder / "keys.csv").write_text("well,t,y\nA,0,1\n,1,2\n")
    (folder / "end.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "bad.py").write_text("def f(x):\n    pass\nnothing\n")
    for old in ("old.csv", "old_rate.npy", "old.png", "old.html"):
        (folder / old).write_text("precious")
    arguments, message = REQUESTS[name]
    refused(folder, capsys, arguments, message)


@pytest.mark.parametrize(
    ("module", "data"),
    [("pandas", "good.csv"), ("h5py", "in.h5"), ("nibabel", "in.nii")],
)
def test_missing_libraries_are_named(module, data, folder, capsys, monkeypatch):
    (folder / data).touch()
    monkeypatch.setitem(sys.modules, module, None)
    message = f"needs {module}: pip install 'lmjax[files]'"
    refused(folder, capsys, [data, *MODEL], message)


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert (
        "Exponential\n    Exponential on an offset: amplitude * exp(-rate * x)" in out
    )
    assert "parameters: amplitude, rate, offset" in out
