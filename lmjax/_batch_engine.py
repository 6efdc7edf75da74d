"""Many independent fits: what `jax.vmap` of a fit runs.

The step is that of `lmjax._loop`, on blocks of fits (`lmjax._block`) that stay in a
core's cache. A block runs until most of its lanes are done; the unfinished of all
blocks are then gathered into fewer blocks, so that a batch does not wait for its
slowest fit.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax import _loop, _varying
from lmjax._block import Ended, Lanes, Packed, end, pack, unpack
from lmjax._bounds import Conditions
from lmjax._linearize import gram_pairs
from lmjax._problem import Problem
from lmjax._rarely import indices_of
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status

# What a block of fits may take of a core's cache: data, columns of J and residual.
CACHE_BYTES = 2**19
# A GPU wants every fit at once; this bounds the memory of one block.
GPU_LANES = 2**17
# Lanes of the last block: about as many as cost no more than one does.
NARROW = 48
# From so many blocks on the narrow one, half of all there is to compile, pays off.
MANY_BLOCKS = 4
# A block is broken up when this share of its lanes is still running.
LEFT_OVER = 0.5


def lanes_per_block(problem: Problem, n: int, dtype, size: int) -> int:
    """Return how many fits run side by side.

    On CPU the size of the batch plays no part: a fit meets the same instructions in
    every batch of two or more, and its answer has the same bits. The number is an odd
    multiple of 16, because rows a power of two apart share the same sets of the cache:
    1,024 lanes ran four times slower than 1,008.
    """
    if jax.default_backend() != "cpu":
        return min(GPU_LANES, -(-size // 128) * 128)
    lanes = CACHE_BYTES // (problem.m * (n + 2) * dtype.itemsize)
    return min(max(lanes, 64), 1024) // 32 * 32 + 16


class Batch(NamedTuple):
    """A batch as given: per-fit leaves have a leading axis, which ``flags`` marks.

    Attributes:
        arrays: Problem, solver and start without what is no array.
        flags: Which of these arrays differ per fit.
        rest: What is no array.
    """

    arrays: tuple[Problem, LevenbergMarquardt, Float[Array, "b n"]]
    flags: Any
    rest: Any

    def block(self, rows) -> tuple[Problem, LevenbergMarquardt, Float[Array, "n f"]]:
        """Return the fits that ``rows`` picks from a leaf, lanes on the last axis."""
        pick = lambda x, flag: jnp.moveaxis(rows(x), 0, -1) if flag else x
        arrays = jax.tree.map(pick, self.arrays, self.flags)
        return eqx.combine(arrays, self.rest)

    def conditions(self, problem: Problem, width: int) -> Conditions:
        """Return the conditions of a block of ``width`` fits, per lane."""
        wide = lambda x, flag: (
            x if flag else jnp.broadcast_to(x[:, None], (*x.shape, width))
        )
        return jax.tree.map(wide, problem.conditions, self.flags[0].conditions)


def run(batch: Batch, size: int) -> tuple[Ended, Float[Array, ""]]:
    """Fit a batch.

    Returns:
        What the fits leave behind, fits last, and the lane-steps executed.
    """
    problem, _, p0 = eqx.combine(batch.arrays, batch.rest)
    n = p0.shape[1]
    width = lanes_per_block(problem, n, p0.dtype, size)
    whole = batch
    if size < width:
        # the last fit repeated: the lanes are there anyway
        index = jnp.minimum(jnp.arange(width), size - 1)
        spread = lambda x, flag: x[index] if flag else x
        whole = batch._replace(arrays=jax.tree.map(spread, batch.arrays, batch.flags))
    packed, steps = _blocks(whole, max(size, width), width, n, p0.dtype)
    packed = jax.tree.map(lambda x: x[:, :size], packed)
    last = lambda x, flag: jnp.moveaxis(x, 0, -1) if flag else x
    bounds = jax.tree.map(last, problem.conditions, batch.flags[0].conditions)
    problem = eqx.tree_at(lambda p: p.conditions, problem, bounds)
    conditions = batch.conditions(problem, size)
    return end(unpack(packed, conditions, n), p0.T, conditions), steps


def _blocks(batch: Batch, size: int, width: int, n: int, dtype):
    """Run blocks of ``width`` lanes over ``size`` fits, at last a narrow one.

    The first round takes the fits as they lie; each later one gathers those that are
    still running. The last few may take many times the steps of the others; in a large
    batch they go on in a block of their own size.
    """
    if size == width:
        problem, solver, p0 = batch.block(lambda x: x)
        going = 0.0 * p0[0, 0] != 1.0  # NaN as well
        conditions = batch.conditions(problem, width)
        fit = Lanes(problem, batch.flags[0], conditions, p0, going)
        block = fit.stage(lambda: pack(_loop.init(fit, p0, solver)))
        packed, turns = _advance(fit, solver, block, 0)
        return packed, turns.astype(dtype) * width
    q = len(gram_pairs(n))
    packed = Packed(
        jnp.zeros((2 * n + q + 4, size), dtype), jnp.zeros((3, size), jnp.int32)
    )
    carry = (packed, jnp.array(True), jnp.zeros((), dtype))
    narrow = min(NARROW, width)
    small = size < MANY_BLOCKS * width
    stages = ((width, 0),) if small else ((width, narrow), (narrow, 0))
    for lanes, most in stages:
        unfinished = lambda carry, most=most: (
            carry[1] | (jnp.sum(carry[0].running, dtype=jnp.int32) > most)
        )
        begins = lanes == width
        one_round = partial(_round, batch, size, lanes, most, begins)
        carry = _varying.while_loop(unfinished, one_round, carry)
    packed, _, steps = carry
    return packed, steps


def _round(batch: Batch, size: int, width: int, most: int, begins: bool, carry):
    """Run blocks over all that are running; leave off when few of a block are left.

    ``begins`` tells whether it may be the first round: if not, nothing is compiled that
    only the first one does.
    """
    packed, first, steps = carry

    def either(at_first, later):
        return _varying.cond(first, at_first, later) if begins else later()

    padded = -(-size // width) * width
    unfinished = indices_of(packed.running, padded)
    lanes = jnp.where(first, jnp.arange(padded, dtype=jnp.int32), unfinished)
    count = jnp.where(first, size, jnp.sum(packed.running, dtype=jnp.int32))
    limit = jnp.where(count <= width, most, int(LEFT_OVER * width))

    def one_block(carry):
        k, packed, steps = carry
        index = jax.lax.dynamic_slice_in_dim(lanes, k, width)
        # the last block overlaps the one before it: the same work, the same answer
        start = jnp.minimum(k, size - width)

        def read(x, axis):
            return either(
                lambda: jax.lax.dynamic_slice_in_dim(x, start, width, axis),
                lambda: jnp.take(x, index, axis=axis, mode="clip"),
            )

        problem, solver, p0 = batch.block(lambda x: read(x, 0))
        conditions = batch.conditions(problem, width)
        fit = Lanes(problem, batch.flags[0], conditions, p0, k >= 0)

        def resume():
            pick = lambda x: jnp.take(x, index, axis=1, mode="clip")
            block = jax.tree.map(pick, packed)
            # lanes without a fit wait for the others
            status = jnp.where(index < size, block.counts[2], Status.STALLED)
            return Packed(block.floats, block.counts.at[2].set(status))

        begin = lambda: pack(_loop.init(fit, p0, solver))
        block = either(begin, resume)
        block, turns = _advance(fit, solver, block, limit)
        write = lambda x, new: either(
            lambda: jax.lax.dynamic_update_slice_in_dim(x, new, start, 1),
            lambda: x.at[:, index].set(new, mode="drop"),
        )
        packed = jax.tree.map(write, packed, block)
        return k + width, packed, steps + turns.astype(steps.dtype) * width

    unstarted = lambda carry: carry[0] < count
    _, packed, steps = _varying.while_loop(
        unstarted, one_block, (jnp.int32(0), packed, steps)
    )
    return packed, jnp.array(False), steps


def _advance(fit: Lanes, solver: LevenbergMarquardt, packed: Packed, limit):
    """Step a block until no more than ``limit`` lanes are running."""

    def body(carry):
        packed, turns = carry
        state = unpack(packed, fit.conditions, fit.n)
        new = _loop.step(state, fit, solver)
        # a fit that is done takes no step: its point and scale stay by themselves
        done = ~packed.running
        rest = ("lam", "growth", "mark", "num_steps", "status")
        keep = lambda name: jnp.where(done, getattr(state, name), getattr(new, name))
        return pack(new._replace(**{name: keep(name) for name in rest})), turns + 1

    going = lambda carry: jnp.sum(carry[0].running, dtype=jnp.int32) > limit
    return _varying.while_loop(going, body, (packed, jnp.int32(0)))
