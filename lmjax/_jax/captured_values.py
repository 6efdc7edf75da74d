"""The values that a function captured when it was traced, and whether they changed.

JAX compiles a closed-over number or array into the program. Someone who changes it and
calls again gets the old fit, in silence. Numbers and NumPy arrays that are easy to find
are compared before each call: those in closures, in arguments of `functools.partial`,
in attributes that the function names, and in globals that it names. Of a large array
some elements are compared, spread over all of it.
"""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lmjax._errors.warn import warn

# Elements of an array that are compared at most: a few microseconds.
_SAMPLED = 1024

# Calls of functions by functions that are followed: helpers of a model, but not a whole
# program, before each call.
_DEEPEST = 3

_LIBRARIES = ("jax", "numpy", "scipy", "lmjax", "equinox")


class CapturedValues:
    """Fingerprints of the numbers and arrays that a function reads.

    Attributes:
        fingerprints: By the name under which the function reads each.
        warned: Whether a change has been reported.
    """

    def __init__(self, fn: Callable):
        self.fingerprints = fingerprints(fn)
        self.warned = False

    def changes(self, fn: Callable) -> list[str]:
        """Return the names of values that have changed; none after a report."""
        if self.warned or not self.fingerprints:
            return []
        now = fingerprints(fn)
        if now == self.fingerprints:
            return []
        kept = now.keys() & self.fingerprints.keys()
        return sorted(name for name in kept if now[name] != self.fingerprints[name])

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


def fingerprints(fn: Any) -> dict[str, Any]:
    """Return a fingerprint of each number and array that a function reads."""
    found = {}
    for name, value in free_values(fn):
        if type(value) in (int, float, complex, bool, str):
            found[name] = value
        elif isinstance(value, types.FunctionType):
            found[name] = value.__code__
        elif isinstance(value, jax.Array):
            found[name] = id(
                value
            )  # its elements never change; the name may be bound to another
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = _fingerprint(np.asarray(value))
    return found


def _fingerprint(array: np.ndarray) -> Any:
    step = max(1, -(-array.size // _SAMPLED))
    return (array.shape, array.dtype, array.flat[::step].tobytes())


def free_values(fn: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of whatever a function reads that is no argument."""
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
    """Yield what a function reads that another one calls; libraries do not change."""
    inner = types.FunctionType | types.MethodType | functools.partial
    if depth >= _DEEPEST or not isinstance(value, inner):
        return
    home = getattr(value, "__module__", None) or ""
    if home.partition(".")[0] not in _LIBRARIES:
        yield from free_values(value, depth + 1)
