"""A key of a function by its source and captured values, found without a trace.

A loop with a lambda in its body makes a new function in every turn. Two functions do
the same if their code is the same and all that they read from outside (globals,
closures, defaults) are equal numbers and strings, functions of libraries, or functions
of this kind. A function that reads an array, an object or a module that may change has
no key: it has to be traced.
"""

import builtins
import dis
import functools
import operator
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from lmjax._jax.jaxpr_key import ByIdentity

# Modules whose contents do not change between two calls.
_LIBRARIES = ("jax", "numpy", "math", "scipy", "lmjax", "equinox")
_LIBRARIES += ("functools", "_functools")
# A function that names one of these may read what it does not name, or a state.
_HIDDEN = frozenset(
    ("globals", "locals", "vars", "eval", "exec", "__import__", "open", "input", "id")
    + ("next", "random", "config")  # `numpy.random` has a state
    + ("load", "loadtxt", "genfromtxt", "fromfile", "memmap")
)
_IMPORT = dis.opmap["IMPORT_NAME"]
_WORDS = (str, bytes, bool, int, type(None))
_BUILT_IN = types.BuiltinFunctionType | type | bool | None
# Functions within functions, and tuples within tuples, that are followed. A model is
# shallower; beyond, a trace is as fast as the key.
_DEEPEST = 8


class Unknown(Exception):
    """Something is read that cannot be compared by value."""


def function_key(fn: Any) -> Hashable:
    """Return what is equal for functions that do the same, or None if unknown.

    It holds no array and no object of the user's.
    """
    try:
        return _function(fn, 0)
    except Unknown:
        return None


def _function(fn, depth) -> Hashable:
    if isinstance(fn, functools.partial):
        given = (fn.args, tuple(fn.keywords.items()))
        return ("partial", _value(fn.func, depth + 1), _value(given, depth + 1))
    if type(fn) is not types.FunctionType or depth > _DEEPEST:
        raise Unknown
    if fn.__dict__:  # attributes, which it or others may read
        raise Unknown
    read = [fn.__defaults__, tuple((fn.__kwdefaults__ or {}).items())]
    for name in _names(fn.__code__):
        if name in _HIDDEN:
            raise Unknown
        if name in fn.__globals__:
            read.append((name, fn.__globals__[name]))
        elif not isinstance(getattr(builtins, name, len), _BUILT_IN):
            raise Unknown
    for cell in fn.__closure__ or ():
        try:
            read.append(cell.cell_contents)
        except ValueError:  # not filled yet
            raise Unknown from None
    return (fn.__code__, tuple(_value(value, depth + 1) for value in read))


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a function and those within it look up, or may look up."""
    if _IMPORT in code.co_code[::2]:  # of a module that is not known here
        raise Unknown
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _value(value, depth) -> Hashable:
    kind = type(value)
    if kind in _WORDS:
        return (kind, value)
    if kind in (float, complex) or isinstance(value, np.generic):
        number = np.asarray(value)
        return (kind, str(number.dtype), number.tobytes())  # NaN is NaN
    if kind is tuple:
        return tuple(_value(part, depth) for part in value)
    if _of_library(value):
        return ByIdentity(value)
    return _function(value, depth)


def _of_library(value) -> bool:
    """Return whether it is a library, or what one holds under its own name.

    Anything else may hold what changes: methods, objects, functions made by others such
    as ``jax.vmap(functools.partial(...))``, which calls itself one of functools.
    """
    is_module = isinstance(value, types.ModuleType)
    home = value.__name__ if is_module else getattr(value, "__module__", None) or ""
    if home.partition(".")[0] not in _LIBRARIES:
        return False
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    if is_module or not name:
        return is_module
    try:
        return operator.attrgetter(name)(sys.modules.get(home)) is value
    except AttributeError:
        return False
