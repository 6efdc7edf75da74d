"""The machine program of a batch for a GPU: a thread per fit.

It is the same text with vectors of one fit. The arrays of a batch are transposed first,
so that neighbours read neighbours; what a thread works in is local memory, which a GPU
lays out in that way by itself. A thread runs its fit to the end, so there is no queue.

References:
    NVIDIA, CUDA C++ Programming Guide, on coalesced access and local memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax._engines.fused.batch_arrays import BatchArray
from lmjax._engines.fused.kernel import Kernel
from lmjax._engines.fused.module import ALIGN
from lmjax._engines.fused.queue import queue
from lmjax._jax import machine
from lmjax._jax.machine import Unsupported

# Threads of a block.
BLOCK = 128
# Bytes that a thread may work in. A GPU sets them aside for all threads that it may
# hold at once, a quarter of a million on the largest: 6 GB, of the quarter of its
# memory that jax leaves free.
MOST_LOCAL = 24 * 2**10
# What XLA calls a kernel that is given as text.
TARGET = "__gpu$xla.gpu.ptx"
NAME = "lmjax_fits"


class Threads(Kernel):
    """The program for a batch of one size.

    Attributes:
        fits: How many fits there are.
    """

    HELD = 1  # no fit waits

    def __init__(self, plan: Any, leaves: list, fits: int):
        self.fits = fits
        super().__init__(plan, leaves, 1)
        if self.scratch > MOST_LOCAL:
            raise Unsupported(f"each fit works in {self.scratch} bytes of memory")

    def _array(
        self, shape: tuple[int, ...], dtype: np.dtype, per_fit: bool
    ) -> BatchArray:
        """Return how an array is read: where it is given, all fits side by side."""
        return BatchArray(shape, dtype, per_fit, None, self.fits)

    def _laid_out(self) -> list[str]:
        """Return no lines: nothing is laid out."""
        return []

    def text(self, results: list) -> str:
        """Return the functions of the program; ``@fit`` runs one fit."""
        own = []
        for i, leaf in enumerate(self.leaves):
            own += [
                f"  %from{i} = getelementptr ptr, ptr %inputs, i64 {i}",
                f"  %all{i} = load ptr, ptr %from{i}",
                f"  %own{i} = getelementptr {leaf.stored}, ptr %all{i}, "
                f"i64 {'%fit' if leaf.per_fit else 0}",
                f"  %to{i} = getelementptr ptr, ptr %own, i64 {i}",
                f"  store ptr %own{i}, ptr %to{i}",
            ]
        fit = f"""
declare i64 @llvm.umin.i64(i64, i64)

define internal void @fit(ptr %inputs, ptr %outputs, i64 %fit) noinline {{
entry:
  %own = alloca [{max(len(self.leaves), 1)} x ptr]
  %scratch = alloca [{self.scratch} x i8], align {ALIGN}
{chr(10).join(own)}
  %rows = getelementptr i8, ptr %scratch, i64 {self.rows_offset}
  store i64 %fit, ptr %rows
  call void @block(ptr %own, ptr %outputs, i64 {self.fits}, i64 1, i1 true, i64 0,
    ptr %scratch)
  ret void
}}
"""
        return "\n\n".join(self.parts.values()) + queue(self, results) + fit

    def kernel(self) -> str:
        """Return the whole program for a GPU, whose entry is ``@lmjax_fits``."""
        arguments = [f"%a{i}" for i in range(len(self.leaves))]
        results = [f"%r{i}" for i in range(len(self.results))]
        stores = []
        for array, names in (("inputs", arguments), ("outputs", results)):
            for i, name in enumerate(names):
                stores += [
                    f"  %{array}{i} = getelementptr ptr, ptr %{array}, i64 {i}",
                    f"  store ptr {name}, ptr %{array}{i}",
                ]
        pointers = [f"ptr noalias {name}" for name in [*arguments, *results]]
        entry = f"""
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()

define ptx_kernel void @{NAME}({", ".join(pointers)}) {{
entry:
  %inputs = alloca [{max(len(arguments), 1)} x ptr]
  %outputs = alloca [{len(results)} x ptr]
  %block = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %thread = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %long = zext i32 %block to i64
  %first = mul i64 %long, {BLOCK}
  %within = zext i32 %thread to i64
  %fit = add i64 %first, %within
  %is = icmp ult i64 %fit, {self.fits}
  br i1 %is, label %run, label %done
run:
{chr(10).join(stores)}
  call void @fit(ptr %inputs, ptr %outputs, i64 %fit)
  br label %done
done:
  ret void
}}
"""
        # in one function LLVM sees which memory is local
        return self.text(self.results).replace("noinline", "alwaysinline") + entry

    def assembled(self) -> Callable:
        """Return a function of the arrays of a batch that runs the program on a GPU.

        Raises:
            Unsupported: If there is no such program; says why.
        """
        ptx, size, one = machine.for_gpu(self.kernel()), self.fits, np.int32(1)
        results = [*jax.tree.leaves(self.plan.results), jax.ShapeDtypeStruct((), "i4")]
        shapes = [jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for x in results]
        per_fit = [leaf.per_fit for leaf in self.leaves]

        def run(*arrays):
            turned = [
                jnp.moveaxis(x, 0, -1) if flag else x
                for x, flag in zip(arrays, per_fit, strict=True)
            ]
            return jax.ffi.ffi_call(TARGET, shapes)(
                *turned,
                name=NAME,
                kernel_type="ptx",
                kernel_data=ptx,
                grid_x=np.int32(-(-size // BLOCK)),  # XLA takes no other type
                grid_y=one,
                grid_z=one,
                block_x=np.int32(BLOCK),
                block_y=one,
                block_z=one,
                shared_mem_bytes=np.int32(0),
                output_indices=np.arange(len(shapes), dtype="i4") + len(arrays),
            )

        return run
