"""Checks of one argument: a number, a flag, a word, a function."""

import math
from typing import Any

import jax
import numpy as np


def check_flag(name: str, value: Any) -> None:
    """Raise unless a value is True or False, known before compilation."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def check_choice(name: str, value: Any, words: tuple[str, ...]) -> None:
    """Raise unless a value is one of some words; arrays compare with none."""
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name}: expected one of {', '.join(words)}, got {value!r}")


def check_function(name: str, value: Any, call: str) -> None:
    """Raise unless a value can be called; ``call`` says how it will be."""
    if not callable(value):
        raise TypeError(f"{name}: expected a function, {call}, got {value!r}")


def is_real(value: Any) -> bool:
    """Return whether a value is a real number, or an array of them, that jax takes."""
    if type(value) is float:  # nearly all that comes by
        return True
    if isinstance(value, int):
        return abs(value) < 2**63
    if isinstance(value, float):
        return True
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        return False
    # V: bfloat16 and such; random keys have dtypes without a kind
    kind = getattr(value.dtype, "kind", "O")
    return kind in "biuf" or (kind == "V" and not getattr(value.dtype, "fields", None))


def check_real(name: str, value: Any) -> None:
    """Raise unless a value is a real number, or an array of them."""
    if not is_real(value):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def check_above(name: str, value: Any, least: float, inclusive: bool = False) -> None:
    """Raise unless a value is a number, and above ``least`` where it is concrete."""
    check_real(name, value)
    if not isinstance(value, float | int):
        return
    if not (value > least or (inclusive and value == least)) or math.isnan(value):
        sign = ">=" if inclusive else "above"
        raise ValueError(f"{name}: expected a number {sign} {least:g}, got {value}")
