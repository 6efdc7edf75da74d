"""Passes over the data of a block of fits: sums over the points, in LLVM IR."""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from lmjax._fused.algebra import ROUTINES, Routine
from lmjax._fused.ir import NOTHING, Code, Name, address, is_known, kind, read_common
from lmjax._fused.lane import Pass, Plan
from lmjax._fused.listing import Listing
from lmjax._fused.module import ALIGN, Module
from lmjax._fused.places import Along, Place, Unsupported
from lmjax._fused.scalars import evaluate
from lmjax._linearize import gram_pairs

# Points that are added up before they join the total: their order keeps the sum of
# many numbers as exact as that of few.
RUN = 64
# Elements of a residual at one point, and of its derivatives: more than any model of
# curves has, fewer than LLVM needs ten seconds for.
MOST_PER_POINT = 12_000


class Leaf(NamedTuple):
    """An array of a batch.

    Attributes:
        shape: Of one fit.
        dtype: Its dtype.
        per_fit: Whether fits have one each, on a leading axis.
        offset: Bytes before it in the scratch memory of a block, if they have.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    per_fit: bool
    offset: int

    @property
    def stored(self) -> str:
        """Type of an element in memory."""
        return "i8" if self.dtype == bool else kind(self.dtype)


def _bytes(dtype: Any) -> int:
    return np.dtype(dtype).itemsize


def _rotated(code: Code, row: list, triangle: list, dtype: np.dtype) -> list:
    """Return a triangle after a row was rotated into it, by Givens' rotations.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 5.1.8.
    """
    size = len(row)
    entries = dict(zip(gram_pairs(size - 1), triangle, strict=False))
    op = lambda name, *values: code.emit(name, list(values), dtype)
    for j in range(size):
        a, b = entries[j, j], row[j]
        norm = op("sqrt", code.fma(b, b, op("mul", a, a), dtype))
        some = code.emit("ne", [norm, dtype.type(0)], bool)
        inverse = op("div", dtype.type(1), norm)
        cosine = code.emit(
            "select_n", [some, dtype.type(1), op("mul", a, inverse)], dtype
        )
        sine = code.emit(
            "select_n", [some, dtype.type(0), op("mul", b, inverse)], dtype
        )
        entries[j, j] = norm
        for k in range(j + 1, size):
            old, new = entries[j, k], row[k]
            entries[j, k] = code.fma(cosine, old, op("mul", sine, new), dtype)
            row = [
                *row[:k],
                op("sub", op("mul", cosine, new), op("mul", sine, old)),
                *row[k + 1 :],
            ]
    return list(entries.values())


class Passes(Module):
    """The functions that loop, over the points or over small matrices, and the memory.

    Attributes:
        plan: What the program does with a fit.
        leaves: The arrays of the batch.
        dtype: Of the fit.
        n: Number of parameters.
        scratch: Bytes of memory that a block needs.
        regions: Where a routine finds its arguments and leaves its results.
    """

    def __init__(
        self, plan: Plan, leaves: list[tuple[tuple[int, ...], Any, bool]], width: int
    ):
        super().__init__(width, plan.points)
        self.plan = plan
        self.scratch = 0
        self.regions: dict[str, tuple[int, int]] = {}
        self.leaves: list[Leaf] = []
        for shape, dtype, per_fit in leaves:
            dtype = np.dtype(dtype)
            offset = 0
            if per_fit:
                offset = self._reserve(prod(shape) * width * _bytes(dtype))
            self.leaves.append(Leaf(tuple(shape), dtype, per_fit, offset))
            kind(dtype)
        self.dtype = np.dtype(plan.start.dtype)
        self.n = plan.start.shape[0]
        self.vector_bytes = width * _bytes(self.dtype)
        # the numbers of the fits of a block; then the queue: how many, their numbers
        self.rows_offset = self._reserve(width * 8)
        self.queue_offset = self._reserve(8 + 2 * width * 8)
        listings: dict[int, Listing] = {}
        for name, one in plan.passes.items():
            listing = listings.setdefault(id(one.rows), Listing(one.rows))
            self._pass(name, one, listing)

    def _reserve(self, size: int) -> int:
        offset = self.scratch
        self.scratch += -(-size // ALIGN) * ALIGN
        return offset

    def routine(
        self, code: Code, name: str, sizes: tuple[int, ...], values: list, count: int
    ) -> list[Name]:
        """Write the call of a routine and return its results."""
        full = "_".join(map(str, (name, *sizes)))
        if full not in self.regions:
            self._algebra(full, name, sizes)
        vector = code.vector(self.dtype)
        given, made = self.regions[full]
        for j, value in enumerate(values):
            pointer = self._element(code, given, j)
            code.lines.append(
                f"  store {vector} {code.text(value)}, ptr {pointer}, align {ALIGN}"
            )
        code.lines.append(f"  call void @{full}(ptr %inputs, ptr %scratch)")
        found = []
        for j in range(count):
            pointer, value = self._element(code, made, j), code.fresh()
            code.lines.append(
                f"  {value} = load {vector}, ptr {pointer}, align {ALIGN}"
            )
            found.append(Name(value, str(self.dtype)))
        return found

    def _element(self, code: Code, region: int, j: int) -> str:
        """Write a pointer to a vector of a region: each time, for a block of code."""
        pointer, at = code.fresh(), region + j * self.vector_bytes
        code.lines.append(f"  {pointer} = getelementptr i8, ptr %scratch, i64 {at}")
        return pointer

    def _function(self, full: str, lines: list[str]) -> None:
        self.parts[f"@{full}"] = "\n".join(
            [
                f"define internal void @{full}(ptr noalias %inputs, ptr noalias "
                "%scratch) noinline {",
                "entry:",
                *lines,
                "  ret void",
                "}",
            ]
        )

    def _algebra(self, full: str, name: str, sizes: tuple[int, ...]) -> None:
        """Write a routine on small matrices."""
        write, results, length = ROUTINES[name]
        offset = self._reserve(length(*sizes) * self.vector_bytes)
        self.regions[full] = offset, offset + results(*sizes) * self.vector_bytes
        code = Routine(self, self.dtype)
        write(code, *sizes)
        memory = f"  %memory = getelementptr i8, ptr %scratch, i64 {offset}"
        self._function(full, [memory, *code.lines])

    # the passes over the data

    def _pass(self, name: str, one: Pass, listing: Listing) -> None:
        """Write the loop over the points: what it adds up, by runs of points."""
        count = one.count(self.n)
        self.regions[name] = (
            self._reserve(self.n * self.vector_bytes),
            self._reserve(count * self.vector_bytes),
        )
        entry = Code(self, "h")
        code = Code(self, "k", point="%k", still=entry)
        p = [self._load_p(entry, name, j) for j in range(self.n)]
        inputs = [self._reader(entry, code, i) for i in range(len(self.leaves))]
        point = Along(1, self.points) if self.points > 1 else 0
        wanted: list[list[Place]] = [[(point,)]] * len(listing.outputs)
        given = [*inputs, self._reader_of_p(p), self._unit]
        found = evaluate(listing, given, wanted, code, MOST_PER_POINT)
        columns = [values[0] for values in found]
        before = [Name(f"%a{j}", str(self.dtype)) for j in range(count)]
        code.moving.update(held.text for held in before)
        after = self._added(code, one.adds, columns, before)
        rotated = one.adds == "triangle"
        self._function(name, self._points(name, entry, code, before, after, rotated))

    def _points(self, name, entry: Code, code: Code, before, after, rotated: bool):
        """Return the lines of the loop, given how a point changes what is summed."""
        vector = code.vector(self.dtype)
        phis, totals, begins, stores = [], [], [], []
        for j, (a, b) in enumerate(zip(before, after, strict=True)):
            at = self.regions[name][1] + j * self.vector_bytes
            totals += [
                f"  %q{j} = getelementptr i8, ptr %scratch, i64 {at}",
                f"  store {vector} zeroinitializer, ptr %q{j}, align {ALIGN}",
            ]
            first = "zeroinitializer"
            if rotated:  # a rotation goes on where it was
                first = f"%g{j}"
                begins.append(f"  {first} = load {vector}, ptr %q{j}, align {ALIGN}")
                sum_ = code.text(b)
            else:
                stores += [
                    f"  %t{j} = load {vector}, ptr %q{j}, align {ALIGN}",
                    f"  %u{j} = fadd {vector} %t{j}, {code.text(b)}",
                ]
                sum_ = f"%u{j}"
            stores.append(f"  store {vector} {sum_}, ptr %q{j}, align {ALIGN}")
            phis.append(
                f"  {a.text} = phi {vector} [{first}, %run], [{code.text(b)}, %point]"
            )
        return [
            *entry.lines,
            *totals,
            "  br label %run",
            "run:",
            "  %first = phi i64 [0, %entry], [%end, %ran]",
            f"  %last = add i64 %first, {RUN}",
            f"  %past = icmp ugt i64 %last, {self.points}",
            f"  %end = select i1 %past, i64 {self.points}, i64 %last",
            *begins,
            "  br label %point",
            "point:",
            "  %k = phi i64 [%first, %run], [%k1, %point]",
            *phis,
            *code.lines,
            "  %k1 = add i64 %k, 1",
            "  %more = icmp ult i64 %k1, %end",
            "  br i1 %more, label %point, label %ran",
            "ran:",
            *stores,
            f"  %again = icmp ult i64 %end, {self.points}",
            "  br i1 %again, label %run, label %done",
            "done:",
        ]

    def _added(self, code: Code, adds: str, columns: list, before: list) -> list:
        """Return what is summed after a point."""
        one, rest = self.dtype.type(1), columns[self.n + 1 :]
        if adds == "triangle":
            row = columns[: self.n + 1]
            after = _rotated(code, row, before[: len(before) - len(rest)], self.dtype)
            terms = [(one, x) for x in rest]
        elif adds == "products":
            terms = [(columns[i], columns[j]) for i, j in gram_pairs(self.n)]
            after, terms = [], terms + [(one, x) for x in rest]
        else:
            squares = adds == "squares"
            after, terms = [], [(x if squares else one, x) for x in columns]
        for a, (x, y) in zip(before[len(after) :], terms, strict=True):
            if is_known(x) and x == 1:
                after.append(code.emit("add", [a, y], self.dtype))
            else:
                after.append(code.fma(x, y, a, self.dtype))
        return after

    def _unit(self, place: Place) -> Any:
        """Return an element of a unit vector."""
        return self.dtype.type(1) if place[0] == place[1] else NOTHING[str(self.dtype)]

    @staticmethod
    def _reader_of_p(p: list[Name]):
        def read(place: Place) -> Name:
            if isinstance(place[0], Along):
                raise Unsupported("it reads parameters along the points")
            return p[place[0]]

        return read

    def _load_p(self, entry: Code, name: str, j: int) -> Name:
        at = self.regions[name][0] + j * self.vector_bytes
        pointer = entry.scalar(f"getelementptr i8, ptr %scratch, i64 {at}")
        vector = entry.vector(self.dtype)
        return entry.add(f"load {vector}, ptr {pointer}, align {ALIGN}", self.dtype)

    def _reader(self, entry: Code, code: Code, i: int):
        """Return what reads an element of an array of the batch.

        Where an array begins is worked out in ``entry``, once.
        """
        leaf = self.leaves[i]

        def base() -> str:
            if leaf.per_fit:
                return entry.scalar(
                    f"getelementptr i8, ptr %scratch, i64 {leaf.offset}"
                )
            slot = entry.scalar(f"getelementptr ptr, ptr %inputs, i64 {i}")
            return entry.scalar(f"load ptr, ptr {slot}")

        def read(place: Place) -> Name:
            into = code if any(isinstance(x, Along) for x in place) else entry
            if not leaf.per_fit:
                return read_common(into, base(), leaf.shape, leaf.dtype, place)
            at = address(into, leaf.shape, place)
            stored = f"[{self.width} x {leaf.stored}]"
            pointer = into.scalar(f"getelementptr {stored}, ptr {base()}, i64 {at}")
            memory = f"<{self.width} x {leaf.stored}>"
            loaded = into.add(
                f"load {memory}, ptr {pointer}, align {leaf.dtype.itemsize}", leaf.dtype
            )
            if leaf.dtype != bool:
                return loaded
            return into.add(f"icmp ne {memory} {loaded.text}, zeroinitializer")

        return read
