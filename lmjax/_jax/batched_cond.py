"""A branch that few fits of a batch need, and small functions with a batched twin.

``lax.cond`` under ``vmap`` evaluates both branches for every fit. Here only the fits
that need the rare branch go through it, gathered in small blocks.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int

from lmjax._jax import sharded
from lmjax._jax.types import Flag

BLOCK = 64  # fits per turn of the rare branch: few, since few should need it


def batched_cond(needed: Flag, rare: Callable, usual: Any, operands: Any) -> Any:
    """Return ``rare(operands)`` if ``needed``, else ``usual``.

    ``rare`` must not close over traced values: they belong into ``operands``.
    """
    arrays, rest = eqx.partition(operands, eqx.is_array)
    branch = lambda arrays: rare(eqx.combine(arrays, rest))

    @custom_vmap
    def choose(needed, usual, arrays):
        return sharded.cond(needed, branch, lambda _: usual, arrays)

    @choose.def_vmap
    def _(size, batched, needed, usual, arrays):
        axes = jax.tree.map(lambda flag: 0 if flag else None, batched[2])
        spread = lambda x, flag: x if flag else jnp.broadcast_to(x, (size, *x.shape))
        result = jax.tree.map(spread, usual, batched[1])
        needed = spread(needed, batched[0])
        lanes = indices_of(needed, -(-size // BLOCK) * BLOCK)
        count = jnp.sum(needed, dtype=jnp.int32)

        def turn(carry):
            start, result = carry
            block = jax.lax.dynamic_slice_in_dim(lanes, start, BLOCK)
            taken = jax.tree.map(
                lambda x, flag: jnp.take(x, block, axis=0, mode="clip") if flag else x,
                arrays,
                batched[2],
            )
            # apart from what surrounds it, for the same bits in every batch
            taken = jax.lax.optimization_barrier(taken)
            new = jax.vmap(branch, in_axes=(axes,), axis_size=BLOCK)(taken)
            new = jax.lax.optimization_barrier(new)
            write = lambda old, row: old.at[block].set(row, mode="drop")
            return start + BLOCK, jax.tree.map(write, result, new)

        zero = jnp.zeros((), jnp.int32)
        _, result = sharded.while_loop(lambda c: c[0] < count, turn, (zero, result))
        return result, jax.tree.map(lambda _: True, result)

    return choose(needed, usual, arrays)


def in_blocks(fn: Callable) -> Callable:
    """Return ``fn``, which under ``vmap`` works on blocks of one width.

    XLA compiles a batch of each size on its own, and the last bit of a result follows
    the size. In blocks of one width every fit meets the same instructions. Without a
    derivative: for use inside a rule that has its own.
    """
    blocked = custom_vmap(sharded.as_arguments(fn))

    @blocked.def_vmap
    def _(size, batched, *args):
        width = 4 * BLOCK
        count = -(-size // width)
        index = jnp.minimum(jnp.arange(count * width), size - 1)
        cut = lambda x, flag: (
            x[index].reshape(count, width, *x.shape[1:]) if flag else x
        )
        cuts = [cut(x, flag) for x, flag in zip(args, batched, strict=True)]
        axes = [0 if flag else None for flag in batched]

        def block(k):
            pick = lambda x: jax.lax.dynamic_index_in_dim(x, k, 0, False)
            given = [
                pick(x) if flag else x for x, flag in zip(cuts, batched, strict=True)
            ]
            return jax.vmap(fn, in_axes=axes, axis_size=width)(*given)

        out = jax.lax.map(block, jnp.arange(count))
        out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], out)
        return out, jax.tree.map(lambda _: True, out)

    return blocked


def indices_of(flags: Bool[Array, " f"], size: int) -> Int[Array, " s"]:
    """Return the indices of the true ones, filled up to ``size`` with one too large.

    As `jnp.nonzero` with ``size`` and ``fill_value``, by half as much to compile and
    in two thirds of the time.
    """
    place = jnp.where(flags, jnp.cumsum(flags, dtype=jnp.int32) - 1, size)
    index = jnp.arange(flags.size, dtype=jnp.int32)
    return jnp.full(size, flags.size, jnp.int32).at[place].set(index, mode="drop")


def with_batched_implementation(single: Callable, twin: Callable) -> Callable:
    """Return ``single``, replaced by ``vmap(twin)`` as soon as it is batched.

    For LAPACK: right for one fit, but its batched calls loop on a GPU, and inside a
    loop on CPU they hung 4 of 16 runs of ``lmjax demo`` with jaxlib 0.10.2 on two
    cores. A twin in plain ``jnp`` does neither.
    """
    fn = custom_vmap(sharded.as_arguments(single))

    @fn.def_vmap
    def _(size, batched, *args):
        axes = [0 if flag else None for flag in batched]
        out = jax.vmap(twin, in_axes=axes, axis_size=size)(*args)
        return out, jax.tree.map(lambda _: True, out)

    return fn
