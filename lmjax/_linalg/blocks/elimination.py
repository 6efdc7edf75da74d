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

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmjax._jax import machine, sharded
from lmjax._jax.custom_vmap import each, with_batch
from lmjax._linalg.blocks import conjugate, dense_cholesky, reduced
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.loops import MOST_ROWS, call
from lmjax._linalg.blocks.structure import Group, Structure, absent, sum_by_row
from lmjax._linalg.linearization import PRECISION


class Elimination(eqx.Module):
    """How a leaf is eliminated.

    Attributes:
        starts: For each group where the rows of the leaf begin among its blocks, which
            are in their order; None where that is not known.
        leaf: Number of the leaf.
        rows: How many rows it has.
        dense: Whether the reduced matrix is formed.
    """

    starts: tuple[Int[Array, " rows1"] | None, ...]
    leaf: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    dense: bool = eqx.field(static=True)

    def inner(self, group: Group) -> int | None:
        """Return which slot of a group sees the leaf."""
        for k, slot in enumerate(group.slots):
            if slot.leaf == self.leaf:
                return k
        return None


class _Part(NamedTuple):
    """A group of blocks, its columns apart.

    Attributes:
        inner: Columns of the eliminated leaf; None if no block sees it.
        outer: The other columns.
        rows: Which row of the eliminated leaf each block sees.
        outer_rows: Which rows of the others.
        slots: Slots of the others.
        residual: Residual of the blocks.
    """

    inner: Float[Array, "d out k"] | None
    outer: Float[Array, "w out k"]
    rows: Int[Array, " k"] | None
    outer_rows: Int[Array, "s k"]
    slots: tuple
    residual: Float[Array, "out k"]


def solve(
    model: BlockLinearization, damping: Any, tol: Any, max_steps: int
) -> Float[Array, " n"]:
    """Return the damped least-squares step.

    A dense reduced matrix is made by machine code on a CPU, by one dense product
    elsewhere and under `jax.vmap`.
    """
    arrays, static = eqx.partition((model, damping, tol), eqx.is_array)
    in_xla = lambda arrays: _in_xla(*eqx.combine(arrays, static), max_steps)
    if not _has_program(model):
        return in_xla(arrays)
    compiled = lambda arrays: _compiled(*eqx.combine(arrays, static)[:2])

    def alone(arrays):
        return sharded.platform_dependent(arrays, cpu=compiled, default=in_xla)

    batch = lambda size, flags, arrays: each(in_xla, size, flags, arrays)
    return with_batch(alone, batch, arrays)


def _has_program(model: BlockLinearization) -> bool:
    """Return whether machine code can form the reduced matrix."""
    structure, plan = model.structure, model.structure.plan
    if not plan.dense or machine.available():
        return False
    known = [
        start is not None or plan.inner(group) is None
        for start, group in zip(plan.starts, structure.groups, strict=True)
    ]
    return all(known) and all(
        slot.size <= MOST_ROWS for group in structure.groups for slot in group.slots
    )


def _in_xla(model: BlockLinearization, damping, tol, max_steps) -> Float[Array, " n"]:
    structure, plan = model.structure, model.structure.plan
    leaf = structure.leaves[plan.leaf]
    parts = [
        _part(*given, plan)
        for given in zip(
            structure.groups,
            model.columns,
            structure.split(model.residual),
            strict=True,
        )
    ]
    rest = _without(structure, plan.leaf)
    extra_leaf, extra_rest = _split(model.extra, leaf, structure)
    factor, forward = _factor(parts, leaf, damping, extra_leaf)
    z = [_solved(part, factor) for part in parts]
    terms = []
    for part, z_part in zip(parts, z, strict=True):
        term = jnp.sum(part.outer * part.residual[None], axis=1)
        if z_part is not None:
            term -= jnp.sum(z_part * forward[:, None, part.rows], axis=0)
        terms.append(term)
    rhs = -rest.add_up(terms) - extra_rest
    diagonal = rest.add_up([jnp.sum(part.outer**2, axis=1) for part in parts])
    added = damping + absent(diagonal)
    if plan.dense:
        columns = [(part.outer, part.rows) for part in parts]
        dp_rest = _factored(_densely(rest, columns, z, plan), added, rhs)
    else:
        dp_rest = _by_products(rest, parts, z, added, rhs, tol, max_steps, plan)
    back = forward
    for part, group, z_part in zip(parts, rest.groups, z, strict=True):
        if z_part is not None:
            seen = jnp.sum(z_part * rest.gather(dp_rest, group)[None], axis=1)
            back = back + sum_by_row(seen, part.rows, leaf.rows).T
    dp_leaf = -_backward(factor, back).T.ravel()
    return jnp.concatenate([dp_rest[: leaf.start], dp_leaf, dp_rest[leaf.start :]])


