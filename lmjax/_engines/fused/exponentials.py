"""Exponentials and logarithms on vectors of lanes.

References:
    Cody and Waite (1980), "Software Manual for the Elementary Functions": reductions by
    a constant in several parts. Tang (1989), ACM TOMS 15, 144-157: the exponential.
    Sun Microsystems (1993), fdlibm, ``e_log.c``: the order of the last additions.
"""

from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np

from lmjax._engines.fused.arithmetic import Arithmetic, economized, parts
from lmjax._engines.fused.ir import Code

# From its continued expansion, to 60 digits.
LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")

# Series in s**2 of log((1 + s) / (1 - s)), without its first term 2 s and by s**3, and
# the largest s**2, that of a mantissa sqrt(2): (3 - 2 sqrt(2))**2.
_LOG = tuple(Fraction(2, 2 * k + 3) for k in range(24))
LARGEST_SQUARE = Fraction("0.02944")


class Exponentials(Arithmetic):
    """exp, expm1, exp2, log, log1p and what is made of them."""

    def _ln2(self) -> list[Any]:
        return parts(LN2, self.dtype, 2, 40 if self.double else 15)

    def _reduced_by_ln2(self, code: Code, x: Any) -> tuple[Any, Any]:
        """Return n and r with ``x = n ln 2 + r`` and ``|r| <= ln(2) / 2``."""
        product = self._op(code, "mul", x, self.number(float(1 / LN2)))
        n = self._op(code, "rint", product)
        r = x
        for part in self._ln2():
            r = self._fma(code, n, -part, r)
        return n, r

    def _expm1_series(self, code: Code, r: Any) -> Any:
        """Return ``exp(r) - 1`` for small r."""
        last = 14 if self.double else 8
        tail = [Fraction(1, factorial(k)) for k in range(2, last)]
        square = self._op(code, "mul", r, r)
        return self._fma(code, square, self._series(code, r, tail), r)

    def _exp_parts(self, code: Code, x: Any, low: Any = None) -> tuple[Any, Any]:
        """Return n and y with ``exp(x + low) = 2**n y``, and y not far from 1.

        What is beyond the range of results is cut off: `_scaled` makes 0 or infinity
        of the rest.
        """
        least, most = (-746.0, 711.0) if self.double else (-105.0, 90.0)
        inside = self._op(code, "max", x, self.number(least))
        inside = self._op(code, "min", inside, self.number(most))
        n, r = self._reduced_by_ln2(code, inside)
        if low is not None:
            # of an infinity the second word is NaN
            same = self._is(code, "eq", inside, x)
            r = self._op(code, "add", r, self._if(code, same, low, self.number(0.0)))
        return n, self._op(code, "add", self._expm1_series(code, r), self.number(1.0))

    def _scaled(self, code: Code, n: Any, y: Any) -> Any:
        """Return ``2**n y``: in two steps, for results without all bits."""
        whole = self._whole(code, n)
        half = code.integer("ashr", whole, self.whole.type(1), self.whole)
        rest = code.integer("sub", whole, half, self.whole)
        for part in (half, rest):
            y = self._op(code, "mul", y, self._power_of_two(code, part))
        return y

    def exp(self, code: Code, x: Any) -> Any:
        """Return the exponential."""
        return self._scaled(code, *self._exp_parts(code, x))

    def exp2(self, code: Code, x: Any) -> Any:
        """Return ``2**x``."""
        least, most = (-1080.0, 1030.0) if self.double else (-160.0, 130.0)
        inside = self._op(code, "max", x, self.number(least))
        inside = self._op(code, "min", inside, self.number(most))
        n = self._op(code, "rint", inside)
        rest = self._op(code, "sub", inside, n)
        r = self._op(code, "mul", rest, self.number(float(LN2)))
        y = self._op(code, "add", self._expm1_series(code, r), self.number(1.0))
        return self._scaled(code, n, y)

    def expm1(self, code: Code, x: Any) -> Any:
        """Return ``exp(x) - 1``."""
        low, high = (-40.0, 709.0) if self.double else (-20.0, 88.0)
        inside = self._op(code, "max", x, self.number(low))
        inside = self._op(code, "min", inside, self.number(high))
        n, r = self._reduced_by_ln2(code, inside)
        scale = self._power_of_two(code, self._whole(code, n))
        less = self._op(code, "sub", scale, self.number(1.0))
        y = self._fma(code, scale, self._expm1_series(code, r), less)
        large = self._is(code, "gt", x, self.number(high))
        y = self._or_zero(code, x, y)
        return self._if(code, large, code.call("exp", [x], self.dtype), y)

    def _split(self, code: Code, x: Any) -> tuple[Any, Any]:
        """Return e and m with ``x = 2**e m``, and m in [sqrt(1/2), sqrt(2))."""
        whole = self.whole.type
        tiny = self.number(np.finfo(self.dtype).tiny)
        small = self._is(code, "lt", x, tiny)
        lift = self.digits + 2
        lifted = self._op(code, "mul", x, self.number(2.0**lift))
        y = self._if(code, small, lifted, x)
        root = np.asarray(np.sqrt(0.5), self.dtype).view(self.whole)[()]
        bits = code.integer("sub", code.bits(y, self.whole), root, self.whole)
        e = code.integer("ashr", bits, whole(self.digits), self.whole)
        back = code.integer("and", bits, whole(2**self.digits - 1), self.whole)
        m = code.bits(code.integer("add", back, root, self.whole), self.dtype)
        e = code.emit("convert_element_type", [e], self.dtype)
        less = self._if(code, small, self.number(lift), self.number(0.0))
        return self._op(code, "sub", e, less), m

    def log(self, code: Code, x: Any) -> Any:
        """Return the natural logarithm."""
        number = self.number
        e, m = self._split(code, x)
        f = self._op(code, "sub", m, number(1.0))
        s = self._op(code, "div", f, self._op(code, "add", f, number(2.0)))
        square = self._op(code, "mul", s, s)
        terms = economized(_LOG, LARGEST_SQUARE, 8 if self.double else 4)
        r = self._op(code, "mul", square, self._series(code, square, terms))
        half = self._op(code, "mul", self._op(code, "mul", f, f), number(0.5))
        high, low = self._ln2()
        inner = self._op(code, "mul", s, self._op(code, "add", half, r))
        inner = self._fma(code, e, low, inner)
        rest = self._op(code, "sub", self._op(code, "sub", half, inner), f)
        y = self._op(code, "sub", self._op(code, "mul", e, high), rest)
        # 0, infinity, NaN and what is negative
        y = self._if(code, self._is(code, "lt", x, number(np.inf)), y, x)
        zero = self._is(code, "eq", x, number(0.0))
        y = self._if(code, zero, number(-np.inf), y)
        negative = self._is(code, "lt", x, number(0.0))
        return self._if(code, negative, number(np.nan), y)

    def log1p(self, code: Code, x: Any) -> Any:
        """Return ``log(1 + x)``: what 1 + x loses of x is added again."""
        number = self.number
        u = self._op(code, "add", x, number(1.0))
        lost = self._op(code, "sub", x, self._op(code, "sub", u, number(1.0)))
        y = code.call("log", [u], self.dtype)
        better = self._op(code, "add", y, self._op(code, "div", lost, u))
        finite = code.emit("is_finite", [better], bool)
        y = self._if(code, finite, better, y)
        # a small x is its own logarithm, sign included
        return self._if(code, self._is(code, "eq", u, number(1.0)), x, y)

    def logistic(self, code: Code, x: Any) -> Any:
        """Return ``1 / (1 + exp(-x))``."""
        e = code.call("exp", [self._op(code, "neg", x)], self.dtype)
        one = self.number(1.0)
        return self._op(code, "div", one, self._op(code, "add", one, e))
