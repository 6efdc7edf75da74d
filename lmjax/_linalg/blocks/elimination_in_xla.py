"""The damped step by elimination of a leaf, in XLA: see `elimination`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._linalg.blocks import conjugate
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.sparse import by_lapack
from lmjax._linalg.blocks.structure import Group, Structure, absent, sum_by_row
from lmjax._linalg.linearization import PRECISION


class _Part(NamedTuple):
    """A group of blocks, its columns apart.

    Attributes:
        inner: Columns of the eliminated leaf; None if no block sees it.
        outer: The other columns.
        rows: Which row of the eliminated leaf each block sees.
        residual: Residual of the blocks.
    """

    inner: Float[Array, "d out k"] | None
    outer: Float[Array, "w out k"]
    rows: Any
    residual: Float[Array, "out k"]


def step(
    model: BlockLinearization, damping: Any, tol: Any, max_steps: int
) -> Float[Array, " n"]:
    """Return the damped least-squares step."""
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
    rest = without(structure, plan.leaf)
    extra_leaf, extra_rest = split(model, leaf)
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
        dp_rest = by_lapack(_densely(rest, parts, z, plan), added, rhs)
    else:
        dp_rest = _by_products(rest, parts, z, added, rhs, tol, max_steps, plan)
    back = forward
    for part, group, z_part in zip(parts, rest.groups, z, strict=True):
        if z_part is not None:
            seen = jnp.sum(z_part * rest.gather(dp_rest, group)[None], axis=1)
            back = back + sum_by_row(seen, part.rows, leaf.rows).T
    dp_leaf = -_backward(factor, back).T.ravel()
    return jnp.concatenate([dp_rest[: leaf.start], dp_leaf, dp_rest[leaf.start :]])


def split(model: BlockLinearization, leaf: Any) -> tuple[Array, Array]:
    """Return what is added to the gradient, of a leaf row by row, and of the rest."""
    extra = model.extra
    if extra is None:
        extra = jnp.zeros((model.structure.size,), model.residual.dtype)
    rest = jnp.concatenate([extra[: leaf.start], extra[leaf.end :]])
    return extra[leaf.start : leaf.end].reshape(leaf.rows, leaf.size), rest


def _part(group: Group, columns, residual, plan: Any) -> _Part:
    k = plan.inner(group)
    if k is None:
        return _Part(None, columns, None, residual)
    start = sum(group.sizes[:k])
    end = start + group.sizes[k]
    outer = jnp.concatenate([columns[:start], columns[end:]])
    return _Part(columns[start:end], outer, group.rows[k], residual)


def without(structure: Structure, leaf: int) -> Structure:
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
    totals: Any = 0.0
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


def _densely(rest: Structure, parts, z, plan) -> Float[Array, "n n"]:
    """Return the reduced matrix, without damping."""
    total = rest.normal_matrix([part.outer for part in parts])
    stacked = None
    for part, group, z_part in zip(parts, rest.groups, z, strict=True):
        if z_part is not None:
            if stacked is None:
                stacked = jnp.zeros((len(z_part), plan.rows, rest.size), total.dtype)
            inner = jnp.arange(len(z_part))[:, None, None]
            at = inner, part.rows[None, None], rest.indices(group)[None]
            stacked = stacked.at[at].add(z_part)
    if stacked is not None:
        flat = stacked.reshape(-1, rest.size)
        total -= jnp.dot(flat.T, flat, precision=PRECISION)
    return total


def _by_products(rest, parts, z, added, rhs, tol, max_steps, plan):
    """Return the step by conjugate gradients, from products with the reduced matrix."""

    def product(x):
        total = added * x
        terms: list = []
        sums: Any = 0.0
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
