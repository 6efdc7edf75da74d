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

from lmjax._types import Flag

BLOCK = 64  # fits per turn of the rare branch: few, since few should need it


def rarely(needed: Flag, rare: Callable, usual: Any, operands: Any) -> Any:
    """Return ``rare(operands)`` if ``needed``, else ``usual``.

    ``rare`` must not close over traced values: they belong into ``operands``.
    """
    arrays, rest = eqx.partition(operands, eqx.is_array)
    branch = lambda arrays: rare(eqx.combine(arrays, rest))

    @custom_vmap
    def choose(needed, usual, arrays):
        return jax.lax.cond(needed, branch, lambda _: usual, arrays)

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
            new = jax.vmap(branch, in_axes=(axes,), axis_size=BLOCK)(taken)
            write = lambda old, row: old.at[block].set(row, mode="drop")
            return start + BLOCK, jax.tree.map(write, result, new)

        zero = jnp.zeros((), jnp.int32)
        _, result = jax.lax.while_loop(lambda c: c[0] < count, turn, (zero, result))
        return result, jax.tree.map(lambda _: True, result)

    return choose(needed, usual, arrays)


def indices_of(flags: Bool[Array, " f"], size: int) -> Int[Array, " s"]:
    """Return the indices of the true ones, filled up to ``size`` with one too large.

    As `jnp.nonzero` with ``size`` and ``fill_value``, by half as much to compile and
    in two thirds of the time.
    """
    place = jnp.where(flags, jnp.cumsum(flags, dtype=jnp.int32) - 1, size)
    index = jnp.arange(flags.size, dtype=jnp.int32)
    return jnp.full(size, flags.size, jnp.int32).at[place].set(index, mode="drop")


def with_batched_twin(single: Callable, twin: Callable) -> Callable:
    """Return ``single``, replaced by ``vmap(twin)`` as soon as it is batched.

    For LAPACK: right for one fit, but its batched calls loop on a GPU, and inside a
    loop on CPU they hung 4 of 16 runs of ``lmjax demo`` with jaxlib 0.10.2 on two
    cores. A twin in plain ``jnp`` does neither.
    """
    fn = custom_vmap(single)

    @fn.def_vmap
    def _(size, batched, *args):
        axes = [0 if flag else None for flag in batched]
        out = jax.vmap(twin, in_axes=axes, axis_size=size)(*args)
        return out, jax.tree.map(lambda _: True, out)

    return fn
