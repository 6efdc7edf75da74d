"""Many independent fits in XLA: what `jax.vmap` of a fit runs that is not fused.

Blocks of fits take the steps of `lmjax._solver.loop` together. A block runs until half
of its fits have ended. The unfinished of all blocks are then gathered into fewer
blocks, so that a batch does not wait for its slowest fit. A fit that begins and one
that is under way need the same: the linear model at one point. So a turn of the loop
contains it once, which halves the time to compile.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmjax._engines.block import Ended, FitBlock, Packed, curvatures, end, pack, unpack
from lmjax._jax import sharded
from lmjax._jax.batched_cond import indices_of
from lmjax._linalg.linearization import gram_pairs
from lmjax._problem.bounds import Constraints
from lmjax._problem.problem import Problem
from lmjax._solver import loop
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.status import Status

# What a block may take of a core's cache, and of the memory of any other device: data,
# columns of J and residual.
CACHE_BYTES, DEVICE_BYTES = 2**19, 2**30
# Most fits of a block on a device that computes thousands at once.
DEVICE_LANES = 2**17
# A block is broken up when this share of its lanes is still running.
LEFT_OVER = 0.5


def lanes_on_cpu(bytes_per_fit: int) -> int:
    """Return how many fits run side by side in a core's cache.

    The size of the batch plays no part: a fit meets the same instructions in every
    batch of two or more, and its answer has the same bits. The number is an odd
    multiple of 16, because rows a power of two apart share the same sets of the cache:
    1,024 lanes ran four times slower than 1,008.
    """
    lanes = CACHE_BYTES // bytes_per_fit
    return min(max(lanes, 64), 1024) // 32 * 32 + 16


def lanes_elsewhere(bytes_per_fit: int, size: int) -> int:
    """Return how many of ``size`` fits run side by side on a GPU or the like."""
    lanes = min(size, DEVICE_LANES, DEVICE_BYTES // bytes_per_fit)
    return max(-(-lanes // 128), 1) * 128


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

    def block(
        self, index: Int[Array, " f"]
    ) -> tuple[Problem, LevenbergMarquardt, Float[Array, "n f"]]:
        """Return the fits of these indices on the last axis."""
        row = lambda x: jnp.moveaxis(jnp.take(x, index, axis=0, mode="clip"), 0, -1)
        pick = lambda x, flag: row(x) if flag else x
        arrays = jax.tree.map(pick, self.arrays, self.flags)
        return eqx.combine(arrays, self.rest)

    def constraints(self, problem: Problem, width: int) -> Constraints:
        """Return the conditions of a block of ``width`` fits, per lane."""
        wide = lambda x, flag: (
            x if flag else jnp.broadcast_to(x[:, None], (*x.shape, width))
        )
        return jax.tree.map(wide, problem.constraints, self.flags[0].constraints)


def run(batch: Batch, size: int) -> tuple[Ended, Float[Array, ""]]:
    """Fit a batch.

    Returns:
        What the fits leave behind, fits last, and the lane-steps executed.
    """
    problem, _, p0 = eqx.combine(batch.arrays, batch.rest)
    n = p0.shape[1]
    bytes_per_fit = problem.m * (n + 2) * p0.dtype.itemsize

    def by(width):
        return lambda arrays: _blocks(batch._replace(arrays=arrays), size, width)

    packed, steps = sharded.platform_dependent(
        batch.arrays,
        cpu=by(lanes_on_cpu(bytes_per_fit)),
        default=by(lanes_elsewhere(bytes_per_fit, size)),
    )
    last = lambda x, flag: jnp.moveaxis(x, 0, -1) if flag else x
    bounds = jax.tree.map(last, problem.constraints, batch.flags[0].constraints)
    problem = eqx.tree_at(lambda p: p.constraints, problem, bounds)
    constraints = batch.constraints(problem, size)
    return end(unpack(packed, constraints, n), p0.T, constraints), steps


def _blocks(batch: Batch, size: int, width: int) -> tuple[Packed, Float[Array, ""]]:
    """Run ``size`` fits in blocks of ``width`` lanes until all have ended."""
    p0 = batch.arrays[2]
    n, dtype = p0.shape[1], p0.dtype
    floats = jnp.zeros((2 * n + len(gram_pairs(n)) + 4, size), dtype)
    # the number of steps says that none has begun
    counts = jnp.full((3, size), -1, jnp.int32).at[2].set(Status.RUNNING)

    def one_round(carry):
        packed, steps = carry
        count = jnp.sum(packed.running, dtype=jnp.int32)
        lanes = indices_of(packed.running, -(-size // width) * width)
        least = jnp.where(count <= width, 0, int(LEFT_OVER * width))

        def one_block(carry):
            k, packed, steps = carry
            index = jax.lax.dynamic_slice_in_dim(lanes, k, width)
            pick = lambda x: jnp.take(x, index, axis=1, mode="clip")
            block = jax.tree.map(pick, packed)
            # lanes without a fit wait for the others
            status = jnp.where(index < size, block.counts[2], Status.STALLED)
            block = Packed(block.floats, block.counts.at[2].set(status))
            block, turns = _advance(batch, index, block, least)
            write = lambda x, new: x.at[:, index].set(new, mode="drop")
            packed = jax.tree.map(write, packed, block)
            return k + width, packed, steps + turns.astype(dtype) * width

        left = lambda carry: carry[0] < count
        carry = jnp.int32(0), packed, steps
        return sharded.while_loop(left, one_block, carry)[1:]

    unfinished = lambda carry: jnp.any(carry[0].running)
    start = Packed(floats, counts), jnp.zeros((), dtype)
    return sharded.while_loop(unfinished, one_round, start)


def _advance(batch: Batch, index: Int[Array, " f"], block: Packed, least):
    """Step a block until no more than ``least`` of its fits are running."""
    problem, solver, p0 = batch.block(index)
    constraints = batch.constraints(problem, index.size)
    lanes = lambda begun: FitBlock(problem, batch.flags[0], constraints, p0, begun)
    fresh = lanes(block.counts[0] >= 0)
    bends = fresh.bends(fresh.first)

    def turn(carry):
        block, turns = carry
        state = unpack(block, constraints, fresh.n)
        begun = state.num_steps >= 0
        fit = lanes(begun)
        proposed = loop.propose(state, fit, solver)
        evaluated = fit.evaluate(proposed.p)
        stepped = loop.decide(state, proposed, evaluated, fit, solver)
        start = fit.point(fit.first, evaluated)
        started = loop.begin(start, curvatures(start, bends), fit, solver)
        done = ~block.running
        choose = lambda old, new, first: jnp.where(
            done, old, jnp.where(begun, new, first)
        )
        block = jax.tree.map(choose, block, pack(stepped), pack(started))
        return block, turns + 1

    going = lambda carry: jnp.sum(carry[0].running, dtype=jnp.int32) > least
    return sharded.while_loop(going, turn, (block, jnp.int32(0)))
