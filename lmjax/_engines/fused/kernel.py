"""The machine program of a batch of fits, as LLVM IR.

Fits run side by side, one per element of a vector: a block of them starts, steps until
the last one is done, and writes what is left. Data that differ per fit are first laid
out point by point, so that each pass over them reads vectors.
"""

from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from lmjax._engines.fused.batch_arrays import layout
from lmjax._engines.fused.indices import Place
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.listing import Listing
from lmjax._engines.fused.passes import Passes
from lmjax._engines.fused.plan import Loop, Plan, elements
from lmjax._engines.fused.queue import SLOT, queue
from lmjax._engines.fused.scalars import evaluate
from lmjax._engines.fused.values import Name, kind


class Result(NamedTuple):
    """An array that a program leaves behind.

    Attributes:
        row: Row of the memory of a block that holds its first element.
        size: Elements per fit.
        dtype: Its dtype; flags are held as numbers.
    """

    row: int
    size: int
    dtype: str


class Kernel(Passes):
    """The whole program.

    Attributes:
        states: Names of what a fit is between two steps.
        results: What it leaves behind.
    """

    # Vectors of states in memory: of a block, and of the fits that may wait.
    HELD = 3

    def __init__(self, plan: Plan, leaves: list, width: int):
        super().__init__(plan, leaves, width)
        self._block()

    # a block of fits

    def _block(self) -> None:
        """Write the function that goes on with the fits of a block.

        It is given the numbers of the fits. It begins with them, or takes up their
        states; it ends when no more than ``limit`` are unfinished, writes what the
        others leave behind, and puts these into a queue.
        """
        entry, last = Code(self, "i"), Code(self, "w")
        data = [leaf.reader(i, entry, entry) for i, leaf in enumerate(self.leaves)]
        loops, found, made = [], [], []
        for i, loop in enumerate(self.plan.loops):
            loops.append(f"  br label %l{i}_entry")
            loops.append(f"l{i}_entry:")
            part, made = self._loop(f"l{i}", loop, [*found, *data], i == 0)
            found = self._by_element(made, loop.finish.out_avals, loop.results)
            loops += part
        results = self._results(last, made)
        lines = [
            "define internal void @block(ptr noalias %inputs, ptr noalias %outputs, "
            "i64 %fits, i64 %count, i1 %fresh, i64 %limit, ptr noalias %scratch) "
            "noinline {",
            "entry:",
            *self._laid_out(),
            *entry.lines,
            *loops,
            *last.lines,
            *results,
            "  call void @sort(ptr %outputs, i64 %fits, i64 %count, i64 %l0_mask, "
            "ptr %scratch)",
            "  ret void",
            "}",
        ]
        self.parts["@block"] = "\n".join(lines)

    def _loop(
        self, name: str, loop: Loop, given: list, can_leave_off: bool = False
    ) -> tuple[list[str], list[Any]]:
        """Write a loop that goes on for each lane until it is done.

        Args:
            name: What its labels begin with; it is entered from ``<name>_entry``.
            loop: Its functions.
            given: Readers of what goes with its state.
            can_leave_off: Whether it ends when ``%limit`` lanes are left, whose state
                is stored, and may begin with a state that was.

        Returns:
            The lines and the elements of the result.
        """
        first, head = Code(self, f"{name}i"), Code(self, f"{name}c")
        body, last = Code(self, f"{name}b"), Code(self, f"{name}f")
        begins = self._run(first, loop.begin, given, loop.symmetric)
        names: list[Name] = []
        for x, half in zip(loop.state, loop.symmetric, strict=True):
            for _ in elements(x.shape, half):
                names.append(Name(f"%{name}_s{len(names)}", str(x.dtype)))
        state = self._by_element(names, loop.state, loop.symmetric)
        going = self._run(head, loop.going, state, [False])[0]
        new = self._run(body, loop.turn, [*state, *given], loop.symmetric)
        result = self._run(last, loop.finish, [*state, *given], loop.results)
        if can_leave_off:  # steps of all turns, those that a lane waited for as well
            turns = Name(f"%{name}_turns", "int32")
            names, begins = [*names, turns], [*begins, np.int32(0)]
            new = [*new, turns]
            self.states = names
            self.float_states = sum(x.dtype == str(self.dtype) for x in names)
            held = self.HELD * len(names)
            self.state_offset = self._reserve(held * self.width * SLOT)
        flags, phis, keeps = head.vector(bool), [], []
        for j, (held, begin, goes_on) in enumerate(
            zip(names, begins, new, strict=True)
        ):
            vector, kept = head.vector(held.dtype), f"{held.text}_new"
            resumed = f"[%{name}_r{j}, %{name}_resume], " if can_leave_off else ""
            phis.append(
                f"  {held.text} = phi {vector} [{first.text(begin)}, %{name}_begin], "
                f"{resumed}[{kept}, %{name}_turn]"
            )
            keeps.append(
                f"  {kept} = select {flags} {head.text(going)}, {vector} "
                f"{body.text(goes_on)}, {vector} {held.text}"
            )
        if can_leave_off:  # they count for a lane that is done, too: it waits
            one = body.splat("1", "int32")
            whole = head.vector("int32")
            keeps[-1] = f"  %{name}_turns_new = add {whole} %{name}_turns, {one}"
        limit = "%limit" if can_leave_off else "0"
        mask = f"i{self.width}"
        self.declare("@llvm.ctpop.i64", "i64", ["i64"])
        lines = [
            *(self._resumed(name) if can_leave_off else [f"  br label %{name}_begin"]),
            f"{name}_begin:",
            *first.lines,
            f"  br label %{name}_loop",
            f"{name}_loop:",
            *phis,
            *head.lines,
            f"  %{name}_bits = bitcast {flags} {head.text(going)} to {mask}",
            f"  %{name}_mask = zext {mask} %{name}_bits to i64",
            f"  %{name}_left = call i64 @llvm.ctpop.i64(i64 %{name}_mask)",
            f"  %{name}_on = icmp ugt i64 %{name}_left, {limit}",
            f"  br i1 %{name}_on, label %{name}_turn, label %{name}_done",
            f"{name}_turn:",
            *body.lines,
            *keeps,
            f"  br label %{name}_loop",
            f"{name}_done:",
            *(self._stored(name) if can_leave_off else []),
            *last.lines,
        ]
        return lines, result

    def _states(self) -> list[tuple[int, Name]]:
        """Return the states and the rows of memory for them: numbers of a kind."""
        rank = lambda j: self.states[j].dtype != str(self.dtype)
        order = sorted(range(len(self.states)), key=rank)
        return [(order.index(j), held) for j, held in enumerate(self.states)]

    def _slot(self, at: int, row: int) -> str:
        """Return the place of a row of states in memory."""
        return f"getelementptr i8, ptr %scratch, i64 {at + row * self.width * SLOT}"

    def _resumed(self, name: str) -> list[str]:
        """Return the lines that begin anew or take up states that were stored."""
        lines = [
            f"  br i1 %fresh, label %{name}_begin, label %{name}_resume",
            f"{name}_resume:",
        ]
        for j, (row, held) in enumerate(self._states()):
            vector = f"<{self.width} x {kind(held.dtype)}>"
            lines += [
                f"  %{name}_p{j} = {self._slot(self.state_offset, row)}",
                f"  %{name}_r{j} = load {vector}, ptr %{name}_p{j}",
            ]
        return [*lines, f"  br label %{name}_loop"]

    def _stored(self, name: str) -> list[str]:
        """Return the lines that store the states."""
        lines = []
        for j, (row, held) in enumerate(self._states()):
            vector = f"<{self.width} x {kind(held.dtype)}>"
            lines += [
                f"  %{name}_q{j} = {self._slot(self.state_offset, row)}",
                f"  store {vector} {held.text}, ptr %{name}_q{j}",
            ]
        return lines

    @staticmethod
    def _by_element(values: list, avals: Any, halves: list[bool]) -> list:
        """Return readers of arrays whose elements are given one after the other."""
        readers, given = [], iter(values)
        for aval, half in zip(avals, halves, strict=True):
            array = np.empty(aval.shape, object)
            for place in elements(aval.shape, half):
                array[place] = next(given)
                if half:
                    array[place[::-1]] = array[place]
            readers.append(lambda place, array=array: array[place])
        return readers

    def _run(self, code: Code, closed: Any, readers: list, halves: list) -> list[Any]:
        """Write a function of scalars and return the elements of its results."""
        listing = Listing(closed)
        shapes = [listing.shapes[var] for var in listing.outputs]
        wanted: list[list[Place]] = [
            list(elements(*both)) for both in zip(shapes, halves, strict=True)
        ]
        found = evaluate(listing, readers, wanted, code)
        return [value for values in found for value in values]

    def _laid_out(self) -> list[str]:
        """Return the lines that lay out the data of a block, point by point."""
        lines = [f"  %rows = getelementptr i8, ptr %scratch, i64 {self.rows_offset}"]
        for i, leaf in enumerate(self.leaves):
            if not leaf.per_fit or not prod(leaf.shape):
                continue
            self.parts[f"@lay_{leaf.stored}"] = layout(leaf.stored, self.width)
            lines += [
                f"  %from{i} = getelementptr ptr, ptr %inputs, i64 {i}",
                f"  %in{i} = load ptr, ptr %from{i}",
                f"  %to{i} = getelementptr i8, ptr %scratch, i64 {leaf.offset}",
                f"  call void @lay_{leaf.stored}(ptr %in{i}, ptr %to{i}, "
                f"i64 {prod(leaf.shape)}, ptr %rows)",
            ]
        return lines

    def _results(self, code: Code, left: list[Any]) -> list[str]:
        """Return the lines that store what the fits of a block leave behind."""
        given, values = iter(left), []
        self.results: list[Result] = []
        shapes = jax.tree.leaves(self.plan.results)
        for x, half in zip(shapes, self.plan.loops[-1].results, strict=True):
            array = np.empty(x.shape, object)
            for place in elements(x.shape, half):
                array[place] = next(given)
                if half:
                    array[place[::-1]] = array[place]
            self.results.append(Result(len(values), array.size, str(x.dtype)))
            values += list(array.flat)
        self.results.append(Result(len(values), 1, "int32"))
        values.append(self.states[-1])
        self.result_offset = self._reserve(len(values) * self.width * SLOT)
        lines = []
        for row, value in enumerate(values):
            dtype = np.dtype(value.dtype)
            if dtype == bool:
                value = code.emit("convert_element_type", [value], "int32")
                dtype = np.dtype("int32")
            lines += [
                f"  %result{row} = {self._slot(self.result_offset, row)}",
                f"  store {code.vector(dtype)} {code.text(value)}, ptr %result{row}",
            ]
        return lines

    def text(self, results: list[Result]) -> str:
        """Return the whole program, which writes some of its results."""
        return "\n\n".join(self.parts.values()) + queue(self, results)
