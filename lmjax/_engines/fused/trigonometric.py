"""Trigonometric functions on vectors of lanes.

References:
    Cody and Waite (1980), "Software Manual for the Elementary Functions": reductions by
    a constant in several parts. Payne and Hanek (1983), ACM SIGNUM Newsletter 18,
    19-24: large angles need those digits of 2 / pi alone that leave no full turns.
"""

from fractions import Fraction
from functools import cache
from math import factorial
from typing import Any

import numpy as np

from lmjax._engines.fused.arithmetic import Arithmetic, economized, parts
from lmjax._engines.fused.ir import Code

# From its continued expansion, to 60 digits.
HALF_PI = Fraction("1.570796326794896619231321691639751442098584699687552910487472")
# Series in r**2 of what is times r**3 in the sine and times r**4 in the cosine, and the
# largest r**2: (pi / 4)**2, and something more for the rounding of n.
_SIN = tuple(Fraction((-1) ** k, factorial(2 * k + 1)) for k in range(1, 14))
_COS = tuple(Fraction((-1) ** k, factorial(2 * k)) for k in range(2, 15))
_LARGEST = Fraction("0.62")
# Up to which size of an angle the usual reduction is right, by whether float64.
_LARGEST_ANGLE = {False: 1e4, True: 1e8}
# Digits of 2 / pi in an entry of the table, and how many entries a large angle takes.
_DIGITS, _ENTRIES = {False: 22, True: 48}, 5


@cache
def _two_over_pi(bits: int) -> int:
    """Return so many binary digits of 2 / pi, by Machin's formula for pi."""
    one = 1 << (bits + 32)

    def arc_tangent(n: int) -> int:
        total, power, k = 0, one // n, 1
        while power:
            total, power, k = total + power // k, -(power // n**2), k + 2
        return total

    pi = 16 * arc_tangent(5) - 4 * arc_tangent(239)
    return (2 * one << bits) // pi


