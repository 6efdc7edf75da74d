"""The arrays of a batch, as a program reads them."""

from typing import NamedTuple

import numpy as np

from lmjax._fused.ir import Code, address, read_common
from lmjax._fused.places import Along, Place
from lmjax._fused.scalars import Read
from lmjax._fused.values import Name, kind


class Leaf(NamedTuple):
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
            into = code if any(isinstance(x, Along) for x in place) else entry
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
