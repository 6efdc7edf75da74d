"""Programs of jax compared by what they do.

jax compares jaxprs by identity. Here a jaxpr is written out as nested tuples: variables
by their number, primitives and shapes as they are, parameters by value. Two programs
with equal tuples do the same. What cannot be compared by value is compared by identity.
"""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import Literal

from lmjax._jax.captured_values import fingerprints

# Deeper than any structure that jax makes: functions that refer to themselves must end.
_DEEPEST = 40

_BY_VALUE = (str, bytes, bool, int, type(None), types.CodeType, np.dtype, ShapedArray)


class ByIdentity:
    """An object compared by identity, whatever its own ``==`` says."""

    __slots__ = ("held",)

    def __init__(self, held: Any):
        self.held = held  # so that no other object gets its address

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the very same object."""
        return isinstance(other, ByIdentity) and self.held is other.held

    def __hash__(self) -> int:
        """Hash the address."""
        return hash((ByIdentity, id(self.held)))


class InnerKey:
    """The key of a program inside another, its hash computed once."""

    __slots__ = ("key", "number")

    def __init__(self, key: tuple):
        self.key, self.number = key, hash(key)

    def __eq__(self, other: object) -> bool:
        """Return whether both are keys of the same program."""
        if self is other:
            return True
        return isinstance(other, InnerKey) and self.key == other.key

    def __hash__(self) -> int:
        """Return the hash of the key."""
        return self.number


# jax keeps the jaxprs of its own functions (`jnp.where`, `jnp.interp`), and so their
# keys are wanted again in every trace.
_inner_keys: WeakKeyDictionary[Any, InnerKey] = WeakKeyDictionary()


def inputs_of(jaxpr: Any) -> list:
    """Return the variables of constants, then those of arguments.

    Up to jax 0.10 the two are kept apart, since 0.12 they are one list.
    """
    return [*jaxpr.constvars, *jaxpr.invars]


def is_data(atom: Any) -> bool:
    """Return whether an operand is a written number whose value may change freely.

    Only floating-point ones: integers are places and counts.
    """
    if not isinstance(atom, Literal) or not isinstance(atom.aval, ShapedArray):
        return False
    return atom.aval.dtype.kind == "f"


def jaxpr_key(jaxpr: Any, data: Callable[[Any], bool] = lambda atom: False) -> tuple:
    """Return what a jaxpr does, as a tuple that can be hashed and compared.

    Args:
        jaxpr: An open jaxpr; what its constants hold does not count.
        data: Says of an operand of the outermost equations that its value is data.
    """
    return _jaxpr(jaxpr, data, 0)


def _jaxpr(jaxpr, data, depth) -> tuple:
    numbers: dict[Any, int] = {}

    def new(var):
        numbers[var] = len(numbers)
        return var.aval

    def atom(operand):
        if not isinstance(operand, Literal):
            return numbers[operand]
        if data(operand):
            return ("data", operand.aval)
        return ("literal", operand.aval, _array(np.asarray(operand.val)))

    inputs = tuple(map(new, inputs_of(jaxpr)))
    eqns = []
    for eqn in jaxpr.eqns:
        params = tuple((name, _key(x, depth + 1)) for name, x in eqn.params.items())
        operands = tuple(map(atom, eqn.invars))
        results = tuple(map(new, eqn.outvars))
        effects = frozenset(eqn.effects) if eqn.effects else ()
        # contexts are interned: the same settings are the same object
        eqns.append((eqn.primitive, params, operands, results, effects, eqn.ctx))
    outs = tuple(map(atom, jaxpr.outvars))
    return (len(jaxpr.constvars), inputs, tuple(eqns), outs)


def _key(value: Any, depth: int) -> Any:
    """Return a parameter of an equation as something that can be compared."""
    kind = type(value)
    if kind in _BY_VALUE:
        return (kind, value)
    if kind in (float, complex):
        return (kind, np.asarray(value).tobytes())  # -0.0 is not 0.0, NaN is NaN
    if depth > _DEEPEST:
        return ByIdentity(value)
    if isinstance(value, tuple | list):
        return (kind, tuple(_key(part, depth + 1) for part in value))
    if isinstance(value, dict):
        items = ((_key(k, depth + 1), _key(v, depth + 1)) for k, v in value.items())
        return (kind, tuple(items))
    if isinstance(value, np.ndarray | np.generic):
        return (kind, _array(value))
    if isinstance(value, Tracer):
        return ByIdentity(value)
    if hasattr(value, "eqns"):  # a jaxpr, closed over its constants or not
        return _inner_key(value, depth)
    if _is_function(value):
        return _function(value, depth)
    return _object_of_jax(value, depth)


def _inner_key(value, depth) -> InnerKey:
    part = _inner_keys.get(value)
    if part is None:
        consts = tuple(_key(const, depth + 1) for const in getattr(value, "consts", ()))
        inner = getattr(value, "jaxpr", value)
        part = InnerKey((_jaxpr(inner, lambda atom: False, depth + 1), consts))
        _inner_keys[value] = part
    return part


def _object_of_jax(value, depth):
    """Return a key of an object of jax by its fields or its ``==``.

    A user's object is compared by identity: its ``==`` may hold for one that does
    something else.
    """
    kind = type(value)
    if not _of_jax(kind):
        return ByIdentity(value)
    if dataclasses.is_dataclass(value):
        held = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return (kind, tuple(_key(part, depth + 1) for part in held))
    try:
        hash(value)
    except TypeError:
        return ByIdentity(value)
    return (kind, value)


def _array(array) -> tuple:
    if np.asarray(array).dtype.hasobject:
        return (ByIdentity(array),)
    return (str(array.dtype), np.shape(array), np.asarray(array).tobytes())


def _is_function(value) -> bool:
    # lu.WrappedFun: how jax carries the rules of custom_jvp and custom_vjp
    wrapped = hasattr(value, "transforms") and hasattr(value, "f")
    return wrapped or isinstance(value, types.FunctionType | functools.partial)


def _function(value: Any, depth: int) -> Any:
    """Return what a function among the parameters does.

    jax makes closures of its own around the rules of a user's ``custom_jvp``, anew in
    every trace: those are compared by what they hold. A user's function is compared by
    identity and by fingerprints of what it reads.
    """
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, tuple(value.keywords.items()))
        return ("partial", _inside(parts, depth + 1))
    if not isinstance(value, types.FunctionType):
        return ("wrapped", _inside((value.f, value.transforms), depth + 1))
    if not _of_jax(value) or "<locals>" not in value.__qualname__:
        return (ByIdentity(value), tuple(sorted(fingerprints(value).items())))
    cells = [_cell(cell) for cell in value.__closure__ or ()]
    given = (value.__defaults__, value.__kwdefaults__)
    return (value.__code__, _inside((cells, given), depth + 1))


def _inside(value: Any, depth: int) -> Any:
    """Return what a closure of jax holds.

    Bookkeeping of jax's own (caches, stores of results, the trace in which it was made,
    markers without content) follows from the rest and is left out.
    """
    if type(value) in (dict, object) or _is_bookkeeping(type(value)):
        return ("bookkeeping", type(value))
    if isinstance(value, tuple | list):
        return (type(value), tuple(_inside(part, depth + 1) for part in value))
    if isinstance(value, np.ndarray):  # its elements may change later
        return ByIdentity(value)
    return _key(value, depth)


def _is_bookkeeping(kind: type) -> bool:
    names = ("Store", "EqualStore", "DynamicJaxprTrace", "DebugInfo")
    return _of_jax(kind) and kind.__name__ in names


def _of_jax(value) -> bool:
    home = (getattr(value, "__module__", None) or "").partition(".")[0]
    return home in ("jax", "jaxlib")


def _cell(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
