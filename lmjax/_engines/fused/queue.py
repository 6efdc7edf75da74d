"""Fits that take longer than their neighbours: a queue, so that nobody waits for them.

A vector of fits steps until half of them are done. The others wait in a queue, with
their states, until they fill a vector; the last of a unit of work run to their end.
"""

from typing import Any, NamedTuple

# Bytes for a number of a state.
SLOT = 8


class _Rows(NamedTuple):
    """Rows of numbers in the memory of a block.

    Attributes:
        at: Bytes before them.
        stride: Bytes of a row.
        size: Bytes of a number.
        many: Number of rows.
    """

    at: int
    stride: int
    size: int
    many: int

    def number(self, label: str, which: str) -> str:
        """Return the lines that point at a number of row ``%n<label>``."""
        return self.named(f"%a{label}", f"%n{label}", which)

    def named(self, pointer: str, row: str, which: str) -> str:
        """Return the lines that point at a number of a row."""
        return f"""  {pointer}_o = mul i64 {row}, {self.stride}
  {pointer}_p = add i64 {pointer}_o, {self.at}
  {pointer}_r = getelementptr i8, ptr %scratch, i64 {pointer}_p
  {pointer} = getelementptr i{8 * self.size}, ptr {pointer}_r, i64 {which}"""


def _groups(at: int, stride: int, size: int, floats: int, counts: int) -> list[_Rows]:
    """Return rows of floating-point numbers and those of whole numbers after them."""
    return [
        _Rows(at, stride, size, floats),
        _Rows(at + floats * stride, stride, 4, counts),
    ]


def queue(kernel: Any, results: list) -> str:
    """Return the IR of ``@unit``, which fits a range of fits, and what it calls.

    Args:
        kernel: The program.
        results: Those of its results that are written.
    """
    width, size, row = kernel.width, kernel.dtype.itemsize, kernel.width * SLOT
    many = kernel.float_states, len(kernel.states) - kernel.float_states
    state = kernel.state_offset
    held = state + len(kernel.states) * row  # of the queue, two vectors of each
    states = _groups(state, row, size, *many)
    waiting = _groups(held, 2 * row, size, *many)
    outputs, write = "", ""
    for k, result in enumerate(results):
        outputs += f"""  %at{k} = getelementptr ptr, ptr %outputs, i64 {k}
  %out{k} = load ptr, ptr %at{k}
"""
        bytes_ = 4 if result.dtype in ("bool", "int32") else size
        rows = _Rows(kernel.result_offset + result.row * row, row, bytes_, result.size)
        before = f"w{k - 1}" if k else "write"
        after = f"w{k + 1}" if k + 1 < len(results) else "on"
        write += _written(k, before, rows, result.dtype == "bool", after)
    push = _moved("s0", "push", (states[0], "%lane"), (waiting[0], "%place"), "s1")
    push += _moved("s1", "s0", (states[1], "%lane"), (waiting[1], "%place"), "on")
    pop = _moved("r0", "next", (waiting[0], "%from"), (states[0], "%lane"), "r1")
    pop += _moved("r1", "r0", (waiting[1], "%from"), (states[1], "%lane"), "popped")
    return f"""

; Write what is left of the fits that are done, put the others into the queue.
define internal void @sort(
  ptr noalias %outputs,
  i64 %fits, i64 %count, i64 %mask, ptr noalias %scratch) noinline {{
entry:
{outputs}  %rows = getelementptr i8, ptr %scratch, i64 {kernel.rows_offset}
  %waiting = getelementptr i8, ptr %scratch, i64 {kernel.queue_offset}
  br label %next
next:
  %lane = phi i64 [0, %entry], [%lane1, %on]
  %fitp = getelementptr i64, ptr %rows, i64 %lane
  %fit = load i64, ptr %fitp
  %shifted = lshr i64 %mask, %lane
  %bit = and i64 %shifted, 1
  %going = icmp eq i64 %bit, 1
  br i1 %going, label %push, label %write
write:
  br label %w0
{write}
push:
  %place = load i64, ptr %waiting
  %place1 = add i64 %place, 1
  store i64 %place1, ptr %waiting
  %slot = getelementptr i64, ptr %waiting, i64 %place1
  store i64 %fit, ptr %slot
  br label %s0
{push}
on:
  %lane1 = add i64 %lane, 1
  %more = icmp ult i64 %lane1, %count
  br i1 %more, label %next, label %done
done:
  ret void
}}

; Go on with the fits at the end of the queue; the last one fills up the vector.
define internal void @resume(
  ptr noalias %inputs, ptr noalias %outputs, i64 %fits,
  ptr noalias %scratch) noinline {{
entry:
  %rows = getelementptr i8, ptr %scratch, i64 {kernel.rows_offset}
  %waiting = getelementptr i8, ptr %scratch, i64 {kernel.queue_offset}
  %all = load i64, ptr %waiting
  %count = call i64 @llvm.umin.i64(i64 %all, i64 {width})
  %rest = sub i64 %all, %count
  store i64 %rest, ptr %waiting
  %most = sub i64 %all, 1
  %full = icmp uge i64 %all, {width}
  %limit = select i1 %full, i64 {width // 2}, i64 0
  br label %next
next:
  %lane = phi i64 [0, %entry], [%lane1, %popped]
  %asked = add i64 %rest, %lane
  %from = call i64 @llvm.umin.i64(i64 %asked, i64 %most)
  %from1 = add i64 %from, 1
  %slot = getelementptr i64, ptr %waiting, i64 %from1
  %fit = load i64, ptr %slot
  %fitp = getelementptr i64, ptr %rows, i64 %lane
  store i64 %fit, ptr %fitp
  br label %r0
{pop}
popped:
  %lane1 = add i64 %lane, 1
  %more = icmp ult i64 %lane1, {width}
  br i1 %more, label %next, label %go
go:
  call void @block(ptr %inputs, ptr %outputs, i64 %fits, i64 %count, i1 false,
    i64 %limit, ptr %scratch)
  ret void
}}

define internal void @unit(ptr %inputs, ptr %outputs, i64 %fits, i64 %first,
  i64 %end, ptr %scratch) {{
entry:
  %rows = getelementptr i8, ptr %scratch, i64 {kernel.rows_offset}
  %waiting = getelementptr i8, ptr %scratch, i64 {kernel.queue_offset}
  store i64 0, ptr %waiting
  %most = sub i64 %end, 1
  br label %begin
begin:
  %lane = phi i64 [%first, %entry], [%later, %on]
  br label %number
number:
  %i = phi i64 [0, %begin], [%i1, %number]
  %asked = add i64 %lane, %i
  %fit = call i64 @llvm.umin.i64(i64 %asked, i64 %most)
  %slot = getelementptr i64, ptr %rows, i64 %i
  store i64 %fit, ptr %slot
  %i1 = add i64 %i, 1
  %some = icmp ult i64 %i1, {width}
  br i1 %some, label %number, label %run
run:
  %left = sub i64 %end, %lane
  %count = call i64 @llvm.umin.i64(i64 %left, i64 {width})
  call void @block(ptr %inputs, ptr %outputs, i64 %fits, i64 %count, i1 true,
    i64 {width // 2}, ptr %scratch)
  %waits = load i64, ptr %waiting
  %enough = icmp uge i64 %waits, {width}
  br i1 %enough, label %catchup, label %on
catchup:
  call void @resume(ptr %inputs, ptr %outputs, i64 %fits, ptr %scratch)
  br label %on
on:
  %later = add i64 %lane, {width}
  %more = icmp ult i64 %later, %end
  br i1 %more, label %begin, label %rest
rest:
  %still = load i64, ptr %waiting
  %any = icmp ugt i64 %still, 0
  br i1 %any, label %finish, label %done
finish:
  call void @resume(ptr %inputs, ptr %outputs, i64 %fits, ptr %scratch)
  br label %rest
done:
  ret void
}}
"""


