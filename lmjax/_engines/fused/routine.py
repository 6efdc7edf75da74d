"""Functions on vectors in memory, with loops, as LLVM IR."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.values import Name, name_of

Index = str | int


class Routine(Code):
    """The body of a function on matrices in memory.

    Attributes:
        dtype: Of the numbers.
    """

    def __init__(self, module: Any, dtype: np.dtype):
        super().__init__(module, "m")
        self.dtype, self._block = dtype, "%entry"

    def add(self, expression: str, dtype: Any = "bool") -> Name:
        """Return the value of an instruction: memory changes, so it is always new."""
        found = Name(self.fresh(), name_of(dtype))
        self.lines.append(f"  {found.text} = {expression}")
        return found

    def op(self, name: str, *values: Any) -> Any:
        """Return the value of an operation of numbers."""
        return self.emit(name, list(values), self.dtype)

    def index(self, name: str, a: Index, b: Index) -> Index:
        """Return what an operation makes of two indices."""
        if isinstance(a, int) and isinstance(b, int):
            return {"add": a + b, "sub": a - b, "mul": a * b}[name]
        return self.scalar(f"{name} i64 {a}, {b}")

    def at(self, row: Index, size: int, column: Index, base: int = 0) -> Index:
        """Return the number of an element of a matrix of rows of some size."""
        place = self.index("add", self.index("mul", row, size), column)
        return self.index("add", place, base)

    def _pointer(self, element: Index) -> str:
        vector = self.vector(self.dtype)
        return self.scalar(f"getelementptr {vector}, ptr %memory, i64 {element}")

    def load(self, element: Index) -> Name:
        """Return a number of the memory."""
        pointer = self._pointer(element)
        return self.add(f"load {self.vector(self.dtype)}, ptr {pointer}", self.dtype)

    def store(self, element: Index, value: Any) -> None:
        """Put a number into the memory."""
        pointer, text = self._pointer(element), self.text(value)
        self.lines.append(f"  store {self.vector(self.dtype)} {text}, ptr {pointer}")

    @contextmanager
    def loop(self, first: Index, last: Index, sums: int = 0) -> Iterator[Any]:
        """Write a loop; the body is what is written inside.

        Yields:
            The index and a list of numbers that begin at 0. What the body puts into
            the list is what the next turn finds there, and after the loop its end.
        """
        label = self.fresh()[1:]
        k, vector = f"%i{label}", self.vector(self.dtype)
        before = self._block
        held = [Name(f"%s{label}_{j}", str(self.dtype)) for j in range(sums)]
        self.lines += [f"  br label %{label}", f"{label}:"]
        start = len(self.lines)
        self._block = f"%body{label}"
        self.lines += [
            f"  %c{label} = icmp slt i64 {k}, {last}",
            f"  br i1 %c{label}, label %body{label}, label %done{label}",
            f"body{label}:",
        ]
        values: list[Any] = list(held)
        yield k, values
        phis = [f"  {k} = phi i64 [{first}, {before}], [%n{label}, {self._block}]"]
        phis += [
            f"  {old.text} = phi {vector} [zeroinitializer, {before}], "
            f"[{self.text(new)}, {self._block}]"
            for old, new in zip(held, values, strict=True)
        ]
        self.lines[start:start] = phis
        self.lines += [
            f"  %n{label} = add i64 {k}, 1",
            f"  br label %{label}",
            f"done{label}:",
        ]
        self._block = f"%done{label}"
        values[:] = held

    def while_any(self, element: Index, size: int) -> str:
        """Return ``size`` if a number of the memory is not 0 in some fit, else 0."""
        zero = self.dtype.type(0)
        flags = self.emit("ne", [self.load(element), zero], bool)
        bits = self.scalar(
            f"bitcast {self.vector(bool)} {self.text(flags)} to i{self.width}"
        )
        some = self.scalar(f"icmp ne i{self.width} {bits}, 0")
        return self.scalar(f"select i1 {some}, i64 {size}, i64 0")

    def total(self, first: Index, last: Index, *terms: Callable) -> list[Any]:
        """Return the sums of functions of an index."""
        with self.loop(first, last, len(terms)) as (k, sums):
            for j, term in enumerate(terms):
                sums[j] = self.op("add", sums[j], term(k))
        return sums

    def dot(self, first: Index, last: Index, a: Callable, b: Callable) -> Any:
        """Return the sum of products of two elements that functions of k place."""
        term = lambda k: self.op("mul", self.load(a(k)), self.load(b(k)))
        return self.total(first, last, term)[0]
