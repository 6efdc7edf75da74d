r"""The damped normal matrix, solved by elimination of one leaf, row by row.

No block sees two rows of that leaf, so its part V of ``J^T J`` is block diagonal. With
``V = L L^T`` and ``Z = L^-1 W``, W being the product with the other columns,

    S y = b - Z^T L^-1 a,  S = U - Z^T Z,     x = L^-T (L^-1 a - Z y)

for the right-hand sides a of the leaf and b of the rest, and U of ``J^T J`` of the
rest. S is formed and factored, or multiplied with, where it is large.

References:
    Triggs, McLauchlan, Hartley, Fitzgibbon (1999), "Bundle adjustment: a modern
    synthesis", section 6.1; Agarwal, Snavely, Seitz, Szeliski (2010), "Bundle
    adjustment in the large", for the products with S and its preconditioner.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._jax import machine
from lmjax._linalg.blocks import elimination_in_xla, reduced, sparse
from lmjax._linalg.blocks.elimination_in_xla import Factors, others, rows_of, without
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.loops import MOST_ROWS, call, on_cpu
from lmjax._linalg.blocks.reduced_parts import Kind
from lmjax._linalg.blocks.sparse import SparsePattern
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


def has_factor(structure: Structure) -> bool:
    """Return whether the reduced matrix is factored, not only multiplied with."""
    return structure.plan.dense or has_program(structure, structure.plan)


def factor(model: BlockLinearization, damping: Any) -> Factors:
    """Return the factors of the damped normal matrix.

    The reduced matrix is made by machine code on a CPU, by one dense product elsewhere
    and under `jax.vmap`. A sparse one is not made there: its numbers are zero.
    """
    arrays, static = eqx.partition((model, damping), eqx.is_array)
    compiled = lambda arrays: _factored(*eqx.combine(arrays, static))

    def in_xla(arrays):
        model, damping = eqx.combine(arrays, static)
        if model.structure.plan.dense:
            return elimination_in_xla.factor(model, damping)
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compiled, arrays)
        )

    if not has_program(model.structure, model.structure.plan):
        return in_xla(arrays)
    return on_cpu(compiled, in_xla, arrays)


def solve(
    model: BlockLinearization,
    damping: Any,
    factors: Factors,
    rhs: Float[Array, " n"],
    by_products: Callable,
) -> Float[Array, " n"]:
    """Solve with the damped normal matrix.

    Args:
        model: The linear model.
        damping: What was added to the diagonal.
        factors: What `factor` made of both.
        rhs: Right-hand side.
        by_products: ``(model, damping, rhs)`` to the solution, where a sparse reduced
            matrix was not made.
    """
    structure = model.structure
    given = (factors, rhs) if structure.plan.dense else (factors, rhs, model, damping)
    arrays, static = eqx.partition((structure, *given), eqx.is_array)
    compiled = lambda arrays: _substituted(*eqx.combine(arrays, static)[:3])

    def in_xla(arrays):
        structure, factors, rhs, *rest = eqx.combine(arrays, static)
        if rest:
            return by_products(*rest, rhs)
        return elimination_in_xla.substitute(structure, factors, rhs)

    if not has_program(structure, structure.plan):
        return in_xla(arrays)
    return on_cpu(compiled, in_xla, arrays)


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


def _factored(model: BlockLinearization, damping) -> Factors:
    """Return the factors by machine code."""
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
    kinds, given, z_shapes, matrix = [], [], [], 0.0
    for k, (group, columns) in enumerate(
        zip(structure.groups, model.columns, strict=True)
    ):
        inner = plan.inner(group)
        if pattern is None:
            nodes = places_at(group)
        else:
            nodes = _with_inner(jnp.asarray(pattern.nodes[k]), inner)
        arrays = nodes, jnp.transpose(columns, (2, 1, 0))
        kind = Kind(group.sizes, group.outputs, inner)
        if inner is None:
            shape = jnp.array([n, group.blocks, count], jnp.int32)
            text = reduced.product(kind, block, str(dtype))
            matrix = matrix + call(text, matrix_shape, shape, *stored, *arrays)
            continue
        kinds.append(kind)
        given += [jnp.asarray(plan.starts[k]), *arrays]
        z_shapes.append(shape_of(group.blocks, leaf.size, kind.width))
    made, lower, *z = call(
        reduced.elimination(tuple(kinds), leaf.size, block, str(dtype)),
        (matrix_shape, shape_of(leaf.rows, leaf.size, leaf.size), *z_shapes),
        jnp.array([n, leaf.rows, count], jnp.int32),
        *(jnp.reshape(damping, (1,)).astype(dtype), *stored, *given),
    )
    rest = others(structure.squares(model.columns), leaf)
    added = damping + absent(rest)
    return Factors(lower, tuple(z), sparse.factor(pattern, matrix + made, added))


def _substituted(structure: Structure, factors: Factors, rhs) -> Float[Array, " n"]:
    """Return the solution by machine code."""
    plan, dtype = structure.plan, rhs.dtype
    leaf = structure.leaves[plan.leaf]
    own = jax.ShapeDtypeStruct((leaf.rows, leaf.size), dtype)
    n = structure.size - leaf.rows * leaf.size
    shape = jnp.array([n, leaf.rows], jnp.int32)
    places_at = structure.places_without(plan.leaf)
    seeing = [
        (group, start)
        for group, start in zip(structure.groups, plan.starts, strict=True)
        if plan.inner(group) is not None
    ]
    kinds, given = [], []
    for (group, start), z in zip(seeing, factors.z, strict=True):
        kinds.append(Kind(group.sizes, group.outputs, plan.inner(group)))
        given += [jnp.asarray(start), places_at(group), z]
    about = tuple(kinds), leaf.size, str(dtype)
    solved, left = call(
        reduced.forward(*about),
        (own, jax.ShapeDtypeStruct((n,), dtype)),
        *(shape, factors.lower, rows_of(rhs, leaf), others(rhs, leaf), *given),
    )
    y = sparse.substitute(plan.pattern, factors.reduced, left)
    x = call(reduced.backward(*about), own, shape, factors.lower, solved, y, *given)
    return jnp.concatenate([y[: leaf.start], x.ravel(), y[leaf.start :]])


def _with_inner(nodes: Int[Array, "k s"], inner: int | None) -> Int[Array, "k s1"]:
    """Return nodes with a column for the eliminated slot, which has none."""
    return nodes if inner is None else jnp.insert(nodes, inner, 0, axis=1)
