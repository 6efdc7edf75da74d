"""Values of a program: numbers that are known while it is written, and vectors."""

import struct
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from lmjax._jax.machine import Unsupported

_KINDS = {
    "float32": "float",
    "float64": "double",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}
SUFFIX = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64"}


class Name(NamedTuple):
    """A vector in the program."""

    text: str
    dtype: str


@cache
def name_of(dtype: Any) -> str:
    """Return NumPy's name of a scalar type, which takes long to find out."""
    return str(np.dtype(dtype))


@cache
def kind(dtype: Any) -> str:
    """Return LLVM's name of a scalar type."""
    try:
        return _KINDS[name_of(dtype)]
    except KeyError:
        raise Unsupported(f"it works with {np.dtype(dtype)}") from None


def number(value: Any) -> str:
    """Return a literal: floating-point numbers by their bits."""
    value = np.asarray(value)
    if value.dtype == bool:
        return "true" if value else "false"
    if value.dtype.kind in "iu":
        return str(int(value))
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"


class _Nothing32(np.float32):
    """A 0 that is no result of arithmetic: no step in that direction."""


class _Nothing64(np.float64):
    """The same in double precision."""


# What unit vectors hold beside their 1. Times anything it stays 0, NaN and infinity
# included, which a 0 of the user's own does not.
NOTHING: dict[str, Any] = {"float32": _Nothing32(0), "float64": _Nothing64(0)}


def is_nothing(value: Any) -> bool:
    """Return whether a value is such a 0."""
    return isinstance(value, (_Nothing32, _Nothing64))


def is_known(value: Any) -> bool:
    """Return whether a value is a number that is known now."""
    return not isinstance(value, Name)
