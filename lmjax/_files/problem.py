"""What goes wrong with files, in one line; libraries that are not installed."""

import importlib
from typing import Any

INSTALL = "pip install 'lmjax[files]'"


class FileProblem(Exception):
    """A file or a request that cannot be used; says which, why and what to do."""


def library(name: str, purpose: str) -> Any:
    """Return a library, or raise with the line that installs it.

    Args:
        name: The module.
        purpose: What it is needed for, such as a suffix.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FileProblem(f"{purpose} needs {name}: {INSTALL}") from error


def one_line(error: BaseException) -> str:
    """Return the message of a library in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
