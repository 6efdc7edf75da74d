"""The damped step by a sparse factorisation of the whole normal matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._jax import machine, sharded
from lmjax._jax.custom_vmap import each, with_batch
from lmjax._linalg.blocks import reduced, sparse_cholesky
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.loops import call
from lmjax._linalg.blocks.reduced_parts import Kind
from lmjax._linalg.blocks.structure import Structure, absent

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
        size: Rows of a block.
    """

    starts: Int[Array | np.ndarray, " n1"]
    rows: Int[Array | np.ndarray, " blocks"]
    places: Int[Array | np.ndarray, " unknowns"]
    nodes: tuple[Int[Array | np.ndarray, "k s"], ...]
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
        found = np.zeros((group.blocks, len(group.slots)), np.int32)
        for k, slot in enumerate(group.slots):
            found[:, k] = first[slot.leaf]
            if not slot.whole:
                found[:, k] += np.asarray(group.rows[k])
        nodes.append(found)
        a, b = np.meshgrid(*[np.arange(len(group.slots))] * 2)
        ends.append((nodes[-1][:, a.ravel()].ravel(), nodes[-1][:, b.ravel()].ravel()))
    if meeting is not None:
        ends.append(meeting(nodes, count))
    i, j = (np.concatenate(x) for x in zip(*ends, strict=True))
    pattern = sparse_cholesky.pattern(count, i, j)
    flat = np.concatenate(places)
    place = pattern.place.astype(np.int64)
    return SparsePattern(
        pattern.starts,
        pattern.rows,
        (place[flat // size] * size + flat % size).astype(np.int32),
        tuple(pattern.place[found] for found in nodes),
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
    matrix = model.structure.normal_matrix(model.columns)
    added = damping + absent(jnp.diagonal(matrix))
    return by_lapack(matrix, added, -model.grad)


def _compiled(model: BlockLinearization, damping) -> Float[Array, " n"]:
    """Return the step by machine code."""
    structure, pattern = model.structure, model.structure.plan
    dtype, size, count = model.residual.dtype, pattern.size, len(pattern.rows)
    out = (
        jax.ShapeDtypeStruct((count, size, size), dtype),
        jax.ShapeDtypeStruct((structure.size,), dtype),
    )
    stored = jnp.asarray(pattern.starts), jnp.asarray(pattern.rows)
    matrix: Any = 0.0
    rhs: Any = 0.0 if model.extra is None else -model.extra
    for group, columns, residual, nodes in zip(
        structure.groups,
        model.columns,
        structure.split(model.residual),
        pattern.nodes,
        strict=True,
    ):
        kind = Kind(group.sizes, group.outputs, None)
        shape = jnp.array([structure.size, group.blocks, count], jnp.int32)
        more = call(
            reduced.product(kind, size, str(dtype)),
            out,
            *(shape, *stored, structure.places(group).T, jnp.asarray(nodes)),
            *(jnp.transpose(columns, (2, 1, 0)), residual.T),
        )
        matrix, rhs = matrix + more[0], rhs + more[1]
    squares = [jnp.sum(columns**2, axis=1) for columns in model.columns]
    added = damping + absent(structure.add_up(squares))
    return factored(pattern, matrix, added, rhs)


def by_lapack(matrix, added, rhs) -> Float[Array, " n"]:
    """Solve with a matrix of which the lower triangle is given."""
    index = jnp.arange(len(rhs))
    matrix = matrix.at[index, index].add(added)
    lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((lower, True), rhs)
