"""Functions that do the same share what was compiled for one of them.

Compiling a fit takes seconds, tracing a model a fraction of a millisecond. So in calls
outside `jax.jit` a new function is traced, and its jaxpr is the key to what was
compiled before (`lmjax._jax.jaxpr_key`): equal functions get one `Code`, and jax
compiles per code. Two kinds of functions are not traced again: a function object that
was seen before, with arguments of the same shapes, and a function whose source and
captured values equal those of another (`lmjax._jax.function_key`). Values that a
function object captured are frozen, as everywhere in jax; a warning tells if some of
them have changed (`lmjax._jax.captured_values`).
"""

import dataclasses
import operator
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer

from lmjax._errors.advice import calling
from lmjax._jax import sharded
from lmjax._jax.captured_values import CapturedValues
from lmjax._jax.closures import Code, Program, as_pytree, unwrapped
from lmjax._jax.function_key import function_key
from lmjax._jax.trace import Trace, trace, trace_model

# Codes, functions by how they are written, and shapes per function, that are
# remembered: more than a script has in use, few enough not to fill the memory.
MOST_CODES = 1024
MOST_WRITTEN = 128
MOST_SHAPES = 16

# What changes the jaxpr of the same function for the same shapes.
_settings = operator.attrgetter(
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
)


class Fresh:
    """A function that is traced in every call, for functions that behave as SciPy does.

    So it reads globals, attributes and arrays refilled in place as they are now. What
    was compiled for an equal function is used again. It has no weak references, and so
    nothing here remembers it.
    """

    __slots__ = ("fn",)

    def __init__(self, fn: Callable):
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.fn(*args, **kwargs)


class _Seen(NamedTuple):
    """A function object that was traced before.

    Attributes:
        refs: Weak references to what it is made of.
        programs: Program per signature of the arguments.
        captured: What it read from outside when it was first traced.
    """

    refs: list[weakref.ref]
    programs: OrderedDict[Any, Program]
    captured: CapturedValues


_codes: OrderedDict[Any, Code] = OrderedDict()
_written: OrderedDict[Any, Program] = OrderedDict()
_seen: dict[Any, _Seen] = {}
_lock = threading.RLock()  # a function may die, and be forgotten, while it is held


def model(name: str, fn: Callable, *args: Any, data: Any = None) -> Callable:
    """Return a function of ``(params, ...)`` as a callable pytree for `jax.jit`.

    Args:
        name: What the function is called in messages.
        fn: The function.
        args: What it will be called with. The first are parameters; the `Program` takes
            them in the dtype in which a fit works.
        data: Arrays that the result is compared with; they may widen that dtype.

    Returns:
        The `Program`. Inside `jax.jit` or `jax.shard_map`, where the whole is compiled
        at once, and for Modules, whose arrays are data already, it is what `as_pytree`
        makes of the function.
    """

    def traced():
        call = f"{name}(params, {'x' if name == 'model' else '*args'})"
        return trace_model(calling(fn, call), args, data, fn)

    return _program(name, fn, args, data, traced)


def function(name: str, fn: Callable, *args: Any) -> Callable:
    """Return a function of arrays likewise, for arguments as they are."""
    call = f"{name}({'z' if name == 'loss' else 'params, ...'})"
    traced = lambda: trace(calling(fn, call), args, fn)
    return _program(name, fn, args, None, traced)


def jacobian(solver: Any, model: Callable, *args: Any) -> tuple[Any, Callable | None]:
    """Return the solver without a user's Jacobian, and that as a callable pytree.

    Args:
        solver: What was given as one.
        model: What `model` made of the function, whose derivative the Jacobian is.
        args: What both are called with.
    """
    jac = getattr(solver, "jac", None)
    if not callable(jac) or not isinstance(model, Program):
        return solver, None
    start = model.start(args[0])
    return dataclasses.replace(solver, jac=None), function("jac", jac, start, *args[1:])


def term(term: Any, model: Callable) -> Any:
    """Return a robust term whose loss is a program likewise.

    Args:
        term: A `LossTerm` or None.
        model: What `model` made of the residual, or of the model of the data.
    """
    if term is None or not isinstance(model, Program):
        return term
    dtype = model.code.inputs[0].dtype
    size = sum(atom.aval.size for atom in model.code.jaxpr.outvars)
    loss = function("loss", unwrapped(term.rho), ShapedArray((size,), dtype))
    return type(term)(loss, term.scale)


