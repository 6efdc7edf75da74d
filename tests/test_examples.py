"""Every example runs, keeps to its form and is found in the guide."""

import ast
import json
import re

import pytest
import quick
from processes import ROOT, run_python

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 80
BY_STEM = {path.stem: path for path in EXAMPLES}
each_example = pytest.mark.parametrize("name", BY_STEM)

# One after the other in one process, since starting Python and jax takes as long as
# many an example; each as a script of its own, in an empty folder. What one changes in
# the settings of jax, the next one would see: those with float64 have another process.
RUN = """
import contextlib, io, json, os, runpy, sys, traceback
import jax
import matplotlib.pyplot as plt

before = jax.config.jax_enable_x64
outcomes = {}
for name, path, folder, options in json.load(sys.stdin):
    jax.config.update("jax_enable_x64", before)
    os.mkdir(folder)
    os.chdir(folder)
    sys.argv = [path, *options]
    shown, problem = io.StringIO(), ""
    with contextlib.redirect_stdout(shown):
        try:
            runpy.run_path(path, run_name="__main__")
        except BaseException:
            problem = traceback.format_exc()
    plt.close("all")
    outcomes[name] = {
        "problem": problem,
        "printed": shown.getvalue(),
        "files": os.listdir(folder),
        "x64": jax.config.jax_enable_x64,
    }
print(json.dumps(outcomes))
"""


def wants_float64(name):
    return "jax_enable_x64" in BY_STEM[name].read_text()


def options_of(name):
    """Return the figure, where an example draws one: to run it once is enough."""
    return ["--plot", "figure.png"] if "--plot" in BY_STEM[name].read_text() else []


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """Run the examples asked for; return what became of each."""
    asked = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.name.startswith(test_example_runs.__name__)
    }
    found = {}
    for double in (False, True):
        names = [name for name in BY_STEM if wants_float64(name) == double]
        folder = tmp_path_factory.mktemp("examples")
        jobs = [
            (name, str(BY_STEM[name]), str(folder / name), options_of(name))
            for name in names
            if name in asked
        ]
        if jobs:
            settings = quick.environment()
            printed = run_python("-c", RUN, text=json.dumps(jobs), **settings)
            found |= json.loads(printed.splitlines()[-1])
    return found


@each_example
def test_example_runs(name, outcomes):
    outcome = outcomes[name]
    assert not outcome["problem"], outcome["problem"]
    assert outcome["printed"].strip()
    assert outcome["files"] == options_of(name)[1:]
    assert outcome["x64"] == wants_float64(name)


def test_examples_come_in_both_precisions():
    """One process for each kind, and figures among them."""
    assert {wants_float64(name) for name in BY_STEM} == {False, True}
    assert any(map(options_of, BY_STEM))


@each_example
def test_example_keeps_the_form(name):
    source = BY_STEM[name].read_text()
    tree = ast.parse(source)
    assert len(source.splitlines()) <= MAX_LINES
    question = ast.get_docstring(tree).split("\n\n")[0].replace("\n", " ")
    assert question.endswith("?")
    assert "\nExpect" in ast.get_docstring(tree)
    assert source.endswith('if __name__ == "__main__":\n    main()\n')
    modules = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if hasattr(node, "names") else [])
        if "lmjax" in (getattr(node, "module", None) or name)
    ]
    assert modules[0] in ("lmjax", "lmjax.io", "lmjax.optax", "lmjax.xarray")
    assert modules[1:] in ([], ["plot"], ["models"])
    assert not re.search(r"lmjax\.(\w+\.)*_", source), "uses a private name"


@each_example
def test_guide_names_every_example(name):
    guide = (ROOT / "examples" / "README.md").read_text()
    assert f"]({name}.py)" in guide
