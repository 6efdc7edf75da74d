"""Imports flow one way, importing is light, files stay short."""

import ast
import collections
import graphlib
import tomllib

import pytest
from processes import ROOT, run_python

import lmjax

PACKAGE = ROOT / "lmjax"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300
# Lines of code of a function; text that it writes counts for one.
MAX_FUNCTION = 60

# The ladder: what stands in a line may import from the lines above it, and from its own
# folder. Files of one folder import one another in one direction, too.
LADDER = [
    "_interrupt",  # Ctrl-C while the command line imports
    "_errors",  # how lmjax complains
    "_jax",  # what we add to JAX; knows nothing of least squares
    "_linalg",  # J, its normal matrix, their inverses
    "losses",
    "likelihoods",
    "manifolds",
    "_problem",  # from what a user holds to one flat residual
    "_solver",  # the method
    "_engines",  # one loop, blocks by XLA, one machine program
    "_derivatives",  # of a solution
    "_statistics",  # covariance, errors
    "_fit",  # the entry points and what they return
    "_uncertainty",  # profiles, bootstrap
    "_batch",  # chunks, devices, checkpoints
    "models",
    "lmjax",  # the only list of public names
    "optax",
    "scipy",
    "plot",
    "io",  # bundle adjustment and pose graphs in files
    "_files",  # tables and stacks; knows nothing of fits
    "_command",  # the command line
    "__main__",
    "xarray",  # maps of fits
]
# Late imports, inside a function, keep optional modules optional.
LATE = {
    ("lmjax._command.demo", "matplotlib"),
    ("lmjax._command.report", "matplotlib"),
    ("lmjax._command.progress", "tqdm"),
    ("lmjax._batch.chunks", "tqdm"),
    ("lmjax._solver.records", "pandas"),
    # a third of a second that only batches need
    ("lmjax._jax.machine", "llvmlite"),
    # half of the time of importing jax, for large structured problems only
    ("lmjax._linalg.blocks.elimination", "scipy"),
    ("lmjax._linalg.blocks.sparse_cholesky", "scipy"),
    # of which each system has one
    ("lmjax._batch.lock", "fcntl"),
    ("lmjax._batch.lock", "msvcrt"),
}
# Pictures are imported late: ``fit.plot()`` is short for what stands on a higher rung.
SHORTHANDS = {
    ("lmjax._solver.solution", "lmjax.plot"),
    ("lmjax._command.report", "lmjax.plot"),
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def rung(module):
    """Return where a module stands on the ladder."""
    parts = module.split(".")
    return LADDER.index(parts[1] if len(parts) > 1 else "lmjax")


def imported_modules(node):
    """Yield the absolute module names that an import statement loads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"relative import in line {node.lineno}"
    for alias in node.names:
        below = f"{node.module}.{alias.name}"
        yield below if below in MODULES else node.module


def imports(path):
    """Return (module, line, whether at the top level) for each import in a file."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in imported_modules(node):
                found.append((module, node.lineno, node in tree.body))
    return found


def in_package(module):
    return module.split(".")[0] == "lmjax"


def test_every_folder_has_a_rung():
    found = {module.split(".")[1] for module in MODULES if "." in module}
    assert found == set(LADDER) - {"lmjax"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_come_from_lower_rungs(path):
    own = module_name(path)
    for module, line, _ in imports(path):
        if in_package(module) and (own, module) not in SHORTHANDS:
            assert rung(module) <= rung(own), f"{path.name}:{line} imports {module}"


def test_imports_within_a_folder_go_one_way():
    graph = {
        own: {m for m, _, _ in imports(path) if in_package(m) and rung(m) == rung(own)}
        for own, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises where there is a circle


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_stand_at_the_top(path):
    for module, line, top in imports(path):
        late = (module_name(path), module.split(".")[0])
        shorthand = (module_name(path), module) in SHORTHANDS
        assert top or late in LATE or shorthand, (
            f"{path.name}:{line} imports {module} late"
        )
        assert not (top and late in LATE), f"{path.name}:{line}: {module} is optional"


def private_names():
    """Return which folders define a private function, method or class of a name."""
    found = collections.defaultdict(set)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or ""
            if name.startswith("_") and not name.endswith("__"):
                found[name].add(rung(module))
    return found


PRIVATE = private_names()


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_private_members_stay_in_their_folder(path):
    """A leading underscore is a promise to nobody but the files beside it."""
    own = rung(module_name(path))
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and in_package(node.module or ""):
            names = [
                a.name for a in node.names if f"{node.module}.{a.name}" not in MODULES
            ]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        for name in names:
            folders = PRIVATE.get(name, {own})
            assert own in folders, f"{path.name}:{node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_functions_fit_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node) <= MAX_FUNCTION, f"{path.name}: {node.name}"


def code_lines(function):
    """Return how many lines a function has after its signature and docstring."""
    documented = ast.get_docstring(function) is not None
    body = function.body[documented:] or function.body
    texts = [
        node.end_lineno - node.lineno
        for node in ast.walk(ast.Module(body, []))
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
    return function.end_lineno - body[0].lineno + 1 - sum(texts)


def test_import_is_light_and_leaves_the_settings_alone():
    loaded = run_python(
        "-c",
        "import sys, jax\n"
        "before = dict(jax.config.values)\n"
        "import lmjax\n"
        "assert dict(jax.config.values) == before\n"
        "assert not jax.config.jax_enable_x64\n"
        "print(*sys.modules)",
    ).split()
    assert "lmjax" in loaded
    for heavy in (
        "matplotlib",
        "scipy.optimize",
        "pandas",
        "optax",
        "xarray",
        "dask",
        "lmjax._command",
    ):
        assert heavy not in loaded


def test_import_starts_no_device():
    # Any computation would look for the device and fail.
    run_python("-c", "import lmjax", JAX_PLATFORMS="no-such-device")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert lmjax.__version__ == project["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {lmjax.__version__}\n" in citation
