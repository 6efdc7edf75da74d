"""Warnings that point at the line of the user which called lmjax."""

import os
import sys
import warnings

# What the names of the files of lmjax begin with.
PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def warn(text: str) -> None:
    """Warn in the line that called lmjax: Python shows a text once per line."""
    frame, level = sys._getframe(), 1
    inside = lambda frame: frame.f_code.co_filename.startswith(PACKAGE)
    while frame.f_back and inside(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
