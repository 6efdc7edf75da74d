"""The damped normal matrix, solved by elimination of a leaf, in XLA.

See `elimination`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._linalg.blocks import conjugate, sparse
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.structure import (
    Group,
    Structure,
    absent,
    contract,
    sum_by_row,
)
from lmjax._linalg.linearization import PRECISION


class Factors(NamedTuple):
    """Factors of the damped normal matrix.

    Attributes:
        lower: L of the eliminated rows.
        z: ``L^-1 W`` of each group that sees the leaf; the columns of the leaf itself
            are not used.
        reduced: The factor of the reduced matrix, as `sparse.factor` leaves it.
    """

    lower: Float[Array, "rows d d"]
    z: tuple[Float[Array, "k d w"], ...]
    reduced: Array


class _Part(NamedTuple):
    """A group of blocks, its columns apart.

    Attributes:
        inner: Columns of the eliminated leaf; None if no block sees it.
        outer: The other columns.
        rows: Which row of the eliminated leaf each block sees.
    """

    inner: Float[Array, "d out k"] | None
    outer: Float[Array, "w out k"]
    rows: Any


def factor(model: BlockLinearization, damping: Any) -> Factors:
    """Return the factors, the reduced matrix as a dense one."""
    structure, plan = model.structure, model.structure.plan
    rest = without(structure, plan.leaf)
    parts, lower, z, added = _eliminated(model, rest, damping)
    matrix = sparse.factor_densely(_densely(rest, parts, z, plan), added)
    stacked = []
    for group, z_part in zip(structure.groups, z, strict=True):
        if z_part is not None:
            start = sum(group.sizes[: plan.inner(group)])
            gap = jnp.zeros((len(z_part), len(lower), group.blocks), z_part.dtype)
            whole = [z_part[:, :start], gap, z_part[:, start:]]
            stacked.append(jnp.transpose(jnp.concatenate(whole, axis=1), (2, 0, 1)))
    return Factors(jnp.transpose(lower, (2, 0, 1)), tuple(stacked), matrix)


def substitute(
    structure: Structure, factors: Factors, rhs: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Return the solution with the factors."""
    plan = structure.plan
    z, known = [], iter(factors.z)
    for group in structure.groups:
        inner = plan.inner(group)
        if inner is None:
            z.append(None)
            continue
        start = sum(group.sizes[:inner])
        end = start + group.sizes[inner]
        stacked = jnp.transpose(next(known), (1, 2, 0))
        z.append(jnp.concatenate([stacked[:, :start], stacked[:, end:]], axis=1))
    lower = jnp.transpose(factors.lower, (1, 2, 0))
    reduced = lambda b: sparse.substitute_densely(factors.reduced, b)
    return _solution(structure, lower, z, rhs, reduced)


def solve_by_products(
    model: BlockLinearization,
    damping: Any,
    rhs: Float[Array, " n"],
    tol: Any,
    max_steps: int,
) -> Float[Array, " n"]:
    """Return the solution by conjugate gradients with the reduced matrix."""
    structure, plan = model.structure, model.structure.plan
    rest = without(structure, plan.leaf)
    parts, lower, z, added = _eliminated(model, rest, damping)
    reduced = lambda b: _by_products(rest, parts, z, added, b, tol, max_steps, plan)
    return _solution(structure, lower, z, rhs, reduced)


def _eliminated(model: BlockLinearization, rest: Structure, damping: Any):
    """Return the parts, L, Z, and what is added to the diagonal of the others."""
    structure, plan = model.structure, model.structure.plan
    leaf = structure.leaves[plan.leaf]
    pairs = zip(structure.groups, model.columns, strict=True)
    parts = [_part(*pair, plan) for pair in pairs]
    lower = _factor(parts, leaf, damping)
    z = [_solved(part, lower) for part in parts]
    diagonal = rest.squares([part.outer for part in parts])
    return parts, lower, z, damping + absent(diagonal)


