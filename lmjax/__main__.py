"""``python -m lmjax`` is the command line."""

import sys

from lmjax._command.main import run

sys.exit(run())
