"""How operations of jax are written in LLVM IR, one rule each.

References:
    LLVM Language Reference, https://llvm.org/docs/LangRef.html; jax.lax, for NaN in
    maxima and for conversions out of range.
"""

from typing import Any

import numpy as np

from lmjax._engines.fused.ir import RULES, Code
from lmjax._engines.fused.values import SUFFIX, Name, is_known, name_of
from lmjax._jax.machine import Unsupported

_ARITHMETIC = ("add", "sub", "mul", "div")
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_ROUNDINGS = {"floor": "floor", "ceil": "ceil", "rint": "roundeven", "trunc": "trunc"}


def _dtype_of(values: list) -> np.dtype:
    named = [value for value in values if isinstance(value, Name)]
    return np.dtype(named[0].dtype if named else np.asarray(values[0]).dtype)


def _arithmetic(name: str):
    def make(code: Code, values, dtype, params):
        name_ = "add" if name == "add_any" else name
        if name_ == "div" and dtype.kind == "f" and _by_one_of_all(code, *values):
            one = code.emit("div", [dtype.type(1), values[1]], dtype)
            return code.emit("mul", [values[0], one], dtype)
        a, b = map(code.text, values)
        if dtype.kind == "f":
            return code.add(f"f{name_} contract {code.vector(dtype)} {a}, {b}", dtype)
        if name_ == "div":
            return _whole_quotient("sdiv", code, values, dtype)
        if dtype == bool:
            raise Unsupported(f"it calls {name} of {dtype}")
        return code.add(f"{name_} {code.vector(dtype)} {a}, {b}", dtype)

    return make


def _by_one_of_all(code: Code, a: Any, b: Any) -> bool:
    """Return whether a number of a point is divided by one of all points.

    A reciprocal, worked out once, and a multiplication take a tenth of the time. They
    make an error of up to 1.5 units in the last place, less than an exponential, and 0
    of quotients by the largest quarter of all numbers, whose reciprocals have none.
    Divisors that are known now stay: a multiple of 3 over 3 is to be whole.
    """
    moves = lambda x: not is_known(x) and x.text in code.moving
    return code.still is not None and moves(a) and not is_known(b) and not moves(b)


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
        if dtype.kind == "f":  # NaN wins, as in jax; to order 0 and -0 takes as long
            return code.intrinsic(f"{name}imum", values, dtype, "nsz ")
        return code.intrinsic(f"s{name}", values, dtype)

    return make


def _select(code: Code, values, dtype, params):
    which, *cases = values
    if len(cases) != 2:
        raise Unsupported("it chooses among more than two")
    if which.dtype != "bool":
        which = code.emit("ne", [which, np.dtype(which.dtype).type(0)], bool)
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
        if name_of(dtype) not in SUFFIX:
            raise Unsupported(f"it converts {was} to {dtype}")
        full = f"@llvm.fptosi.sat.v{code.width}{SUFFIX[name_of(dtype)]}"
        full += f".v{code.width}{SUFFIX[str(was)]}"
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


_OPERATIONS: dict[str, Any] = {
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
RULES.update(_OPERATIONS)
