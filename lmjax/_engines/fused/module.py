"""The functions of a machine program, and what `Code` asks for while it is written."""

import hashlib
from typing import Any

import numpy as np

from lmjax._engines.fused import operations as operations  # writes its rules into `ir`
from lmjax._engines.fused.elementary import LIBRARY, OF_TWO, Functions
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.values import Name, kind, name_of, number
from lmjax._jax.machine import Unsupported

ALIGN = 64
# Numbers of an array that is written into the program.
MOST_IN_A_TABLE = 4096
_FUNCTIONS = {name: Functions(name) for name in ("float32", "float64")}


class Module:
    """Functions of vectors.

    Attributes:
        width: Lanes in a vector.
        points: Residuals of a fit.
        count: Names given so far.
        most: How many may be given, None for any number.
        parts: The functions as text, by name.
    """

    def __init__(self, width: int, points: int = 0, most: int | None = None):
        self.width, self.points = width, points
        self.count, self.most = 0, most
        self.parts: dict[str, str] = {}

    def next(self) -> int:
        """Return the number of a new name.

        Raises:
            Unsupported: If the program has become too long.
        """
        self.count += 1
        if self.most is not None and self.count > self.most:
            raise Unsupported(f"it has more than {self.most} instructions")
        return self.count

    def declare(self, full: str, result: str, arguments: list[str]) -> None:
        """Declare a function that is LLVM's or the C library's."""
        self.parts.setdefault(full, f"declare {result} {full}({', '.join(arguments)})")

    def has_elementary(self, name: str, dtype: np.dtype) -> bool:
        """Return whether there is such a function."""
        if name_of(dtype) not in _FUNCTIONS:
            return False
        return name in LIBRARY or name in _FUNCTIONS[name_of(dtype)].names()

    def elementary(self, name: str, dtype: Any) -> str:
        """Return the name of a function of vectors, which is written if it is not."""
        dtype = np.dtype(dtype)
        full = f"@{name}_{dtype}"
        if full in self.parts:
            return full
        self.parts[full] = ""
        if name in LIBRARY:
            self._by_library(full, name, dtype)
            return full
        code = Code(self, "e")
        vector = code.vector(dtype)
        names = ["%x", "%y"] if name in OF_TWO else ["%x"]
        arguments = [Name(x, name_of(dtype)) for x in names]
        y = code.text(_FUNCTIONS[name_of(dtype)].write(name, code, arguments))
        taken = ", ".join(f"{vector} {x}" for x in names)
        # in the loop over the points, with its constants in registers
        head = f"define internal {vector} {full}({taken}) alwaysinline {{"
        lines = [head, "entry:", *code.lines, f"  ret {vector} {y}", "}"]
        self.parts[full] = "\n".join(lines)
        return full

    def _by_library(self, full: str, name: str, dtype: np.dtype) -> None:
        """Write a function that asks the C library, lane by lane."""
        called = LIBRARY[name] + ("f" if dtype == np.float32 else "")
        scalar, vector = kind(dtype), f"<{self.width} x {kind(dtype)}>"
        names = ["%x", "%y"] if name in OF_TWO else ["%x"]
        self.declare(f"@{called}", scalar, [scalar] * len(names))
        taken = ", ".join(f"{vector} {x}" for x in names)
        lines = [f"define internal {vector} {full}({taken}) {{", "entry:"]
        last = "poison"
        for i in range(self.width):
            args = []
            for x in names:
                part = f"%a{x[1:]}{i}"
                lines.append(f"  {part} = extractelement {vector} {x}, i32 {i}")
                args.append(f"{scalar} {part}")
            lines.append(f"  %r{i} = call {scalar} @{called}({', '.join(args)})")
            lines.append(
                f"  %v{i} = insertelement {vector} {last}, {scalar} %r{i}, i32 {i}"
            )
            last = f"%v{i}"
        self.parts[full] = "\n".join([*lines, f"  ret {vector} {last}", "}"])

    def table(self, array: np.ndarray) -> str:
        """Return the name of an array that is part of the program."""
        if array.size > MOST_IN_A_TABLE:
            raise Unsupported(f"it holds a table of {array.size} numbers")
        stored = "i8" if array.dtype == bool else kind(array.dtype)
        entries = ", ".join(
            f"{stored} {int(x) if array.dtype == bool else number(x)}"
            for x in array.flat
        )
        text = f"internal constant [{array.size} x {stored}] [{entries}], align {ALIGN}"
        full = "@t" + hashlib.sha256(text.encode()).hexdigest()[:16]
        self.parts[full] = f"{full} = {text}"
        return full
