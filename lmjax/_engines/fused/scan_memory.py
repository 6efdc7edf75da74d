"""Memory for the results of scans, which run before the points are visited."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lmjax._engines.fused.indices import Index, Place, PointIndex, Unsupported
from lmjax._engines.fused.ir import Code, address
from lmjax._engines.fused.listing import Listing
from lmjax._engines.fused.scalars import Read
from lmjax._engines.fused.values import Name

# Bytes that the scans of a block of fits may keep: more than that is slow.
MOST_SCAN_BYTES = 8 * 2**20

MakeReaders = Callable[[Code, Code], list[Read]]
Element = tuple[int, Place]


class Slot(NamedTuple):
    """Where an element of a variable is kept, a vector per row.

    Attributes:
        offset: Bytes before it in the scratch memory of a block.
        rows: How many rows there are.
        dtype: Its dtype.
    """

    offset: int
    rows: int
    dtype: np.dtype

    def _at(self, code: Code, row: Index) -> str:
        at = address(code, (self.rows,), (row,))
        size = code.width * self.dtype.itemsize
        base = code.scalar(f"getelementptr i8, ptr %scratch, i64 {self.offset}")
        return code.scalar(f"getelementptr [{size} x i8], ptr {base}, i64 {at}")

    def load(self, code: Code, row: Index = 0) -> Name:
        """Return a row."""
        vector, at = code.vector(self.dtype), self._at(code, row)
        return code.add(f"load {vector}, ptr {at}, align 1", self.dtype)

    def store(self, code: Code, value: Any, row: Index = 0) -> str:
        """Return the line that stores a row; its place is written into ``code``."""
        text = f"{code.vector(self.dtype)} {code.text(value)}"
        return f"  store {text}, ptr {self._at(code, row)}, align 1"


class ScanMemory:
    """The results of the scans of a program, and readers of all that it reads.

    Attributes:
        module: Takes functions.
        listing: The program; results of its scans are its last inputs.
        free: How many leading axes of a variable may move with the point.
        known: Elements that need no memory.
    """

    def __init__(
        self,
        module: Any,
        listing: Listing,
        free: dict[int, int],
        make_readers: MakeReaders,
        reserve: Callable[[int], int],
    ):
        self.module, self.listing, self.free = module, listing, free
        self.known: dict[Element, Any] = {}
        self._make_readers, self._reserve = make_readers, reserve
        self._slots: dict[Element, Slot] = {}
        self._size = 0

    def slot(self, key: Element, rows: int = 1) -> Slot:
        """Return the memory of an element, new if it has none."""
        if key not in self._slots:
            dtype = np.dtype(self.listing.dtypes[key[0]])
            size = rows * self.module.width * dtype.itemsize
            self._size += size
            if self._size > MOST_SCAN_BYTES:
                raise Unsupported("it keeps too many numbers of its loops")
            self._slots[key] = Slot(self._reserve(size), rows, dtype)
        return self._slots[key]

    def readers(self, entry: Code, code: Code) -> list[Read]:
        """Return what reads the inputs of the program.

        Args:
            entry: Takes what is the same at all points.
            code: Takes what is not.
        """
        data = self._make_readers(entry, code)
        results = self.listing.inputs[len(data) :]
        return [*data, *(self._reader(entry, code, var) for var in results)]

    def _reader(self, entry: Code, code: Code, var: int) -> Read:
        rows = self.free[var]

        def read(place: Place) -> Any:
            key = var, place[rows:]
            if key in self.known:
                return self.known[key]
            moves = any(isinstance(index, PointIndex) for index in place)
            row = place[0] if rows else 0
            return self._slots[key].load(code if moves else entry, row)

        return read
