"""Inverse trigonometric functions on vectors of lanes."""

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np

from lmjax._engines.fused.arithmetic import Arithmetic, economized, parts
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.trigonometric import HALF_PI

# Series of atan(z) and asin(z) in z**2, without their first terms: (f(z) - z) / z**3.
_ATAN = tuple(Fraction((-1) ** k, 2 * k + 1) for k in range(1, 31))
_ASIN = tuple(Fraction(comb(2 * k, k), 4**k * (2 * k + 1)) for k in range(1, 31))
# The largest z**2 of both.
_LARGEST = Fraction(1, 4)


class InverseTrigonometric(Arithmetic):
    """atan, atan2, asin and acos."""

    def atan(self, code: Code, x: Any) -> Any:
        """Return the arc tangent."""
        size, one = self._op(code, "abs", x), self.number(1.0)
        steep = self._is(code, "gt", size, one)
        least, most = self._op(code, "min", size, one), self._op(code, "max", size, one)
        turn, z, rest = self._first_octant(code, least, most)
        y = self._turned(code, turn, z, rest, [(steep, 2)])
        return self._with_sign(code, y, x)

    def atan2(self, code: Code, y: Any, x: Any) -> Any:
        """Return the angle of a point, in the quadrant where it is."""
        number = self.number
        across, along = self._op(code, "abs", y), self._op(code, "abs", x)
        steep = self._is(code, "gt", across, along)
        least = self._op(code, "min", across, along)
        most = self._op(code, "max", across, along)
        # of two infinities the diagonal, of two zeros 0; their sum must be finite
        endless = self._is(code, "eq", most, number(np.inf))
        both = self._is(code, "eq", least, number(np.inf))
        least = self._if(
            code, endless, self._if(code, both, number(1.0), number(0.0)), least
        )
        most = self._if(code, endless, number(1.0), most)
        huge = self._is(code, "gt", most, number(1e300 if self.double else 1e30))
        scale = self._if(code, huge, number(0.25), number(1.0))
        least = self._op(code, "mul", least, scale)
        most = self._op(code, "mul", most, scale)
        nothing = self._is(code, "eq", most, number(0.0))
        most = self._if(code, nothing, number(1.0), most)
        turn, z, rest = self._first_octant(code, least, most)
        behind = self._has_sign(code, x)
        angle = self._turned(code, turn, z, rest, [(steep, 2), (behind, 4)])
        return self._with_sign(code, angle, y)

    def _first_octant(self, code: Code, least: Any, most: Any) -> list[Any]:
        """Return k, z and w: ``atan(least / most) = k pi / 4 + z + w``, w small."""
        half = self._op(code, "mul", most, self.number(0.5))
        upper = self._is(code, "gt", least, half)
        less = self._op(code, "sub", least, most)
        more = self._op(code, "add", least, most)
        above = self._if(code, upper, less, least)
        z = self._op(code, "div", above, self._if(code, upper, more, most))
        square = self._op(code, "mul", z, z)
        terms = economized(_ATAN, _LARGEST, 13 if self.double else 6)
        cube = self._op(code, "mul", z, square)
        rest = self._op(code, "mul", cube, self._series(code, square, terms))
        turn = self._if(code, upper, self.number(1.0), self.number(0.0))
        return [turn, z, rest]

    def _turned(self, code: Code, turn: Any, z: Any, rest: Any, mirrors: list) -> Any:
        """Return ``turn pi / 4 + z + rest``, mirrored at a multiple of pi / 8."""
        angle = self._op(code, "add", z, rest)
        for where, turns in mirrors:
            other = self._op(code, "sub", self.number(float(turns)), turn)
            turn = self._if(code, where, other, turn)
            angle = self._if(code, where, self._op(code, "neg", angle), angle)
        high, low = parts(HALF_PI / 2, self.dtype, 2, self.digits - 2)
        return self._fma(code, turn, high, self._fma(code, turn, low, angle))

    def asin(self, code: Code, x: Any) -> Any:
        """Return the arc sine."""
        steep, root, rest = self._arc_sine(code, x)
        high, low = parts(HALF_PI, self.dtype, 2, self.digits + 1)
        less = self._fma(code, rest, self.number(-2.0), low)
        minus = self._op(code, "mul", root, self.number(-2.0))
        far, lost = self._ordered_sum(code, high, minus)
        far = self._op(code, "add", far, self._op(code, "add", lost, less))
        near = self._op(code, "add", root, rest)
        return self._with_sign(code, self._if(code, steep, far, near), x)

    def acos(self, code: Code, x: Any) -> Any:
        """Return the arc cosine."""
        steep, root, rest = self._arc_sine(code, x)
        high, low = parts(HALF_PI, self.dtype, 2, self.digits + 1)
        negative = self._is(code, "lt", x, self.number(0.0))
        signed = lambda y: self._if(code, negative, self._op(code, "neg", y), y)
        less = self._op(code, "sub", signed(rest), low)
        near = self._op(code, "sub", high, self._op(code, "add", signed(root), less))
        half = self._op(code, "add", root, rest)
        twice = self._op(code, "add", half, half)
        far = self._op(code, "sub", twice, 2 * low)
        far = self._op(code, "sub", 2 * high, far)
        return self._if(code, steep, self._if(code, negative, far, twice), near)

    def _arc_sine(self, code: Code, x: Any) -> list[Any]:
        """Return whether ``|x|`` is large, and z and w with an arc sine ``z + w``.

        That of a large one is ``pi / 2 - 2 (z + w)``. The second word is small.
        """
        half, size = self.number(0.5), self._op(code, "abs", x)
        steep = self._is(code, "gt", size, half)
        less = self._op(code, "sub", self.number(1.0), size)
        square = self._op(code, "mul", size, size)
        square = self._if(code, steep, self._op(code, "mul", less, half), square)
        root = self._if(code, steep, self._op(code, "sqrt", square), size)
        terms = economized(_ASIN, _LARGEST, 14 if self.double else 6)
        cube = self._op(code, "mul", root, square)
        rest = self._op(code, "mul", cube, self._series(code, square, terms))
        return [steep, root, rest]
