"""Which elements of which operands an element of a result is made of.

A rule per primitive that moves elements about or adds them up; all others work element
by element.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, product
from typing import Any

import numpy as np

from lmjax._engines.fused.indices import (
    Index,
    Place,
    PointIndex,
    Undecided,
    Unsupported,
    decided,
    moved,
    reshaped,
)
from lmjax._engines.fused.listing import Equation, Listing

Need = list[tuple[int, Place]]
Reader = Callable[[Place], Need]
_JOINS = "it joins arrays along the points"
_PADS = "it pads along the points"

FOLDS = {
    "reduce_sum": "add",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "and",
    "reduce_or": "or",
    "reduce_prod": "mul",
}


def _everywhere(shape: tuple[int, ...], axes: Any) -> list[tuple[int, ...]]:
    return list(product(*(range(shape[axis]) for axis in axes)))


def needs_of(listing: Listing, eqn: Equation, number: int) -> Reader:
    """Return a function from an element of a result to what it is made of.

    What does not depend on the element is worked out here, once per equation.
    """
    name, params = eqn.name, eqn.params
    shapes = [listing.shapes[var] for var in eqn.operands]
    shape = listing.shapes[eqn.results[number]]
    rule = RULES.get(name)
    if rule is not None:
        return rule(params, shapes, shape)
    if name == "optimization_barrier":
        return lambda place: [(number, place)]
    if name == "scan":
        raise Unsupported(f"it loops {params['length']} times")
    if name == "split":
        axis, sizes = params["axis"], params["sizes"]
        before = sum(sizes[:number])
        return lambda place: [(0, _at(place, axis, moved(place[axis], before, 1)))]
    if name == "unstack":
        axis = params["axis"]
        return lambda place: [(0, (*place[:axis], number, *place[axis:]))]
    if name in FOLDS:
        return _reduction(params["axes"], 0, shapes[0])
    if name == "reduce":
        _check_sum(params)
        terms = _reduction(params["dimensions"], number, shapes[number])
        first = (len(shapes) // 2 + number, ())  # what it begins with
        return lambda place: [*terms(place), first]
    if name == "reduce_precision":
        info = np.finfo(listing.dtypes[eqn.operands[0]])
        if params["exponent_bits"] < info.nexp or params["mantissa_bits"] < info.nmant:
            raise Unsupported("it rounds to fewer bits")
    return _elementwise(name, shapes, shape)


def _elementwise(name: str, shapes: list[tuple], shape: tuple) -> Reader:
    """Return which elements of the operands an element-by-element operation reads."""
    for given in shapes:
        fits = len(given) == len(shape) and all(
            a in (1, b) for a, b in zip(given, shape, strict=True)
        )
        if given and not fits:
            raise Unsupported(f"it calls {name}")
    if all(given == shape for given in shapes):
        return lambda place: [(i, place) for i in range(len(shapes))]
    return lambda place: [
        (i, tuple(0 if a == 1 else at for a, at in zip(given, place, strict=False)))
        for i, given in enumerate(shapes)
    ]


def _reduction(axes: Sequence[int], operand: int, shape: tuple) -> Reader:
    inside = _everywhere(shape, axes)

    def read(place: Place) -> Need:
        need = []
        for inner in inside:
            rest, within = iter(place), dict(zip(axes, inner, strict=True))
            full = [within[d] if d in within else next(rest) for d in range(len(shape))]
            need.append((operand, tuple(full)))
        return need

    return read


def _check_sum(params: dict) -> None:
    """Raise unless a reduction of several arrays adds each of them up."""
    inner = params["jaxpr"]
    inner = getattr(inner, "jaxpr", inner)
    k = len(inner.outvars)
    made = {eqn.outvars[0]: eqn for eqn in inner.eqns}
    for i, out in enumerate(inner.outvars):
        eqn = made.get(out)
        pair = {inner.invars[i], inner.invars[k + i]}
        if eqn is None or eqn.primitive.name != "add" or set(eqn.invars) != pair:
            raise Unsupported("it reduces by a function of its own")


def _at(place: Place, axis: int, index: Index) -> Place:
    return (*place[:axis], index, *place[axis + 1 :])


def _broadcast(params, shapes, shape) -> Reader:
    axes = params["broadcast_dimensions"]
    taken = [None if s == 1 else a for s, a in zip(shapes[0], axes, strict=True)]
    return lambda place: [(0, tuple(0 if a is None else place[a] for a in taken))]


def _reshape(params, shapes, shape) -> Reader:
    order = params["dimensions"]
    if order is None:
        return _regrouped(shapes[0], shape)
    # the axes are put into this order first, as by ravel(order="F")
    before = _permuted(order)
    after = _regrouped(tuple(shapes[0][axis] for axis in order), shape)
    return lambda place: before(after(place)[0][1])


def _regrouped(given: tuple, shape: tuple) -> Reader:
    """Return which element of an array comes where in another shape, in C order."""
    long = [axis for axis, size in enumerate(shape) if size != 1]
    if [size for size in given if size != 1] != [shape[axis] for axis in long]:
        return lambda place: [(0, reshaped(place, shape, given))]
    axes = iter(long)  # only axes of length 1 come or go
    taken = [None if size == 1 else next(axes) for size in given]
    return lambda place: [(0, tuple(0 if a is None else place[a] for a in taken))]


def _permuted(order: Sequence[int]) -> Reader:
    back = np.argsort(order).tolist()
    return lambda place: [(0, tuple(place[i] for i in back))]


def _slice(params, shapes, shape) -> Reader:
    steps = params["strides"] or (1,) * len(shape)
    rows = list(zip(params["start_indices"], steps, strict=True))

    def read(place: Place) -> Need:
        parts = zip(place, rows, strict=True)
        return [(0, tuple(moved(index, start, step) for index, (start, step) in parts))]

    return read


def _reverse(params, shapes, shape) -> Reader:
    def read(place: Place) -> Need:
        for axis in params["dimensions"]:
            place = _at(place, axis, moved(place[axis], shape[axis] - 1, -1))
        return [(0, place)]

    return read


def _concatenate(params, shapes, shape) -> Reader:
    axis = params["dimension"]
    ends = list(accumulate(part[axis] for part in shapes))

    def read(place: Place) -> Need:
        part = decided(place[axis], lambda at: bisect_right(ends, at), _JOINS)
        first = ends[part] - shapes[part][axis]
        return [(part, _at(place, axis, moved(place[axis], -first, 1)))]

    return read


def _stack(params, shapes, shape) -> Reader:
    axis = params["axis"]

    def read(place: Place) -> Need:
        part = decided(place[axis], lambda at: at, _JOINS)
        return [(part, (*place[:axis], *place[axis + 1 :]))]

    return read


def _row(params, shapes, shape) -> Reader:
    return lambda place: [(0, (params["turn"], *place))]


def _pad(params, shapes, shape) -> Reader:
    def read(place: Place) -> Need:
        inside = []
        for index, size, (low, _, within) in zip(
            place, shapes[0], params["padding_config"], strict=True
        ):
            step = within + 1
            last = low + step * (size - 1)
            side = lambda at, low=low, last=last: int(at > last) - int(at < low)
            if decided(index, side, _PADS) or not _is_kept(index, low, step):
                return [(1, ())]
            inside.append(_unpadded(index, low, step))
        return [(0, tuple(inside))]

    return read


def _is_kept(index: Index, low: int, step: int) -> bool:
    """Return whether an index between the ends of what was padded is not padding."""
    if not isinstance(index, PointIndex):
        return (index - low) % step == 0
    if index.step % step:
        raise Undecided(_PADS, index, list(range(1, index.size)))
    return (index.start - low) % step == 0


def _unpadded(index: Index, low: int, step: int) -> Index:
    """Return the index of an element that stands at ``low + step * index``."""
    if not isinstance(index, PointIndex):
        return (index - low) // step
    return index._replace(start=(index.start - low) // step, step=index.step // step)


def _dot(params, shapes, shape) -> Reader:
    (left, right), (many_left, many_right) = params["dimension_numbers"]
    free_left = [d for d in range(len(shapes[0])) if d not in (*left, *many_left)]
    free_right = [d for d in range(len(shapes[1])) if d not in (*right, *many_right)]
    b, f = len(many_left), len(many_left) + len(free_left)
    inside = _everywhere(shapes[0], left)

    def read(place: Place) -> Need:
        sides = (
            (left, many_left, free_left, place[b:f]),
            (right, many_right, free_right, place[f:]),
        )
        need = []
        for inner in inside:
            for operand, (axes, many, free, given) in enumerate(sides):
                at = dict(zip(many, place[:b], strict=True))
                at |= dict(zip(free, given, strict=True))
                at |= dict(zip(axes, inner, strict=True))
                need.append((operand, tuple(at[d] for d in range(len(at)))))
        return need

    return read


def _cumulative(params, shapes, shape) -> Reader:
    axis = params["axis"]

    def read(place: Place) -> Need:
        last = place[axis]
        if isinstance(last, PointIndex):
            raise Unsupported("it accumulates along the points")
        run = range(last, shape[axis]) if params["reverse"] else range(last + 1)
        return [(0, _at(place, axis, i)) for i in run]

    return read


RULES: dict[str, Callable[[dict, list, tuple], Reader]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": lambda params, shapes, shape: _regrouped(shapes[0], shape),
    "expand_dims": lambda params, shapes, shape: _regrouped(shapes[0], shape),
    "transpose": lambda params, shapes, shape: _permuted(params["permutation"]),
    "slice": _slice,
    "rev": _reverse,
    "concatenate": _concatenate,
    "stack": _stack,
    "row": _row,
    "pad": _pad,
    "dot_general": _dot,
    "cumsum": _cumulative,
    "iota": lambda params, shapes, shape: lambda place: [],
}
