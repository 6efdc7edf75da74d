"""Docstrings and notebooks run, and every public name is documented."""

import base64
import inspect
import json
import re

import equinox as eqx
import pytest
import quick
from processes import ROOT, run_python

import lmjax
import lmjax.io
import lmjax.plot
import lmjax.scipy
import lmjax.xarray

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = sorted(name for name in dir(lmjax) if not name.startswith("_"))
MODELS = {
    name: thing for name, thing in vars(lmjax.models).items() if inspect.isclass(thing)
}
IO = [getattr(lmjax.io, name) for name in lmjax.io.NAMES]
MANIFOLDS = [getattr(lmjax.manifolds, name) for name in lmjax.manifolds.NAMES]
LIKELIHOODS = [getattr(lmjax.likelihoods, name) for name in lmjax.likelihoods.NAMES]
PLOTS = {n: f for n, f in vars(lmjax.plot).items() if inspect.isfunction(f)}
XARRAY = {"curvefit": lmjax.xarray.curvefit}
SCIPY = {n: f for n, f in vars(lmjax.scipy).items() if inspect.isfunction(f)}
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in (
        (lmjax, NAMES),
        (lmjax.losses, lmjax.losses.NAMES),
        (lmjax.likelihoods, lmjax.likelihoods.NAMES),
        (lmjax.manifolds, lmjax.manifolds.NAMES),
        (lmjax.io, lmjax.io.NAMES),
        (lmjax.models, MODELS),
        (lmjax.plot, PLOTS),
        (lmjax.scipy, SCIPY),
        (lmjax.xarray, XARRAY),
    )
    for name in names
}
# What a user calls or builds, in contrast to what a fit returns.
CALLED = [
    lmjax.least_squares,
    lmjax.curve_fit,
    lmjax.convolve,
    lmjax.explain,
    lmjax.fit_batch,
    lmjax.global_fit,
    lmjax.multi_start,
    lmjax.load,
    lmjax.pad_ragged,
    lmjax.rescue,
    lmjax.save,
    lmjax.table,
    lmjax.profile,
    lmjax.contour,
    lmjax.bootstrap,
    lmjax.LevenbergMarquardt,
    lmjax.QR,
    lmjax.Cholesky,
    lmjax.SVD,
    lmjax.CG,
    lmjax.Dual,
    lmjax.Schur,
    lmjax.BlockCG,
    lmjax.SparseCholesky,
    lmjax.ResidualBlocks,
    lmjax.block_covariance,
    lmjax.Implicit,
    lmjax.Unrolled,
    lmjax.OneStep,
    lmjax.Nielsen,
    lmjax.Classical,
    lmjax.Fixed,
    lmjax.io.project,
    lmjax.io.read_bal,
    lmjax.io.read_g2o,
    *LIKELIHOODS,
    *MANIFOLDS,
    *MODELS.values(),
]
RETURNED = [
    lmjax.Solution,
    lmjax.ResidualFit,
    lmjax.BlockSolution,
    lmjax.BlockCovariance,
    lmjax.History,
    lmjax.CurveFit,
    lmjax.GlobalFit,
    lmjax.CovarianceBlocks,
    lmjax.DerivativeCheck,
    lmjax.Profile,
    lmjax.Contour,
    lmjax.Bootstrap,
    lmjax.io.Bundle,
    lmjax.io.PoseGraph,
]

MAX_NOTEBOOK_BYTES = 500_000
ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(home|Users|root|tmp|work|usr|mnt)/|\b[A-Z]:\\")

# Line breaks in expected output may follow the width of the source.
RUN_DOCTESTS = """
import doctest, importlib, pkgutil, sys, lmjax
modules = pkgutil.walk_packages(lmjax.__path__, "lmjax.")
flags = doctest.NORMALIZE_WHITESPACE
failed, attempted = 0, 0
names = ["lmjax", *sorted(module.name for module in modules)]
inside = lambda *parents: [name for name in names if name.startswith(parents)]
models, plot = inside("lmjax.models"), inside("lmjax.plot")
rest = [name for name in names if name not in models + plot]
parts = {"models": models, "plot": plot, "even": rest[::2], "odd": rest[1::2]}
for name in parts[sys.argv[1]]:
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    failed, attempted = failed + result.failed, attempted + result.attempted
print(f"{attempted} attempted, {failed} failed")
"""


