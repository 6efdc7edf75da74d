"""Many independent fits: what `jax.vmap` of a fit runs.

The step is that of `lmjax._loop`, on arrays whose last axis counts fits. Three things
differ from a single fit. Every trial is linearised at once, and of ``[J r]`` only its
Gram matrix survives, so no J is ever in memory for longer than a block of fits. The
damped system is solved by a Cholesky factorisation written out entry by entry. And
blocks of fits run until most of their lanes are done; the unfinished are then gathered
into fewer blocks, so that a batch does not wait for its slowest fit.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmjax import _loop
from lmjax._bounds import Conditions
from lmjax._lanes import evaluate
from lmjax._linear_solvers import Cholesky
from lmjax._linear_solvers.dense import solve_written_out
from lmjax._linearize import (
    UNROLL_UP_TO,
    NormalLinearization,
    gram_pairs,
    sums,
)
from lmjax._problem import Problem
from lmjax._proposal import Point, Proposal, point_at
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status
from lmjax._sums import dot_points, sum_points

# What a block of fits may take of a core's cache: data, columns of J and residual.
CACHE_BYTES = 2**19
# A GPU wants every fit at once; this bounds the memory of one block.
GPU_LANES = 2**17
# Lanes of the last block: about as many as cost no more than one does.
NARROW = 48
# From so many blocks on the narrow one, half of all there is to compile, pays off.
MANY_BLOCKS = 4
# Kernels in a stage: XLA runs up to eight in order without asking other threads.
STAGE = 7
# A block is broken up when this share of its lanes is still running.
LEFT_OVER = 0.5


def applies(problem: Problem, n: int, solver: LevenbergMarquardt) -> bool:
    """Return whether a batch of such fits runs here.

    It does for up to 8 parameters, no more parameters than residuals, and the normal
    equations: the linear solver left open, or `Cholesky`. Step history, geodesic
    acceleration and reverse-mode Jacobians take the plain path, one loop for the batch.
    """
    choice = solver.linear_solver
    return (
        n <= min(UNROLL_UP_TO, problem.m)
        and (choice is None or isinstance(choice, Cholesky))
        and problem.jacobian != "rev"
        and not (solver.record_history or solver.geodesic)
    )


class Lanes(eqx.Module):
    """A block of fits, each on its own lane of the last axis.

    Attributes:
        data: The problem; leaves that differ per fit have the lanes on the last axis.
        flags: Which leaves do, in the structure of the arrays among them.
        conditions: Bounds and fixed parameters per lane.
        n: Number of parameters.
        going: True, unknown to the compiler: see `stage`.
    """

    data: Problem
    flags: Any
    conditions: Conditions
    n: int = eqx.field(static=True)
    going: Bool[Array, ""]

    @property
    def m(self) -> int:
        """Number of residuals."""
        return self.data.m

    def visit(self, p: Float[Array, "n f"]) -> tuple[NormalLinearization, Array]:
        """Return the normal equations and the cost at ``p``."""
        width = p.shape[-1]
        arrays, rest = eqx.partition(self.data, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)

        def rows(*leaves):
            problem = eqx.combine(jax.tree.unflatten(structure, leaves[:-1]), rest)
            return _rows_of_one(problem, leaves[-1])

        flags = [*jax.tree.leaves(self.flags), True]
        columns = evaluate(rows, flags, [*leaves, p], width, self.stage)
        gram = self.gram_of(columns[: self.n + 1])
        cost = 0.5 * gram[-1]
        if self.data.term is not None:
            cost = self.stage(lambda: sum_points(columns[-1]))
        return NormalLinearization(gram, self.n), cost

    def gram_of(self, columns: list[Float[Array, "m f"]]) -> tuple[Array, ...]:
        """Return the products of all pairs of columns, summed over the points.

        On CPU the columns are stored (in cache: a block is small) and each sum is
        written out as rounds of plain additions, which vectorise across fits. A
        ``reduce`` would be handed to a library kernel that wakes up every core for 50
        kB, and a single pass over all products does not vectorise: 22 ns per point, 3.5
        this way, 7 with ``reduce`` (5 parameters, AVX2, jaxlib 0.10.2). On a GPU one
        pass over the points keeps all sums in registers.
        """
        pairs = gram_pairs(self.n)

        def stored(*columns):
            sums = []
            for k in range(0, len(pairs), STAGE):
                part = pairs[k : k + STAGE]
                dots = lambda part=part: [
                    dot_points(columns[i], columns[j]) for i, j in part
                ]
                sums += self.stage(dots)
            return tuple(sums)

        def one_pass(*columns):
            return sums(*(columns[i] * columns[j] for i, j in pairs))

        return jax.lax.platform_dependent(*columns, cpu=stored, default=one_pass)

    def stage(self, fn: Any) -> Any:
        """Return ``fn()``, finished and in memory before anyone uses it.

        XLA fuses on CPU without regard to what it computes twice: left alone, it worked
        out the cost of a trial again in each of the 21 kernels that ask whether the
        trial was accepted. It does not fuse across the branches of a conditional, and
        it runs the few kernels of a branch one after the other, where a longer list is
        handed from thread to thread. A GPU, where a conditional costs a
        synchronisation, needs none of this.
        """
        nothing = lambda: jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fn)
        )
        return jax.lax.platform_dependent(
            cpu=lambda: jax.lax.cond(self.going, fn, nothing), default=fn
        )

    def start(self, p: Float[Array, "n f"]) -> Point:
        """Return the first point."""
        return self._point(p, *self.visit(p))

    def _point(self, p, linearization, cost) -> Point:
        return point_at(self.conditions, p, None, linearization, cost)

    def compare(self, point: Point, dp, visit) -> tuple[Array, Array, Array]:
        """Return the cost of the visit, how far it fell, and ``|J dp|^2``."""
        _, cost = visit
        return cost, point.cost - cost, point.linearization.curvature(dp)

    def settle_if(self, accept, trial: Proposal, point: Point) -> Point:
        """Return the trial point: it is linearised already."""
        return self._point(trial.p, *trial.visit)

    def linear_solver(self, linearization: NormalLinearization, damping) -> Array:
        """Return the damped step by Cholesky's factorisation, NaN if there is none."""
        rows, grad = linearization.rows(), linearization.grad()
        step = self.stage(lambda: solve_written_out(rows, grad, damping))
        return -jnp.stack(step)

    def rounding(self, cost: Float[Array, " f"]) -> Float[Array, " f"]:
        """Return the rounding of a difference of two costs, each a sum of m terms."""
        return jnp.finfo(cost.dtype).eps * self.m**0.5 * cost


