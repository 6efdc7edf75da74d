"""How XLA calls a program: its typed foreign function interface, written in LLVM IR.

The threads of XLA take blocks of fits from a common counter. The one that was called
works, too, and waits for the others. One that comes late finds nothing to do, so what
they share lives until the last of them is gone.

Offsets are those of ``xla/ffi/api/c_api.h``, version 0.3, whose structures only grow.
"""

from lmjax._engines.fused.kernel import Kernel
from lmjax._engines.fused.module import ALIGN
from lmjax._jax.machine import ANSWER

# Vectors of fits in a unit of work: some for each thread, and many, because the last
# fits of a unit run in vectors that are not full.
FEWEST, MOST, UNITS = 4, 64, 16
MOST_THREADS = 64

# What the threads share, in words of 8 bytes.
_SHARED = ("users", "next", "done", "fits", "blocks", "unit")
_AT = {name: 8 * i for i, name in enumerate(_SHARED)}


def handler(kernel: Kernel, results: int) -> str:
    """Return the IR of the function that XLA calls, ``@handler``.

    Args:
        kernel: The program.
        results: How many results it writes.
    """
    arguments = len(kernel.leaves)
    head = 8 * len(_SHARED)
    size = head + 8 * (arguments + results)
    lines = []
    for i in range(arguments):
        lines += _data(f"a{i}", "%args", i, head + 8 * i)
    for i in range(results):
        lines += _data(f"r{i}", "%rets", i, head + 8 * (arguments + i))
    field = lambda name, owner="%shared": (
        f"getelementptr i8, ptr {owner}, i64 {_AT[name]}"
    )
    width = kernel.width
    return f"""
declare ptr @malloc(i64)
declare void @free(ptr)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)

define internal void @work(ptr %shared) {{
entry:
  %next = {field("next")}
  %done = {field("done")}
  %users = {field("users")}
  %fitsp = {field("fits")}
  %blocksp = {field("blocks")}
  %fits = load i64, ptr %fitsp
  %blocks = load i64, ptr %blocksp
  %unitp = {field("unit")}
  %unit = load i64, ptr %unitp
  %inputs = getelementptr i8, ptr %shared, i64 {head}
  %outputs = getelementptr i8, ptr %shared, i64 {head + 8 * arguments}
  %raw = call ptr @malloc(i64 {kernel.scratch + ALIGN})
  %asint = ptrtoint ptr %raw to i64
  %up = add i64 %asint, {ALIGN - 1}
  %down = and i64 %up, {-ALIGN}
  %scratch = inttoptr i64 %down to ptr
  br label %take
take:
  %block = atomicrmw add ptr %next, i64 1 seq_cst
  %is = icmp ult i64 %block, %blocks
  br i1 %is, label %fit, label %leave
fit:
  %first = mul i64 %block, %unit
  %past = add i64 %first, %unit
  %end = call i64 @llvm.umin.i64(i64 %past, i64 %fits)
  call void @unit(ptr %inputs, ptr %outputs, i64 %fits, i64 %first, i64 %end,
    ptr %scratch)
  %d = atomicrmw add ptr %done, i64 1 seq_cst
  br label %take
leave:
  call void @free(ptr %raw)
  %u = atomicrmw sub ptr %users, i64 1 seq_cst
  %alone = icmp eq i64 %u, 1
  br i1 %alone, label %last, label %gone
last:
  call void @free(ptr %shared)
  br label %gone
gone:
  ret void
}}

define ptr @handler(ptr %frame) {{
entry:
{ANSWER}
  %apip = getelementptr i8, ptr %frame, i64 16
  %api = load ptr, ptr %apip
  %ctxp = getelementptr i8, ptr %frame, i64 24
  %ctx = load ptr, ptr %ctxp
  %argsp = getelementptr i8, ptr %frame, i64 72
  %args = load ptr, ptr %argsp
  %retsp = getelementptr i8, ptr %frame, i64 112
  %rets = load ptr, ptr %retsp
  %shared = call ptr @malloc(i64 {size})
{chr(10).join(lines)}
  %dimsp = getelementptr i8, ptr %br0, i64 40
  %dims = load ptr, ptr %dimsp
  %fits = load i64, ptr %dims
  %share = udiv i64 %fits, {UNITS * width}
  %most = call i64 @llvm.umin.i64(i64 %share, i64 {MOST})
  %many = call i64 @llvm.umax.i64(i64 %most, i64 {FEWEST})
  %unit = mul i64 %many, {width}
  %last_of = sub i64 %unit, 1
  %rounded = add i64 %fits, %last_of
  %blocks = udiv i64 %rounded, %unit
  %s_unit = {field("unit")}
  store i64 %unit, ptr %s_unit
  %s_next = {field("next")}
  store i64 0, ptr %s_next
  %s_done = {field("done")}
  store i64 0, ptr %s_done
  %s_fits = {field("fits")}
  store i64 %fits, ptr %s_fits
  %s_blocks = {field("blocks")}
  store i64 %blocks, ptr %s_blocks
  %threads = call i64 @helpers(ptr %api, ptr %ctx, i64 %blocks)
  %everyone = add i64 %threads, 2
  %s_users = {field("users")}
  store i64 %everyone, ptr %s_users
  call void @schedule(ptr %api, ptr %ctx, ptr %shared, i64 %threads)
  call void @work(ptr %shared)
  br label %wait
wait:
  %d = load atomic i64, ptr %s_done seq_cst, align 8
  %all = icmp uge i64 %d, %blocks
  br i1 %all, label %done, label %wait
done:
  %u = atomicrmw sub ptr %s_users, i64 1 seq_cst
  %alone = icmp eq i64 %u, 1
  br i1 %alone, label %last, label %gone
last:
  call void @free(ptr %shared)
  br label %gone
gone:
  ret ptr null
}}

; How many threads beside this one have something to do.
define internal i64 @helpers(ptr %api, ptr %ctx, i64 %blocks) {{
entry:
  %small = icmp ult i64 %blocks, 2
  br i1 %small, label %no, label %ask
no:
  ret i64 0
ask:
  %asked = alloca [4 x i64], align 8
  %number = alloca i64, align 8
  store i64 1, ptr %number
  store i64 32, ptr %asked
  %e = getelementptr i64, ptr %asked, i64 1
  store i64 0, ptr %e
  %c = getelementptr i64, ptr %asked, i64 2
  store ptr %ctx, ptr %c
  %n = getelementptr i64, ptr %asked, i64 3
  store ptr %number, ptr %n
  %fnp = getelementptr i8, ptr %api, i64 {_api("NumThreads")}
  %fn = load ptr, ptr %fnp
  %error = call ptr %fn(ptr %asked)
  %fine = icmp eq ptr %error, null
  br i1 %fine, label %count, label %failed
failed:
  call void @forget(ptr %api, ptr %error)
  ret i64 0
count:
  %all = load i64, ptr %number
  %most = call i64 @llvm.umin.i64(i64 %all, i64 {MOST_THREADS})
  %useful = call i64 @llvm.umin.i64(i64 %most, i64 %blocks)
  %others = call i64 @llvm.umax.i64(i64 %useful, i64 1)
  %helpers = sub i64 %others, 1
  ret i64 %helpers
}}

; Ask for helpers. One that cannot be had has left already.
define internal void @schedule(ptr %api, ptr %ctx, ptr %shared, i64 %count) {{
entry:
  %asked = alloca [5 x i64], align 8
  store i64 40, ptr %asked
  %e = getelementptr i64, ptr %asked, i64 1
  store i64 0, ptr %e
  %c = getelementptr i64, ptr %asked, i64 2
  store ptr %ctx, ptr %c
  %t = getelementptr i64, ptr %asked, i64 3
  store ptr @work, ptr %t
  %d = getelementptr i64, ptr %asked, i64 4
  store ptr %shared, ptr %d
  %fnp = getelementptr i8, ptr %api, i64 {_api("Schedule")}
  %fn = load ptr, ptr %fnp
  %users = {field("users")}
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %next]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %error = call ptr %fn(ptr %asked)
  %fine = icmp eq ptr %error, null
  br i1 %fine, label %next, label %failed
failed:
  call void @forget(ptr %api, ptr %error)
  %u = atomicrmw sub ptr %users, i64 1 seq_cst
  br label %next
next:
  %i1 = add i64 %i, 1
  br label %loop
done:
  ret void
}}

define internal void @forget(ptr %api, ptr %error) {{
entry:
  %asked = alloca [3 x i64], align 8
  store i64 24, ptr %asked
  %e = getelementptr i64, ptr %asked, i64 1
  store i64 0, ptr %e
  %p = getelementptr i64, ptr %asked, i64 2
  store ptr %error, ptr %p
  %fnp = getelementptr i8, ptr %api, i64 {_api("Error_Destroy")}
  %fn = load ptr, ptr %fnp
  call void %fn(ptr %asked)
  ret void
}}
"""


def _api(name: str) -> int:
    """Return where the table of XLA's functions holds one of them."""
    # struct_size, extension_start, api_version (24 bytes), internal_api
    order = (
        ("Error_Create", "Error_GetMessage", "Error_Destroy", "Handler_Register")
        + ("Stream_Get", "Type_Register", "ExecutionContext_Get", "State_Set")
        + ("State_Get", "DeviceMemory_Allocate", "DeviceMemory_Free", "Schedule")
        + ("NumThreads",)
    )
    return 8 + 8 + 24 + 8 + 8 * order.index(name)


def _data(name: str, owner: str, i: int, at: int) -> list[str]:
    """Return the lines that put where a buffer's data are into what is shared."""
    return [
        f"  %p{name} = getelementptr ptr, ptr {owner}, i64 {i}",
        f"  %b{name} = load ptr, ptr %p{name}",
        f"  %d{name} = getelementptr i8, ptr %b{name}, i64 24",
        f"  %v{name} = load ptr, ptr %d{name}",
        f"  %s{name} = getelementptr i8, ptr %shared, i64 {at}",
        f"  store ptr %v{name}, ptr %s{name}",
    ]
