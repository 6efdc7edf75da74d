"""Which elements of which operands an element of a result is made of.

A rule per primitive that moves elements about or adds them up; all others work element
by element.
"""

from bisect import bisect_right
from collections.abc import Callable
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


def needs_of(listing: Listing, eqn: Equation, number: int, place: Place) -> Need:
    """Return which elements of which operands an element of a result is made of."""
    name, params = eqn.name, eqn.params
    shapes = [listing.shapes[var] for var in eqn.operands]
    shape = listing.shapes[eqn.results[number]]
    rule = RULES.get(name)
    if rule is not None:
        return rule(params, shapes, shape, place)
    if name == "optimization_barrier":
        return [(number, place)]
    if name == "scan":
        raise Unsupported(f"it loops {params['length']} times")
    if name == "split":
        axis, sizes = params["axis"], params["sizes"]
        return [(0, _at(place, axis, moved(place[axis], sum(sizes[:number]), 1)))]
    if name == "unstack":
        axis = params["axis"]
        return [(0, (*place[:axis], number, *place[axis:]))]
    if name in FOLDS:
        return _of_reduction(params["axes"], 0, shapes[0], place)
    if name == "reduce":
        _check_sum(params)
        terms = _of_reduction(params["dimensions"], number, shapes[number], place)
        return [*terms, (len(shapes) // 2 + number, ())]  # and what it begins with
    if name == "reduce_precision":
        info = np.finfo(listing.dtypes[eqn.operands[0]])
        if params["exponent_bits"] < info.nexp or params["mantissa_bits"] < info.nmant:
            raise Unsupported("it rounds to fewer bits")
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
    k = len(inner.outvars)
    made = {eqn.outvars[0]: eqn for eqn in inner.eqns}
    for i, out in enumerate(inner.outvars):
        eqn = made.get(out)
        pair = {inner.invars[i], inner.invars[k + i]}
        if eqn is None or eqn.primitive.name != "add" or set(eqn.invars) != pair:
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
    ends = list(accumulate(part[axis] for part in shapes))
    part = decided(place[axis], lambda at: bisect_right(ends, at), _JOINS)
    first = ends[part] - shapes[part][axis]
    return [(part, _at(place, axis, moved(place[axis], -first, 1)))]


def _stack(params, shapes, shape, place) -> Need:
    axis = params["axis"]
    part = decided(place[axis], lambda at: at, _JOINS)
    return [(part, (*place[:axis], *place[axis + 1 :]))]


def _row(params, shapes, shape, place) -> Need:
    return [(0, (params["turn"], *place))]


def _pad(params, shapes, shape, place) -> Need:
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
    if isinstance(place[axis], PointIndex):
        raise Unsupported("it accumulates along the points")
    last = place[axis]
    run = range(last, shape[axis]) if params["reverse"] else range(last + 1)
    return [(0, _at(place, axis, i)) for i in run]


RULES: dict[str, Callable[[dict, list, tuple, Place], Need]] = {
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
