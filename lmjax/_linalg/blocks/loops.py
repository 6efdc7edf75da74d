"""Loops over blocks of numbers in memory, as LLVM IR that XLA may call on a CPU.

XLA has no fast way to add many small blocks into places of a matrix: it moves one
number at a time. A function written here does, one vector per row of a block.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from lmjax._jax import machine, sharded
from lmjax._jax.custom_vmap import each, with_batch

Index = str | int

KINDS = {"float64": "double", "float32": "float", "int32": "i32"}
_SHORT = {"double": "f64", "float": "f32"}
_BYTES = {"double": 8, "float": 4, "i32": 4}
# LLVM writes out a block of this many rows or columns; larger ones are left to XLA.
MOST_ROWS = 48


class Loops:
    """The body of a function on arrays in memory.

    Attributes:
        lines: Its instructions.
        declared: Functions of LLVM that it calls.
        names: How many names were given.
        current: Label of the block of instructions that is being written.
    """

    def __init__(self):
        self.lines: list[str] = []
        self.declared: set[str] = set()
        self.current, self.names = "run", 0

    def fresh(self, prefix: str = "v") -> str:
        """Return a name that nobody has."""
        self.names += 1
        return f"{prefix}{self.names}"

    def let(self, expression: str) -> str:
        """Return the name of the value of an instruction."""
        name = f"%{self.fresh()}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def index(self, operation: str, a: Index, b: Index) -> str:
        """Return ``a operation b`` of two indices: add, sub or mul."""
        return self.let(f"{operation} i64 {a}, {b}")

    def affine(self, row: Index, stride: Index, column: Index) -> str:
        """Return ``row * stride + column``."""
        return self.index("add", self.index("mul", row, stride), column)

    def pointer(self, kind: str, base: str, at: Index) -> str:
        """Return where an element of an array is."""
        return self.let(f"getelementptr {kind}, ptr {base}, i64 {at}")

    def integer(self, base: str, at: Index) -> str:
        """Return an element of an array of int32 as an index."""
        pointer = self.pointer("i32", base, at)
        return self.let(f"sext i32 {self.let(f'load i32, ptr {pointer}')} to i64")

    def load(self, kind: str, base: str, at: Index, size: int = 0) -> str:
        """Return an element of an array, or a vector of so many."""
        pointer = self.pointer(kind, base, at)
        return self.let(f"load {self.type(kind, size)}, ptr {pointer}{_align(kind)}")

    def store(self, kind: str, base: str, at: Index, value: str, size: int = 0) -> None:
        """Put a number, or a vector, into an array."""
        pointer = self.pointer(kind, base, at)
        text = f"  store {self.type(kind, size)} {value}, ptr {pointer}{_align(kind)}"
        self.lines.append(text)

    @staticmethod
    def type(kind: str, size: int) -> str:
        """Return the type of a number, or of a vector of so many."""
        return f"<{size} x {kind}>" if size else kind

    def splat(self, kind: str, value: str, size: int) -> str:
        """Return a vector of one number."""
        vector = self.type(kind, size)
        first = self.let(f"insertelement {vector} poison, {kind} {value}, i32 0")
        zeros = f"<{size} x i32> zeroinitializer"
        return self.let(f"shufflevector {vector} {first}, {vector} poison, {zeros}")

    def binary(self, name: str, kind: str, a: str, b: str, size: int = 0) -> str:
        """Return what an operation makes of two numbers or vectors."""
        return self.let(f"{name} contract {self.type(kind, size)} {a}, {b}")

    def root(self, kind: str, x: str) -> str:
        """Return the square root of a number, NaN of one below zero."""
        name = f"@llvm.sqrt.{_SHORT[kind]}"
        self.declared.add(f"declare {kind} {name}({kind})")
        return self.let(f"call {kind} {name}({kind} {x})")

    def dot(self, kind: str, a: str, b: str, size: int) -> str:
        """Return the sum of the products of two vectors."""
        return self.total(kind, self.binary("fmul", kind, a, b, size), size)

    def total(self, kind: str, a: str, size: int) -> str:
        """Return the sum of the numbers of a vector."""
        vector = self.type(kind, size)
        name = f"@llvm.vector.reduce.fadd.v{size}{_SHORT[kind]}"
        self.declared.add(f"declare {kind} {name}({kind}, {vector})")
        return self.let(f"call reassoc {kind} {name}({kind} -0.0, {vector} {a})")

    def triangular(
        self,
        kind: str,
        numbers: list[str],
        order: Iterable[int],
        entry: Callable[[int, int], str],
    ) -> dict[int, str]:
        """Return the solution of a small triangular system.

        Args:
            kind: Of the numbers.
            numbers: The right-hand side.
            order: In which the unknowns follow from those before.
            entry: Returns an entry of the matrix.
        """
        found: dict[int, str] = {}
        for i in order:
            number = numbers[i]
            for m, known in found.items():
                product = self.binary("fmul", kind, entry(i, m), known)
                number = self.binary("fsub", kind, number, product)
            found[i] = self.binary("fdiv", kind, number, entry(i, i))
        return found

    def clear(self, kind: str, base: str, many: Index) -> None:
        """Fill an array with zeros."""
        self.declared.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        size = self.index("mul", many, _BYTES[kind])
        self.lines.append(
            f"  call void @llvm.memset.p0.i64(ptr {base}, i8 0, i64 {size}, i1 0)"
        )

    def variable(self, first: str) -> str:
        """Return where an index is kept that changes, set to its first value."""
        # the stack is not given back before the function ends: not for use in a loop
        name = self.let("alloca i64")
        self.lines.append(f"  store i64 {first}, ptr {name}")
        return name

    def label(self, name: str) -> None:
        """Begin a block of instructions."""
        self.lines.append(f"{name}:")
        self.current = name

    def go(self, name: str) -> None:
        """Go on with a block."""
        self.lines.append(f"  br label %{name}")

    @contextmanager
    def loop(self, first: Index, last: Index) -> Iterator[str]:
        """Write a loop, whose body is what is written inside; yields the index."""
        with self.sums(first, last, "", 0) as (index, _):
            yield index

    @contextmanager
    def sums(
        self, first: Index, last: Index, type_: str, many: int
    ) -> Iterator[tuple[str, list[str]]]:
        """Write a loop that adds up; yields the index and the sums so far.

        What the body puts into the list is what the next turn finds there, and after
        the loop it has the totals.
        """
        name, before = self.fresh("loop"), self.current
        held = [f"%{self.fresh('s')}" for _ in range(many)]
        self.go(name)
        self.label(name)
        head = len(self.lines)
        test = self.let(f"icmp slt i64 %i{name}, {last}")
        self.lines.append(f"  br i1 {test}, label %in{name}, label %out{name}")
        self.label(f"in{name}")
        values = list(held)
        yield f"%i{name}", values
        following = self.index("add", f"%i{name}", 1)
        ends = f"[{first}, %{before}], [{following}, %{self.current}]"
        self.lines[head:head] = [
            f"  %i{name} = phi i64 {ends}",
            *(
                f"  {old} = phi {type_} [zeroinitializer, %{before}], "
                f"[{new}, %{self.current}]"
                for old, new in zip(held, values, strict=True)
            ),
        ]
        self.go(name)
        self.label(f"out{name}")
        values[:] = held

    @contextmanager
    def when(self, test: str) -> Iterator[None]:
        """Write what is done only if a flag is set."""
        name = self.fresh("when")
        self.lines.append(f"  br i1 {test}, label %{name}, label %past{name}")
        self.label(name)
        yield
        self.go(f"past{name}")
        self.label(f"past{name}")


def _align(kind: str) -> str:
    return f", align {_BYTES[kind]}"


def function(
    body: Callable[[Loops, list[str], list[str]], None], arguments: int, results: int
) -> str:
    """Return the IR of a function that XLA calls.

    Args:
        body: Writes the instructions, given where arguments and results are.
        arguments: How many arrays it reads.
        results: How many it writes.
    """
    code = Loops()
    places = []
    for offset, number in ((72, arguments), (112, results)):
        owner = code.let(f"getelementptr i8, ptr %frame, i64 {offset}")
        listed = code.let(f"load ptr, ptr {owner}")
        found = []
        for k in range(number):
            entry = code.let(f"getelementptr ptr, ptr {listed}, i64 {k}")
            buffer = code.let(f"load ptr, ptr {entry}")
            data = code.let(f"getelementptr i8, ptr {buffer}, i64 24")
            found.append(code.let(f"load ptr, ptr {data}"))
        places.append(found)
    body(code, *places)
    lines = "\n".join(code.lines)
    declared = "\n".join(sorted(code.declared))
    head = f"define ptr @handler(ptr %frame) {{\nentry:\n{machine.ANSWER}"
    return f"{declared}\n{head}\n{lines}\n  ret ptr null\n}}\n"


@cache
def assembled(text: str) -> str:
    """Return the name under which XLA finds a function.

    Raises:
        Unsupported: If no machine code can be made here; says why.
    """
    if reason := machine.available():
        raise machine.Unsupported(reason)
    return machine.assemble(text)


def call(text: str, results: Any, *arrays: Any) -> Any:
    """Return what a function makes of arrays."""
    return jax.ffi.ffi_call(assembled(text), results)(*arrays)


def on_cpu(compiled: Callable, otherwise: Callable, arrays: Any) -> Any:
    """Return ``compiled(arrays)`` on a CPU, ``otherwise(arrays)`` elsewhere.

    Under `jax.vmap` it is the latter, too: machine code handles one system at a time.
    """

    def alone(arrays):
        return sharded.platform_dependent(arrays, cpu=compiled, default=otherwise)

    batch = lambda size, flags, arrays: each(otherwise, size, flags, arrays)
    return with_batch(alone, batch, arrays)


def spans(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return where parts of these sizes begin and end."""
    return list(pairwise(int(x) for x in np.cumsum([0, *sizes])))