def _rows_of_one(problem: Problem, p: Float[Array, " n"]) -> list[Float[Array, " m"]]:
    """Return the columns of J, the residual and, with a term, the cost per point."""
    if problem.user_jac is not None:
        r = problem.residual_fn(p)
        jac = problem.user_jac(p)
        columns = [jac[:, j] for j in range(p.size)]
    else:
        r, linear = jax.linearize(problem.residual_fn, p)
        columns = [linear(e) for e in np.eye(p.size, dtype=p.dtype)]
    if problem.term is None:
        return [*columns, r]
    residual, row = problem.term.rows(r)
    columns = [row * column for column in columns]
    return [*columns, residual, problem.half_terms(r)]


class Packed(NamedTuple):
    """The state of a block as two arrays: selecting lanes is then two operations."""

    floats: Float[Array, "s f"]
    counts: Int[Array, "3 f"]

    @property
    def running(self) -> Bool[Array, " f"]:
        """Which lanes are not finished."""
        return self.counts[2] == Status.RUNNING


def pack(state: _loop.State) -> Packed:
    """Return what cannot be derived of a state."""
    point = state.point
    gram = [entry[None] for entry in point.linearization.gram]
    scalars = [x[None] for x in (point.cost, state.lam, state.growth)]
    rows = [point.p, *gram, state.scale, *scalars]
    counts = [state.num_steps, state.num_accepted, state.status]
    return Packed(jnp.concatenate(rows), jnp.stack(counts))


def unpack(packed: Packed, conditions: Conditions, n: int) -> _loop.State:
    """Return the state of a block."""
    q = len(gram_pairs(n))
    p, gram, scale, rest = jnp.split(packed.floats, [n, n + q, 2 * n + q])
    point = point_at(conditions, p, None, NormalLinearization(tuple(gram), n), rest[0])
    num_steps, num_accepted, status = packed.counts
    return _loop.State(
        point, rest[1], rest[2], scale, num_steps, num_accepted, status, None
    )


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


