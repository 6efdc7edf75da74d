"""Factors of a normal matrix: of the whole, or of what elimination leaves of it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._jax import machine
from lmjax._linalg.blocks import dense_cholesky, reduced, sparse_cholesky
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.loops import call, on_cpu
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


def factor(
    pattern: SparsePattern | None,
    matrix: Float[Array, "*blocks size size"],
    added: Float[Array, " n"],
) -> Float[Array, "*blocks size size"]:
    """Return the factor of a matrix by machine code; NaN if not positive definite.

    Args:
        pattern: Where its blocks are; None of a dense matrix.
        matrix: The blocks of its lower triangle, columns contiguous; or a dense one.
        added: What is added to its diagonal.
    """
    if pattern is None:
        if len(added) > dense_cholesky.MOST:
            return factor_densely(matrix, added)
        return dense_cholesky.factor(matrix, added)
    count, size = pattern.columns, pattern.size
    index, first = jnp.arange(size), jnp.asarray(pattern.starts)[:-1]
    diagonal = _spread(pattern, added, 1.0)
    matrix = matrix.at[first[:, None], index, index].add(diagonal)
    text = sparse_cholesky.factorization(size, str(added.dtype))
    stored = jnp.asarray(pattern.starts), jnp.asarray(pattern.rows)
    shape = jax.ShapeDtypeStruct(matrix.shape, matrix.dtype)
    return call(text, shape, jnp.array([count], jnp.int32), *stored, matrix)


def substitute(
    pattern: SparsePattern | None, lower: Array, rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Solve with what `factor` returns, by machine code."""
    if pattern is None:
        if len(rhs) > dense_cholesky.MOST:
            return substitute_densely(lower, rhs)
        return dense_cholesky.substitute(lower, rhs)
    count, size = pattern.columns, pattern.size
    text = sparse_cholesky.substitution(size, str(rhs.dtype))
    stored = jnp.asarray(pattern.starts), jnp.asarray(pattern.rows)
    given = *stored, lower, _spread(pattern, rhs, 0.0)
    shape = jax.ShapeDtypeStruct((count, size), rhs.dtype)
    x = call(text, shape, jnp.array([count], jnp.int32), *given)
    return x.ravel()[pattern.places]


def _spread(pattern: SparsePattern, v: Float[Array, " n"], other: float) -> Array:
    """Return a vector node by node, with a number where nodes are padded."""
    count, size = pattern.columns, pattern.size
    whole = jnp.full((count * size,), other, v.dtype).at[pattern.places].set(v)
    return whole.reshape(count, size)


def factor_densely(
    matrix: Float[Array, "n n"], added: Float[Array, " n"]
) -> Float[Array, "size size"]:
    """Return the factor of a dense matrix, of the size that machine code needs."""
    index, size = jnp.arange(len(added)), dense_cholesky.padded(len(added))
    matrix = matrix.at[index, index].add(added)
    lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    return jnp.eye(size, dtype=lower.dtype).at[: len(added), : len(added)].set(lower)


def substitute_densely(
    lower: Float[Array, "size size"], rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Solve with the factor of a dense matrix."""
    lower = lower[: len(rhs), : len(rhs)]
    return jax.scipy.linalg.cho_solve((lower, True), rhs)


def has_program(pattern: SparsePattern | None) -> bool:
    """Return whether machine code can factor the normal matrix."""
    return pattern is not None and not machine.available()


def factor_normal(model: BlockLinearization, damping: Any) -> Array | None:
    """Return the factor of the damped normal matrix.

    On a CPU, outside of `jax.vmap`; elsewhere a sparse one has zeros, and a dense one
    up to `MOST_DENSE` unknowns is made only where machine code has no place at all.
    """
    pattern = model.structure.plan
    if not has_program(pattern):
        if model.structure.size > MOST_DENSE:
            return None
        matrix = model.structure.normal_matrix(model.columns)
        return factor_densely(matrix, damping + absent(jnp.diagonal(matrix)))
    arrays, static = eqx.partition((model, damping), eqx.is_array)
    shape = len(pattern.rows), pattern.size, pattern.size
    nothing = lambda arrays: jnp.zeros(shape, model.residual.dtype)
    compiled = lambda arrays: _factored(*eqx.combine(arrays, static))
    return on_cpu(compiled, nothing, arrays)


def solve(
    model: BlockLinearization,
    damping: Any,
    lower: Array | None,
    rhs: Float[Array, " n"],
    fallback: Any,
) -> Float[Array, " n"]:
    """Solve with the damped normal matrix.

    Args:
        model: The linear model.
        damping: What was added to the diagonal.
        lower: What `factor_normal` made of both.
        rhs: Right-hand side.
        fallback: Solver of large problems where machine code has no place.
    """
    pattern = model.structure.plan
    if not has_program(pattern):
        if lower is None:
            return fallback(model.with_gradient(-rhs), damping)
        return substitute_densely(lower, rhs)
    arrays, static = eqx.partition((model, damping, lower, rhs), eqx.is_array)

    def otherwise(arrays):
        model, damping, _, rhs = eqx.combine(arrays, static)
        if model.structure.size > MOST_DENSE:
            return fallback(model.with_gradient(-rhs), damping)
        matrix = model.structure.normal_matrix(model.columns)
        added = damping + absent(jnp.diagonal(matrix))
        return substitute_densely(factor_densely(matrix, added), rhs)

    def compiled(arrays):
        model, _, lower, rhs = eqx.combine(arrays, static)
        return substitute(model.structure.plan, lower, rhs)

    return on_cpu(compiled, otherwise, arrays)


def _factored(model: BlockLinearization, damping) -> Array:
    """Return the factor of the damped normal matrix by machine code."""
    structure, pattern = model.structure, model.structure.plan
    dtype, size, count = model.residual.dtype, pattern.size, len(pattern.rows)
    out = jax.ShapeDtypeStruct((count, size, size), dtype)
    stored = jnp.asarray(pattern.starts), jnp.asarray(pattern.rows)
    matrix = jnp.zeros((), dtype)
    for group, columns, nodes in zip(
        structure.groups, model.columns, pattern.nodes, strict=True
    ):
        kind = Kind(group.sizes, group.outputs, None)
        shape = jnp.array([structure.size, group.blocks, count], jnp.int32)
        matrix = matrix + call(
            reduced.product(kind, size, str(dtype)),
            out,
            *(shape, *stored, jnp.asarray(nodes), jnp.transpose(columns, (2, 1, 0))),
        )
    added = damping + absent(structure.squares(model.columns))
    return factor(pattern, matrix, added)
