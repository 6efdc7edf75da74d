"""Constant indices beyond the end of an array, found in the jaxpr of a model.

JAX clamps an index that is out of range, so ``p[2]`` of a start with two elements reads
``p[1]``, and the fit of a model that the user did not mean succeeds. Such an index is a
constant of the traced function, while one that comes from data is not; only constants
are judged. A clamp that the user asked for (``mode="clip"``, a window of
``lax.dynamic_slice`` that begins inside) stays legal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jax.lax import GatherScatterMode

# Of a constant index NumPy works out what jax leaves to the compiler.
_ARITHMETIC = {
    "lt": lambda a, b: np.less(a, b),
    "add": lambda a, b: np.add(a, b),
    "select_n": lambda which, a, b: np.where(which, b, a),
}


def traced_shapes(fn: Callable, **arguments: Any) -> Any:
    """Return what ``fn(*arguments)`` would return, as ``jax.eval_shape`` does.

    Raises:
        ValueError: If it reads an array of its arguments beyond its end.
    """
    closed, out = jax.make_jaxpr(fn, return_shape=True)(*arguments.values())
    names = [
        name + jax.tree_util.keystr(path)
        for name, value in arguments.items()
        for path, _ in jax.tree_util.tree_leaves_with_path(value)
    ]
    check_indices(closed.jaxpr, closed.consts, names)
    return out


def check_indices(jaxpr: core.Jaxpr, consts: list, names: Sequence[str]) -> None:
    """Raise if a function reads an array of its arguments beyond its end.

    ``names`` are those of the arguments.
    """
    variables = [*jaxpr.constvars, *jaxpr.invars]
    given = variables[len(consts) :]
    sources = dict(zip(given, names, strict=True))
    _check(jaxpr, sources, dict(zip(variables, consts, strict=False)))


def _check(jaxpr: core.Jaxpr, sources: dict, constants: dict) -> None:
    """Check the equations of a jaxpr.

    ``sources`` says from which argument a variable was made, ``constants`` what is
    known of the others.
    """
    for eqn in jaxpr.eqns:
        known = [_known(atom, constants) for atom in eqn.invars]
        names = [sources.get(v) for v in eqn.invars if not isinstance(v, core.Literal)]
        name = next((name for name in names if name is not None), None)
        if name is None:
            constants.update(_worked_out(eqn, known))
            continue
        sources.update((var, name) for var in eqn.outvars)
        primitive = eqn.primitive.name
        if primitive == "dynamic_slice":
            _check_slice(eqn, known[1:], name)
        elif primitive == "gather":
            _check_gather(eqn, known[1], name)
        else:
            _check_inner(eqn, known, sources)


def _known(atom, constants: dict):
    """Return the value of a constant, None for what is traced."""
    value = atom.val if isinstance(atom, core.Literal) else constants.get(atom)
    return None if isinstance(value, Tracer) else value


def _worked_out(eqn, known: list) -> dict:
    """Return the outputs of an equation on indices that are constant."""
    if any(value is None for value in known):
        return {}
    (var, *rest), name = eqn.outvars, eqn.primitive.name
    if rest or not np.issubdtype(var.aval.dtype, np.integer) and name != "lt":
        return {}
    if name in _ARITHMETIC:
        return {var: _ARITHMETIC[name](*known)}
    if name == "broadcast_in_dim":
        axes = eqn.params["broadcast_dimensions"]
        shape = [1] * var.aval.ndim
        for axis, size in zip(axes, np.shape(known[0]), strict=True):
            shape[axis] = size
        return {var: np.broadcast_to(np.reshape(known[0], shape), var.aval.shape)}
    if name == "convert_element_type":
        return {var: np.asarray(known[0]).astype(var.aval.dtype)}
    return {}


def _check_slice(eqn, starts: list, name: str) -> None:
    shape = eqn.invars[0].aval.shape
    for axis, (start, size) in enumerate(zip(starts, shape, strict=True)):
        if start is not None and size and not 0 <= int(start) < size:
            raise _beyond(name, int(start), axis, shape)


def _check_gather(eqn, starts, name: str) -> None:
    if starts is None or eqn.params["mode"] != GatherScatterMode.PROMISE_IN_BOUNDS:
        return
    shape = eqn.invars[0].aval.shape
    starts = np.asarray(starts)
    for k, axis in enumerate(eqn.params["dimension_numbers"].start_index_map):
        beyond = starts[..., k][(starts[..., k] < 0) | (starts[..., k] >= shape[axis])]
        if beyond.size and shape[axis]:
            raise _beyond(name, int(beyond.flat[0]), axis, shape)


def _beyond(name: str, start: int, axis: int, shape: tuple[int, ...]) -> ValueError:
    size = shape[axis]
    # jax has added the length to a negative index
    index = start if start >= 0 else start - size
    along = f"axis {axis} of shape {shape}" if len(shape) > 1 else f"length {size}"
    return ValueError(
        f"{name.split('[')[0]}: index {index} is out of range for {name} of {along}; "
        "give as many elements as the function reads (jax would clamp the index and "
        "fit another model)"
    )


def _check_inner(eqn, known: list, sources: dict) -> None:
    """Check the functions that an equation calls.

    What a loop is given may be another number in the next turn; the branches of a
    predicate that is known need not run.
    """
    primitive, invars = eqn.primitive.name, eqn.invars
    if primitive == "while" or (primitive == "cond" and known[0] is not None):
        return
    if primitive == "cond":
        known, invars = known[1:], invars[1:]
    if primitive == "scan":
        known = [None] * len(known)
    for jaxpr, consts in _inner_jaxprs(eqn):
        if len(jaxpr.invars) != len(invars):
            continue  # no plain call: the shape of another rule
        below, constants = {}, dict(zip(jaxpr.constvars, consts, strict=True))
        for var, atom, value in zip(jaxpr.invars, invars, known, strict=True):
            if not isinstance(atom, core.Literal) and atom in sources:
                below[var] = sources[atom]
            elif value is not None:
                constants[var] = value
        _check(jaxpr, below, constants)


def _inner_jaxprs(eqn):
    """Yield the jaxprs among the parameters of an equation, with their constants."""
    is_jaxpr = lambda value: isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr, value.consts
        elif isinstance(value, core.Jaxpr) and not value.constvars:
            yield value, []
