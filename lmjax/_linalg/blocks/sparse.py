"""The damped step by a sparse factorisation of the whole normal matrix."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._jax import machine, sharded
from lmjax._jax.custom_vmap import each, with_batch
from lmjax._linalg.blocks import sparse_cholesky
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.loops import KINDS, Loops, call, function, spans
from lmjax._linalg.blocks.structure import Structure, absent
from lmjax._linalg.linearization import PRECISION

# Without machine code, problems of up to this many unknowns are factored as a whole.
MOST_DENSE = 2000


class SparsePattern(eqx.Module):
    """Where the blocks of a factor are.

    The rows of all leaves are its nodes, and a leaf that blocks see as a whole is one.
    Smaller nodes are padded to the size of the largest, with ones on the diagonal.

    Attributes:
        starts: Where each column begins among the blocks.
        rows: Row of each block.
        places: For each flat unknown where it stands among the padded nodes, in the
            order of elimination.
        nodes: For each group the nodes of the slots of its blocks, in that order.
        targets: For each group, for each pair of slots of a block, the block where
            their product belongs; -1 if that is above the diagonal.
        size: Rows of a block.
    """

    starts: Int[Array, " n1"]
    rows: Int[Array, " blocks"]
    places: Int[Array, " unknowns"]
    nodes: tuple[Int[Array, "k s"], ...]
    targets: tuple[Int[Array, "k s s"], ...]
    size: int = eqx.field(static=True)

    @property
    def columns(self) -> int:
        """Number of columns of blocks."""
        return len(self.starts) - 1

    @property
    def work(self) -> float:
        """Operations of a factorisation."""
        return float(np.sum(np.diff(self.starts).astype(float) ** 2)) * self.size**3


def plan(structure: Structure, meeting: Any = None) -> SparsePattern:
    """Return the pattern for a structure whose rows are known numbers.

    Args:
        structure: The structure.
        meeting: Pairs of nodes that meet in no block: from the nodes of all groups,
            rows and columns.
    """
    first, sizes, places, count = {}, {}, [], 0
    whole = {s.leaf for g in structure.groups for s in g.slots if s.whole}
    for k, leaf in enumerate(structure.leaves):
        first[k] = count
        sizes[k] = leaf.size if k not in whole else leaf.size * leaf.rows
        count += 1 if k in whole else leaf.rows
    size = max(sizes.values())
    for k, leaf in enumerate(structure.leaves):
        index = np.arange(leaf.rows * leaf.size)
        places.append((first[k] + index // sizes[k]) * size + index % sizes[k])
    nodes, ends = [], [(np.arange(count), np.arange(count))]
    for group in structure.groups:
        rows = np.asarray(group.rows)
        found = [
            first[slot.leaf] + (0 * row if slot.whole else row)
            for slot, row in zip(group.slots, rows, strict=True)
        ]
        nodes.append(np.stack(found, axis=1))
        a, b = np.meshgrid(range(len(found)), range(len(found)))
        ends.append((nodes[-1][:, a.ravel()].ravel(), nodes[-1][:, b.ravel()].ravel()))
    if meeting is not None:
        ends.append(meeting(nodes, count))
    i, j = (np.concatenate(x) for x in zip(*ends, strict=True))
    pattern = sparse_cholesky.pattern(count, i, j)
    targets = []
    for found in nodes:
        left, right = np.broadcast_arrays(found[:, :, None], found[:, None, :])
        at = pattern.find(left, right)
        below = pattern.place[left] >= pattern.place[right]
        targets.append(np.where(below, at, -1).astype(np.int32))
    flat = np.concatenate(places)
    place = pattern.place.astype(np.int64)
    return SparsePattern(
        pattern.starts,
        pattern.rows,
        (place[flat // size] * size + flat % size).astype(np.int32),
        tuple(pattern.place[found] for found in nodes),
        tuple(targets),
        size,
    )


def factored(
    pattern: SparsePattern,
    matrix: Float[Array, "blocks size size"],
    added: Float[Array, " n"],
    rhs: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Solve with a matrix by machine code.

    Args:
        pattern: Where its blocks are.
        matrix: The blocks of its lower triangle, columns contiguous.
        added: What is added to its diagonal.
        rhs: Right-hand side.
    """
    count, size = pattern.columns, pattern.size
    spread = lambda v, other: (
        jnp.full((count * size,), other, rhs.dtype).at[pattern.places].set(v)
    )
    diagonal = spread(added, 1.0).reshape(count, size)
    index = jnp.arange(size)
    first = jnp.asarray(pattern.starts)[:-1]
    matrix = matrix.at[first[:, None], index, index].add(diagonal)
    shapes = (
        jax.ShapeDtypeStruct((count, size), rhs.dtype),
        jax.ShapeDtypeStruct(matrix.shape, rhs.dtype),
    )
    text = sparse_cholesky.program(size, str(rhs.dtype))
    given = jnp.array([count], jnp.int32), jnp.asarray(pattern.starts)
    wanted = spread(rhs, 0.0).reshape(count, size)
    x, _ = call(text, shapes, *given, jnp.asarray(pattern.rows), matrix, wanted)
    return x.ravel()[pattern.places]