def run(batch: Batch, size: int) -> tuple[_loop.State, Float[Array, ""]]:
    """Fit a batch; return the final states, fits last, and lane-steps executed."""
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
    fit = Lanes(problem, batch.flags[0], conditions, n, steps >= 0)
    state = unpack(packed, fit.conditions, n)
    floor = state.status == _loop.AT_FLOOR
    status = jax.lax.cond(
        jnp.any(floor),
        lambda: jnp.where(floor, _loop.at_floor(state, fit), state.status),
        lambda: state.status,
    )
    return state._replace(status=status), steps


def _blocks(batch: Batch, size: int, width: int, n: int, dtype):
    """Run blocks of ``width`` lanes over ``size`` fits, at last a narrow one.

    The first round takes the fits as they lie; each later one gathers those that are
    still running. The last few may take many times the steps of the others; in a large
    batch they go on in a block of their own size.
    """
    if size == width:
        problem, solver, p0 = batch.block(lambda x: x)
        going = 0.0 * p0[0, 0] != 1.0  # NaN as well
        fit = Lanes(problem, batch.flags[0], batch.conditions(problem, width), n, going)
        block = fit.stage(lambda: pack(_loop.init(fit, p0, solver)))
        packed, turns = _advance(fit, solver, block, 0)
        return packed, turns.astype(dtype) * width
    q = len(gram_pairs(n))
    packed = Packed(
        jnp.zeros((2 * n + q + 3, size), dtype), jnp.zeros((3, size), jnp.int32)
    )
    carry = (packed, jnp.array(True), jnp.zeros((), dtype))
    narrow = min(NARROW, width)
    small = size < MANY_BLOCKS * width
    for lanes, most in ((width, 0),) if small else ((width, narrow), (narrow, 0)):
        unfinished = lambda carry, most=most: (
            carry[1] | (jnp.sum(carry[0].running, dtype=jnp.int32) > most)
        )
        one_round = partial(_round, batch, size, lanes, most)
        carry = jax.lax.while_loop(unfinished, one_round, carry)
    packed, _, steps = carry
    return packed, steps


def _round(batch: Batch, size: int, width: int, most: int, carry):
    """Run blocks over all that are running; leave off when few of a block are left."""
    packed, first, steps = carry
    padded = -(-size // width) * width
    n = batch.arrays[2].shape[1]
    (unfinished,) = jnp.nonzero(packed.running, size=padded, fill_value=size)
    lanes = jnp.where(first, jnp.arange(padded), unfinished)
    count = jnp.where(first, size, jnp.sum(packed.running, dtype=jnp.int32))
    limit = jnp.where(count <= width, most, int(LEFT_OVER * width))

    def one_block(carry):
        k, packed, steps = carry
        index = jax.lax.dynamic_slice_in_dim(lanes, k, width)
        # the last block overlaps the one before it: the same work, the same answer
        start = jnp.minimum(k, size - width)

        def read(x, axis):
            return jax.lax.cond(
                first,
                lambda: jax.lax.dynamic_slice_in_dim(x, start, width, axis),
                lambda: jnp.take(x, index, axis=axis, mode="clip"),
            )

        problem, solver, p0 = batch.block(lambda x: read(x, 0))
        conditions = batch.conditions(problem, width)
        fit = Lanes(problem, batch.flags[0], conditions, n, k >= 0)

        def resume():
            pick = lambda x: jnp.take(x, index, axis=1, mode="clip")
            block = jax.tree.map(pick, packed)
            # lanes without a fit wait for the others
            status = jnp.where(index < size, block.counts[2], Status.STALLED)
            return Packed(block.floats, block.counts.at[2].set(status))

        begin = lambda: pack(_loop.init(fit, p0, solver))
        block = jax.lax.cond(first, begin, resume)
        block, turns = _advance(fit, solver, block, limit)
        write = lambda x, new: jax.lax.cond(
            first,
            lambda: jax.lax.dynamic_update_slice_in_dim(x, new, start, 1),
            lambda: x.at[:, index].set(new, mode="drop"),
        )
        packed = jax.tree.map(write, packed, block)
        return k + width, packed, steps + turns.astype(steps.dtype) * width

    unstarted = lambda carry: carry[0] < count
    _, packed, steps = jax.lax.while_loop(
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
        rest = ("lam", "growth", "num_steps", "status")
        keep = lambda name: jnp.where(done, getattr(state, name), getattr(new, name))
        return pack(new._replace(**{name: keep(name) for name in rest})), turns + 1

    going = lambda carry: jnp.sum(carry[0].running, dtype=jnp.int32) > limit
    return jax.lax.while_loop(going, body, (packed, jnp.int32(0)))
