"""What elementary functions are written with: operations, double words, polynomials.

A double word is a number as a sum of two, the second below the last place of the first.
The operations that find one are rounded one by one: LLVM may not contract them.

References:
    Dekker (1971), Numerische Mathematik 18, 224-242: sums and products as double words.
    Lanczos (1938), J. Math. Phys. 17, 123-199: shorter polynomials from series.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.values import SUFFIX, Name, kind

DoubleWord = tuple[Any, Any]


def parts(value: Fraction, dtype: np.dtype, count: int, bits: int) -> list[Any]:
    """Return numbers that add up to ``value``, all but the last with few bits."""
    found = []
    for _ in range(count - 1):
        scale = Fraction(2) ** (bits - 1 - _exponent(value))
        head = Fraction(round(value * scale)) / scale
        found.append(dtype.type(float(head)))
        value -= head
    return [*found, dtype.type(float(value))]


def _exponent(value: Fraction) -> int:
    exponent = 0
    while abs(value) >= 2:
        value, exponent = value / 2, exponent + 1
    while abs(value) < 1:
        value, exponent = value * 2, exponent - 1
    return exponent


@cache
def economized(
    series: tuple[Fraction, ...], largest: Fraction, terms: int
) -> list[Fraction]:
    """Return a series cut short, lowest coefficient first.

    The last term is replaced by what a multiple of a Chebyshev polynomial on 0 to
    ``largest`` leaves of it, again and again: that changes the sum least.
    """
    bits = 256  # of integers, which are faster than fractions
    scaled = [int(c * largest**k * 2**bits) for k, c in enumerate(series)]
    shifted = _shifted_chebyshev(len(series))
    while len(scaled) > terms:
        polynomial = shifted[len(scaled) - 1]
        factor = scaled.pop() // polynomial[-1]
        for k, p in enumerate(polynomial[:-1]):
            scaled[k] -= factor * p
    return [Fraction(c, 2**bits) / largest**k for k, c in enumerate(scaled)]


@cache
def _shifted_chebyshev(count: int) -> list[list[int]]:
    """Return the Chebyshev polynomials of ``2 u - 1``, lowest coefficient first."""
    found = [[1], [-1, 2]]
    while len(found) < count:
        a, b = found[-1], found[-2]
        new = [-2 * x for x in a] + [0]
        for k, x in enumerate(a):
            new[k + 1] += 4 * x
        found.append([x - (b[k] if k < len(b) else 0) for k, x in enumerate(new)])
    return found


class Arithmetic:
    """Operations on vectors of one dtype, with which its functions are written.

    Attributes:
        dtype: The type of the numbers.
        whole: That of integers of the same size.
        double: Whether it is float64.
        digits: Bits of a mantissa that are stored.
        bias: What is added to exponents.
    """

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)
        self.number = self.dtype.type
        double = self.dtype == np.float64
        self.double = double
        self.whole = np.dtype("int64" if double else "int32")
        self.digits = 52 if double else 23
        self.bias = 1023 if double else 127

    # operations

    def _op(self, code: Code, name: str, *values: Any) -> Any:
        return code.emit(name, list(values), self.dtype)

    def _is(self, code: Code, name: str, a: Any, b: Any) -> Any:
        """Return what a comparison says."""
        return code.emit(name, [a, b], bool)

    def _if(self, code: Code, condition: Any, yes: Any, no: Any) -> Any:
        return code.emit("select_n", [condition, no, yes], self.dtype)

    def _or_zero(self, code: Code, x: Any, y: Any) -> Any:
        """Return y, but 0 with the sign of x where x is 0."""
        return self._if(code, self._is(code, "eq", x, self.number(0.0)), x, y)

    def _with_sign(self, code: Code, y: Any, x: Any) -> Name:
        """Return y with the sign of x, that of 0 as well."""
        return code.intrinsic("copysign", [y, x], self.dtype)

    def _has_sign(self, code: Code, x: Any) -> Any:
        """Return whether the sign is negative, that of 0 as well."""
        return self._is(code, "lt", code.bits(x, self.whole), self.whole.type(0))

    def _fma(self, code: Code, a: Any, b: Any, c: Any) -> Any:
        return code.fma(a, b, c, self.dtype)

    def _series(self, code: Code, x: Any, coefficients: list[Fraction]) -> Any:
        """Return a polynomial, lowest coefficient first."""
        result: Any = self.number(float(coefficients[-1]))
        for c in reversed(coefficients[:-1]):
            result = self._fma(code, result, x, self.number(float(c)))
        return result

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

    # as double words

    def _exactly(self, code: Code, name: str, a: Any, b: Any) -> Name:
        """Return a sum, difference or product that LLVM may not contract."""
        operands = f"{code.text(a)}, {code.text(b)}"
        return code.add(f"f{name} {code.vector(self.dtype)} {operands}", self.dtype)

    def _sum(self, code: Code, a: Any, b: Any) -> DoubleWord:
        """Return ``a + b`` for any two numbers."""
        s = self._exactly(code, "add", a, b)
        t = self._exactly(code, "sub", s, a)
        lost = self._exactly(code, "sub", a, self._exactly(code, "sub", s, t))
        rest = self._exactly(code, "sub", b, t)
        return s, self._exactly(code, "add", lost, rest)

    def _ordered_sum(self, code: Code, a: Any, b: Any) -> DoubleWord:
        """Return ``a + b`` for a that is 0 or not smaller than b."""
        s = self._exactly(code, "add", a, b)
        t = self._exactly(code, "sub", s, a)
        return s, self._exactly(code, "sub", b, t)

    def _product(self, code: Code, a: Any, b: Any) -> DoubleWord:
        """Return ``a b``."""
        p = self._exactly(code, "mul", a, b)
        return p, self._fma(code, a, b, self._op(code, "neg", p))

    # functions of their own

    def _looked_up(self, code: Code, array: np.ndarray, index: Any) -> Name:
        """Return an element of a table for each lane."""
        vector, count = code.vector(self.dtype), code.width
        pointers, flags = f"<{count} x ptr>", code.vector(bool)
        full = f"@llvm.masked.gather.v{count}{SUFFIX[str(self.dtype)]}.v{count}p0"
        code.module.declare(full, vector, [pointers, "i32", flags, vector])
        at = code.add(
            f"getelementptr {kind(self.dtype)}, ptr {code.module.table(array)}, "
            f"{code.vector(self.whole)} {code.text(index)}"
        ).text
        every = code.text(np.bool_(True))
        return code.add(
            f"call {vector} {full}({pointers} {at}, i32 {self.dtype.itemsize}, "
            f"{flags} {every}, {vector} poison)",
            self.dtype,
        )

    def _rarely(
        self,
        code: Code,
        name: str,
        large: Any,
        x: Any,
        usual: list,
        rare: Callable,
        count: int,
    ) -> list[Any]:
        """Return numbers that some lanes want to be made in another way.

        It is a function of its own, which runs where a lane wants it. The others keep
        what they have: their bits do not depend on their neighbours.

        Args:
            code: Where to.
            name: Of the function.
            large: Which lanes want it.
            x: What it is made of.
            usual: What the other lanes have.
            rare: Writes the function into a `Code` and returns its numbers, of which
                there may be more.
            count: How many those are.
        """
        vector, flags, module = code.vector(self.dtype), code.vector(bool), code.module
        full = f"@{name}_{self.dtype}"
        result = "{" + ", ".join([vector] * count) + "}"
        if full not in module.parts:
            inner = Code(module, "r")
            made = rare(inner, Name("%x", str(self.dtype)))
            packed = "poison"
            for i, value in enumerate(made):
                packed = inner.scalar(
                    f"insertvalue {result} {packed}, {vector} {inner.text(value)}, {i}"
                )
            head = f"define internal {result} {full}({vector} %x) noinline cold {{"
            end = [f"  ret {result} {packed}", "}"]
            module.parts[full] = "\n".join([head, "entry:", *inner.lines, *end])
        any_of = f"@llvm.vector.reduce.or.v{code.width}i1"
        module.declare(any_of, "i1", [flags])
        some = code.scalar(f"call i1 {any_of}({flags} {code.text(large)})")
        label = code.fresh()[1:]
        before, slow, after = f"b{label}", f"s{label}", f"a{label}"
        code.lines += [
            f"  br label %{before}",
            f"{before}:",
            f"  br i1 {some}, label %{slow}, label %{after}",
            f"{slow}:",
            f"  %c{label} = call {result} {full}({vector} {code.text(x)})",
        ]
        chosen, found = [], []
        for i, value in enumerate(usual):
            text = code.text(value)
            code.lines += [
                f"  %v{label}_{i} = extractvalue {result} %c{label}, {i}",
                f"  %w{label}_{i} = select {flags} {code.text(large)}, "
                f"{vector} %v{label}_{i}, {vector} {text}",
            ]
            chosen.append(
                f"  %p{label}_{i} = phi {vector} [{text}, %{before}], "
                f"[%w{label}_{i}, %{slow}]"
            )
            found.append(Name(f"%p{label}_{i}", str(self.dtype)))
        code.lines += [f"  br label %{after}", f"{after}:", *chosen]
        return found
