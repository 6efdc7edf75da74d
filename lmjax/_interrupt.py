"""Ctrl-C while the command line still imports: one line, no traceback.

Importing jax takes most of the first second, and ``lmjax/__init__`` does it before any
code of the command line can run. So the package itself sets a hook first, in a process
that is the command line; whoever imports lmjax as a library keeps Python's own.
"""

import _thread
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

STOPPED = 130  # how shells call a process that Ctrl-C ended


def _is_command() -> bool:
    """Return whether this process is ``lmjax`` or ``python -m lmjax``."""
    if not sys.argv:
        return False
    if sys.argv[0] == "-m":  # until Python has found the module
        return sys.orig_argv[-len(sys.argv)] in ("lmjax", "-mlmjax")
    return Path(sys.argv[0]).name in ("lmjax", "lmjax.exe", "lmjax-script.py")


def _unraisable(lost: Any) -> None:
    """Interrupt again what was interrupted where Python ignores all errors.

    Jax has a function that the garbage collector calls: Ctrl-C there would be lost.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    again = threading.Timer(0.01, _thread.interrupt_main)
    again.daemon = True
    again.start()


def _hook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _stop()
    sys.__excepthook__(kind, error, trace)


def _stop() -> NoReturn:
    sys.stderr.write("\nlmjax: stopped.\n")
    # left to itself, Python would end with the signal instead of the documented status
    raise SystemExit(STOPPED)


if _is_command() and sys.excepthook is sys.__excepthook__:
    sys.excepthook, sys.unraisablehook = _hook, _unraisable