def by_stem(path):
    return path.stem


@pytest.mark.parametrize(
    "part",
    [
        "even",
        "odd",
        "plot",
        pytest.param("models", marks=pytest.mark.slow),
    ],
)
def test_doctests(part, tmp_path):
    settings = quick.environment()
    out = run_python("-c", RUN_DOCTESTS, part, cwd=tmp_path, **settings)
    attempted, failed = map(int, re.findall(r"(\d+) (?:attempted|failed)", out)[-2:])
    assert failed == 0, out
    assert attempted > 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_stem)
def test_notebook_is_stored_as_executed(path):
    assert path.stat().st_size < MAX_NOTEBOOK_BYTES
    cells = [c for c in json.loads(path.read_text())["cells"] if c["source"]]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    texts = ["".join(cell["source"]) for cell in cells]
    for output in outputs:
        texts.append("".join(output.get("text", [])))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                texts.append("".join(data))
    for text in texts:
        assert not ABSOLUTE_PATH.search(text), text


@pytest.mark.parametrize(
    ("figure", "notebook"),
    [("walkers", "01_the_dance"), ("go_and_stop", "02_narrow_valleys")],
)
def test_figure_of_a_page_is_one_of_the_notebook(figure, notebook):
    folder = ROOT / "notebooks"
    stored = (folder / f"{notebook}.ipynb").read_text().replace("\\n", "")
    drawn = (folder / f"{figure}.png").read_bytes()
    assert base64.b64encode(drawn).decode() in stored


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_stem)
def test_notebook_runs(path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented(name):
    doc = inspect.getdoc(PUBLIC[name])
    # dataclasses and enums without a docstring get one made up
    assert doc
    assert not doc.startswith(f"{name.split('.')[-1]}(")
    summary = doc.split("\n\n")[0]
    assert summary.endswith("."), summary


@pytest.mark.parametrize(
    "thing",
    [*CALLED, *PLOTS.values(), *SCIPY.values(), *XARRAY.values()],
    ids=lambda thing: thing.__name__,
)
def test_what_a_user_calls_has_an_example_and_explains_its_arguments(thing):
    doc = inspect.getdoc(thing)
    assert "Example:\n    >>> " in doc
    for name in inspect.signature(thing).parameters:
        assert re.search(rf"^    (\*\*)?{name}: \S", doc, re.M), f"Args lacks {name}"


@pytest.mark.parametrize("name", MODELS)
def test_model_names_its_source_and_the_units_of_its_parameters(name):
    doc = inspect.getdoc(MODELS[name])
    if name in ("Model", "Sum", "Product"):
        return
    assert "\nReferences:\n" in doc
    for text in re.split(
        r"\n    (?=\w+: )", doc.split("Args:")[1].split("Example:")[0]
    ):
        assert not text.strip() or re.search("unit|radians|logarithm", text), text


@pytest.mark.parametrize("thing", RETURNED, ids=lambda thing: thing.__name__)
def test_what_a_fit_returns_explains_its_attributes(thing):
    doc = inspect.getdoc(thing)
    for name in inspect.get_annotations(thing):
        assert re.search(rf"^    {name}: \S", doc, re.M), f"Attributes lacks {name}"


@pytest.mark.parametrize(
    "thing",
    [t for t in PUBLIC.values() if inspect.isclass(t)],
    ids=lambda t: t.__name__,
)
def test_public_methods_are_documented(thing):
    for name, member in vars(thing).items():
        if name.startswith("_") or name in getattr(thing, "__dataclass_fields__", {}):
            continue
        if inspect.isfunction(member) or isinstance(member, property):
            assert inspect.getdoc(member), f"{thing.__name__}.{name}"


def test_every_public_class_that_is_called_is_listed_here():
    known = {*CALLED, *RETURNED, lmjax.FitError, lmjax.Status, lmjax.ParamStatus}
    known |= {lmjax.ProfileStatus, lmjax.Engine}
    everything = {getattr(lmjax, name) for name in NAMES}
    public = {thing for thing in everything if not inspect.ismodule(thing)}
    assert known == public | {*LIKELIHOODS, *MANIFOLDS, *IO, *MODELS.values()}
    classes = [thing for thing in CALLED if inspect.isclass(thing)]
    assert all(issubclass(thing, eqx.Module) for thing in classes)