def _loop(label: str, before: str, count: int, body: str, after: str) -> str:
    """Return a loop over ``%n<label>`` from 0 to ``count``, which is not 0."""
    return f"""{label}:
  %n{label} = phi i64 [0, %{before}], [%m{label}, %{label}]
{body}
  %m{label} = add i64 %n{label}, 1
  %c{label} = icmp ult i64 %m{label}, {count}
  br i1 %c{label}, label %{label}, label %{after}
"""


def _written(k: int, before: str, rows: _Rows, flags: bool, after: str) -> str:
    """Return a loop that copies a result of a lane to where the batch wants it."""
    label, kind = f"w{k}", f"i{8 * rows.size}"
    stored, value, narrow = kind, f"%v{label}", ""
    if flags:  # a byte each in the batch
        stored, value = "i8", f"%b{label}"
        narrow = f"\n  %b{label} = trunc {kind} %v{label} to i8"
    body = f"""{rows.number(label, "%lane")}
  %v{label} = load {kind}, ptr %a{label}{narrow}
  %i{label} = mul i64 %fit, {rows.many}
  %j{label} = add i64 %i{label}, %n{label}
  %d{label} = getelementptr {stored}, ptr %out{k}, i64 %j{label}
  store {stored} {value}, ptr %d{label}"""
    return _loop(label, before, rows.many, body, after)


def _moved(label: str, before: str, source: tuple, target: tuple, after: str) -> str:
    """Return a loop that moves numbers of a state; places are rows and which number."""
    (rows, which), (others, where) = source, target
    kind = f"i{8 * rows.size}"
    body = f"""{rows.number(label, which)}
  %v{label} = load {kind}, ptr %a{label}
{others.named(f"%b{label}", f"%n{label}", where)}
  store {kind} %v{label}, ptr %b{label}"""
    return _loop(label, before, rows.many, body, after)
