"""What stands on the command line: ``name=value`` and ``name=low:high``."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmjax._files.problem import FileProblem


def number(option: str, text: str) -> float:
    """Return a number, or raise with the option that it belongs to."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise FileProblem(f"{option}: expected a number, got {text!r}")
    return value


def file_called(text: str) -> Path | None:
    """Return the file of that name, if there is one."""
    try:
        return path if (path := Path(text)).is_file() or path.is_dir() else None
    except OSError:  # too long for a name: numbers
        return None


def names(text: str | None) -> list[str]:
    """Return the parts of a list with commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """Return ``name=value`` pairs, several of them in one argument or in several."""
    found = {}
    for part in (part for text in given for part in names(text)):
        match = re.fullmatch(r"([^=]+)=(.*)", part)
        if match is None:
            raise FileProblem(f"{option}: expected name=value, got {part!r}")
        name, value = (group.strip() for group in match.groups())
        if name in found:
            raise FileProblem(f"{option}: {name!r} is given twice")
        found[name] = value
    return found


def values(option: str, given: Iterable[str]) -> dict[str, float]:
    """Return numbers by name."""
    texts = pairs(option, given)
    return {name: number(f"{option} {name}", text) for name, text in texts.items()}


def limits(given: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return lower and upper bounds by name; ``name=0:`` has no upper one."""
    low, high = {}, {}
    for name, text in pairs("--bounds", given).items():
        ends = text.split(":")
        if len(ends) != 2 or not any(end.strip() for end in ends):
            raise FileProblem(f"--bounds {name}: expected low:high, got {text!r}")
        for side, end in zip((low, high), ends, strict=True):
            if end.strip():
                side[name] = number(f"--bounds {name}", end)
        if low.get(name, -float("inf")) > high.get(name, float("inf")):
            raise FileProblem(f"--bounds {name}: {text!r} leaves no value")
    return low, high


def nested(given: dict[str, Any]) -> dict[str, Any]:
    """Return values by the names of parts and parameters: ``a.b`` is b of a."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        part, dot, field = name.partition(".")
        if dot:
            found.setdefault(part, {})[field] = value
        else:
            found[name] = value
    return found


def check_known(option: str, given: Iterable[str], known: list[str]) -> None:
    """Raise if an option names a parameter that the model has not."""
    for name in given:
        if name not in known:
            raise FileProblem(
                f"{option}: the model has no parameter {name!r}; it has "
                + ", ".join(known)
            )