def _solution(structure: Structure, lower, z: list, rhs, reduced: Callable):
    """Return the solution, given how to solve with the reduced matrix."""
    plan = structure.plan
    leaf, rest = structure.leaves[plan.leaf], without(structure, plan.leaf)
    rows = [
        None if z_part is None else jnp.asarray(group.rows[plan.inner(group)])
        for group, z_part in zip(structure.groups, z, strict=True)
    ]
    solved = _triangular(lower, rows_of(rhs, leaf).T)
    terms = []
    for group, z_part, at in zip(rest.groups, z, rows, strict=True):
        if z_part is None:
            terms.append(jnp.zeros((group.width, group.blocks), rhs.dtype))
        else:
            terms.append(contract(z_part, solved[:, None, at], 0))
    y = reduced(others(rhs, leaf) - rest.add_up(terms))
    left = solved
    for group, z_part, at in zip(rest.groups, z, rows, strict=True):
        if z_part is not None and at is not None:
            seen = contract(z_part, rest.gather(y, group)[None], 1)
            left = left - sum_by_row(seen, at, leaf.rows).T
    x = _triangular(jnp.swapaxes(lower, 0, 1)[::-1, ::-1], left[::-1])[::-1]
    return jnp.concatenate([y[: leaf.start], x.T.ravel(), y[leaf.start :]])


def rows_of(v: Float[Array, " n"], leaf: Any) -> Float[Array, "rows d"]:
    """Return what a flat vector holds for a leaf, row by row."""
    return v[leaf.start : leaf.end].reshape(leaf.rows, leaf.size)


def others(v: Float[Array, " n"], leaf: Any) -> Float[Array, " m"]:
    """Return what a flat vector holds for the other leaves."""
    return jnp.concatenate([v[: leaf.start], v[leaf.end :]])


def _part(group: Group, columns, plan: Any) -> _Part:
    k = plan.inner(group)
    if k is None:
        return _Part(None, columns, None)
    start = sum(group.sizes[:k])
    end = start + group.sizes[k]
    outer = jnp.concatenate([columns[:start], columns[end:]])
    return _Part(columns[start:end], outer, group.rows[k])


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


def _factor(parts: list[_Part], leaf, damping) -> Float[Array, "d d rows"]:
    """Return L of the eliminated rows."""
    d = leaf.size
    pairs = [(i, j) for i in range(d) for j in range(i + 1)]
    totals: Any = 0.0
    for part in parts:
        if part.inner is not None:
            e = part.inner
            products = [contract(e[i], e[j], 0) for i, j in pairs]
            totals += sum_by_row(jnp.stack(products), part.rows, leaf.rows)
    entries = dict(zip(pairs, totals.T, strict=True))
    lower: dict = {}
    for i, j in pairs:
        number = entries[i, j]
        if i == j:
            number = jnp.where(number == 0.0, 1.0, number) + damping
        for m in range(j):
            number = number - lower[i, m] * lower[j, m]
        lower[i, j] = jnp.sqrt(number) if i == j else number / lower[j, j]
    zero = jnp.zeros_like(lower[0, 0])
    return jnp.stack(
        [jnp.stack([lower.get((i, j), zero) for j in range(d)]) for i in range(d)]
    )


def _solved(part: _Part, lower) -> Float[Array, "d w k"] | None:
    """Return ``Z = L^-1 W`` of each block."""
    if part.inner is None:
        return None
    products = [contract(row[None], part.outer, 1) for row in part.inner]
    return _triangular(lower[:, :, None, part.rows], jnp.stack(products))


def _triangular(
    lower: Float[Array, "d d *k"], rhs: Float[Array, "d *k"]
) -> Float[Array, "d *k"]:
    """Return the solutions of small lower triangular systems."""
    found: list = []
    for i, number in enumerate(rhs):
        for m, known in enumerate(found):
            number = number - lower[i, m] * known
        found.append(number / lower[i, i])
    return jnp.stack(found)


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
            effect = contract(part.outer, x_part[:, None], 0)
            terms.append(contract(part.outer, effect[None], 1))
            if z_part is not None:
                along = contract(z_part, x_part[None], 1)
                sums += sum_by_row(along, part.rows, plan.rows).T
        for k, (part, z_part) in enumerate(zip(parts, z, strict=True)):
            if z_part is not None:
                terms[k] -= contract(z_part, sums[:, None, part.rows], 0)
        return total + rest.add_up(terms)

    outer = [part.outer for part in parts]
    precondition = conjugate.block_jacobi(rest, outer, z, added)
    return conjugate.inexact(product, precondition, rhs, tol, max_steps)
