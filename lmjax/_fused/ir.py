"""Scalar operations as LLVM IR on vectors of lanes, one fit per lane.

A value is a NumPy scalar, the same for all fits, or the name of a vector. Operations of
known values are done at once; additions of 0 and multiplications by 0 and 1, which unit
tangents are full of, vanish. Multiplications and additions may be contracted, never
reordered: the bits of a lane do not depend on its neighbours.
"""

import struct
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lmjax._fused.places import Along, Place, Unsupported

_KINDS = {
    "float32": "float",
    "float64": "double",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}
_SUFFIX = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64"}


class Name(NamedTuple):
    """A vector in the program."""

    text: str
    dtype: str


def kind(dtype: Any) -> str:
    """Return LLVM's name of a scalar type."""
    try:
        return _KINDS[str(np.dtype(dtype))]
    except KeyError:
        raise Unsupported(f"it works with {np.dtype(dtype)}") from None


def number(value: Any) -> str:
    """Return a literal: floating-point numbers by their bits."""
    value = np.asarray(value)
    if value.dtype == bool:
        return "true" if value else "false"
    if value.dtype.kind in "iu":
        return str(int(value))
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"


def is_known(value: Any) -> bool:
    """Return whether a value is a number that is known now."""
    return not isinstance(value, Name)


_FOLDED: dict[str, Any] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "exp": np.exp,
    "log": np.log,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
    "is_finite": np.isfinite,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "convert_element_type": lambda a: a,
    "select_n": lambda which, *cases: cases[int(which)],
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}
_ARITHMETIC = ("add", "sub", "mul", "div")
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_ROUNDINGS = {"floor": "floor", "ceil": "ceil", "rint": "roundeven", "trunc": "trunc"}


class Code:
    """The body of a function: instructions on vectors, each written once.

    Attributes:
        lines: The instructions.
        module: Where functions and declarations go that the body calls.
        point: Name of the number of the point, a scalar i64.
    """

    def __init__(self, module: Any, prefix: str, point: str = ""):
        self.module, self.prefix, self.point = module, prefix, point
        self.width = module.width
        self.lines: list[str] = []
        self._known: dict[Any, Name] = {}

    def vector(self, dtype: Any) -> str:
        """Return the type of a value."""
        return f"<{self.width} x {kind(dtype)}>"

    def fresh(self) -> str:
        """Return a name that nobody has."""
        self.module.count += 1
        return f"%{self.prefix}{self.module.count}"

    def add(self, expression: str, dtype: Any = "bool") -> Name:
        """Return the value of an instruction, which is written unless it is there."""
        dtype = str(np.dtype(dtype))
        found = self._known.get((expression, dtype))
        if found is None:
            found = Name(self.fresh(), dtype)
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

    def where(self, index: Along) -> str:
        """Return the value of an index that moves with the point, a scalar i64."""
        k = self.point
        if index.every != 1:
            k = self.scalar(f"udiv i64 {k}, {index.every}")
        if index.every * index.size != self.module.points:
            k = self.scalar(f"urem i64 {k}, {index.size}")
        if index.step != 1:
            k = self.scalar(f"mul i64 {k}, {index.step}")
        return self.scalar(f"add i64 {k}, {index.start}") if index.start else k

    def number(self, index: Along, dtype: np.dtype) -> Name:
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

    def intrinsic(self, name: str, values: list, dtype: Any) -> Name:
        """Return what one of LLVM's own functions makes of values of one type."""
        vector = self.vector(dtype)
        full = f"@llvm.{name}.v{self.width}{_SUFFIX[str(np.dtype(dtype))]}"
        self.module.declare(full, vector, [vector] * len(values))
        args = ", ".join(f"{vector} {self.text(value)}" for value in values)
        return self.add(f"call {vector} {full}({args})", dtype)

    def call(self, name: str, values: list, dtype: Any) -> Name:
        """Return what an elementary function makes of values of one type."""
        full, vector = self.module.elementary(name, dtype), self.vector(dtype)
        args = ", ".join(f"{vector} {self.text(value)}" for value in values)
        return self.add(f"call {vector} {full}({args})", dtype)

    def visit(self, which: int, values: list) -> list[Name]:
        """Return the sums over all points that a pass over the data makes."""
        return self.module.visit(self, which, values)

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
        short = self._shortened(name, values, dtype)
        if short is not None:
            return short
        if all(map(is_known, values)) and name in _FOLDED:
            with np.errstate(all="ignore"):
                return dtype.type(_FOLDED[name](*values))
        if name == "select_n" and is_known(values[0]):
            return values[1 + int(values[0])]
        make = _RULES.get(name)
        if make is not None:
            return make(self, values, dtype, params)
        if self.module.has_elementary(name, dtype):
            return self.call(name, values, dtype)
        raise Unsupported(f"it calls {name}")

    def _shortened(self, name: str, values: list, dtype: np.dtype) -> Any:
        """Return what an operation comes to where an operand makes it trivial."""
        is_number = lambda value, x: is_known(value) and bool(value == x)
        a, b = values[0], values[-1]
        if name == "mul":
            if is_number(a, 0) or is_number(b, 0):
                return dtype.type(0)
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
        if isinstance(index, int):
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


