"""Elementary functions on vectors of lanes.

Each is an argument reduction and a Taylor polynomial, long enough for the last bit, in
fused multiply-adds. What is not here is asked of the C library, lane by lane.

References:
    Cody and Waite (1980), "Software Manual for the Elementary Functions": reductions by
    a constant in several parts. Tang (1989), ACM TOMS 15, 144-157: the exponential.
    Sun Microsystems (1993), fdlibm, ``e_log.c``: the order of the last additions.
"""

from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np

from lmjax._fused.ir import Code
from lmjax._fused.values import Name

# Functions of the C library, which have the name of jax's with an "f" for float32.
LIBRARY = {
    "tan": "tan",
    "asin": "asin",
    "acos": "acos",
    "atan": "atan",
    "atan2": "atan2",
    "sinh": "sinh",
    "cosh": "cosh",
    "asinh": "asinh",
    "acosh": "acosh",
    "atanh": "atanh",
    "erf": "erf",
    "erfc": "erfc",
    "lgamma": "lgamma",
    "cbrt": "cbrt",
    "exp2": "exp2",
    "pow": "pow",
    "rem": "fmod",
    "library_sin": "sin",
    "library_cos": "cos",
}


def _parts(value: Fraction, dtype: np.dtype, count: int, bits: int) -> list[Any]:
    """Return numbers that add up to ``value``, all but the last with few bits."""
    parts = []
    for _ in range(count - 1):
        scale = Fraction(2) ** (bits - 1 - _exponent(value))
        head = Fraction(round(value * scale)) / scale
        parts.append(dtype.type(float(head)))
        value -= head
    return [*parts, dtype.type(float(value))]


def _exponent(value: Fraction) -> int:
    exponent = 0
    while abs(value) >= 2:
        value, exponent = value / 2, exponent + 1
    while abs(value) < 1:
        value, exponent = value * 2, exponent - 1
    return exponent


# From their continued expansions, to 60 digits.
_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")
_HALF_PI = Fraction("1.570796326794896619231321691639751442098584699687552910487472")