def _program(name, fn, args, data, traced: Callable[[], Trace]) -> Callable:
    plain = type(fn) is types.FunctionType
    if not plain and _is_whole(fn):
        _check_leaves(name, fn)
        return as_pytree(fn)
    if _is_compiling():
        return as_pytree(Fresh(fn))  # or jax remembers what an inner function read
    signature = _signature(args, data)
    seen = _seen.get((id(fn),) if plain else _identity(fn))
    found = None if seen is None else seen.programs.get(signature)
    if seen is None or found is None:
        return _new(fn, signature, traced)
    if seen.captured.fingerprints:
        changes = seen.captured.changes(fn)
        if changes and not _same(_coded(traced()), found):
            seen.captured.report(name, fn, changes)
    if any([type(leaf) is np.ndarray for leaf in (*found.consts, *found.numbers)]):
        # called again, so likely more often: the device keeps what belongs to it
        found = jax.tree.map(jnp.array, found)
        seen.programs[signature] = found
    return found


def _new(fn, signature, traced: Callable[[], Trace]) -> Program:
    """Return the program of a function object that is new, or has new arguments."""
    text = function_key(fn)
    found = None if text is None else _written.get((text, signature))
    if found is None:
        found = _coded(traced())
        if any(isinstance(const, Tracer) for const in found.consts):
            return found
        if text is not None:
            _keep(_written, (text, signature), found, MOST_WRITTEN)
    _remember(fn, signature, found)
    return found


def _keep(table: OrderedDict, key: Any, value: Any, most: int) -> Any:
    """Return what a table holds for a key, or keep ``value``; forget the oldest."""
    with _lock:
        value = table.setdefault(key, value)
        table.move_to_end(key)
        while len(table) > most:
            table.popitem(last=False)
    return value


def _is_whole(fn) -> bool:
    """Return whether a callable's arrays are leaves of it, and the rest compares."""
    if isinstance(fn, Program):
        return True
    if not isinstance(fn, eqx.Module | jax.tree_util.Partial):
        return False
    try:
        hash(jax.tree.structure(as_pytree(fn)))  # pyright: ignore[reportArgumentType]
    except TypeError:
        return False
    return True


def _check_leaves(name: str, fn: Any) -> None:
    """Raise unless all that a `jax.tree_util.Partial` holds is a number."""
    if not isinstance(fn, jax.tree_util.Partial):
        return
    for leaf in jax.tree.leaves(fn):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise TypeError(
                f"{name}: expected arrays in a jax.tree_util.Partial, got {leaf!r}; "
                "functools.partial takes anything"
            )


def _is_compiling() -> bool:
    """Return whether `jax.jit` or `jax.shard_map` is at work.

    A wrong answer costs a compilation, and nothing else.
    """
    return sharded.is_jitted() or sharded.is_mapped()


def _parts(fn) -> tuple:
    """Return the objects that identify a function: Python makes bound methods anew."""
    return (fn.__self__, fn.__func__) if isinstance(fn, types.MethodType) else (fn,)


def _identity(fn) -> tuple:
    return tuple(map(id, _parts(fn)))


def _signature(args, data) -> tuple:
    leaves, structure = jax.tree.flatten(args)
    if type(data) is np.ndarray:
        observed = data.dtype
    else:
        observed = tuple([leaf.dtype for leaf in jax.tree.leaves(data)])
    return (
        structure,
        tuple([_kind(leaf) for leaf in leaves]),
        observed,
        _settings(jax.config),
    )


def _kind(leaf) -> Any:
    kind = type(leaf)
    if kind is float:
        return kind
    if kind is np.ndarray or isinstance(leaf, np.generic):
        return (leaf.shape, leaf.dtype)
    if isinstance(leaf, ShapedArray):
        return leaf
    return getattr(leaf, "aval", type(leaf))


def _remember(fn, signature, found: Program) -> None:
    key = _identity(fn)
    forget = lambda _: _seen.pop(key, None)
    try:
        refs = [weakref.ref(part, forget) for part in _parts(fn)]
    except TypeError:
        return
    with _lock:
        seen = _seen.get(key) or _Seen(refs, OrderedDict(), CapturedValues(fn))
        _seen[key] = seen
    _keep(seen.programs, signature, found, MOST_SHAPES)


def _coded(traced: Trace) -> Program:
    """Return the program of a trace, with the code of an earlier one if it is equal."""
    key = traced.key
    code = _codes.get(key) or traced.code()
    return traced.program(_keep(_codes, key, code, MOST_CODES))


def _same(a: Program, b: Program) -> bool:
    """Return whether two programs compute the same."""
    pairs = zip([*a.consts, *a.numbers], [*b.consts, *b.numbers], strict=False)
    return a.code is b.code and all(
        np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in pairs
    )
