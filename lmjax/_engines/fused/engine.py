"""Work on all fits of a batch as one call of a machine program, where it can be had.

The call is a primitive of its own: on a CPU and on GPUs of NVIDIA's it lowers to the
program, which is assembled then and not before, on any other platform to the same batch
in jax.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Primitive
from jax.interpreters import mlir
from jaxtyping import Array

from lmjax._engines.fused.handler import handler
from lmjax._engines.fused.kernel import Kernel
from lmjax._engines.fused.plan import Plan
from lmjax._engines.fused.threads import Threads
from lmjax._jax import machine, sharded
from lmjax._jax.custom_vmap import each, with_batch
from lmjax._jax.dead_code import prune
from lmjax._jax.machine import Unsupported
from lmjax._linalg.linearization import UNROLL_UP_TO

# Beyond this many parameters the program grows faster than what it saves.
MOST_PARAMETERS = 24

# Where there are programs.
PLATFORMS = ("cpu", "cuda")
# A GPU is busy with a thread for each of so many fits. With fewer, a fit of more points
# is done sooner where its points are shared out, as XLA does: measured on an H100, see
# benchmarks/results/batch_engines_gpu.json.
MANY_FITS, FEW_POINTS = 30_000, 1_000

program_p = Primitive("lmjax_program")
program_p.multiple_results = True
note_p = Primitive("lmjax_note")  # does nothing: `explain` reads what it says


class Program:
    """A machine program for batches of one kind, made where a platform asks for it.

    Attributes:
        kernel: The program as text, and the sizes of its results.
        inputs: Shapes and dtypes of its arrays, and whether they differ per fit.
        elsewhere: The same batch in jax, for other platforms.
        must: Whether nothing else will do.
    """

    def __init__(self, kernel: Kernel, inputs: list, elsewhere: Callable, must: bool):
        self.kernel, self.inputs = kernel, inputs
        self.elsewhere, self.must = elsewhere, must

    def on(self, platform: str, size: int, wanted: Any = None) -> Callable:
        """Return the program of a batch of that size as a function of its arrays.

        Args:
            platform: Where it runs.
            size: Number of fits.
            wanted: Numbers of the results that somebody uses, None for all.

        Raises:
            Unsupported: If the platform has none; says why.
        """
        kernel = self.kernel
        if platform == "cuda" and kernel.plan.name == "blocks":
            raise Unsupported("a GPU shares out the operations of many blocks")
        wanted = range(len(kernel.results)) if wanted is None else wanted
        if platform == "cuda":
            if not self.must and kernel.points > FEW_POINTS and size < MANY_FITS:
                raise Unsupported(
                    f"for less than {MANY_FITS} fits of more than {FEW_POINTS} points "
                    "a thread per fit leaves most of a GPU idle"
                )
            return some_of(Threads(kernel.plan, self.inputs, size).assembled(), wanted)
        # inverting a matrix once is little beside a fit, and half of all there is to
        # assemble where there are many parameters
        hurry = kernel.plan.name == "inverse" and kernel.n > UNROLL_UP_TO
        results = [kernel.results[k] for k in wanted]
        text = kernel.text(results) + handler(kernel, len(results))
        return jax.ffi.ffi_call(
            machine.assemble(text, hurry), self.shapes(size, wanted)
        )

    def shapes(self, size: int, wanted: Iterable[int]) -> list[jax.ShapeDtypeStruct]:
        """Return the types of results: those of the plan, and the steps."""
        kernel = self.kernel
        steps = jax.ShapeDtypeStruct((), np.dtype("int32"))
        every = [*jax.tree.leaves(kernel.plan.results), steps]
        shapes = [jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for x in every]
        return [shapes[k] for k in wanted]


def some_of(call: Callable, wanted: Iterable[int]) -> Callable:
    """Return a function with some of the results of another."""

    def some(*arrays):
        results = call(*arrays)
        return [results[k] for k in wanted]

    return some


def _types(*arrays, program: Program, size: int, wanted: tuple[int, ...]):
    # inside `shard_map` the results vary over the same axes as the data
    return [
        arrays[0].update(shape=x.shape, dtype=x.dtype, weak_type=False)
        for x in program.shapes(size, wanted)
    ]


@partial(jax.jit, static_argnames=("program", "size", "wanted"))
def _jitted(*arrays, **params):
    return program_p.bind(*arrays, **params)


def _compiled(*arrays, **params):
    with jax.disable_jit(False):  # there is no other way to run it
        return _jitted(*arrays, **params)


def _fewer(used: list[bool], eqn: JaxprEqn) -> JaxprEqn:
    """Return a call that writes the results in use only.

    Writing results into memory takes a quarter of the time of a small fit.
    """
    wanted = tuple(compress(eqn.params["wanted"], used))
    outvars = list(compress(eqn.outvars, used))
    return eqn.replace(outvars=outvars, params=eqn.params | {"wanted": wanted})


def _lowering(platform: str) -> Callable:
    def lower(ctx, *arrays, program: Program, size: int, wanted: tuple[int, ...]):
        call = some_of(program.elsewhere, wanted)
        try:
            call = program.on(platform, size, wanted)
        except Unsupported as error:
            if program.must:
                raise refused(str(error)) from error
        return mlir.lower_fun(call, multiple_results=True)(ctx, *arrays)

    return lower


def _elsewhere(ctx, *arrays, program: Program, size: int, wanted: tuple[int, ...]):
    call = some_of(program.elsewhere, wanted)
    return mlir.lower_fun(call, multiple_results=True)(ctx, *arrays)


def refused(reason: str) -> ValueError:
    """Return the error of a batch that is to run in this engine and cannot."""
    return ValueError(f"solver: engine='fused' cannot run this fit: {reason}")


program_p.def_abstract_eval(_types)
program_p.def_impl(_compiled)
prune(program_p, _fewer)
mlir.register_lowering(program_p, _elsewhere)
for _platform in PLATFORMS:
    mlir.register_lowering(program_p, _lowering(_platform), platform=_platform)

note_p.def_abstract_eval(lambda x, text: x)
note_p.def_impl(lambda x, text: x)
mlir.register_lowering(note_p, lambda ctx, x, text: [x])


def noted(x: Array, text: str) -> Array:
    """Return an array, with the reason why this engine did not make it."""
    return note_p.bind(x, text=text)


def run(
    plan: Callable[[Any], Plan],
    arrays: Any,
    flags: Any,
    size: int,
    elsewhere: Callable,
    must: bool = False,
) -> tuple[Any, Array]:
    """Return what a plan makes of a batch, and the steps computed for each fit.

    Args:
        plan: From the shapes of the arrays of one fit to what is to be done.
        arrays: Pytree of arrays; those that differ per fit have a leading axis.
        flags: Which of them do, in the same structure.
        size: Number of fits.
        elsewhere: From the arrays to the same results in jax, for other platforms.
        must: Whether nothing else will do on a CPU or on a GPU of NVIDIA's.

    Returns:
        The results of the plan with the fits on the first axis, and an array.

    Raises:
        Unsupported: If there is no program for such a batch; says why.
    """
    if reason := machine.available():
        raise Unsupported(reason)
    leaves, structure = jax.tree.flatten(arrays)
    marks = jax.tree.leaves(flags)
    shapes = [_of_one(x, flag) for x, flag in zip(leaves, marks, strict=True)]
    planned = plan(jax.tree.unflatten(structure, shapes))
    width = machine.vector_bytes() // planned.start.dtype.itemsize
    inputs = [(x.shape, x.dtype, flag) for x, flag in zip(shapes, marks, strict=True)]
    kernel = Kernel(planned, inputs, width)

    def in_jax(*leaves):
        return jax.tree.leaves(elsewhere(jax.tree.unflatten(structure, leaves)))

    leaves = sharded.vary(leaves, sharded.axes_of(leaves))
    program = Program(kernel, inputs, in_jax, must)
    every = tuple(range(len(kernel.results)))
    *found, steps = program_p.bind(*leaves, program=program, size=size, wanted=every)
    return jax.tree.unflatten(jax.tree.structure(planned.results), found), steps


def with_program(plan: Callable, alone: Callable, arrays: Any) -> Any:
    """Return ``alone(arrays)``; of a batch, what a machine program makes of it.

    Args:
        plan: From the shapes of the arrays of one fit to what is to be done.
        alone: The same for one fit in jax, for a batch without a program as well.
        arrays: Pytree of the arrays of one fit.
    """

    def batch(size, flags, arrays):
        in_jax = lambda arrays: each(alone, size, flags, arrays)
        elsewhere = lambda arrays: (in_jax(arrays), jnp.zeros(size, jnp.int32))
        try:
            return run(plan, arrays, flags, size, elsewhere)[0]
        except Unsupported:
            return in_jax(arrays)

    return with_batch(alone, batch, arrays)


def _of_one(x: Any, per_fit: bool) -> jax.ShapeDtypeStruct:
    """Return the type of an array of one fit; a Python number keeps its weak one."""
    kind = jax.typeof(x)
    if not isinstance(x.dtype, np.dtype):
        raise Unsupported(f"it works with {x.dtype}")
    shape = x.shape[1:] if per_fit else x.shape
    return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=kind.weak_type)
