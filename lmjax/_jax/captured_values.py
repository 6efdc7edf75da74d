"""The values that a function captured when it was traced, and whether they changed.

JAX compiles a closed-over number or array into the program. Someone who changes it and
calls again gets the old fit, in silence. Numbers and NumPy arrays that are easy to find
are looked at before each call: those in closures, in arguments of `functools.partial`,
in attributes that the function names, and in globals that it names. Large arrays are
looked at in places.
"""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lmjax._errors.warn import warn

# Elements of an array that are compared, spread over all of it: a few microseconds.
_LOOKED_AT = 1024

# Functions within functions that are looked into.
_DEEPEST = 3

_LIBRARIES = ("jax", "numpy", "scipy", "lmjax", "equinox")


class Frozen:
    """Prints of the numbers and arrays that a function reads; holds none of them."""

    def __init__(self, fn: Callable):
        self.prints = prints(fn)
        self.warned = False

    def changes(self, fn: Callable) -> list[str]:
        """Return the names of what has changed since; none after a report."""
        if self.warned or not self.prints:
            return []
        now = prints(fn)
        if now == self.prints:
            return []
        kept = now.keys() & self.prints.keys()
        return sorted(name for name in kept if now[name] != self.prints[name])

    def report(self, name: str, fn: Callable, changes: list[str]) -> None:
        """Warn, once per function."""
        self.warned = True
        called = getattr(fn, "__qualname__", type(fn).__qualname__)
        warn(
            f"{name}: {', '.join(changes)} changed since {called} was compiled, and "
            "the fit still uses the old value, as jax does; hand over what changes "
            "through x or args, or define the function anew (lmjax.scipy reads it "
            "again in every call)"
        )


def prints(fn: Any) -> dict[str, Any]:
    """Return what compares equal while all that is found outside stays the same."""
    found = {}
    for name, value in free_values(fn):
        if type(value) in (int, float, complex, bool, str):
            found[name] = value
        elif isinstance(value, types.FunctionType):
            found[name] = value.__code__
        elif isinstance(value, jax.Array):
            found[name] = id(value)  # nobody can change it, but another may be bound
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = _print_of(np.asarray(value))
    return found


def _print_of(array: np.ndarray) -> Any:
    step = max(1, -(-array.size // _LOOKED_AT))
    return (array.shape, array.dtype, array.flat[::step].tobytes())


def free_values(fn: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what a function finds outside its arguments."""
    if isinstance(fn, functools.partial):
        for i, value in enumerate(fn.args):
            yield f"argument {i} of functools.partial", value
        yield from fn.keywords.items()
        fn = fn.func
    held = None
    if isinstance(fn, types.MethodType):
        held, fn = fn.__self__, fn.__func__
    elif not isinstance(fn, types.FunctionType):
        held, fn = fn, type(fn).__call__
    if not isinstance(fn, types.FunctionType):
        return
    names = fn.__code__.co_names
    attributes = getattr(held, "__dict__", {})
    methods = type(held).__dict__
    for name in names:
        if name in attributes:
            yield f"self.{name}", attributes[name]
        elif isinstance(methods.get(name), types.FunctionType):
            yield from _within(types.MethodType(methods[name], held), depth)
        elif name in fn.__globals__:
            yield name, fn.__globals__[name]
            yield from _within(fn.__globals__[name], depth)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        yield name, value
        yield from _within(value, depth)


def _within(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield what a function finds that another one calls; libraries do not change."""
    inner = types.FunctionType | types.MethodType | functools.partial
    if depth >= _DEEPEST or not isinstance(value, inner):
        return
    home = getattr(value, "__module__", None) or ""
    if home.partition(".")[0] not in _LIBRARIES:
        yield from free_values(value, depth + 1)
