"""What XLA makes of batches of fits for an H100, compiled on a machine without one."""

import importlib.util
import json

import pytest
from processes import ROOT, run_python

PLUGIN = importlib.util.find_spec("jax_plugins") and (
    importlib.util.find_spec("jax_plugins.xla_cuda13")
)
# Seconds to compile, kernels, loops, bytes per fit of temporary memory, bytes per fit
# that a turn of the busiest loop reads and writes: a third to a half more than was
# found when this was written, the time apart, which depends on the machine.
BUDGETS = {
    "params, fused": (5, 5, 0, 450, 0),
    "stderr, fused": (5, 20, 0, 450, 0),
    "gradient, fused": (5, 15, 0, 500, 0),
    "params, xla": (30, 130, 8, 1300, 4000),
    "stderr, xla": (60, 280, 20, 1300, 4000),
    "gradient, xla": (60, 240, 14, 1300, 4000),
}


@pytest.fixture(scope="module")
def facts():
    path = str(ROOT / "tests" / "for_h100.py")
    return json.loads(run_python(path, JAX_PLATFORMS="cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not PLUGIN, reason="needs the wheels that for_h100.py names")
@pytest.mark.parametrize("kind", BUDGETS)
def test_budgets_are_kept(facts, kind):
    found = facts[kind]
    most = dict(zip(found, BUDGETS[kind], strict=True))
    assert not {name: value for name, value in found.items() if value > most[name]}
