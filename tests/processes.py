"""Python processes as a user starts them, without the settings of the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(*command, cwd=None, text=None, **settings):
    """Run Python where warnings are errors; return what it prints.

    It keeps what it compiles in the cache of the tests. A file of that cache which
    another process is writing at this moment is worth no error: it is compiled again.
    """
    env = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    env |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", **settings}
    warnings = ["-W", "error", "-W", "ignore:Error reading persistent compilation"]
    done = subprocess.run(
        [sys.executable, *warnings, *command],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        input=text,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
