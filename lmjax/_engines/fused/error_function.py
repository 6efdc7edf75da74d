"""The error function and its complement on vectors of lanes.

References:
    Abramowitz and Stegun (1964), 7.1.5: the series. Shepherd and Laframboise (1981),
    Mathematics of Computation 36, 249-253: what is left of the complement without its
    exponential is smooth on a variable that is bounded.
"""

from fractions import Fraction
from functools import cache
from math import factorial
from typing import Any

from lmjax._engines.fused.arithmetic import economized
from lmjax._engines.fused.exponentials import Exponentials
from lmjax._engines.fused.ir import Code

# To 60 digits.
_TWO_OVER_ROOT_PI = Fraction(
    "1.128379167095512573896158903121545171688101258657997713688171"
)
# The series of erf(x) / x - 1 in x**2.
_NEAR = tuple(
    _TWO_OVER_ROOT_PI * Fraction((-1) ** k, factorial(k) * (2 * k + 1)) - (k == 0)
    for k in range(24)
)
# exp(x**2) erfc(x) = v P(s) with v = 1 / (x + 3) and s from -1 at x = 28 to 1 at x =
# 1/2: Chebyshev coefficients of P, which mpmath found from its values at 48 points
# cos((k + 1/2) pi / 48) by the discrete cosine transform, in 60 digits.
_SHIFT, _ENDS = 3, (Fraction(1, 31), Fraction(2, 7))
_CHEBYSHEV = (
    "1.207339408015919425744",
    "0.7311765461706531209254",
    "0.1775342862441471323585",
    "0.03378017407370524897731",
    "0.004710830529139654550808",
    "0.0003867230743141925803345",
    "-0.000005564836531360192269547",
    "-0.000005835706467274072674433",
    "-4.384802199712824007903e-7",
    "6.503325436525307720318e-8",
    "1.156399134980965225831e-8",
    "-7.651872655599846559481e-10",
    "-2.593428668439459951227e-10",
    "1.234671430530189710189e-11",
    "5.978487008503378086569e-12",
    "-3.320104367955926197639e-13",
    "-1.43632782835296673302e-13",
    "1.237639695186635571253e-14",
    "3.423998563033639532915e-15",
    "-4.95778909638276771338e-16",
    "-7.222931674347036842793e-17",
    "1.904148138943339074977e-17",
)


@cache
def _polynomial(count: int) -> list[Fraction]:
    """Return the first terms of P as powers of s, lowest coefficient first."""
    before, now = [1], [0, 1]
    found = [Fraction(0)] * count
    for value in _CHEBYSHEV[:count]:
        for k, c in enumerate(before):
            found[k] += Fraction(value) * c
        after = [0, *(2 * c for c in now)]
        for k, c in enumerate(before):
            after[k] -= c
        before, now = now, after
    return found


class ErrorFunction(Exponentials):
    """erf and erfc."""

    def erf(self, code: Code, x: Any) -> Any:
        """Return the error function."""
        one, size = self.number(1.0), self._op(code, "abs", x)
        near = self._near(code, x)
        inside = self._op(code, "min", size, self.number(6.0))
        far = self._op(code, "sub", one, self._tail(code, inside))
        small = self._is(code, "lt", size, one)
        return self._if(code, small, near, self._with_sign(code, far, x))

    def erfc(self, code: Code, x: Any) -> Any:
        """Return ``1 - erf(x)``."""
        one = self.number(1.0)
        near = self._op(code, "sub", one, self._near(code, x))
        size = self._op(code, "min", self._op(code, "abs", x), self.number(28.0))
        tail = self._tail(code, size)
        other = self._op(code, "sub", self.number(2.0), tail)
        negative = self._is(code, "lt", x, self.number(0.0))
        far = self._if(code, negative, other, tail)
        small = self._is(code, "lt", size, self.number(0.625))
        return self._if(code, small, near, far)

    def _near(self, code: Code, x: Any) -> Any:
        """Return the error function of what is at most 1."""
        square = self._op(code, "mul", x, x)
        terms = economized(_NEAR, Fraction(1), 12 if self.double else 7)
        return self._or_zero(
            code, x, self._fma(code, x, self._series(code, square, terms), x)
        )

    def _tail(self, code: Code, x: Any) -> Any:
        """Return ``1 - erf(x)`` for x from 1/2 to 28."""
        square, low = self._product(code, x, x)
        minus = self._op(code, "neg", square)
        n, y = self._exp_parts(code, minus, self._op(code, "neg", low))
        # an error of v is one of s, where the polynomial is steep
        more, more_low = self._sum(code, x, self.number(float(_SHIFT)))
        v = self._op(code, "div", self.number(1.0), more)
        minus = self._op(code, "neg", v)
        lost = self._fma(code, minus, more, self.number(1.0))
        lost = self._fma(code, minus, more_low, lost)
        v_low = self._op(code, "mul", lost, v)
        first, last = _ENDS
        slope, middle = 2 / (last - first), (first + last) / (last - first)
        slope = self.number(float(slope))
        s = self._fma(code, v, slope, self.number(-float(middle)))
        s = self._fma(code, v_low, slope, s)
        p = self._series(code, s, _polynomial(22 if self.double else 10))
        rest = self._fma(code, v_low, p, self._op(code, "mul", v, p))
        return self._scaled(code, n, self._op(code, "mul", y, rest))
