"""A jaxpr worked out element by element, where every element is a scalar.

Each output asks for the elements that it needs, from the last equation to the first;
then the equations are evaluated for these elements only. Slices, stacks, transpositions
and reshapes vanish on the way; what is left are scalar operations, which go to a
``Builder`` (`lmjax._engines.fused.ir`).
"""

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from lmjax._engines.fused.algebra import ROUTINES
from lmjax._engines.fused.indices import Index, Place, PointIndex, Unsupported
from lmjax._engines.fused.listing import Equation, Listing
from lmjax._engines.fused.structure import FOLDS, RULES, Reader, needs_of

# Elements up to which a function is written out: a second of LLVM's time takes about
# 2,000 lines of a loop over the points, and 10,000 of a step.
MOST_ELEMENTS = 100_000

_AS_IT_IS = {
    "copy",
    "copy_p",
    "stop_gradient",
    "optimization_barrier",
    "pvary",
    "reshard",
    "reduce_precision",
    "name",
}
_SUMS = {"reduce", "cumsum"}
_PICKS = set(RULES) - {"dot_general", "cumsum", "iota"} | {"split", "unstack"}

Read = Callable[[Place], Any]


class Builder(Protocol):
    """What scalar operations are given to."""

    def emit(self, name: str, values: list, dtype: Any, params: Any) -> Any:
        """Return the value of an operation."""

    def number(self, index: PointIndex, dtype: np.dtype) -> Any:
        """Return an index that moves with the point as a value."""

    def table(self, array: np.ndarray, place: Place) -> Any:
        """Return an element of an array whose values are known."""

    def routine(self, name: str, sizes: tuple, given: list, wanted: list) -> Any:
        """Return numbers that a routine makes of (place, value) pairs."""


class Demand(NamedTuple):
    """What a program needs for the elements that are wanted of it.

    Attributes:
        asked: Elements of each variable.
        needs: Per variable, what each of its elements is made of.
    """

    asked: list[dict[Place, None]]
    needs: dict[int, Reader]


def demand(
    listing: Listing, wanted: list[list[Place]], most: int = MOST_ELEMENTS
) -> Demand:
    """Return which elements it takes; `evaluate` says of what.

    Passes over the same rows ask alike, so the listing remembers.
    """
    key = tuple(map(tuple, wanted))
    if key in listing.demands:
        return listing.demands[key]
    asked: list[dict[Place, None]] = [{} for _ in listing.shapes]
    for var, places in zip(listing.outputs, wanted, strict=True):
        asked[var].update(dict.fromkeys(places))
    listing.demands[key] = Demand(asked, _needs(listing, asked, most))
    return listing.demands[key]


def evaluate(
    listing: Listing,
    inputs: list[Read],
    wanted: list[list[Place]],
    build: Builder,
    most: int = MOST_ELEMENTS,
) -> list[list[Any]]:
    """Return the wanted elements of each output as values of ``build``.

    Args:
        listing: The program.
        inputs: Reads an element of each input.
        wanted: Elements per output.
        build: Takes the scalar operations.
        most: How many elements there may be.

    Raises:
        Unsupported: If there are more, or some cannot be told.
    """
    asked, needs = demand(listing, wanted, most)
    found: list[dict[Place, Any]] = [{} for _ in listing.shapes]
    for var, array in listing.constants.items():
        for place in asked[var]:
            found[var][place] = _of_constant(array, place, build)
    for var, read in zip(listing.inputs, inputs, strict=True):
        for place in asked[var]:
            found[var][place] = read(place)
    for eqn in listing.equations:
        if eqn.name == "routine":
            _call(listing, eqn, asked, found, build)
            continue
        operands = [found[var] for var in eqn.operands]
        for var in eqn.results:
            if not asked[var]:
                continue
            made, need_of = found[var], needs[var]
            value_of = _rule(eqn, listing.dtypes[var], build)
            for place in asked[var]:
                values = [operands[i][at] for i, at in need_of(place)]
                made[place] = value_of(values, place)
    pairs = zip(listing.outputs, wanted, strict=True)
    return [[found[var][place] for place in places] for var, places in pairs]