def _dtype_of(values: list) -> np.dtype:
    named = [value for value in values if isinstance(value, Name)]
    return np.dtype(named[0].dtype if named else np.asarray(values[0]).dtype)


def _arithmetic(name: str):
    def make(code: Code, values, dtype, params):
        name_ = "add" if name == "add_any" else name
        a, b = map(code.text, values)
        if dtype.kind == "f":
            return code.add(f"f{name_} contract {code.vector(dtype)} {a}, {b}", dtype)
        if name_ == "div":
            return _whole_quotient("sdiv", code, values, dtype)
        if dtype == bool:
            raise Unsupported(f"it calls {name} of {dtype}")
        return code.add(f"{name_} {code.vector(dtype)} {a}, {b}", dtype)

    return make


def _whole_quotient(name: str, code: Code, values, dtype: np.dtype) -> Name:
    """Return quotient or rest of integers, whose division by 0 has no meaning."""
    if not is_known(values[1]) or values[1] in (0, -1):
        raise Unsupported("it divides integers")
    return code.integer(name, values[0], values[1], dtype)


def _rest(code: Code, values, dtype, params):
    if dtype.kind == "f":
        return code.call("rem", values, dtype)
    return _whole_quotient("srem", code, values, dtype)


def _comparison(name: str):
    def make(code: Code, values, dtype, params):
        was = _dtype_of(values)
        a, b = map(code.text, values)
        if was.kind == "f":
            test = "une" if name == "ne" else "o" + name
            return code.add(f"fcmp {test} {code.vector(was)} {a}, {b}")
        sign = "" if name in ("eq", "ne") else "u" if was == bool else "s"
        return code.add(f"icmp {sign}{name} {code.vector(was)} {a}, {b}")

    return make


def _logic(name: str):
    def make(code: Code, values, dtype, params):
        return code.integer(name, values[0], values[1], dtype)

    return make


def _extreme(name: str):
    def make(code: Code, values, dtype, params):
        if dtype == bool:
            return code.integer(
                "or" if name == "max" else "and", values[0], values[1], dtype
            )
        if dtype.kind == "f":  # NaN wins, as in jax
            return code.intrinsic(f"{name}imum", values, dtype)
        return code.intrinsic(f"s{name}", values, dtype)

    return make


def _select(code: Code, values, dtype, params):
    which, *cases = values
    if len(cases) != 2 or which.dtype != "bool":
        raise Unsupported("it chooses among more than two")
    no, yes = map(code.text, cases)
    kinds = code.vector("bool"), code.vector(dtype)
    return code.add(
        f"select {kinds[0]} {code.text(which)}, {kinds[1]} {yes}, {kinds[1]} {no}",
        dtype,
    )