class Trigonometric(Arithmetic):
    """sin, cos and tan."""

    def sin(self, code: Code, x: Any) -> Any:
        """Return the sine."""
        return self._or_zero(code, x, self._sine_or_cosine(code, x, 0))

    def cos(self, code: Code, x: Any) -> Any:
        """Return the cosine."""
        return self._sine_or_cosine(code, x, 1)

    def _sine_or_cosine(self, code: Code, x: Any, quarter: int) -> Any:
        """Return the sine of an angle and so many quarters of a turn."""
        n, r = self._reduced(code, x)
        square = self._op(code, "mul", r, r)
        cube, fourth, odd, even = self._series_of_both(code, r, square)
        sine = self._fma(code, cube, odd, r)
        half = self._fma(code, square, self.number(-0.5), self.number(1.0))
        cosine = self._fma(code, fourth, even, half)
        whole = self.whole.type
        turn = code.integer("add", self._whole(code, n), whole(quarter), self.whole)
        y = self._if(code, self._has_bit(code, turn, 1), cosine, sine)
        negative = self._has_bit(code, turn, 2)
        return self._if(code, negative, self._op(code, "neg", y), y)

    def tan(self, code: Code, x: Any) -> Any:
        """Return the tangent: a quotient of sine and cosine in two words."""
        n, r, r_low = self._reduced(code, x, words=True)
        square = self._op(code, "mul", r, r)
        cube, fourth, odd, even = self._series_of_both(code, r, square)
        sine, low = self._ordered_sum(code, r, self._op(code, "mul", cube, odd))
        half = self._op(code, "mul", square, self.number(-0.5))
        slope = self._op(code, "add", half, self.number(1.0))
        sine_low = self._fma(code, slope, r_low, low)
        rest = self._fma(code, fourth, even, half)
        cosine, low = self._ordered_sum(code, self.number(1.0), rest)
        minus = self._op(code, "neg", r)
        cosine_low = self._fma(code, minus, r_low, low)
        # a quarter of a turn further it is minus cosine by sine
        swap = self._has_bit(code, self._whole(code, n), 1)
        above = self._if(code, swap, self._op(code, "neg", cosine), sine)
        above_low = self._if(code, swap, self._op(code, "neg", cosine_low), sine_low)
        under = self._if(code, swap, sine, cosine)
        under_low = self._if(code, swap, sine_low, cosine_low)
        inverse = self._op(code, "div", self.number(1.0), under)
        y = self._exactly(code, "mul", above, inverse)
        minus = self._op(code, "neg", y)
        rest = self._fma(code, minus, under_low, above_low)
        rest = self._op(code, "add", self._fma(code, minus, under, above), rest)
        return self._or_zero(code, x, self._fma(code, rest, inverse, y))

    def _series_of_both(self, code: Code, r: Any, square: Any) -> list[Any]:
        """Return r**3, r**4 and what they are times in the sine and the cosine."""
        odd = economized(_SIN, _LARGEST, 7 if self.double else 4)
        even = economized(_COS, _LARGEST, 6 if self.double else 3)
        return [
            self._op(code, "mul", r, square),
            self._op(code, "mul", square, square),
            self._series(code, square, odd),
            self._series(code, square, even),
        ]

    def _has_bit(self, code: Code, n: Any, bit: int) -> Any:
        """Return whether an integer has a bit."""
        masked = code.integer("and", n, self.whole.type(bit), self.whole)
        return self._is(code, "ne", masked, self.whole.type(0))

    def _reduced(self, code: Code, x: Any, words: bool = False) -> list[Any]:
        """Return n and r with ``x = n pi / 2 + r`` and ``|r| <= pi / 4``.

        Args:
            code: Where to.
            x: The angle.
            words: Whether a second word of r is wanted, too.
        """
        product = self._op(code, "mul", x, self.number(float(1 / HALF_PI)))
        n = self._op(code, "rint", product)
        # what n times the first two leaves of x is exact
        first, second, third, last = (
            -part for part in parts(HALF_PI, self.dtype, 4, 26 if self.double else 11)
        )
        high = self._fma(code, n, second, self._fma(code, n, first, x))
        r = self._fma(code, n, third, high)
        low = self._fma(code, n, third, self._exactly(code, "sub", high, r))
        low = self._fma(code, n, last, low)
        if words:
            usual = [n, *self._ordered_sum(code, r, low)]
        else:
            usual = [n, self._op(code, "add", r, low)]
        size, largest = self._op(code, "abs", x), _LARGEST_ANGLE[self.double]
        large = self._is(code, "gt", size, self.number(largest))
        return self._rarely(code, "large_angle", large, x, usual, self._of_large, 3)

    def _of_large(self, code: Code, x: Any) -> list[Any]:
        """Return what `_reduced` does, a second word included, of large angles.

        An angle times the first digits of 2 / pi is a multiple of 4, whole turns, so
        the product begins with the digits after those. The products with five groups
        of digits are known to the last bit, and their sum to 2**-60 or 2**-120, which
        is little beside the smallest r of all numbers, 2**-30 or 2**-61.
        """
        digits, whole = _DIGITS[self.double], self.whole.type
        top = 2 * self.bias + 1
        e = code.integer(
            "lshr", code.bits(x, self.whole), whole(self.digits), self.whole
        )
        e = code.integer("and", e, whole(top), self.whole)
        e = code.emit("convert_element_type", [e], self.dtype)
        skipped = lambda e: (e - self.bias - self.digits - 1.5) / digits
        first = self._fma(code, e, self.number(1.0 / digits), self.number(skipped(0)))
        first = self._op(code, "max", first, self.number(0.0))
        first = self._whole(code, self._op(code, "floor", first))
        shift = code.integer("mul", first, whole(-digits), self.whole)
        x = self._op(code, "mul", x, self._power_of_two(code, shift))
        table = self._table(int(skipped(top)) + _ENTRIES)
        terms = []
        for i in range(_ENTRIES):
            at = code.integer("add", first, whole(i), self.whole)
            entry = self._looked_up(code, table, at)
            scale = self.number(2.0 ** (-digits * i))
            terms += self._product(code, x, self._op(code, "mul", entry, scale))
        for i in range(3):  # the others are small
            quarter = self._op(code, "mul", terms[i], self.number(0.25))
            turns = self._op(code, "rint", quarter)
            terms[i] = self._fma(code, turns, self.number(-4.0), terms[i])
        total, *rest = self._distilled(code, terms[:-1])
        n = self._op(code, "rint", total)
        total, *rest = self._distilled(
            code, [self._exactly(code, "sub", total, n), *rest]
        )
        low = rest[0]
        for term in rest[1:]:
            low = self._op(code, "add", low, term)
        total, low = self._ordered_sum(code, total, low)
        high, less = parts(HALF_PI, self.dtype, 2, self.digits + 1)
        r, r_low = self._product(code, total, high)
        r_low = self._fma(code, low, high, self._fma(code, total, less, r_low))
        return [n, *self._ordered_sum(code, r, r_low)]

    def _distilled(self, code: Code, terms: list) -> list[Any]:
        """Return terms of the same sum, the first of which is the rounded sum."""
        total, rest = terms[0], []
        for term in terms[1:]:
            total, lost = self._sum(code, total, term)
            rest.append(lost)
        return [total, *rest]

    def _table(self, count: int) -> np.ndarray:
        """Return the digits of 2 / pi in groups, each as a fraction of 1."""
        digits = _DIGITS[self.double]
        value = _two_over_pi(count * digits)
        groups = [value >> digits * (count - 1 - i) for i in range(count)]
        return np.array([g % 2**digits / 2**digits for g in groups], self.dtype)
