"""Imports flow one way, importing is light, files stay short."""

import ast
import tomllib

import pytest
from processes import ROOT, run_python

import lmjax

PACKAGE = ROOT / "lmjax"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 330

# Each module may import only those above it.
ORDER = [
    "lmjax._types",
    "lmjax._status",
    "lmjax._advice",
    "lmjax._checks",
    "lmjax._varying",
    "lmjax._frozen",
    "lmjax._canonical",
    "lmjax._callables",
    "lmjax._params",
    "lmjax._indices",
    "lmjax._traced",
    "lmjax._written",
    "lmjax._programs",
    "lmjax._arrays",
    "lmjax._warn",
    "lmjax._precision",
    "lmjax._inputs",
    "lmjax._ragged",
    "lmjax._rarely",
    "lmjax._lanes",
    "lmjax.losses",
    "lmjax._rice",
    "lmjax.likelihoods",
    "lmjax._terms",
    "lmjax._bounds",
    "lmjax._damping",
    "lmjax._linearize",
    "lmjax._arrow",
    "lmjax._linear_solvers.singular_values",
    "lmjax._linear_solvers.dense",
    "lmjax._algebra",
    "lmjax._inverse",
    "lmjax._projection",
    "lmjax._problem",
    "lmjax._linear_solvers.cg",
    "lmjax._linear_solvers.dual",
    "lmjax._linear_solvers.schur",
    "lmjax._linear_solvers",
    "lmjax._solver",
    "lmjax._report",
    "lmjax._result",
    "lmjax._rounding",
    "lmjax._stopping",
    "lmjax._proposal",
    "lmjax._one_fit",
    "lmjax._loop",
    "lmjax._symptoms",
    "lmjax._block",
    "lmjax._batch_engine",
    "lmjax._separable",
    "lmjax._last_look",
    "lmjax._symmetric",
    "lmjax._hessian",
    "lmjax._batches",
    "lmjax._fused",
    "lmjax._fused.places",
    "lmjax._fused.listing",
    "lmjax._fused.structure",
    "lmjax._fused.values",
    "lmjax._fused.ir",
    "lmjax._fused.routine",
    "lmjax._fused.algebra",
    "lmjax._fused.scalars",
    "lmjax._fused.stretches",
    "lmjax._fused.recurrences",
    "lmjax._fused.operations",
    "lmjax._fused.words",
    "lmjax._fused.exponentials",
    "lmjax._fused.hyperbolic",
    "lmjax._fused.powers",
    "lmjax._fused.error_function",
    "lmjax._fused.circular",
    "lmjax._fused.arcs",
    "lmjax._fused.elementary",
    "lmjax._fused.module",
    "lmjax._fused.leaves",
    "lmjax._fused.kept",
    "lmjax._fused.turns",
    "lmjax._fused.course",
    "lmjax._fused.lane",
    "lmjax._fused.passes",
    "lmjax._fused.queue",
    "lmjax._fused.kernel",
    "lmjax._fused.handler",
    "lmjax._fused.machine",
    "lmjax._fused.threads",
    "lmjax._fused.engine",
    "lmjax._range",
    "lmjax._fused.fit",
    "lmjax._solve",
    "lmjax._fused.inverse",
    "lmjax._covariance",
    "lmjax._fused.hessian",
    "lmjax._curvature",
    "lmjax._implicit",
    "lmjax._unrolled",
    "lmjax._doors",
    "lmjax._least_squares",
    "lmjax._data",
    "lmjax._statistics",
    "lmjax._block_statistics",
    "lmjax._fitted",
    "lmjax._request",
    "lmjax._curve_fit",
    "lmjax._refit",
    "lmjax._bracket",
    "lmjax._profile_search",
    "lmjax._profile",
    "lmjax._bootstrap",
    "lmjax._lock",
    "lmjax._program_hash",
    "lmjax._rows",
    "lmjax._checkpoint",
    "lmjax._flight",
    "lmjax._explain",
    "lmjax._fit_batch",
    "lmjax._retry",
    "lmjax._groups",
    "lmjax._global_result",
    "lmjax._global_fit",
    "lmjax._convolve",
    "lmjax.models._stable",
    "lmjax.models._model",
    "lmjax.models._faddeeva",
    "lmjax.models._domain",
    "lmjax.models._guess",
    "lmjax.models._refine",
    "lmjax.models.polynomial",
    "lmjax.models.peaks",
    "lmjax.models.spots",
    "lmjax.models.waves",
    "lmjax.models.decays",
    "lmjax.models.relaxation",
    "lmjax.models.diffusion",
    "lmjax.models.doseresponse",
    "lmjax.models.growth",
    "lmjax.models.kinetics",
    "lmjax.models",
    "lmjax",
    "lmjax.optax",
    "lmjax.scipy._trace",
    "lmjax.scipy._words",
    "lmjax.scipy._checks",
    "lmjax.scipy._data",
    "lmjax.scipy._covariance",
    "lmjax.scipy._run",
    "lmjax.scipy._progress",
    "lmjax.scipy._leastsq",
    "lmjax.scipy._least_squares",
    "lmjax.scipy._curve_fit",
    "lmjax.scipy",
    "lmjax.plot._panels",
    "lmjax.plot._single",
    "lmjax.plot._many",
    "lmjax.plot",
    "lmjax._cli",
]
# Late imports, inside a function, keep optional modules optional.
LATE = {
    ("lmjax._cli", "matplotlib"),
    ("lmjax._flight", "tqdm"),
    # a third of a second that only batches need
    ("lmjax._fused.machine", "llvmlite"),
    # of which each system has one
    ("lmjax._lock", "fcntl"),
    ("lmjax._lock", "msvcrt"),
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(node):
    """Yield the absolute module names that an import statement loads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"relative import in line {node.lineno}"
    for alias in node.names:
        below = f"{node.module}.{alias.name}"
        yield below if below in ORDER else node.module


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


def test_order_names_every_module():
    assert sorted(map(module_name, FILES)) == sorted(ORDER)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_flow_one_way(path):
    allowed = ORDER[: ORDER.index(module_name(path))]
    for module, line, _ in imports(path):
        if in_package(module):
            assert module in allowed, f"{path.name}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_stand_at_the_top(path):
    for module, line, top in imports(path):
        late = (module_name(path), module.split(".")[0])
        assert top or late in LATE, f"{path.name}:{line} imports {module} late"
        assert not (top and late in LATE), f"{path.name}:{line}: {module} is optional"


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
    for heavy in ("matplotlib", "scipy.optimize", "pandas", "optax", "lmjax._cli"):
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
