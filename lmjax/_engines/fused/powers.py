"""Powers and cubic roots on vectors of lanes.

References:
    ISO/IEC 9899:1999, F.9.4.4: powers of 0, of infinity and of negative numbers.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from lmjax._engines.fused.arithmetic import DoubleWord, economized, parts
from lmjax._engines.fused.exponentials import LARGEST_SQUARE, Exponentials
from lmjax._engines.fused.ir import Code

# atanh(s) / s - 1 over s^2 is 1/3 + s^2 / 5 + ..., here from 1/5 on.
_ATANH = tuple(Fraction(1, 2 * k + 5) for k in range(24))


class Powers(Exponentials):
    """pow and cbrt."""

    def pow(self, code: Code, x: Any, y: Any) -> Any:
        """Return ``x**y``: the exponential of a logarithm in two words."""
        number = self.number
        size = self._op(code, "abs", x)
        high, low = self._log_words(code, size)
        ordinary = self._is(code, "lt", size, number(np.inf))
        high = self._if(code, ordinary, high, size)
        zero = self._is(code, "eq", size, number(0.0))
        high = self._if(code, zero, number(-np.inf), high)
        z, lost = self._product(code, y, high)
        lost = self._fma(code, y, low, lost)
        result = self._scaled(code, *self._exp_parts(code, z, lost))
        # what 0 times infinity says nothing of
        one = self._is(code, "eq", y, number(0.0))
        unit = self._is(code, "eq", size, number(1.0))
        one = code.emit("or", [one, unit], bool)
        result = self._if(code, one, number(1.0), result)
        # signs: NaN is not whole, infinity is even
        whole = self._is_whole(code, y)
        half = self._op(code, "mul", y, number(0.5))
        odd = code.emit("not", [self._is_whole(code, half)], bool)
        odd = code.emit("and", [whole, odd], bool)
        odd = code.emit("and", [odd, self._has_sign(code, x)], bool)
        result = self._if(code, odd, self._op(code, "neg", result), result)
        negative = self._is(code, "lt", x, number(0.0))
        none = code.emit("and", [negative, ordinary], bool)
        none = code.emit("and", [none, code.emit("not", [whole], bool)], bool)
        return self._if(code, none, number(np.nan), result)

    def _is_whole(self, code: Code, x: Any) -> Any:
        return self._is(code, "eq", self._op(code, "rint", x), x)

    def _log_words(self, code: Code, x: Any) -> DoubleWord:
        """Return the logarithm of a positive number in two words.

        It is ``e ln 2 + 2 atanh(s)`` with ``s = (m - 1) / (m + 1)``, to a part in 2**66
        for float64 and in 2**36 for float32: powers up to the largest number are right
        to the last place.
        """
        number = self.number
        e, m = self._split(code, x)
        f = self._exactly(code, "sub", m, number(1.0))
        u, u_low = self._ordered_sum(code, number(1.0), m)
        inverse = self._op(code, "div", number(1.0), u)
        s = self._exactly(code, "mul", f, inverse)
        minus = self._op(code, "neg", s)
        rest = self._fma(code, minus, u_low, self._fma(code, minus, u, f))
        s_low = self._op(code, "mul", rest, inverse)
        # p = s^2 (1/3 + s^2 / 5 + ...)
        square, square_low = self._product(code, s, s)
        twice = self._op(code, "add", s, s)
        square_low = self._fma(code, twice, s_low, square_low)
        terms = economized(_ATANH, LARGEST_SQUARE, 8 if self.double else 4)
        tail = self._exactly(code, "mul", square, self._series(code, square, terms))
        third, third_low = parts(Fraction(1, 3), self.dtype, 2, self.digits + 1)
        w, w_low = self._ordered_sum(code, third, tail)
        w_low = self._op(code, "add", w_low, third_low)
        p, p_low = self._product(code, square, w)
        p_low = self._fma(code, square, w_low, self._fma(code, square_low, w, p_low))
        # a = s + s p
        v, v_low = self._product(code, s, p)
        v_low = self._fma(code, s, p_low, self._fma(code, s_low, p, v_low))
        a, a_low = self._ordered_sum(code, s, v)
        a_low = self._op(code, "add", a_low, self._op(code, "add", s_low, v_low))
        high, low = self._ln2()
        a = self._op(code, "add", a, a)
        a_low = self._op(code, "add", a_low, a_low)
        y, y_low = self._ordered_sum(code, self._exactly(code, "mul", e, high), a)
        y_low = self._op(code, "add", y_low, self._fma(code, e, low, a_low))
        return self._ordered_sum(code, y, y_low)

    def cbrt(self, code: Code, x: Any) -> Any:
        """Return the cubic root: by a logarithm, and a step of Newton's method."""
        number, size = self.number, self._op(code, "abs", x)
        # what is lost of small numbers would be too small for a number
        small = self._is(code, "lt", size, number(1e-200 if self.double else 1e-20))
        lifted = self._op(code, "mul", size, number(2.0**90))
        lifted = self._if(code, small, lifted, size)
        log = code.call("log", [lifted], self.dtype)
        third = self._op(code, "mul", log, number(1.0 / 3.0))
        y = code.call("exp", [third], self.dtype)
        square = self._exactly(code, "mul", y, y)
        excess = self._fma(code, square, y, self._op(code, "neg", lifted))
        slope = self._op(code, "mul", square, number(3.0))
        y = self._op(code, "sub", y, self._op(code, "div", excess, slope))
        back = self._if(code, small, number(2.0**-30), number(1.0))
        y = self._op(code, "mul", y, back)
        zero = self._is(code, "eq", size, number(0.0))
        finite = self._is(code, "lt", size, number(np.inf))
        y = self._if(code, zero, size, self._if(code, finite, y, size))
        return self._with_sign(code, y, x)