def solve(model: BlockLinearization, damping: Any, fallback: Any) -> Float[Array, " n"]:
    """Return the damped least-squares step.

    Args:
        model: The linear model.
        damping: What is added to the diagonal.
        fallback: Solver of large problems where machine code has no place.
    """
    structure, pattern = model.structure, model.structure.plan
    other = _densely if structure.size <= MOST_DENSE else fallback
    if pattern is None or machine.available():
        return other(model, damping)
    arrays, static = eqx.partition((model, damping), eqx.is_array)
    otherwise = lambda arrays: other(*eqx.combine(arrays, static))
    compiled = lambda arrays: _compiled(*eqx.combine(arrays, static))

    def alone(arrays):
        return sharded.platform_dependent(arrays, cpu=compiled, default=otherwise)

    batch = lambda size, flags, arrays: each(otherwise, size, flags, arrays)
    return with_batch(alone, batch, arrays)


def _densely(model: BlockLinearization, damping) -> Float[Array, " n"]:
    """Return the step by a dense factorisation."""
    structure = model.structure
    n, dtype = structure.size, model.residual.dtype
    matrix = jnp.zeros((n, n), dtype)
    for group, columns in zip(structure.groups, model.columns, strict=True):
        at = structure.indices(group)
        gram = jnp.einsum("aok,bok->abk", columns, columns, precision=PRECISION)
        matrix = matrix.at[at[:, None], at[None]].add(gram)
    index = jnp.arange(n)
    matrix = matrix.at[index, index].add(damping + absent(jnp.diagonal(matrix)))
    lower = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.cho_solve((lower, True), -model.grad)


def _compiled(model: BlockLinearization, damping) -> Float[Array, " n"]:
    structure, pattern = model.structure, model.structure.plan
    squares = [jnp.sum(columns**2, axis=1) for columns in model.columns]
    added = damping + absent(structure.add_up(squares))
    return factored(pattern, _matrix(model, pattern), added, -model.grad)


def _matrix(model: BlockLinearization, pattern: SparsePattern):
    """Return the blocks of the lower triangle of ``J^T J``, columns contiguous."""
    size, blocks = pattern.size, len(pattern.rows)
    dtype = model.residual.dtype
    out = jax.ShapeDtypeStruct((blocks, size, size), dtype)
    total = 0.0
    for group, columns, targets in zip(
        model.structure.groups, model.columns, pattern.targets, strict=True
    ):
        text = _product(group.sizes, group.outputs, size, str(dtype))
        shape = jnp.array([blocks, group.blocks], jnp.int32)
        jac = jnp.transpose(columns, (2, 1, 0))
        total += call(text, out, shape, jnp.asarray(targets), jac)
    return total


@cache
def _product(sizes: tuple[int, ...], outputs: int, size: int, dtype: str) -> str:
    """Return the function that adds ``J^T J`` of a group to blocks of the matrix.

    Its arguments: number of blocks of the matrix and of the group, the targets, and J
    (blocks, outputs, width).
    """
    kind, parts, width = KINDS[dtype], spans(sizes), sum(sizes)
    many = len(sizes)

    def body(code: Loops, arguments: list[str], results: list[str]) -> None:
        shape, targets, jac = arguments
        count, blocks = code.integer(shape, 0), code.integer(shape, 1)
        code.clear(kind, results[0], code.index("mul", count, size * size))
        with code.loop(0, blocks) as k:
            base = code.index("mul", k, outputs * width)
            first = code.index("mul", k, many * many)
            for s, (s0, s1) in enumerate(parts):
                for t, (t0, t1) in enumerate(parts):
                    at = code.integer(targets, code.index("add", first, s * many + t))
                    with code.when(code.let(f"icmp sge i64 {at}, 0")):
                        target = code.index("mul", at, size * size)
                        rows = [
                            code.load(
                                kind,
                                jac,
                                code.index("add", base, o * width + s0),
                                s1 - s0,
                            )
                            for o in range(outputs)
                        ]
                        for j in range(t1 - t0):
                            here = code.index("add", target, j * size)
                            total = code.load(kind, results[0], here, s1 - s0)
                            for o in range(outputs):
                                place = code.index("add", base, o * width + t0 + j)
                                number = code.load(kind, jac, place)
                                splat = code.splat(kind, number, s1 - s0)
                                term = code.binary(
                                    "fmul", kind, splat, rows[o], s1 - s0
                                )
                                total = code.binary("fadd", kind, total, term, s1 - s0)
                            code.store(kind, results[0], here, total, s1 - s0)

    return function(body, 3, 1)
