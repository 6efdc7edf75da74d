"""The arrays of a batch: how they lie in memory, and how a program reads them."""

from typing import NamedTuple

import numpy as np

from lmjax._engines.fused.indices import Place, PointIndex
from lmjax._engines.fused.ir import Code, address, read_common
from lmjax._engines.fused.scalars import Read
from lmjax._engines.fused.values import Name, kind


class BatchArray(NamedTuple):
    """An array of a batch.

    Attributes:
        shape: Of one fit.
        dtype: Its dtype.
        per_fit: Whether fits have one each, on a leading axis.
        offset: Bytes before it in the scratch memory of a block, where it was laid out;
            None if it is read where it is given.
        side: How many fits have an element each side by side, if they have one each.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    per_fit: bool
    offset: int | None
    side: int

    @property
    def stored(self) -> str:
        """Type of an element in memory."""
        return "i8" if self.dtype == bool else kind(self.dtype)

    def reader(self, number: int, entry: Code, code: Code) -> Read:
        """Return what reads an element.

        Where the array begins is worked out in ``entry``, once.

        Args:
            number: Which array it is.
            entry: Takes what is the same at all points.
            code: Takes what is not.
        """

        def base() -> str:
            if self.offset is not None:
                return entry.scalar(
                    f"getelementptr i8, ptr %scratch, i64 {self.offset}"
                )
            slot = entry.scalar(f"getelementptr ptr, ptr %inputs, i64 {number}")
            return entry.scalar(f"load ptr, ptr {slot}")

        def read(place: Place) -> Name:
            into = code if any(isinstance(x, PointIndex) for x in place) else entry
            if not self.per_fit:
                return read_common(into, base(), self.shape, self.dtype, place)
            at = address(into, self.shape, place)
            stored = f"[{self.side} x {self.stored}]"
            pointer = into.scalar(f"getelementptr {stored}, ptr {base()}, i64 {at}")
            memory = f"<{code.width} x {self.stored}>"
            loaded = into.add(
                f"load {memory}, ptr {pointer}, align {self.dtype.itemsize}", self.dtype
            )
            if self.dtype != bool:
                return loaded
            return into.add(f"icmp ne {memory} {loaded.text}, zeroinitializer")

        return read


def layout(stored: str, width: int) -> str:
    """Return the function that gathers the rows of the fits of a block."""
    vector = f"<{width} x {stored}>"
    rows, loads, value = [], [], "poison"
    for i in range(width):
        rows += [
            f"  %i{i} = getelementptr i64, ptr %rows, i64 {i}",
            f"  %j{i} = load i64, ptr %i{i}",
            f"  %o{i} = mul i64 %j{i}, %size",
            f"  %p{i} = getelementptr {stored}, ptr %from, i64 %o{i}",
        ]
        loads += [
            f"  %q{i} = getelementptr {stored}, ptr %p{i}, i64 %e",
            f"  %x{i} = load {stored}, ptr %q{i}",
            f"  %v{i} = insertelement {vector} {value}, {stored} %x{i}, i32 {i}",
        ]
        value = f"%v{i}"
    lines = [
        f"define internal void @lay_{stored}(ptr noalias %from, ptr noalias %to, "
        "i64 %size, ptr noalias %rows) noinline {",
        "entry:",
        *rows,
        "  br label %loop",
        "loop:",
        "  %e = phi i64 [0, %entry], [%e1, %loop]",
        *loads,
        f"  %at = getelementptr [{width} x {stored}], ptr %to, i64 %e",
        f"  store {vector} {value}, ptr %at, align 1",
        "  %e1 = add i64 %e, 1",
        "  %more = icmp ult i64 %e1, %size",
        "  br i1 %more, label %loop, label %done",
        "done:",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)
