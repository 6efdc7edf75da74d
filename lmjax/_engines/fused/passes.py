"""Passes over the data of a block of fits: sums over the points, in LLVM IR."""

from math import prod
from typing import Any

import numpy as np

from lmjax._engines.fused.algebra import ROUTINES
from lmjax._engines.fused.batch_arrays import BatchArray
from lmjax._engines.fused.indices import Place, PointIndex, Unsupported
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.module import ALIGN, Module
from lmjax._engines.fused.plan import Pass, Plan
from lmjax._engines.fused.routine import Routine
from lmjax._engines.fused.scalars import Read, evaluate
from lmjax._engines.fused.scan_memory import ScanMemory
from lmjax._engines.fused.schedule import Schedule, schedule_of
from lmjax._engines.fused.segments import Segment
from lmjax._engines.fused.together import Row, how_many, if_it_exists, with_next
from lmjax._engines.fused.values import NOTHING, Name, is_known, kind
from lmjax._linalg.linearization import gram_pairs

# Points that are added up before they join the total: their order keeps the sum of
# many numbers as exact as that of few. A multiple of all `CHOICES`.
RUN = 60
# Instructions for a point: more than any model of curves has, fewer than LLVM needs
# ten seconds for.
MOST_PER_POINT = 12_000


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
        super().__init__(width, plan.points, plan.most)
        self.plan = plan
        self.scratch = 0
        self.regions: dict[str, tuple[int, int]] = {}
        self.leaves: list[BatchArray] = []
        for shape, dtype, per_fit in leaves:
            kind(dtype)
            self.leaves.append(self._array(tuple(shape), np.dtype(dtype), per_fit))
        self.dtype = np.dtype(plan.start.dtype)
        self.n = plan.start.shape[0]
        self.vector_bytes = width * self.dtype.itemsize
        # the numbers of the fits of a block; then the queue: how many, their numbers
        self.rows_offset = self._reserve(width * 8)
        self.queue_offset = self._reserve(8 + 2 * width * 8)
        most = max([one.given for one in plan.passes.values()], default=0)
        self.p_offset = self._reserve(most * self.vector_bytes)
        schedules: dict[int, Schedule] = {}
        for name, one in plan.passes.items():
            if id(one.rows) not in schedules:
                schedules[id(one.rows)] = schedule_of(
                    self, one.rows, self._data_readers, self._reserve, MOST_PER_POINT
                )
            self._pass(name, one, schedules[id(one.rows)])

    def _array(
        self, shape: tuple[int, ...], dtype: np.dtype, per_fit: bool
    ) -> BatchArray:
        """Return how an array is read: laid out, if fits have one each."""
        offset = None
        if per_fit:
            offset = self._reserve(prod(shape) * self.width * dtype.itemsize)
        return BatchArray(shape, dtype, per_fit, offset, self.width)

    def _reserve(self, size: int) -> int:
        offset = self.scratch
        self.scratch += -(-size // ALIGN) * ALIGN
        return offset

    def routine(
        self,
        code: Code,
        name: str,
        sizes: tuple[int, ...],
        given: list[tuple[int, Any]],
        wanted: list[int],
    ) -> list[Name]:
        """Write the call of a routine and return the wanted numbers of its results.

        Args:
            code: Where the call goes.
            name: Name of the routine.
            sizes: Sizes for which it is written.
            given: Places in its memory and what goes there.
            wanted: Places among its results.
        """
        full = "_".join(map(str, (name, *sizes)))
        if full not in self.regions:
            self._algebra(full, name, sizes)
        vector = code.vector(self.dtype)
        arguments, results = self.regions[full]
        for j, value in given:
            pointer = self._element(code, arguments, j)
            code.lines.append(f"  store {vector} {code.text(value)}, ptr {pointer}")
        code.lines.append(f"  call void @{full}(ptr %inputs, ptr %scratch)")
        found = []
        for j in wanted:
            pointer, value = self._element(code, results, j), code.fresh()
            code.lines.append(f"  {value} = load {vector}, ptr {pointer}")
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
        layout = ROUTINES[name]
        offset = self._reserve(layout.length(*sizes) * self.vector_bytes)
        results = layout.results(*sizes) * self.vector_bytes
        self.regions[full] = offset, offset + results
        code = Routine(self, self.dtype)
        layout.write(code, *sizes)
        memory = f"  %memory = getelementptr i8, ptr %scratch, i64 {offset}"
        self._function(full, [memory, *code.lines])

    # the passes over the data

    def _data_readers(self, entry: Code, code: Code) -> list[Read]:
        """Return what reads the data, the parameters and the unit vectors."""
        data = [leaf.reader(i, entry, code) for i, leaf in enumerate(self.leaves)]
        return [*data, self._reader_of_p(entry), self._unit]

    def _pass(self, name: str, one: Pass, schedule: Schedule) -> None:
        """Write a pass: what recurs, then the points, segment by segment."""
        count, calls, length = one.count(self.n), list(schedule.calls), 0
        totals = self._reserve(count * self.vector_bytes)
        self.regions[name] = self.p_offset, totals
        for i, segment in enumerate(schedule.segments):
            calls.append(f"@{name}_{i}")
            length += self._segment(name, one, schedule.memory, segment, f"{name}_{i}")
        if length > MOST_PER_POINT:
            raise Unsupported(f"it has more than {MOST_PER_POINT} operations")
        vector, lines = f"<{self.width} x {kind(self.dtype)}>", []
        for j in range(count):
            at = self.regions[name][1] + j * self.vector_bytes
            lines += [
                f"  %q{j} = getelementptr i8, ptr %scratch, i64 {at}",
                f"  store {vector} zeroinitializer, ptr %q{j}",
            ]
        lines += [f"  call void {full}(ptr %inputs, ptr %scratch)" for full in calls]
        self._function(name, lines)

    def _segment(
        self, name: str, one: Pass, memory: ScanMemory, segment: Segment, full: str
    ) -> int:
        """Write the loop over a segment of points: what it adds up, by runs.

        Returns:
            How many instructions it has.
        """
        entry = Code(self, "h")
        code = Code(self, "v", point="%k", still=entry, points=segment.size)
        wanted: list[list[Place]] = [[(index,) for index in segment.residuals]]
        wanted *= len(memory.listing.outputs)

        def work_out(code: Code) -> list[list[Any]]:
            given = memory.readers(entry, code)
            found = evaluate(memory.listing, given, wanted, code)
            return [list(columns) for columns in zip(*found, strict=True)]

        rows = [Row(None, columns) for columns in work_out(code)]
        length, many = len(entry.lines) + len(code.lines), 1
        # a GPU has other fits to turn to; other passes wait for memory or run seldom
        if self.width > 1 and one.adds in ("products", "squares"):
            many = how_many(segment.size, len(code.lines) + one.count(self.n))
        if many > 1:
            rows += with_next(code, many, work_out)
        first = 0
        if one.adds == "triangle":  # in memory; what else there is is summed here
            first = len(gram_pairs(self.n))
            for _, columns in rows:
                row = list(enumerate(columns[: self.n + 1]))
                self.routine(code, "rotate", (self.n + 1,), row, [])
            _, place = self.regions[f"rotate_{self.n + 1}"]
            self.regions[name] = self.regions[name][0], place
        sums = range(first, one.count(self.n))
        before = [Name(f"%a{j}", str(self.dtype)) for j in sums]
        code.moving.update(held.text for held in before)
        after = before
        for row in rows:
            after = self._added(code, one.adds, row, after)
        slots = zip(sums, before, after, strict=True)
        total = "max" if one.adds == "largest" else "add"
        self._function(full, self._points(name, code, list(slots), total, many))
        return length

    def _points(
        self, name: str, code: Code, slots: list, total: str, many: int
    ) -> list[str]:
        """Return the lines of the loop, given how a turn changes each of the sums."""
        vector, made = code.vector(self.dtype), self.regions[name][1]
        run = Code(self, "r")
        places, phis = [], []
        for j, old, new in slots:
            places.append(
                f"  %q{j} = getelementptr i8, ptr %scratch, "
                f"i64 {made + j * self.vector_bytes}"
            )
            before = run.add(f"load {vector}, ptr %q{j}", self.dtype)
            after = run.text(run.emit(total, [before, new], self.dtype))
            run.lines.append(f"  store {vector} {after}, ptr %q{j}")
            phis.append(
                f"  {old.text} = phi {vector} [zeroinitializer, %run], "
                f"[{code.text(new)}, %point]"
            )
        return [
            *code.still.lines,
            *places,
            "  br label %run",
            "run:",
            "  %first = phi i64 [0, %entry], [%end, %ran]",
            f"  %last = add i64 %first, {RUN}",
            f"  %past = icmp ugt i64 %last, {code.points}",
            f"  %end = select i1 %past, i64 {code.points}, i64 %last",
            "  br label %point",
            "point:",
            "  %k = phi i64 [%first, %run], [%k1, %point]",
            *phis,
            *code.lines,
            f"  %k1 = add i64 %k, {many}",
            "  %more = icmp ult i64 %k1, %end",
            "  br i1 %more, label %point, label %ran",
            "ran:",
            *run.lines,
            f"  %again = icmp ult i64 %end, {code.points}",
            "  br i1 %again, label %run, label %done",
            "done:",
        ]

    def _added(self, code: Code, adds: str, row: Row, before: list) -> list:
        """Return what is summed after a point."""
        columns = row.columns
        one, rest = self.dtype.type(1), columns[self.n + 1 :]
        if adds == "largest":
            sizes = [code.emit("abs", [x], self.dtype) for x in columns]
            pairs = zip(before, sizes, strict=True)
            return [code.emit("max", [*pair], self.dtype) for pair in pairs]
        if adds in ("sums", "squares"):
            terms = [(x if adds == "squares" else one, x) for x in columns]
        else:
            terms = [(one, x) for x in rest]
            if adds == "products":
                pairs = gram_pairs(self.n)
                terms = [(columns[i], columns[j]) for i, j in pairs] + terms
        after = []
        for a, (x, y) in zip(before, terms, strict=True):
            if is_known(x) and x == 1:
                after.append(code.emit("add", [a, y], self.dtype))
            else:
                after.append(code.fma(x, y, a, self.dtype))
        return if_it_exists(code, row, before, after)

    def _unit(self, place: Place) -> Any:
        """Return an element of a unit vector."""
        return self.dtype.type(1) if place[0] == place[1] else NOTHING[str(self.dtype)]

    def _reader_of_p(self, entry: Code) -> Read:
        def read(place: Place) -> Name:
            if isinstance(place[0], PointIndex):
                raise Unsupported("it reads parameters along the points")
            at = self.p_offset + place[0] * self.vector_bytes
            pointer = entry.scalar(f"getelementptr i8, ptr %scratch, i64 {at}")
            vector = entry.vector(self.dtype)
            return entry.add(f"load {vector}, ptr {pointer}", self.dtype)

        return read
