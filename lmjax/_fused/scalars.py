"""A jaxpr worked out element by element, where every element is a scalar.

First the equations are written out in one list: calls are inlined, branches become
selections. Then each output asks for the elements that it needs, from the last equation
to the first, and the equations are evaluated for these elements only. Slices, stacks,
transpositions and reshapes vanish on the way; what is left are scalar operations, which
go to a ``Builder`` (`lmjax._fused.ir`).
"""

from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lmjax._fused.places import Along, Index, Place, Unsupported, moved, reshaped

# More elements than any fit of a batch should be written out to.
MOST_ELEMENTS = 60_000
# Turns of a scan that are written out one by one.
MOST_TURNS = 32

_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "checkpoint",
    "remat",
    "remat2",
    "custom_vmap_call",
    "custom_lin",
}
_AS_IT_IS = {
    "copy",
    "copy_p",
    "stop_gradient",
    "optimization_barrier",
    "pvary",
    "reduce_precision",
    "name",
}
_FOLDS = {
    "reduce_sum": "add",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "and",
    "reduce_or": "or",
    "reduce_prod": "mul",
}


class Builder(Protocol):
    """What scalar operations are given to."""

    def emit(self, name: str, values: list, dtype: Any, params: Any) -> Any:
        """Return the value of an operation."""

    def number(self, index: Along, dtype: np.dtype) -> Any:
        """Return an index that moves with the point as a value."""

    def table(self, array: np.ndarray, place: Place) -> Any:
        """Return an element of an array whose values are known."""

    def visit(self, which: int, values: list) -> Any:
        """Return the sums of a pass over the points."""


class Equation(NamedTuple):
    """One operation of the list.

    Attributes:
        name: Name of the primitive.
        params: Its parameters.
        operands: Numbers of variables.
        results: Numbers of variables.
    """

    name: str
    params: dict[str, Any]
    operands: list[int]
    results: list[int]