def _needs(listing: Listing, asked: list, most: int) -> dict[int, Reader]:
    """Return what the elements asked for are made of, and ask for that as well."""
    needs: dict[int, Reader] = {}
    count = 0
    for eqn in reversed(listing.equations):
        if eqn.name == "routine":
            if any(asked[var] for var in eqn.results):
                for var, places in _arguments(listing, eqn):
                    asked[var].update(dict.fromkeys(places))
            continue
        operands = [asked[var] for var in eqn.operands]
        for number, var in enumerate(eqn.results):
            if not asked[var]:
                continue
            needs[var] = need_of = needs_of(listing, eqn, number)
            for place in asked[var]:
                for operand, at in need_of(place):
                    operands[operand][at] = None
            count += len(asked[var])
            if count > most:
                raise Unsupported(f"it has more than {most} operations")
    return needs


def _arguments(listing: Listing, eqn: Equation) -> list[tuple[int, list[Place]]]:
    """Return the elements that a routine reads of each operand."""
    read = [(var, list(np.ndindex(*listing.shapes[var]))) for var in eqn.operands]
    if eqn.params["name"] in ROUTINES and ROUTINES[eqn.params["name"]].lower:
        read[0] = read[0][0], [(i, j) for i, j in read[0][1] if i >= j]
    return read


def _call(listing: Listing, eqn: Equation, asked, found, build: Builder) -> None:
    """Write the call of a routine for the elements of its results asked for."""
    places, first = [], 0
    for var in eqn.results:
        shape = listing.shapes[var]
        places += [(var, at, first + _flat(at, shape)) for at in asked[var]]
        first += prod(shape)
    if not places:
        return
    given, first = [], 0
    for var, elements in _arguments(listing, eqn):
        shape = listing.shapes[var]
        given += [(first + _flat(at, shape), found[var][at]) for at in elements]
        first += prod(shape)
    named = eqn.params["name"], eqn.params["sizes"]
    made = build.routine(*named, given, [number for _, _, number in places])
    for (var, at, _), value in zip(places, made, strict=True):
        found[var][at] = value


def _flat(place: Place, shape: tuple[int, ...]) -> int:
    """Return the number of an element."""
    number = 0
    for axis, at in enumerate(place):
        if isinstance(at, PointIndex):
            raise Unsupported("it calls a routine along the points")
        number += at * prod(shape[axis + 1 :])
    return number


def _of_constant(array: np.ndarray, place: Place, build: Builder) -> Any:
    """Return an element of a known array."""
    if any(isinstance(index, PointIndex) for index in place):
        if array.size and (array == array.flat[0]).all():
            return array.flat[0]
        return build.table(array, place)
    return array[place]


def _rule(eqn: Equation, dtype: np.dtype, build: Builder) -> Callable[..., Any]:
    """Return what makes an element of the values that it is made of, and its place."""
    name, params = eqn.name, eqn.params
    if name in _PICKS or name in _AS_IT_IS:
        return lambda values, place: values[0]
    if name == "iota":
        return lambda values, place: _counted(place[params["dimension"]], dtype, build)
    if name in FOLDS or name in _SUMS:
        fold = FOLDS.get(name, "add")
        return lambda values, place: _folded(fold, values, dtype, build)
    if name == "dot_general":
        return lambda values, place: _dotted(values, dtype, build)
    return lambda values, place: build.emit(name, values, dtype, params)


def _counted(index: Index, dtype: Any, build: Builder) -> Any:
    return (
        build.number(index, dtype)
        if isinstance(index, PointIndex)
        else dtype.type(index)
    )


def _folded(fold: str, values: list, dtype: Any, build: Builder) -> Any:
    # an axis of length 0: what adding nothing makes
    nothing = {"add": 0, "mul": 1, "and": True, "or": False}
    nothing |= {"max": -np.inf, "min": np.inf}
    if not values and (dtype.kind == "f" or fold not in ("max", "min")):
        return dtype.type(nothing[fold])
    return reduce(lambda a, b: build.emit(fold, [a, b], dtype, {}), values)


def _dotted(values: list, dtype: Any, build: Builder) -> Any:
    pairs = zip(values[::2], values[1::2], strict=True)
    terms = [build.emit("mul", [*pair], dtype, {}) for pair in pairs]
    add = lambda a, b: build.emit("add", [a, b], dtype, {})
    return reduce(add, terms) if terms else dtype.type(0)