class Functions:
    """The functions of one dtype, each written into a `Code`."""

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)
        double = self.dtype == np.float64
        self.double = double
        self.whole = np.dtype("int64" if double else "int32")
        self.digits = 52 if double else 23
        self.bias = 1023 if double else 127

    def names(self) -> tuple[str, ...]:
        """Return which there are."""
        return ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic")

    def _series(self, code: Code, x: Any, coefficients: list[Fraction]) -> Any:
        """Return a polynomial, lowest coefficient first."""
        result: Any = self.dtype.type(float(coefficients[-1]))
        for c in reversed(coefficients[:-1]):
            result = code.fma(result, x, self.dtype.type(float(c)), self.dtype)
        return result

    def _op(self, code: Code, name: str, *values: Any) -> Any:
        return code.emit(name, list(values), self.dtype)

    def _if(self, code: Code, condition: Any, yes: Any, no: Any) -> Any:
        return code.emit("select_n", [condition, no, yes], self.dtype)

    def _or_zero(self, code: Code, x: Any, y: Any) -> Any:
        """Return y, but 0 with the sign of x where x is 0."""
        zero = code.emit("eq", [x, self.dtype.type(0.0)], bool)
        return self._if(code, zero, x, y)

    def _power_of_two(self, code: Code, n: Any) -> Name:
        """Return 2**n for integers n within the normal range."""
        n = code.integer("add", n, self.whole.type(self.bias), self.whole)
        n = code.integer("shl", n, self.whole.type(self.digits), self.whole)
        return code.bits(n, self.dtype)

    def _whole(self, code: Code, x: Any) -> Name:
        vector, whole = code.vector(self.dtype), code.vector(self.whole)
        found = code.add(f"fptosi {vector} {code.text(x)} to {whole}", self.whole)
        # of NaN it is undefined: any number will do there, as long as it is one
        return code.add(f"freeze {whole} {found.text}", self.whole)

    def _reduced_by_ln2(self, code: Code, x: Any) -> tuple[Any, Any]:
        """Return n and r with ``x = n ln 2 + r`` and ``|r| <= ln(2) / 2``."""
        number = self.dtype.type
        n = self._op(code, "rint", self._op(code, "mul", x, number(float(1 / _LN2))))
        r = x
        for part in _parts(_LN2, self.dtype, 2, 40 if self.double else 15):
            r = code.fma(n, -part, r, self.dtype)
        return n, r

    def _expm1_series(self, code: Code, r: Any) -> Any:
        """Return ``exp(r) - 1`` for small r."""
        last = 14 if self.double else 8
        tail = [Fraction(1, factorial(k)) for k in range(2, last)]
        square = self._op(code, "mul", r, r)
        return code.fma(square, self._series(code, r, tail), r, self.dtype)

    def exp(self, code: Code, x: Any) -> Any:
        """Return the exponential: 2**n in two steps, for results without all bits."""
        number = self.dtype.type
        low, high = (-746.0, 710.0) if self.double else (-105.0, 89.0)
        inside = self._op(
            code, "min", self._op(code, "max", x, number(low)), number(high)
        )
        n, r = self._reduced_by_ln2(code, inside)
        y = self._op(code, "add", self._expm1_series(code, r), number(1.0))
        whole = self._whole(code, n)
        half = code.integer("ashr", whole, self.whole.type(1), self.whole)
        rest = code.integer("sub", whole, half, self.whole)
        for part in (half, rest):
            y = self._op(code, "mul", y, self._power_of_two(code, part))
        return y

    def expm1(self, code: Code, x: Any) -> Any:
        """Return ``exp(x) - 1``."""
        number = self.dtype.type
        low, high = (-40.0, 709.0) if self.double else (-20.0, 88.0)
        inside = self._op(
            code, "min", self._op(code, "max", x, number(low)), number(high)
        )
        n, r = self._reduced_by_ln2(code, inside)
        scale = self._power_of_two(code, self._whole(code, n))
        less = self._op(code, "sub", scale, number(1.0))
        y = code.fma(scale, self._expm1_series(code, r), less, self.dtype)
        large = code.emit("gt", [x, number(high)], bool)
        y = self._or_zero(code, x, y)
        return self._if(code, large, code.call("exp", [x], self.dtype), y)

    def log(self, code: Code, x: Any) -> Any:
        """Return the natural logarithm."""
        number, whole = self.dtype.type, self.whole.type
        tiny = number(np.finfo(self.dtype).tiny)
        small = code.emit("lt", [x, tiny], bool)
        lift = self.digits + 2
        y = self._if(code, small, self._op(code, "mul", x, number(2.0**lift)), x)
        # mantissa in [sqrt(1/2), sqrt(2))
        root = np.asarray(np.sqrt(0.5), self.dtype).view(self.whole)[()]
        bits = code.integer("sub", code.bits(y, self.whole), root, self.whole)
        e = code.integer("ashr", bits, whole(self.digits), self.whole)
        back = code.integer("and", bits, whole(2**self.digits - 1), self.whole)
        m = code.bits(code.integer("add", back, root, self.whole), self.dtype)
        e = code.emit("convert_element_type", [e], self.dtype)
        e = self._op(code, "sub", e, self._if(code, small, number(lift), number(0.0)))
        f = self._op(code, "sub", m, number(1.0))
        s = self._op(code, "div", f, self._op(code, "add", f, number(2.0)))
        square = self._op(code, "mul", s, s)
        last = 12 if self.double else 6
        series = self._series(
            code, square, [Fraction(2, 2 * k + 3) for k in range(last)]
        )
        r = self._op(code, "mul", square, series)
        half = self._op(code, "mul", self._op(code, "mul", f, f), number(0.5))
        high, low = _parts(_LN2, self.dtype, 2, 40 if self.double else 15)
        inner = self._op(code, "mul", s, self._op(code, "add", half, r))
        inner = code.fma(e, low, inner, self.dtype)
        rest = self._op(code, "sub", self._op(code, "sub", half, inner), f)
        y = self._op(code, "sub", self._op(code, "mul", e, high), rest)
        # 0, infinity, NaN and what is negative
        y = self._if(code, code.emit("lt", [x, number(np.inf)], bool), y, x)
        zero = code.emit("eq", [x, number(0.0)], bool)
        y = self._if(code, zero, number(-np.inf), y)
        negative = code.emit("lt", [x, number(0.0)], bool)
        return self._if(code, negative, number(np.nan), y)

    def log1p(self, code: Code, x: Any) -> Any:
        """Return ``log(1 + x)``: what 1 + x loses of x is added again."""
        number = self.dtype.type
        u = self._op(code, "add", x, number(1.0))
        lost = self._op(code, "sub", x, self._op(code, "sub", u, number(1.0)))
        y = code.call("log", [u], self.dtype)
        better = self._op(code, "add", y, self._op(code, "div", lost, u))
        finite = code.emit("is_finite", [better], bool)
        y = self._if(code, finite, better, y)
        # a small x is its own logarithm, sign included
        same = code.emit("eq", [u, number(1.0)], bool)
        return self._if(code, same, x, y)

    def logistic(self, code: Code, x: Any) -> Any:
        """Return ``1 / (1 + exp(-x))``."""
        e = code.call("exp", [self._op(code, "neg", x)], self.dtype)
        one = self.dtype.type(1.0)
        return self._op(code, "div", one, self._op(code, "add", one, e))

    def tanh(self, code: Code, x: Any) -> Any:
        """Return the hyperbolic tangent, by ``expm1`` of twice the size."""
        number = self.dtype.type
        size = self._op(code, "min", self._op(code, "abs", x), number(20.0))
        e = code.call("expm1", [self._op(code, "add", size, size)], self.dtype)
        y = self._op(code, "div", e, self._op(code, "add", e, number(2.0)))
        sign = code.emit("lt", [x, number(0.0)], bool)
        y = self._if(code, sign, self._op(code, "neg", y), y)
        # keeps the sign of 0, and what is too small for the quotient
        small = code.emit("lt", [size, number(1e-10)], bool)
        return self._if(code, small, x, y)

    def sin(self, code: Code, x: Any) -> Any:
        """Return the sine."""
        return self._or_zero(code, x, self._circular(code, x, 0))

    def cos(self, code: Code, x: Any) -> Any:
        """Return the cosine."""
        return self._circular(code, x, 1)

    def _circular(self, code: Code, x: Any, quarter: int) -> Any:
        number, whole = self.dtype.type, self.whole.type
        n = self._op(
            code, "rint", self._op(code, "mul", x, number(float(1 / _HALF_PI)))
        )
        r = x
        for part in _parts(_HALF_PI, self.dtype, 4, 33 if self.double else 11):
            r = code.fma(n, -part, r, self.dtype)
        square = self._op(code, "mul", r, r)
        last = 10 if self.double else 6
        odd = [Fraction((-1) ** k, factorial(2 * k + 1)) for k in range(1, last)]
        even = [Fraction((-1) ** k, factorial(2 * k)) for k in range(2, last + 1)]
        cube = self._op(code, "mul", r, square)
        sine = code.fma(cube, self._series(code, square, odd), r, self.dtype)
        fourth = self._op(code, "mul", square, square)
        half = code.fma(square, number(-0.5), number(1.0), self.dtype)
        cosine = code.fma(fourth, self._series(code, square, even), half, self.dtype)
        turn = code.integer("add", self._whole(code, n), whole(quarter), self.whole)
        swap = code.emit(
            "ne", [code.integer("and", turn, whole(1), self.whole), whole(0)], bool
        )
        negative = code.emit(
            "ne", [code.integer("and", turn, whole(2), self.whole), whole(0)], bool
        )
        y = self._if(code, swap, cosine, sine)
        return self._if(code, negative, self._op(code, "neg", y), y)

    def largest(self, name: str) -> float | None:
        """Return up to which size of its argument a function may be used, if so."""
        if name not in ("sin", "cos"):
            return None
        return 1e6 if self.double else 1e3