class Listing:
    """A jaxpr written out: variables are numbers, calls and branches are gone.

    Attributes:
        equations: In order.
        shapes, dtypes: Of each variable.
        constants: Values of the variables that are known.
        inputs, outputs: Numbers of variables.
    """

    def __init__(self, closed: ClosedJaxpr):
        self.equations: list[Equation] = []
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[np.dtype] = []
        self.constants: dict[int, np.ndarray] = {}
        self.inputs = [self._new(var.aval) for var in closed.jaxpr.invars]
        self.outputs = self._inline(closed.jaxpr, closed.consts, self.inputs)

    def _new(self, aval: Any) -> int:
        self.shapes.append(tuple(aval.shape))
        self.dtypes.append(np.dtype(aval.dtype))
        return len(self.shapes) - 1

    def _constant(self, value: Any) -> int:
        array = np.asarray(value)
        self.constants[len(self.shapes)] = array
        return self._new(array)

    def _add(self, name: str, params: dict, operands: list[int], avals: list) -> list:
        results = [self._new(aval) for aval in avals]
        self.equations.append(Equation(name, params, operands, results))
        return results

    def _inline(self, jaxpr: Any, consts: Any, args: list[int]) -> list[int]:
        env = dict(zip(jaxpr.invars, args, strict=True))
        env |= {v: self._known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom):
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                return self._constant(np.asarray(atom.val, aval.dtype))
            return env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            results = self._equation(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _known(self, const: Any) -> int:
        """Return a variable for a constant of a jaxpr, which may be one of ours."""
        return const if type(const) is int else self._constant(const)

    def _call(self, closed: Any, operands: list[int]) -> list[int]:
        if isinstance(closed, ClosedJaxpr):
            return self._inline(closed.jaxpr, closed.consts, operands)
        return self._inline(closed, (), operands)

    def _equation(self, eqn: Any, operands: list[int]) -> list[int]:
        name, params = eqn.primitive.name, eqn.params
        avals = [var.aval for var in eqn.outvars]
        if name in _CALLS:
            inner = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
            closed = next(params[key] for key in inner if key in params)
            return self._call(closed, operands)
        if name == "cond":
            return self._cond(params["branches"], operands, avals)
        if name == "platform_index":
            found = [
                i for i, p in enumerate(params["platforms"]) if not p or "cpu" in p
            ]
            return [self._constant(np.int32(found[0]))]
        if name == "scan":
            return self._scan(params, operands)
        if name == "while":
            raise Unsupported("it loops")
        return self._add(name, params, operands, avals)

    def _cond(self, branches: Any, operands: list[int], avals: list) -> list[int]:
        which, operands = operands[0], operands[1:]
        if which in self.constants:
            chosen = int(np.clip(self.constants[which], 0, len(branches) - 1))
            return self._call(branches[chosen], operands)
        outs = [self._call(branch, operands) for branch in branches]
        flag = jax.ShapeDtypeStruct((), bool)
        results = outs[0]
        for i, others in enumerate(outs[1:], 1):
            number = self._constant(np.asarray(i, self.dtypes[which]))
            (late,) = self._add("ge", {}, [which, number], [flag])
            results = [
                self._add("select_n", {}, [late, old, new], [aval])[0]
                for old, new, aval in zip(results, others, avals, strict=True)
            ]
        return results

    def _scan(self, params: dict, operands: list[int]) -> list[int]:
        length = params["length"]
        if length > MOST_TURNS:
            raise Unsupported(f"it loops {length} times")
        k, c = params["num_consts"], params["num_carry"]
        consts, carry, xs = operands[:k], operands[k : k + c], operands[k + c :]
        turns = range(length)
        rows: list[list[int]] = [[] for _ in params["jaxpr"].jaxpr.outvars[c:]]
        for turn in reversed(turns) if params["reverse"] else turns:
            row = [self._row(x, turn) for x in xs]
            out = self._call(params["jaxpr"], [*consts, *carry, *row])
            carry = out[:c]
            for kept, value in zip(rows, out[c:], strict=True):
                kept.append(value)
        stacked = []
        for row in rows:
            row = row[::-1] if params["reverse"] else row
            like = jax.ShapeDtypeStruct(
                (length, *self.shapes[row[0]]), self.dtypes[row[0]]
            )
            stacked += self._add("stack", {"axis": 0}, row, [like])
        return [*carry, *stacked]

    def _row(self, x: int, turn: int) -> int:
        row = jax.ShapeDtypeStruct(self.shapes[x][1:], self.dtypes[x])
        return self._add("row", {"turn": turn}, [x], [row])[0]


Need = list[tuple[int, Place]]
Read = Callable[[Place], Any]


def evaluate(
    listing: Listing, inputs: list[Read], wanted: list[list[Place]], build: Builder
) -> list[list[Any]]:
    """Return the wanted elements of each output as values of ``build``.

    Args:
        listing: The program.
        inputs: Reads an element of each input.
        wanted: Elements per output.
        build: Takes the scalar operations.
    """
    asked: list[dict[Place, None]] = [{} for _ in listing.shapes]
    for var, places in zip(listing.outputs, wanted, strict=True):
        asked[var].update(dict.fromkeys(places))
    needs: dict[tuple[int, Place], Need] = {}
    for eqn in reversed(listing.equations):
        for number, var in enumerate(eqn.results):
            for place in asked[var]:
                need = _needs(listing, eqn, number, place)
                needs[var, place] = need
                if len(needs) > MOST_ELEMENTS:
                    raise Unsupported(f"it has more than {MOST_ELEMENTS} operations")
                for operand, at in need:
                    asked[eqn.operands[operand]][at] = None
    found: list[dict[Place, Any]] = [{} for _ in listing.shapes]
    for var, array in listing.constants.items():
        for place in asked[var]:
            found[var][place] = _of_constant(array, place, build)
    for var, read in zip(listing.inputs, inputs, strict=True):
        for place in asked[var]:
            found[var][place] = read(place)
    for eqn in listing.equations:
        calls: dict[Any, Any] = {}
        for number, var in enumerate(eqn.results):
            for place in asked[var]:
                values = [found[eqn.operands[i]][at] for i, at in needs[var, place]]
                found[var][place] = _value(
                    eqn, number, values, listing.dtypes[var], build, calls, place
                )
    pairs = zip(listing.outputs, wanted, strict=True)
    return [[found[var][place] for place in places] for var, places in pairs]


def _of_constant(array: np.ndarray, place: Place, build: Builder) -> Any:
    """Return an element of a known array."""
    if any(isinstance(index, Along) for index in place):
        if array.size and (array == array.flat[0]).all():
            return array.flat[0]
        return build.table(array, place)
    return array[place]


def _everywhere(shape: tuple[int, ...], axes: Any) -> list[tuple[int, ...]]:
    return list(product(*(range(shape[axis]) for axis in axes)))


def _needs(listing: Listing, eqn: Equation, number: int, place: Place) -> Need:
    """Return which elements of which operands an element of a result is made of."""
    name, params = eqn.name, eqn.params
    shapes = [listing.shapes[var] for var in eqn.operands]
    shape = listing.shapes[eqn.results[number]]
    rule = _STRUCTURE.get(name)
    if rule is not None:
        return rule(params, shapes, shape, place)
    if name == "optimization_barrier":
        return [(number, place)]
    if name == "split":
        axis, sizes = params["axis"], params["sizes"]
        return [(0, _at(place, axis, moved(place[axis], sum(sizes[:number]), 1)))]
    if name == "unstack":
        axis = params["axis"]
        return [(0, (*place[:axis], number, *place[axis:]))]
    if name in _FOLDS:
        return _of_reduction(params["axes"], 0, shapes[0], place)
    if name == "reduce":
        _check_sum(params)
        return _of_reduction(params["dimensions"], number, shapes[number], place)
    if name == "visit":
        return [(i, ()) for i in range(len(shapes))]
    return [(i, _operand(name, s, shape, place)) for i, s in enumerate(shapes)]


def _operand(name: str, given: tuple, shape: tuple, place: Place) -> Place:
    """Return the element of an operand that an element-by-element operation reads."""
    if given == shape:
        return place
    fits = len(given) == len(shape) and all(
        a in (1, b) for a, b in zip(given, shape, strict=True)
    )
    if given and not fits:
        raise Unsupported(f"it calls {name}")
    return tuple(0 if a == 1 else at for a, at in zip(given, place, strict=False))


def _of_reduction(axes, operand, shape, place) -> Need:
    need = []
    for inner in _everywhere(shape, axes):
        rest, within = iter(place), dict(zip(axes, inner, strict=True))
        full = [within[d] if d in within else next(rest) for d in range(len(shape))]
        need.append((operand, tuple(full)))
    return need


def _check_sum(params: dict) -> None:
    """Raise unless a reduction of several arrays adds each of them up."""
    inner = params["jaxpr"]
    inner = getattr(inner, "jaxpr", inner)
    names = [eqn.primitive.name for eqn in inner.eqns]
    k = len(inner.outvars)
    pairs = [tuple(eqn.invars) for eqn in inner.eqns]
    same = [(inner.invars[i], inner.invars[k + i]) for i in range(k)]
    if set(names) != {"add"} or sorted(map(str, pairs)) != sorted(map(str, same)):
        raise Unsupported("it reduces by a function of its own")


def _at(place: Place, axis: int, index: Index) -> Place:
    return (*place[:axis], index, *place[axis + 1 :])


def _broadcast(params, shapes, shape, place) -> Need:
    axes = params["broadcast_dimensions"]
    return [
        (
            0,
            tuple(
                0 if s == 1 else place[a] for s, a in zip(shapes[0], axes, strict=True)
            ),
        )
    ]


def _reshape(params, shapes, shape, place) -> Need:
    return [(0, reshaped(place, shape, shapes[0]))]


def _transpose(params, shapes, shape, place) -> Need:
    back = {axis: place[i] for i, axis in enumerate(params["permutation"])}
    return [(0, tuple(back[i] for i in range(len(place))))]


def _slice(params, shapes, shape, place) -> Need:
    steps = params["strides"] or (1,) * len(place)
    starts = params["start_indices"]
    parts = zip(place, starts, steps, strict=True)
    return [(0, tuple(moved(index, start, step) for index, start, step in parts))]


def _reverse(params, shapes, shape, place) -> Need:
    for axis in params["dimensions"]:
        place = _at(place, axis, moved(place[axis], shape[axis] - 1, -1))
    return [(0, place)]


def _concatenate(params, shapes, shape, place) -> Need:
    axis = params["dimension"]
    index, first = place[axis], 0
    for i, part in enumerate(shapes):
        last = first + part[axis]
        if isinstance(index, Along):
            ends = [index.start, index.start + index.step * (index.size - 1)]
        else:
            ends = [index]
        if all(first <= end < last for end in ends):
            return [(i, _at(place, axis, moved(index, -first, 1)))]
        first = last
    raise Unsupported("it joins arrays along the points")


def _stack(params, shapes, shape, place) -> Need:
    axis = params["axis"]
    if isinstance(place[axis], Along):
        raise Unsupported("it joins arrays along the points")
    return [(place[axis], (*place[:axis], *place[axis + 1 :]))]


def _row(params, shapes, shape, place) -> Need:
    return [(0, (params["turn"], *place))]


def _pad(params, shapes, shape, place) -> Need:
    inside = []
    for index, size, (low, high, within) in zip(
        place, shapes[0], params["padding_config"], strict=True
    ):
        if isinstance(index, Along):
            if (low, high, within) != (0, 0, 0):
                raise Unsupported("it pads along the points")
            inside.append(index)
            continue
        k, rest = divmod(index - low, within + 1)
        if rest or not 0 <= k < size:
            return [(1, ())]
        inside.append(k)
    return [(0, tuple(inside))]


def _dot(params, shapes, shape, place) -> Need:
    (left, right), (many_left, many_right) = params["dimension_numbers"]
    free_left = [d for d in range(len(shapes[0])) if d not in (*left, *many_left)]
    free_right = [d for d in range(len(shapes[1])) if d not in (*right, *many_right)]
    b, f = len(many_left), len(many_left) + len(free_left)
    need = []
    for inner in _everywhere(shapes[0], left):
        for operand, (axes, many, free, given) in enumerate(
            (
                (left, many_left, free_left, place[b:f]),
                (right, many_right, free_right, place[f:]),
            )
        ):
            at = dict(zip(many, place[:b], strict=True))
            at |= dict(zip(free, given, strict=True)) | dict(
                zip(axes, inner, strict=True)
            )
            need.append((operand, tuple(at[d] for d in range(len(at)))))
    return need


def _cumulative(params, shapes, shape, place) -> Need:
    axis = params["axis"]
    if isinstance(place[axis], Along):
        raise Unsupported("it accumulates along the points")
    last = place[axis]
    run = range(last, shape[axis]) if params["reverse"] else range(last + 1)
    return [(0, _at(place, axis, i)) for i in run]


_STRUCTURE: dict[str, Callable[[dict, list, tuple, Place], Need]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "rev": _reverse,
    "concatenate": _concatenate,
    "stack": _stack,
    "row": _row,
    "pad": _pad,
    "dot_general": _dot,
    "cumsum": _cumulative,
    "iota": lambda params, shapes, shape, place: [],
}
_SUMS = {"reduce", "cumsum"}
_PICKS = set(_STRUCTURE) - {"dot_general", "cumsum", "iota"} | {"split", "unstack"}


def _value(eqn, number, values, dtype, build: Builder, calls: dict, place: Place):
    """Return an element of a result, given the elements that it is made of."""
    name, params = eqn.name, eqn.params
    if name in _PICKS or name in _AS_IT_IS:
        return values[0]
    if name == "iota":
        index = place[params["dimension"]]
        if isinstance(index, Along):
            return build.number(index, dtype)
        return dtype.type(index)
    if name in _FOLDS or name in _SUMS:
        fold = _FOLDS.get(name, "add")
        # an axis of length 0: what adding nothing makes
        nothing = {"add": 0, "mul": 1, "and": True, "or": False}
        if not values:
            return dtype.type(nothing[fold])
        return reduce(lambda a, b: build.emit(fold, [a, b], dtype, {}), values)
    if name == "dot_general":
        pairs = zip(values[::2], values[1::2], strict=True)
        terms = [build.emit("mul", [*pair], dtype, {}) for pair in pairs]
        add = lambda a, b: build.emit("add", [a, b], dtype, {})
        return reduce(add, terms) if terms else dtype.type(0)
    if name == "visit":
        if "made" not in calls:
            calls["made"] = build.visit(params["which"], values)
        return calls["made"][number]
    return build.emit(name, values, dtype, params)
