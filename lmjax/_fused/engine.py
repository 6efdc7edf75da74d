"""A batch of fits as one call of a machine program, where that can be had.

The call is a primitive of its own: on CPU it lowers to the program, on any other
platform to the XLA engine, which is then traced, and not before.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array

from lmjax import _varying
from lmjax._block import Ended, Ran
from lmjax._fused import lane, machine
from lmjax._fused.handler import handler
from lmjax._fused.kernel import Kernel
from lmjax._fused.places import Unsupported

# Beyond this many parameters the program grows faster than what it saves.
MOST_PARAMETERS = 24

fits_p = Primitive("lmjax_fits")
fits_p.multiple_results = True
note_p = Primitive("lmjax_note")  # does nothing: `explain` reads what it says


class Program:
    """A machine program for batches of one kind of fit.

    Attributes:
        kernel: The program as text, and the sizes of its results.
        elsewhere: The same batch in jax, for other platforms.
        target: Name under which XLA finds it.
    """

    def __init__(self, kernel: Kernel, elsewhere: Callable):
        self.kernel, self.elsewhere = kernel, elsewhere
        self.target = machine.assemble(kernel.text() + handler(kernel))

    def shapes(self, size: int) -> list[jax.ShapeDtypeStruct]:
        """Return the types of the two results."""
        floats, counts = (self.kernel.floats, size), (self.kernel.counts, size)
        return [
            jax.ShapeDtypeStruct(floats, self.kernel.dtype),
            jax.ShapeDtypeStruct(counts, np.dtype("int32")),
        ]


def _types(*arrays, program: Program, size: int):
    # inside `shard_map` the results vary over the same axes as the data
    return [
        arrays[0].update(shape=x.shape, dtype=x.dtype, weak_type=False)
        for x in program.shapes(size)
    ]


@partial(jax.jit, static_argnames=("program", "size"))
def _jitted(*arrays, program: Program, size: int):
    return fits_p.bind(*arrays, program=program, size=size)


def _compiled(*arrays, program: Program, size: int):
    with jax.disable_jit(False):  # there is no other way to run it
        return _jitted(*arrays, program=program, size=size)


def _on_cpu(ctx, *arrays, program: Program, size: int):
    call = jax.ffi.ffi_call(program.target, program.shapes(size))
    return mlir.lower_fun(call, multiple_results=True)(ctx, *arrays)


def _elsewhere(ctx, *arrays, program: Program, size: int):
    return mlir.lower_fun(program.elsewhere, multiple_results=True)(ctx, *arrays)


fits_p.def_abstract_eval(_types)
fits_p.def_impl(_compiled)
mlir.register_lowering(fits_p, _elsewhere)
mlir.register_lowering(fits_p, _on_cpu, platform="cpu")

note_p.def_abstract_eval(lambda x, text: x)
note_p.def_impl(lambda x, text: x)
mlir.register_lowering(note_p, lambda ctx, x, text: [x])


def noted(result: tuple[Ended, Ran], text: str) -> tuple[Ended, Ran]:
    """Return what another engine made, with the reason why this one did not."""
    ended, ran = result
    return ended, ran._replace(kind=note_p.bind(ran.kind, text=text))


def run(batch: Any, size: int, elsewhere: Callable) -> tuple[Ended, Ran]:
    """Fit a batch; return what the fits leave behind, fits last, and what ran.

    Args:
        batch: A `lmjax._batch_engine.Batch`.
        size: Number of fits.
        elsewhere: The same in jax, for other platforms.

    Raises:
        Unsupported: If there is no program for such a batch; says why.
    """
    arrays, flags, rest = batch
    n, dtype = arrays[2].shape[1], arrays[2].dtype
    if reason := machine.available():
        raise Unsupported(reason)
    leaves, structure = jax.tree.flatten(arrays)
    marks = jax.tree.leaves(flags)
    shapes = [_of_one(x, flag) for x, flag in zip(leaves, marks, strict=True)]
    traced = lane.trace(jax.tree.unflatten(structure, shapes), rest)
    width = machine.vector_bytes() // dtype.itemsize
    inputs = [(x.shape, x.dtype, flag) for x, flag in zip(shapes, marks, strict=True)]
    kernel = Kernel(traced, inputs, eqx.combine(arrays, rest)[0].m, width)

    def in_jax(*leaves):
        arrays = jax.tree.unflatten(structure, leaves)
        return _stacked(*elsewhere(batch._replace(arrays=arrays)))

    leaves = _varying.vary(leaves, _varying.axes_of(leaves))
    program = Program(kernel, in_jax)
    floats, counts = fits_p.bind(*leaves, program=program, size=size)
    return _unstacked(floats, counts, n)


def _of_one(x: Any, per_fit: bool) -> jax.ShapeDtypeStruct:
    """Return the type of an array of one fit; a Python number keeps its weak one."""
    kind = jax.typeof(x)
    if not isinstance(x.dtype, np.dtype):
        raise Unsupported(f"it works with {x.dtype}")
    shape = x.shape[1:] if per_fit else x.shape
    return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=kind.weak_type)


def _stacked(ended: Ended, ran: Ran) -> list[Array]:
    """Return the two arrays in which a program leaves its results."""
    size = ended.cost.shape[0]
    flat = [jnp.reshape(x, (-1, size)) for x in (*ended, ran.steps.astype(jnp.int32))]
    floats = [x for x in flat if jnp.issubdtype(x.dtype, jnp.floating)]
    counts = [x for x in flat if not jnp.issubdtype(x.dtype, jnp.floating)]
    counts = [x.astype(jnp.int32) for x in (*counts, ran.kind[None])]
    return [jnp.concatenate(floats), jnp.concatenate(counts)]


def _unstacked(floats: Array, counts: Array, n: int) -> tuple[Ended, Ran]:
    """Return what `_stacked` put together."""
    shapes = {"p": (n,), "normal_matrix": (n, n), "norms": (n,), "scale": (n,)}
    flags = {"free": (n,), "lost": (n,)}
    whole = ("status", "num_steps", "num_accepted")
    fields, at = {}, {"f": 0, "i": 0}
    for name in Ended._fields:
        shape = shapes.get(name, flags.get(name, ()))
        group = "i" if name in flags or name in whole else "f"
        source, count = (counts if group == "i" else floats), prod(shape)
        rows = source[at[group] : at[group] + count]
        at[group] += count
        value = rows.reshape(*shape, rows.shape[-1])
        fields[name] = value.astype(bool) if name in flags else value
    steps, kind = counts[-2:]
    return Ended(**fields), Ran(kind, steps.astype(floats.dtype))
