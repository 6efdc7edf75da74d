"""Fits that take longer than their neighbours: a queue, so that nobody waits for them.

A vector of fits steps until half of them are done. The others wait in a queue, with
their states, until they fill a vector; the last of a unit of work run to their end.
"""

from typing import Any

# Bytes for a number of a state.
SLOT = 8


def queue(kernel: Any) -> str:
    """Return the IR of ``@unit``, which fits a range of fits, and what it calls."""
    width, states = kernel.width, len(kernel.states)
    size = 4 if kernel.dtype.itemsize == 4 else 8
    numbers = [4 if name.dtype == "int32" else size for name in kernel.states]
    state, row = kernel.state_offset, width * SLOT
    held = state + states * row  # the states of the queue, two vectors of each
    write = [
        _copied(f"f{j}", kernel.result_offset + j * row, "%floats", j, size)
        for j in range(kernel.floats)
    ]
    write += [
        _copied(
            f"c{j}", kernel.result_offset + (kernel.floats + j) * row, "%counts", j, 4
        )
        for j in range(kernel.counts)
    ]
    push = [
        _moved(f"s{j}", state + j * row, "%lane", held + 2 * j * row, "%place", bytes_)
        for j, bytes_ in enumerate(numbers)
    ]
    pop = [
        _moved(f"r{j}", held + 2 * j * row, "%from", state + j * row, "%lane", bytes_)
        for j, bytes_ in enumerate(numbers)
    ]
    newline = "\n"
    return f"""

; Write what is left of the fits that are done, put the others into the queue.
define internal void @sort(
  ptr noalias %outputs,
  i64 %fits, i64 %count, i64 %mask, ptr noalias %scratch) noinline {{
entry:
  %floats = load ptr, ptr %outputs
  %countsp = getelementptr ptr, ptr %outputs, i64 1
  %counts = load ptr, ptr %countsp
  %rows = getelementptr i8, ptr %scratch, i64 {kernel.rows_offset}
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
{newline.join(write)}
  br label %on
push:
  %place = load i64, ptr %waiting
  %place1 = add i64 %place, 1
  store i64 %place1, ptr %waiting
  %slot = getelementptr i64, ptr %waiting, i64 %place1
  store i64 %fit, ptr %slot
{newline.join(push)}
  br label %on
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
  %lane = phi i64 [0, %entry], [%lane1, %next]
  %asked = add i64 %rest, %lane
  %from = call i64 @llvm.umin.i64(i64 %asked, i64 %most)
  %from1 = add i64 %from, 1
  %slot = getelementptr i64, ptr %waiting, i64 %from1
  %fit = load i64, ptr %slot
  %fitp = getelementptr i64, ptr %rows, i64 %lane
  store i64 %fit, ptr %fitp
{newline.join(pop)}
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


def _copied(name: str, at: int, into: str, row: int, size: int) -> str:
    """Return the lines that copy a number of a lane into a row of a result."""
    return f"""  %i{name} = mul i64 %fits, {row}
  %j{name} = add i64 %i{name}, %fit
  %d{name} = getelementptr i{8 * size}, ptr {into}, i64 %j{name}
  %b{name} = getelementptr i8, ptr %scratch, i64 {at}
  %a{name} = getelementptr i{8 * size}, ptr %b{name}, i64 %lane
  %v{name} = load i{8 * size}, ptr %a{name}
  store i{8 * size} %v{name}, ptr %d{name}"""


def _moved(name: str, at: int, lane: str, to: int, place: str, size: int) -> str:
    """Return the lines that move a number of a state from one place to another."""
    return f"""  %b{name} = getelementptr i8, ptr %scratch, i64 {at}
  %a{name} = getelementptr i{8 * size}, ptr %b{name}, i64 {lane}
  %v{name} = load i{8 * size}, ptr %a{name}
  %e{name} = getelementptr i8, ptr %scratch, i64 {to}
  %d{name} = getelementptr i{8 * size}, ptr %e{name}, i64 {place}
  store i{8 * size} %v{name}, ptr %d{name}"""
