"""Scans in LLVM IR.

The state is in registers through a segment of turns and in memory from one segment to
the next; rows are kept in memory until somebody reads them.
"""

from typing import Any, NamedTuple

import numpy as np

from lmjax._engines.fused.indices import Index, Unsupported
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.recurrences import Recurrence, ask_turn, view
from lmjax._engines.fused.scalars import evaluate
from lmjax._engines.fused.scan_memory import Element, ScanMemory
from lmjax._engines.fused.segments import Segment, segments
from lmjax._engines.fused.values import Name, is_nothing


class Carry(NamedTuple):
    """An element that is carried from turn to turn.

    Attributes:
        key: The result of the scan that it is in the end.
        name: Its name.
        begin: Its value before the first turn.
        held: Its value before any turn: its name, or a zero that it stays for ever.
    """

    key: Element
    name: Name
    begin: Any
    held: Any


class Turn(NamedTuple):
    """What is done in each turn of a segment.

    Attributes:
        size: How many turns.
        entry, code: Instructions before them and in each.
        news: What is carried on.
        rows: What is kept: element, number of its row, and value.
    """

    size: int
    entry: Code
    code: Code
    news: list[Any]
    rows: list[tuple[Element, Index, Any]]


class ScanLoop:
    """A loop that scans share."""

    def __init__(
        self, memory: ScanMemory, group: list[Recurrence], name: str, most: int
    ):
        self.memory, self.group, self.name, self.most = memory, group, name, most

    def write(self) -> list[str]:
        """Write the functions that run all turns; return their names in order."""
        ask = lambda index: ask_turn(
            self.memory.listing, self.group, self.memory.free, index
        )
        parts = segments(ask, self.group[0].length, in_order=True)
        begin = Code(self.memory.module, "b")
        carries = self._begun(begin)
        turns = [self._turn(segment, carries) for segment in parts]
        # a zero of a unit vector stays one only if no turn makes more of it
        while more := self._no_zeros(carries, turns):
            for j in more:
                carries[j] = carries[j]._replace(held=carries[j].name)
            turns = [self._turn(segment, carries) for segment in parts]
        if (
            sum(len(turn.entry.lines) + len(turn.code.lines) for turn in turns)
            > self.most
        ):
            raise Unsupported(f"it has more than {self.most} operations")
        self._know(carries, turns)
        return self._functions(begin, carries, turns)

    def _begun(self, code: Code) -> list[Carry]:
        """Return what is carried, as it is before the first turn."""
        elements = [(part, i, at) for part in self.group for i, at in part.carries]
        outputs = [part.begins[i] for part, i, _ in elements]
        keys = [(part.eqn.results[i], at) for part, i, at in elements]
        found = evaluate(
            view(self.memory.listing, outputs),
            self.memory.readers(code, code),
            [[at] for _, _, at in elements],
            code,
        )
        carries = []
        for j, (key, (value,)) in enumerate(zip(keys, found, strict=True)):
            name = Name(f"%c{j}", str(np.dtype(self.memory.listing.dtypes[key[0]])))
            held = value if is_nothing(value) else name
            carries.append(Carry(key, name, value, held))
        return carries

    @staticmethod
    def _no_zeros(carries: list[Carry], turns: list[Turn]) -> set[int]:
        """Return the numbers of carries that some turn makes something of."""
        return {
            j
            for turn in turns
            for j, (carry, new) in enumerate(zip(carries, turn.news, strict=True))
            if is_nothing(carry.held) and not is_nothing(new)
        }

    def _turn(self, segment: Segment, carries: list[Carry]) -> Turn:
        """Return what a turn does."""
        module, listing = self.memory.module, self.memory.listing
        entry = Code(module, "h")
        code = Code(module, "v", point="%k", still=entry, points=segment.size)
        code.moving.update(carry.name.text for carry in carries)
        (index,) = segment.residuals
        asked = [
            (part.eqn.operands[i], at)
            for part in self.group
            for i, at in part.operands(index)
        ]
        found = evaluate(
            view(listing, [var for var, _ in asked]),
            self.memory.readers(entry, code),
            [[at] for _, at in asked],
            code,
        )
        values, held = iter(found), iter(carries)
        news, rows = [], []
        for part in self.group:
            given = {element: next(values)[0] for element in part.reads}
            for i, at in part.carries:
                given[part.first_carry + i, at] = next(held).held
            made = self._body(part, given, code)
            news += [made[element] for element in part.carries]
            for i, at in part.rows:
                key = part.eqn.results[i], at
                rows.append((key, part.turn(index), made[i, at]))
        return Turn(segment.size, entry, code, news, rows)

    def _body(self, part: Recurrence, given: dict, code: Code) -> dict[Element, Any]:
        """Return the elements that the body of a scan makes."""
        count, wanted = len(part.body.inputs), part.wanted()
        reads = [lambda at, i=i: given[i, at] for i in range(count)]
        found = evaluate(part.body, reads, wanted, code)
        return {
            (i, at): value
            for i, (places, values) in enumerate(zip(wanted, found, strict=True))
            for at, value in zip(places, values, strict=True)
        }

    def _know(self, carries: list[Carry], turns: list[Turn]) -> None:
        """Note what needs no memory: zeros of unit vectors."""
        zeros = {carry.key: carry.held for carry in carries if is_nothing(carry.held)}
        for rows in zip(*(turn.rows for turn in turns), strict=True):
            if all(is_nothing(value) for _, _, value in rows):
                zeros[rows[0][0]] = rows[0][2]
        self.memory.known |= zeros

    def _functions(
        self, begin: Code, carries: list[Carry], turns: list[Turn]
    ) -> list[str]:
        """Write the functions, unless there is nothing to keep."""
        known, memory = self.memory.known, self.memory
        held = [(j, c) for j, c in enumerate(carries) if c.key not in known]
        if not held and all(key in known for key, _, _ in turns[0].rows):
            return []
        stores = [memory.slot(c.key).store(begin, c.begin) for _, c in held]
        self._function(0, [*begin.lines, *stores])
        for number, turn in enumerate(turns, 1):
            entry, code, phis, ends = turn.entry, turn.code, [], []
            for j, c in held:
                first, new = memory.slot(c.key).load(entry), turn.news[j]
                phis.append(
                    f"  {c.name.text} = phi {code.vector(c.name.dtype)} "
                    f"[{first.text}, %entry], [{code.text(new)}, %loop]"
                )
                ends.append(memory.slot(c.key).store(entry, new))
            length = self.group[0].length
            stores = [
                memory.slot(key, length).store(code, value, row)
                for key, row, value in turn.rows
                if key not in known
            ]
            lines = [
                *entry.lines,
                "  br label %loop",
                "loop:",
                "  %k = phi i64 [0, %entry], [%k1, %loop]",
                *phis,
                *code.lines,
                *stores,
                "  %k1 = add i64 %k, 1",
                f"  %more = icmp ult i64 %k1, {turn.size}",
                "  br i1 %more, label %loop, label %done",
                "done:",
                *ends,
            ]
            self._function(number, lines)
        return [f"{self.name}_{number}" for number in range(len(turns) + 1)]

    def _function(self, number: int, lines: list[str]) -> None:
        full = f"{self.name}_{number}"
        self.memory.module.parts[full] = "\n".join(
            [
                f"define internal void {full}(ptr noalias %inputs, "
                "ptr noalias %scratch) noinline {",
                "entry:",
                *lines,
                "  ret void",
                "}",
            ]
        )
