"""``python -m lmjax`` is the command line."""

import sys

from lmjax._command.main import run

if __name__ == "__main__":
    sys.exit(run())
