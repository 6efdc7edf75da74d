r"""The damped step by elimination of one leaf of parameters, row by row.

No block sees two rows of that leaf, so its part V of ``J^T J`` is block diagonal. With
``V = L L^T`` and ``Z = L^-1 W``, W being the product with the other columns,

    S y = -(b - Z^T L^-1 a),  S = U - Z^T Z,     x = -L^-T (L^-1 a + Z y)

for the gradient a of the leaf and b of the rest. S is formed and factored, or its
products are, where it is large.

References:
    Triggs, McLauchlan, Hartley, Fitzgibbon (1999), "Bundle adjustment: a modern
    synthesis", section 6.1; Agarwal, Snavely, Seitz, Szeliski (2010), "Bundle
    adjustment in the large", for the products with S and its preconditioner.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._jax import machine, sharded
from lmjax._jax.custom_vmap import each, with_batch
from lmjax._linalg.blocks import dense_cholesky, elimination_in_xla, reduced, sparse
from lmjax._linalg.blocks.elimination_in_xla import split, without
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.loops import MOST_ROWS, call
from lmjax._linalg.blocks.reduced_parts import Kind
from lmjax._linalg.blocks.sparse import SparsePattern, by_lapack
from lmjax._linalg.blocks.structure import Group, Structure, absent

# A dense reduced matrix of up to so many unknowns is formed: the factorisation of one
# of 4,000 takes 2e10 operations and 128 MB.
MOST_DENSE = 4000
# A sparse one is factored up to so many operations, 20 seconds of one core.
MOST_WORK = 2e11
# Below, looking for zeros in the reduced matrix takes longer than it saves.
FEW = 500
# A sparse factorisation runs at a third of the speed of a dense one.
SPARSE_SHARE = 1.0 / 3.0


class Elimination(eqx.Module):
    """How a leaf is eliminated.

    Attributes:
        starts: For each group where the rows of the leaf begin among its blocks, which
            are in their order; None where that is not known.
        pattern: Pattern of the reduced matrix where it is sparse, else None.
        leaf: Number of the leaf.
        rows: How many rows it has.
        dense: Whether a dense reduced matrix is formed.
    """

    starts: tuple[Int[Array, " rows1"] | None, ...]
    pattern: SparsePattern | None
    leaf: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    dense: bool = eqx.field(static=True)

    def inner(self, group: Group) -> int | None:
        """Return which slot of a group sees the leaf."""
        for k, slot in enumerate(group.slots):
            if slot.leaf == self.leaf:
                return k
        return None


def plan(structure: Structure, leaf: int, starts: list, dense: bool | None):
    """Return how a leaf is eliminated.

    Args:
        structure: The pattern, blocks in the order of the rows of the leaf.
        leaf: Number of the leaf.
        starts: See `Elimination`.
        dense: What the user asked for.
    """
    kind = structure.leaves[leaf]
    size = structure.size - kind.rows * kind.size
    made = lambda pattern, dense: Elimination(
        tuple(starts), pattern, leaf, kind.rows, dense
    )
    small = size <= MOST_DENSE
    if dense is not None or size <= FEW or not has_program(structure, made(None, True)):
        return made(None, small if dense is None else dense)
    rest = without(structure, leaf)
    seen = [made(None, True).inner(group) for group in structure.groups]
    rows = [
        None if k is None else np.asarray(group.rows[k])
        for k, group in zip(seen, structure.groups, strict=True)
    ]
    pattern = sparse.plan(rest, lambda nodes, count: _meeting(nodes, rows, kind, count))
    if pattern.work <= (SPARSE_SHARE * size**3 if small else MOST_WORK):
        return made(pattern, False)
    return made(None, small)


def _meeting(nodes: list, rows: list, kind, count: int):
    """Return the pairs of nodes that some eliminated row brings together."""
    from scipy.sparse import csr_matrix

    seen = [(n, r) for n, r in zip(nodes, rows, strict=True) if r is not None]
    node = np.concatenate([n.ravel() for n, _ in seen])
    row = np.concatenate([np.repeat(r, n.shape[1]) for n, r in seen])
    shape = (kind.rows, count)
    incidence = csr_matrix((np.ones(len(node), np.float32), (row, node)), shape=shape)
    pairs = (incidence.T @ incidence).tocoo()
    return pairs.row, pairs.col


def solve(
    model: BlockLinearization, damping: Any, tol: Any, max_steps: int
) -> Float[Array, " n"]:
    """Return the damped least-squares step.

    The reduced matrix is made by machine code on a CPU, by one dense product elsewhere
    and under `jax.vmap`.
    """
    arrays, static = eqx.partition((model, damping, tol), eqx.is_array)
    in_xla = lambda arrays: elimination_in_xla.step(
        *eqx.combine(arrays, static), max_steps=max_steps
    )
    if not has_program(model.structure, model.structure.plan):
        return in_xla(arrays)
    compiled = lambda arrays: _compiled(*eqx.combine(arrays, static)[:2])

    def alone(arrays):
        return sharded.platform_dependent(arrays, cpu=compiled, default=in_xla)

    batch = lambda size, flags, arrays: each(in_xla, size, flags, arrays)
    return with_batch(alone, batch, arrays)


def has_program(structure: Structure, plan: Elimination) -> bool:
    """Return whether machine code can form the reduced matrix."""
    if not (plan.dense or plan.pattern is not None) or machine.available():
        return False
    known = [
        start is not None or plan.inner(group) is None
        for start, group in zip(plan.starts, structure.groups, strict=True)
    ]
    return all(known) and all(
        slot.size <= MOST_ROWS for group in structure.groups for slot in group.slots
    )


def _compiled(model: BlockLinearization, damping) -> Float[Array, " n"]:
    """Return the step by machine code."""
    structure, plan = model.structure, model.structure.plan
    leaf, dtype = structure.leaves[plan.leaf], model.residual.dtype
    shape_of = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    n, pattern = structure.size - leaf.rows * leaf.size, plan.pattern
    block, stored, count = 0, [], 0
    matrix_shape = shape_of(n, n)
    if pattern is not None:
        block, count = pattern.size, len(pattern.rows)
        stored = [jnp.asarray(pattern.starts), jnp.asarray(pattern.rows)]
        matrix_shape = shape_of(count, block, block)
    places_at = structure.places_without(plan.leaf)
    kinds, given, z_shapes, sides = [], [], [], []
    matrix, rhs = 0.0, 0.0
    for k, (group, columns, residual) in enumerate(
        zip(
            structure.groups,
            model.columns,
            structure.split(model.residual),
            strict=True,
        )
    ):
        places = places_at(group)
        inner = plan.inner(group)
        nodes = places
        if pattern is not None:
            nodes = _with_inner(jnp.asarray(pattern.nodes[k]), inner)
        arrays = [places, nodes, jnp.transpose(columns, (2, 1, 0)), residual.T]
        kind = Kind(group.sizes, group.outputs, inner)
        if inner is None:
            shape = jnp.array([n, group.blocks, count], jnp.int32)
            text = reduced.product(kind, block, str(dtype))
            more = call(text, (matrix_shape, shape_of(n)), shape, *stored, *arrays)
            matrix, rhs = matrix + more[0], rhs + more[1]
            continue
        kinds.append(kind)
        start = jnp.asarray(plan.starts[k])
        given += [start, *arrays]
        sides.append((start, places))
        z_shapes.append(shape_of(group.blocks, leaf.size, kind.width))
    extra_leaf, extra_rest = split(model, leaf)
    shape = jnp.array([n, leaf.rows, count], jnp.int32)
    own = shape_of(leaf.rows, leaf.size, leaf.size), shape_of(leaf.rows, leaf.size)
    made = call(
        reduced.elimination(tuple(kinds), leaf.size, block, str(dtype)),
        (matrix_shape, shape_of(n), *own, *z_shapes),
        *(shape, jnp.reshape(damping, (1,)).astype(dtype), extra_leaf),
        *(*stored, *given),
    )
    matrix, rhs = matrix + made[0], rhs + made[1] - extra_rest
    squares = structure.add_up([jnp.sum(c**2, axis=1) for c in model.columns])
    rest = jnp.concatenate([squares[: leaf.start], squares[leaf.end :]])
    step = _factored(pattern, matrix, damping + absent(rest), rhs)
    lists = [x for side, z in zip(sides, made[4:], strict=True) for x in (*side, z)]
    dp_leaf = call(
        reduced.substitution(tuple(kinds), leaf.size, str(dtype)),
        shape_of(leaf.rows, leaf.size),
        *(shape, made[2], made[3], step, *lists),
    )
    return jnp.concatenate([step[: leaf.start], dp_leaf.ravel(), step[leaf.start :]])


def _factored(pattern: SparsePattern | None, matrix, added, rhs) -> Float[Array, " n"]:
    """Solve with the reduced matrix, however it is stored."""
    if pattern is not None:
        return sparse.factored(pattern, matrix, added, rhs)
    if len(rhs) <= dense_cholesky.MOST:
        return dense_cholesky.solve(matrix, added, rhs)
    return by_lapack(matrix, added, rhs)


def _with_inner(nodes: Int[Array, "k s"], inner: int | None) -> Int[Array, "k s1"]:
    """Return nodes with a column for the eliminated slot, which has none."""
    return nodes if inner is None else jnp.insert(nodes, inner, 0, axis=1)
