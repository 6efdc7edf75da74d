"""Ctrl-C before the command line has begun; the interrupt comes from a module."""

import os
import subprocess
import sys

import pytest
from processes import ROOT

SCRIPT = "import sys\nfrom lmjax._command.main import run\nsys.exit(run())\n"


@pytest.fixture
def started(tmp_path):
    """Return a function that runs Python where importing one module is interrupted."""

    def run(module, *command, code="raise KeyboardInterrupt\n"):
        (tmp_path / f"{module}.py").write_text(code)
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
        )

    return run


@pytest.mark.parametrize("how", ["-m", "-mlmjax", "script"])
# the first import of all, and one that only the command line needs
@pytest.mark.parametrize("module", ["jax", "argparse"])
def test_ctrl_c_during_imports_is_one_line(how, module, started, tmp_path):
    (tmp_path / "lmjax").write_text(SCRIPT)
    command = {"-m": ["-m", "lmjax"], "-mlmjax": ["-mlmjax"], "script": ["lmjax"]}[how]
    done = started(module, *command, "fit", "curves.csv")
    assert done.stderr.strip() == "lmjax: stopped."
    assert done.returncode == 130


LOST = """
import time

class Garbage:
    def __del__(self):
        raise KeyboardInterrupt

Garbage()
for _ in range(6000):
    time.sleep(0.01)
"""


def test_ctrl_c_where_python_ignores_errors_is_not_lost(started):
    done = started("jax", "-m", "lmjax", "fit", "curves.csv", code=LOST)
    assert done.stderr.strip() == "lmjax: stopped."
    assert done.returncode == 130


@pytest.mark.parametrize("command", [["-c", "import lmjax"], ["-m", "other"]])
def test_a_library_leaves_ctrl_c_alone(command, started, tmp_path):
    (tmp_path / "other.py").write_text("import lmjax\n")
    done = started("jax", *command)
    assert "Traceback" in done.stderr
    assert "stopped" not in done.stderr
