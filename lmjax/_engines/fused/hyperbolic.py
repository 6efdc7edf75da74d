"""Hyperbolic functions and their inverses on vectors of lanes."""

from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np

from lmjax._engines.fused.exponentials import LN2, Exponentials
from lmjax._engines.fused.ir import Code


class Hyperbolic(Exponentials):
    """sinh, cosh, tanh, asinh, acosh and atanh."""

    def tanh(self, code: Code, x: Any) -> Any:
        """Return the hyperbolic tangent, by ``expm1`` of twice the size."""
        number = self.number
        size = self._op(code, "min", self._op(code, "abs", x), number(20.0))
        e = code.call("expm1", [self._op(code, "add", size, size)], self.dtype)
        more, lost = self._ordered_sum(code, number(2.0), e)
        inverse = self._op(code, "div", number(1.0), more)
        y = self._exactly(code, "mul", e, inverse)
        minus = self._op(code, "neg", y)
        rest = self._fma(code, minus, lost, self._fma(code, minus, more, e))
        y = self._fma(code, rest, inverse, y)
        sign = self._is(code, "lt", x, number(0.0))
        y = self._if(code, sign, self._op(code, "neg", y), y)
        # keeps the sign of 0, and what is too small for the quotient
        return self._if(code, self._is(code, "lt", size, number(1e-10)), x, y)

    def sinh(self, code: Code, x: Any) -> Any:
        """Return the hyperbolic sine, by its series below 1."""
        size = self._op(code, "abs", x)
        grown, shrunk = self._half_exponentials(code, size)
        y = self._with_sign(code, self._op(code, "sub", grown, shrunk), x)
        last = 10 if self.double else 6
        square = self._op(code, "mul", x, x)
        series = [Fraction(1, factorial(2 * k + 1)) for k in range(1, last)]
        cube = self._op(code, "mul", x, square)
        near = self._fma(code, cube, self._series(code, square, series), x)
        small = self._is(code, "lt", size, self.number(1.0))
        return self._if(code, small, self._or_zero(code, x, near), y)

    def cosh(self, code: Code, x: Any) -> Any:
        """Return the hyperbolic cosine."""
        both = self._half_exponentials(code, self._op(code, "abs", x))
        return self._op(code, "add", *both)

    def _half_exponentials(self, code: Code, size: Any) -> tuple[Any, Any]:
        """Return ``exp(size) / 2`` and ``exp(-size) / 2``: half of it may be finite."""
        n, y = self._exp_parts(code, size)
        half = self._scaled(code, self._op(code, "sub", n, self.number(1.0)), y)
        return half, self._op(code, "div", self.number(0.25), half)

    def asinh(self, code: Code, x: Any) -> Any:
        """Return the inverse of ``sinh``."""
        one, size = self.number(1.0), self._op(code, "abs", x)
        square = self._op(code, "mul", size, size)
        root = self._op(code, "sqrt", self._op(code, "add", square, one))
        rest = self._op(code, "div", square, self._op(code, "add", root, one))
        y = self._log1p_or_log_of_twice(code, size, self._op(code, "add", size, rest))
        return self._with_sign(code, y, x)

    def acosh(self, code: Code, x: Any) -> Any:
        """Return the inverse of ``cosh``."""
        one = self.number(1.0)
        less = self._op(code, "sub", x, one)
        square = self._fma(code, less, less, self._op(code, "add", less, less))
        near = self._op(code, "add", less, self._op(code, "sqrt", square))
        y = self._log1p_or_log_of_twice(code, x, near)
        below = self._is(code, "lt", x, one)
        return self._if(code, below, self.number(np.nan), y)

    def _log1p_or_log_of_twice(self, code: Code, x: Any, near: Any) -> Any:
        """Return ``log1p(near)``, but ``log(2 x)`` for x whose square is infinite."""
        large = self._is(code, "gt", x, self.number(1e150))
        y = code.call("log1p", [self._if(code, large, x, near)], self.dtype)
        more = self._if(code, large, self.number(float(LN2)), self.number(0.0))
        return self._op(code, "add", y, more)

    def atanh(self, code: Code, x: Any) -> Any:
        """Return the inverse of ``tanh``."""
        size = self._op(code, "abs", x)
        rest = self._op(code, "sub", self.number(1.0), size)
        ratio = self._op(code, "div", self._op(code, "add", size, size), rest)
        y = code.call("log1p", [ratio], self.dtype)
        return self._with_sign(code, self._op(code, "mul", y, self.number(0.5)), x)
