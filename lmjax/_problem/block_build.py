"""From `ResidualBlocks` and parameters to a `BlockProblem`.

What depends on the rows that blocks see is worked out here, once, before anything is
compiled: their order, the leaf to eliminate, the pattern of a sparse factor.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from lmjax._jax import machine, paths
from lmjax._linalg.blocks import elimination, sparse
from lmjax._linalg.blocks.structure import Group, Structure
from lmjax._linalg.solvers import BlockCG, Schur, SparseCholesky
from lmjax._problem.block_group import group_of, leaves_of
from lmjax._problem.block_problem import BlockProblem
from lmjax._problem.block_residual import BlockGroup, ParamLeaf
from lmjax._problem.bounds import constraints_of
from lmjax._problem.charts import charts_of
from lmjax._problem.residual_blocks import ResidualBlocks


class Prepared(eqx.Module):
    """A problem whose pattern is known.

    Attributes:
        groups: Residual blocks, in the order that the linear solver wants.
        orders: For each group the original number of each block; None if unchanged.
        outputs: For each group the shape of the residual of a block.
        dtype: In which the fit works: that of the start, or of wider data.
        structure: The pattern.
        manifolds: Manifold of each leaf or None.
        linear_solver: The linear solver.
    """

    groups: tuple[BlockGroup, ...]
    orders: tuple[Any, ...]
    outputs: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)
    structure: Structure
    manifolds: tuple[Any, ...]
    linear_solver: Any


def prepare(
    blocks: Sequence[ResidualBlocks],
    params0: Any,
    manifolds: list[Any],
    linear_solver: Any,
    jac: str | None = None,
) -> Prepared:
    """Return a problem whose pattern is known.

    ``manifolds`` has one or None for each leaf. ``jac`` is "fwd", "rev", or None for
    what takes fewer passes.

    Raises:
        ValueError: If rows do not exist, or a leaf cannot be eliminated.
    """
    dtype = paths.check_params(params0)
    params0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params0)
    values, structure = jax.tree.flatten(params0)
    leaves = leaves_of(values, manifolds)
    made = [
        group_of(given, k, values, structure, params0, leaves, jac)
        for k, given in enumerate(blocks)
    ]
    groups, returned = (tuple(part) for part in zip(*made, strict=True))
    pattern = Structure(tuple(g.pattern for g in groups), None, leaves)
    names = paths.leaf_names(params0)
    linear_solver = choose(pattern, linear_solver)
    orders: list[Any] = [None] * len(groups)
    plan = None
    if isinstance(linear_solver, Schur):
        leaf = _eliminated(pattern, linear_solver.eliminate, names)
        groups, orders, plan = _sorted_by(leaf, groups, pattern, linear_solver)
    elif isinstance(linear_solver, SparseCholesky):
        known = not any(isinstance(g.pattern.rows, Tracer) for g in groups)
        if known and not machine.available():
            plan = sparse.plan(pattern)
    pattern = Structure(tuple(g.pattern for g in groups), plan, leaves)
    return Prepared(
        groups,
        tuple(orders),
        tuple(out.shape for out in returned),
        np.dtype(paths.common_dtype(dtype, *(out.dtype for out in returned))),
        pattern,
        tuple(manifolds),
        linear_solver,
    )


def build(
    prepared: Prepared, params0: Any, bounds: Any, fixed: Any
) -> tuple[BlockProblem, Array]:
    """Return the problem and its flat start, inside a trace."""
    dtype = prepared.dtype
    params0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params0)
    values = jax.tree.leaves(params0)
    charts = charts_of(values, list(prepared.manifolds))
    constraints = constraints_of(bounds, fixed, charts, params0, dtype)
    leaves, start = [], 0
    for value in values:
        shape = jnp.shape(value)
        size = int(np.prod(shape[1:]))
        leaves.append(ParamLeaf(start, shape, size))
        start += int(np.prod(shape))
    m = sum(g.pattern.outputs * g.pattern.blocks for g in prepared.groups)
    problem = BlockProblem(
        prepared.groups,
        constraints,
        prepared.structure,
        prepared.manifolds,
        prepared.linear_solver,
        tuple(leaves),
        m,
    )
    return problem, jnp.concatenate([jnp.ravel(value) for value in values])


def choose(pattern: Structure, linear_solver: Any) -> Any:
    """Return the linear solver for a pattern.

    Raises:
        ValueError: If the one that was asked for cannot work with blocks.
    """
    if linear_solver is not None:
        if isinstance(linear_solver, Schur | SparseCholesky | BlockCG):
            return linear_solver
        raise ValueError(
            "solver: expected linear_solver=Schur(), SparseCholesky(), BlockCG() or "
            f"None for ResidualBlocks, got {linear_solver!r}"
        )
    if len(pattern.leaves) > 1 and _candidates(pattern):
        return Schur()
    return SparseCholesky()


def _candidates(pattern: Structure) -> list[int]:
    """Return the leaves of which no block uses two rows, the largest first."""
    good = []
    for k, leaf in enumerate(pattern.leaves):
        slots = [[s for s in g.slots if s.leaf == k] for g in pattern.groups]
        seen = any(slots)
        if seen and all(len(s) < 2 and not any(x.whole for x in s) for s in slots):
            good.append((-leaf.rows * leaf.size, k))
    return [k for _, k in sorted(good)]


def _eliminated(pattern: Structure, name: str | None, names: list[str]) -> int:
    good = _candidates(pattern)
    if name is None:
        if good and len(pattern.leaves) > 1:
            return good[0]
        raise ValueError(
            "solver: Schur() needs a leaf of params0 of which no block uses two rows, "
            "and another leaf; SparseCholesky() needs none"
        )
    if name not in names:
        raise ValueError(
            f"solver: Schur(eliminate={name!r}): the leaves are {', '.join(names)}"
        )
    k = names.index(name)
    if k not in good:
        raise ValueError(
            f"solver: Schur(eliminate={name!r}): some block uses two of its rows; "
            f"possible are {', '.join(names[j] for j in good) or 'none'}"
        )
    return k


def _sorted_by(leaf: int, groups, pattern: Structure, solver: Schur):
    """Return the groups in the order of the eliminated rows, and the plan."""
    kind = pattern.leaves[leaf]
    found, orders, starts = [], [], []
    for group in groups:
        slot = next(
            (k for k, s in enumerate(group.pattern.slots) if s.leaf == leaf), None
        )
        if slot is None or isinstance(group.pattern.rows, Tracer):
            found.append(group)
            orders.append(None)
            starts.append(None)
            continue
        rows = np.asarray(group.pattern.rows)
        order = np.argsort(rows[slot], kind="stable").astype(np.int32)
        begins = np.searchsorted(rows[slot][order], np.arange(kind.rows + 1))
        starts.append(begins.astype(np.int32))
        if (np.diff(order) == 1).all():
            found.append(group)
            orders.append(None)
            continue
        orders.append(order)
        found.append(_reordered(group, order))
    pattern = Structure(tuple(g.pattern for g in found), None, pattern.leaves)
    plan = elimination.plan(pattern, leaf, starts, solver.dense)
    return tuple(found), orders, plan


def _reordered(group: BlockGroup, order: np.ndarray) -> BlockGroup:
    pattern = group.pattern
    pattern = Group(np.asarray(pattern.rows)[:, order], pattern.slots, pattern.outputs)
    pick = lambda x: None if x is None else x[..., order]
    return eqx.tree_at(
        lambda g: (g.args, g.inverse_sigma, g.mask, g.pattern),
        group,
        (
            jax.tree.map(lambda x: x[order], group.args),
            pick(group.inverse_sigma),
            pick(group.mask),
            pattern,
        ),
        is_leaf=lambda x: x is None,
    )