def _convert(code: Code, values, dtype, params):
    was, value = _dtype_of(values), values[0]
    if was == dtype:
        return value
    if dtype == bool:
        return code.emit("ne", [value, was.type(0)], bool)
    kinds = was.kind + dtype.kind
    if kinds == "fi":
        full = f"@llvm.fptosi.sat.v{code.width}{_SUFFIX[str(dtype)]}"
        full += f".v{code.width}{_SUFFIX[str(was)]}"
        code.module.declare(full, code.vector(dtype), [code.vector(was)])
        argument = f"{code.vector(was)} {code.text(value)}"
        return code.add(f"call {code.vector(dtype)} {full}({argument})", dtype)
    wider = dtype.itemsize > was.itemsize
    names = {
        "bi": "zext",
        "bf": "uitofp",
        "if": "sitofp",
        "ff": "fpext" if wider else "fptrunc",
        "ii": "sext" if wider else "trunc",
    }
    if kinds not in names:
        raise Unsupported(f"it converts {was} to {dtype}")
    into = f"{code.text(value)} to {code.vector(dtype)}"
    return code.add(f"{names[kinds]} {code.vector(was)} {into}", dtype)


def _is_finite(code: Code, values, dtype, params):
    was = _dtype_of(values)
    size = code.emit("abs", values, was)
    return code.emit("lt", [size, was.type(np.inf)], bool)


def _negative(code: Code, values, dtype, params):
    if dtype.kind != "f":
        return code.emit("sub", [dtype.type(0), *values], dtype)
    return code.add(f"fneg {code.vector(dtype)} {code.text(values[0])}", dtype)


def _absolute(code: Code, values, dtype, params):
    if dtype.kind == "f":
        return code.intrinsic("fabs", values, dtype)
    negative = code.emit("neg", values, dtype)
    return code.emit("max", [*values, negative], dtype)


def _not(code: Code, values, dtype, params):
    ones = np.bool_(True) if dtype == bool else dtype.type(-1)
    return code.integer("xor", values[0], ones, dtype)


def _sign(code: Code, values, dtype, params):
    x, one = values[0], dtype.type(1)
    below = code.emit("lt", [x, dtype.type(0)], bool)
    above = code.emit("gt", [x, dtype.type(0)], bool)
    negative = code.emit("select_n", [below, x, -one], dtype)
    return code.emit("select_n", [above, negative, one], dtype)


def _power(code: Code, values, dtype, params):
    exponent = params["y"]
    square, result, left = values[0], None, abs(exponent)
    while left:
        if left & 1:
            result = (
                square if result is None else code.emit("mul", [result, square], dtype)
            )
        left >>= 1
        square = code.emit("mul", [square, square], dtype) if left else square
    if result is None:
        return dtype.type(1)
    return code.emit("div", [dtype.type(1), result], dtype) if exponent < 0 else result


def _round(code: Code, values, dtype, params):
    even = int(params["rounding_method"]) == 1
    return code.intrinsic("roundeven" if even else "round", values, dtype)


_RULES: dict[str, Any] = {
    **{name: _arithmetic(name) for name in (*_ARITHMETIC, "add_any")},
    **{name: _comparison(name) for name in _COMPARISONS},
    **{name: _logic(name) for name in ("and", "or", "xor")},
    "max": _extreme("max"),
    "min": _extreme("min"),
    "select_n": _select,
    "convert_element_type": _convert,
    "is_finite": _is_finite,
    "neg": _negative,
    "abs": _absolute,
    "not": _not,
    "sign": _sign,
    "rem": _rest,
    "integer_pow": _power,
    "round": _round,
    "sqrt": lambda code, values, dtype, params: code.intrinsic("sqrt", values, dtype),
    "square": lambda code, values, dtype, params: code.emit("mul", values * 2, dtype),
    "rsqrt": lambda code, values, dtype, params: code.emit(
        "div", [dtype.type(1), code.emit("sqrt", values, dtype)], dtype
    ),
    "clamp": lambda code, values, dtype, params: code.emit(
        "min", [code.emit("max", [values[1], values[0]], dtype), values[2]], dtype
    ),
    **{
        name: lambda code, values, dtype, params, full=full: code.intrinsic(
            full, values, dtype
        )
        for name, full in _ROUNDINGS.items()
    },
}