def _split(extra, leaf, structure: Structure):
    """Return what is added to the gradient, of the leaf row by row, and of the rest."""
    if extra is None:
        extra = jnp.zeros((structure.size,))
    rest = jnp.concatenate([extra[: leaf.start], extra[leaf.end :]])
    return extra[leaf.start : leaf.end].reshape(leaf.rows, leaf.size), rest


def _factored(matrix, added, rhs) -> Float[Array, " n"]:
    """Solve with a matrix of which the lower triangle is given."""
    index = jnp.arange(len(rhs))
    matrix = matrix.at[index, index].add(added)
    lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((lower, True), rhs)


def _compiled(model: BlockLinearization, damping) -> Float[Array, " n"]:
    """Return the step, all but one dense factorisation by machine code."""
    structure, plan = model.structure, model.structure.plan
    leaf, dtype = structure.leaves[plan.leaf], model.residual.dtype
    shape_of = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    n = structure.size - leaf.rows * leaf.size
    places_at = structure.places_without(plan.leaf)
    kinds, given, z_shapes, sides = [], [], [], []
    matrix, rhs = 0.0, 0.0
    for group, columns, residual, start in zip(
        structure.groups,
        model.columns,
        structure.split(model.residual),
        plan.starts,
        strict=True,
    ):
        jac, r = jnp.transpose(columns, (2, 1, 0)), residual.T
        places = places_at(group)
        kind = reduced.Kind(group.sizes, group.outputs, plan.inner(group))
        if kind.inner is None:
            shape = jnp.array([n, group.blocks], jnp.int32)
            more = call(
                reduced.product(kind, str(dtype)),
                (shape_of(n, n), shape_of(n)),
                *(shape, places, jac, r),
            )
            matrix, rhs = matrix + more[0], rhs + more[1]
            continue
        kinds.append(kind)
        given += [jnp.asarray(start), places, jac, r]
        sides.append((jnp.asarray(start), places))
        z_shapes.append(shape_of(group.blocks, leaf.size, kind.width))
    extra_leaf, extra_rest = _split(model.extra, leaf, structure)
    shape = jnp.array([n, leaf.rows], jnp.int32)
    signature = tuple(kinds), leaf.size, str(dtype)
    own = shape_of(leaf.rows, leaf.size, leaf.size), shape_of(leaf.rows, leaf.size)
    made = call(
        reduced.elimination(*signature),
        (shape_of(n, n), shape_of(n), *own, *z_shapes),
        *(shape, jnp.reshape(damping, (1,)).astype(dtype)),
        *(extra_leaf.astype(dtype), *given),
    )
    matrix, rhs = matrix + made[0], rhs + made[1] - extra_rest
    diagonal = structure.add_up([jnp.sum(c**2, axis=1) for c in model.columns])
    rest = lambda v: jnp.concatenate([v[: leaf.start], v[leaf.end :]])
    added = damping + absent(rest(diagonal))
    by_program = n <= dense_cholesky.MOST
    step = (dense_cholesky.solve if by_program else _factored)(matrix, added, rhs)
    lists = [x for side, z in zip(sides, made[4:], strict=True) for x in (*side, z)]
    dp_leaf = call(
        reduced.substitution(*signature),
        shape_of(leaf.rows, leaf.size),
        *(shape, made[2], made[3], step, *lists),
    )
    return jnp.concatenate([step[: leaf.start], dp_leaf.ravel(), step[leaf.start :]])


def _part(group: Group, columns, residual, plan: Elimination) -> _Part:
    k = plan.inner(group)
    if k is None:
        return _Part(None, columns, None, group.rows, group.slots, residual)
    start = sum(group.sizes[:k])
    end = start + group.sizes[k]
    outer = jnp.concatenate([columns[:start], columns[end:]])
    rows = jnp.concatenate([group.rows[:k], group.rows[k + 1 :]])
    slots = (*group.slots[:k], *group.slots[k + 1 :])
    return _Part(columns[start:end], outer, group.rows[k], rows, slots, residual)


def _without(structure: Structure, leaf: int) -> Structure:
    """Return the pattern of the other leaves."""
    gone = structure.leaves[leaf]
    length = gone.rows * gone.size
    leaves, number = [], {}
    for k, kind in enumerate(structure.leaves):
        if k == leaf:
            continue
        number[k] = len(leaves)
        start = kind.start - length * (kind.start > gone.start)
        leaves.append(kind._replace(start=start))
    groups = []
    for group in structure.groups:
        kept = [k for k, slot in enumerate(group.slots) if slot.leaf != leaf]
        slots = tuple(
            group.slots[k]._replace(leaf=number[group.slots[k].leaf]) for k in kept
        )
        rows = group.rows[jnp.array(kept, jnp.int32)]
        groups.append(Group(rows, slots, group.outputs))
    return Structure(tuple(groups), None, tuple(leaves))


