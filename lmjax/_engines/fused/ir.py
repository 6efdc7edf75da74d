"""Scalar operations as LLVM IR on vectors of lanes, one fit per lane.

A value is a NumPy scalar, the same for all fits, or the name of a vector. Operations of
known values are done at once; additions of 0 and multiplications by 0 and 1, which unit
tangents are full of, vanish. Multiplications and additions may be contracted, never
reordered: the bits of a lane do not depend on its neighbours.
"""

import re
from math import prod
from typing import Any

import numpy as np

from lmjax._engines.fused.folding import FOLDED, folded
from lmjax._engines.fused.indices import Place, PointIndex, Unsupported
from lmjax._engines.fused.values import (
    NOTHING,
    SUFFIX,
    Name,
    is_known,
    is_nothing,
    kind,
    name_of,
    number,
)

_NAMES = re.compile(r"%\w+").findall

# What writes an operation of jax, by its name; see `lmjax._engines.fused.operations`.
RULES: dict[str, Any] = {}


class Code:
    """The body of a function: instructions on vectors, each written once.

    Attributes:
        lines: The instructions.
        module: Where functions and declarations go that the body calls.
        point: Name of the number of the point, a scalar i64.
        points: How many points are visited.
        still: Where instructions go that are the same for all points, if not here.
        moving: Names of what differs from point to point.
    """

    def __init__(
        self,
        module: Any,
        prefix: str,
        point: str = "",
        still: Any = None,
        points: int = 1,
    ):
        self.module, self.prefix, self.point = module, prefix, point
        self.points = points
        self.still, self.moving = still, {point}
        self.width = module.width
        self.lines: list[str] = []
        self._known: dict[Any, Name] = {}

    def vector(self, dtype: Any) -> str:
        """Return the type of a value."""
        return f"<{self.width} x {kind(dtype)}>"

    def fresh(self) -> str:
        """Return a name that nobody has."""
        return f"%{self.prefix}{self.module.next()}"

    def add(self, expression: str, dtype: Any = "bool") -> Name:
        """Return the value of an instruction, which is written unless it is there."""
        if self.still is not None and self.moving.isdisjoint(_NAMES(expression)):
            return self.still.add(expression, dtype)
        dtype = name_of(dtype)
        found = self._known.get((expression, dtype))
        if found is None:
            found = Name(self.fresh(), dtype)
            self.moving.add(found.text)
            self.lines.append(f"  {found.text} = {expression}")
            self._known[expression, dtype] = found
        return found

    def scalar(self, expression: str) -> str:
        """Return the name of an instruction that makes no vector."""
        return self.add(expression).text

    def text(self, value: Any) -> str:
        """Return a value as an operand."""
        if isinstance(value, Name):
            return value.text
        return self.splat(number(value), np.asarray(value).dtype)

    def splat(self, literal: str, dtype: Any) -> str:
        """Return a vector of one literal."""
        return "<" + ", ".join([f"{kind(dtype)} {literal}"] * self.width) + ">"

    def spread(self, scalar: str, dtype: Any) -> Name:
        """Return a vector of one scalar that is known when the program runs."""
        vector = self.vector(dtype)
        first = self.scalar(
            f"insertelement {vector} poison, {kind(dtype)} {scalar}, i32 0"
        )
        zeros = f"<{self.width} x i32> zeroinitializer"
        return self.add(
            f"shufflevector {vector} {first}, {vector} poison, {zeros}", dtype
        )

    def where(self, index: PointIndex) -> str:
        """Return the value of an index that moves with the point, a scalar i64."""
        k = self.point
        if index.every != 1:
            k = self.scalar(f"udiv i64 {k}, {index.every}")
        if index.every * index.size != self.points:
            k = self.scalar(f"urem i64 {k}, {index.size}")
        if index.step != 1:
            k = self.scalar(f"mul i64 {k}, {index.step}")
        return self.scalar(f"add i64 {k}, {index.start}") if index.start else k

    def number(self, index: PointIndex, dtype: np.dtype) -> Name:
        """Return an index that moves with the point as a vector."""
        k = self.where(index)
        if dtype.kind == "f":
            k = self.scalar(f"sitofp i64 {k} to {kind(dtype)}")
        elif kind(dtype) != "i64":
            k = self.scalar(f"trunc i64 {k} to {kind(dtype)}")
        return self.spread(k, dtype)

    def table(self, array: np.ndarray, place: Place) -> Name:
        """Return an element of an array that belongs to the program."""
        base = self.module.table(array)
        return read_common(self, base, array.shape, array.dtype, place)

    def intrinsic(self, name: str, values: list, dtype: Any, flags: str = "") -> Name:
        """Return what one of LLVM's own functions makes of values of one type.

        ``flags`` are those of LLVM's fast mathematics, with a space after each.
        """
        vector = self.vector(dtype)
        full = f"@llvm.{name}.v{self.width}{SUFFIX[name_of(dtype)]}"
        self.module.declare(full, vector, [vector] * len(values))
        args = ", ".join(f"{vector} {self.text(value)}" for value in values)
        return self.add(f"call {flags}{vector} {full}({args})", dtype)

    def call(self, name: str, values: list, dtype: Any) -> Name:
        """Return what an elementary function makes of values of one type."""
        full, vector = self.module.elementary(name, dtype), self.vector(dtype)
        args = ", ".join(f"{vector} {self.text(value)}" for value in values)
        return self.add(f"call {vector} {full}({args})", dtype)

    def routine(self, name: str, sizes: tuple, given: list, wanted: list) -> list[Name]:
        """Return numbers that a routine of the module makes of (place, value) pairs."""
        return self.module.routine(self, name, sizes, given, wanted)

    def fma(self, a: Any, b: Any, c: Any, dtype: Any) -> Any:
        """Return ``a b + c``, rounded once."""
        if all(map(is_known, (a, b))) or any(is_known(x) and x == 0 for x in (a, b)):
            return self.emit("add", [self.emit("mul", [a, b], dtype), c], dtype)
        return self.intrinsic("fma", [a, b, c], dtype)

    def bits(self, value: Any, dtype: Any) -> Name:
        """Return the same bits as another type of the same size."""
        was = value.dtype if isinstance(value, Name) else np.asarray(value).dtype
        return self.add(
            f"bitcast {self.vector(was)} {self.text(value)} to {self.vector(dtype)}",
            dtype,
        )

    def integer(self, name: str, a: Any, b: Any, dtype: Any) -> Name:
        """Return an operation on integers by its LLVM name."""
        a, b = self.text(a), self.text(b)
        return self.add(f"{name} {self.vector(dtype)} {a}, {b}", dtype)

    def emit(self, name: str, values: list, dtype: Any, params: Any = None) -> Any:
        """Return the value of an operation of jax."""
        dtype, params = np.dtype(dtype), params or {}
        if name == "select_n" or any(map(is_known, values)):
            short = self._shortened(name, values, dtype)
            if short is not None:
                return short
        make = RULES.get(name)
        if make is not None:
            return make(self, values, dtype, params)
        if self.module.has_elementary(name, dtype):
            return self.call(name, values, dtype)
        raise Unsupported(f"it calls {name}")

    def _shortened(self, name: str, values: list, dtype: np.dtype) -> Any:
        """Return what an operation comes to that known operands make trivial."""
        is_number = lambda value, x: is_known(value) and bool(value == x)
        a, b = values[0], values[-1]
        if is_nothing(a) and name in ("mul", "div", "neg", "convert_element_type"):
            return NOTHING[name_of(dtype)]
        if name == "mul":
            if is_nothing(b):
                return NOTHING[name_of(dtype)]
            if is_number(a, 1):
                return b
            if is_number(b, 1):
                return a
        if name in ("add", "add_any"):
            if is_number(a, 0):
                return b
            if is_number(b, 0):
                return a
        if name == "sub" and is_number(b, 0):
            return a
        if name == "div" and is_number(b, 1):
            return a
        if dtype == bool and name in ("and", "or"):
            for known, other in ((a, b), (b, a)):
                if is_known(known):
                    keep = bool(known) == (name == "and")
                    return other if keep else np.bool_(name == "or")
        if name == "select_n" and len(values) == 3:
            x, y = values[1:]
            same = x is y or x == y if is_known(x) == is_known(y) else False
            if same and not (is_known(x) and x == 0):  # 0 and -0
                return x
        if name in FOLDED and all(map(is_known, values)):
            return folded(name, values, dtype)
        if name == "select_n" and is_known(values[0]):
            return values[1 + int(values[0])]
        return None


def read_common(
    code: Code, base: str, shape: tuple[int, ...], dtype: np.dtype, place: Place
) -> Name:
    """Return an element of an array that is the same for all fits, as a vector."""
    stored = "i8" if dtype == bool else kind(dtype)
    at = address(code, shape, place)
    pointer = code.scalar(f"getelementptr {stored}, ptr {base}, i64 {at}")
    loaded = code.scalar(f"load {stored}, ptr {pointer}")
    if dtype == bool:
        loaded = code.scalar(f"icmp ne i8 {loaded}, 0")
    return code.spread(loaded, dtype)


def address(code: Code, shape: tuple[int, ...], place: Place) -> str:
    """Return the number of an element in memory, a scalar."""
    fixed, moving = 0, []
    for axis, index in enumerate(place):
        stride = prod(shape[axis + 1 :])
        if not isinstance(index, PointIndex):
            fixed += index * stride
            continue
        k = code.where(index)
        moving.append(code.scalar(f"mul i64 {k}, {stride}") if stride > 1 else k)
    if not moving:
        return str(fixed)
    total = moving[0]
    for part in moving[1:]:
        total = code.scalar(f"add i64 {total}, {part}")
    return code.scalar(f"add i64 {total}, {fixed}") if fixed else total