def _factor(parts: list[_Part], leaf, damping, extra):
    """Return L of the eliminated rows, entry by entry, and ``L^-1 a``."""
    d = leaf.size
    pairs = [(i, j) for i in range(d) for j in range(i + 1)]
    totals = 0.0
    for part in parts:
        if part.inner is not None:
            e, r = part.inner, part.residual
            products = [jnp.sum(e[i] * e[j], axis=0) for i, j in pairs]
            products += [jnp.sum(e[i] * r, axis=0) for i in range(d)]
            totals += sum_by_row(jnp.stack(products), part.rows, leaf.rows)
    entries = dict(zip(pairs, totals.T, strict=False))
    gradient = totals.T[len(pairs) :] + extra.T
    lower: dict = {}
    for i, j in pairs:
        number = entries[i, j]
        if i == j:
            number = jnp.where(number == 0.0, 1.0, number) + damping
        for m in range(j):
            number = number - lower[i, m] * lower[j, m]
        lower[i, j] = jnp.sqrt(number) if i == j else number / lower[j, j]
    forward: list = []
    for i in range(d):
        number = gradient[i]
        for m in range(i):
            number = number - lower[i, m] * forward[m]
        forward.append(number / lower[i, i])
    return lower, jnp.stack(forward)


def _solved(part: _Part, factor: dict) -> Float[Array, "d w k"] | None:
    """Return ``Z = L^-1 W`` of each block."""
    if part.inner is None:
        return None
    d = len(part.inner)
    seen = {place: entry[None, part.rows] for place, entry in factor.items()}
    found: list = []
    for i in range(d):
        row = jnp.sum(part.inner[i][None] * part.outer, axis=1)
        for m in range(i):
            row = row - seen[i, m] * found[m]
        found.append(row / seen[i, i])
    return jnp.stack(found)


def _backward(factor: dict, rhs: Float[Array, "d rows"]) -> Float[Array, "d rows"]:
    d = len(rhs)
    found: dict = {}
    for i in reversed(range(d)):
        number = rhs[i]
        for m in range(i + 1, d):
            number = number - factor[m, i] * found[m]
        found[i] = number / factor[i, i]
    return jnp.stack([found[i] for i in range(d)])


def _densely(rest: Structure, columns, z, plan) -> Float[Array, "n n"]:
    n, dtype = rest.size, columns[0][0].dtype
    total = jnp.zeros((n, n), dtype)
    stacked = None
    for group, (outer, rows), z_part in zip(rest.groups, columns, z, strict=True):
        at = rest.indices(group)
        gram = jnp.einsum("aok,bok->abk", outer, outer, precision=PRECISION)
        total = total.at[at[:, None], at[None]].add(gram)
        if z_part is not None:
            if stacked is None:
                stacked = jnp.zeros((len(z_part), plan.rows, n), dtype)
            inner = jnp.arange(len(z_part))[:, None, None]
            stacked = stacked.at[inner, rows[None, None], at[None]].add(z_part)
    if stacked is not None:
        flat = stacked.reshape(-1, n)
        total -= jnp.dot(flat.T, flat, precision=PRECISION)
    return total


def _by_products(rest, parts, z, added, rhs, tol, max_steps, plan):
    """Return the step by conjugate gradients, from products with the reduced matrix."""

    def product(x):
        total = added * x
        terms, sums = [], 0.0
        seen = [rest.gather(x, group) for group in rest.groups]
        for part, z_part, x_part in zip(parts, z, seen, strict=True):
            effect = jnp.sum(part.outer * x_part[:, None], axis=0)
            terms.append(jnp.sum(part.outer * effect[None], axis=1))
            if z_part is not None:
                along = jnp.sum(z_part * x_part[None], axis=1)
                sums += sum_by_row(along, part.rows, plan.rows).T
        for k, (part, z_part) in enumerate(zip(parts, z, strict=True)):
            if z_part is not None:
                terms[k] -= jnp.sum(z_part * sums[:, None, part.rows], axis=0)
        return total + rest.add_up(terms)

    outer = [part.outer for part in parts]
    precondition = conjugate.block_jacobi(rest, outer, z, added)
    return conjugate.inexact(product, precondition, rhs, tol, max_steps)
