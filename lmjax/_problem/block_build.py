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
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array

from lmjax._jax import machine, paths, program_cache
from lmjax._linalg.blocks import elimination, sparse
from lmjax._linalg.blocks.structure import Group, Leaf, Slot, Structure
from lmjax._linalg.solvers import BlockCG, Schur, SparseCholesky
from lmjax._problem.block_problem import BlockGroup, BlockProblem, ParamLeaf
from lmjax._problem.bounds import constraints_of
from lmjax._problem.charts import charts_of, is_manifold
from lmjax._problem.residual_blocks import ResidualBlocks

# Reverse mode pays if it takes so many times fewer passes: for reprojections of two
# residuals and twelve unknowns it takes 0.3 of the time.
FEWER = 3


class Prepared(eqx.Module):
    """A problem whose pattern is known.

    Attributes:
        groups: Residual blocks, in the order that the linear solver wants.
        orders: For each group the original number of each block; None if unchanged.
        outputs: For each group the shape of the residual of a block.
        structure: The pattern.
        manifolds: Manifold of each leaf or None.
        linear_solver: The linear solver.
    """

    groups: tuple[BlockGroup, ...]
    orders: tuple[Any, ...]
    outputs: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    structure: Structure
    manifolds: tuple[Any, ...]
    linear_solver: Any


def prepare(
    blocks: Sequence[ResidualBlocks], params0: Any, manifold: Any, linear_solver: Any
) -> Prepared:
    """Return a problem whose pattern is known.

    Raises:
        ValueError: If rows do not exist, or a leaf cannot be eliminated.
    """
    dtype = paths.check_params(params0)
    params0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params0)
    values, structure = jax.tree.flatten(params0)
    manifolds = paths.spread("manifold", manifold, params0, is_manifold)
    charts_of(values, manifolds)  # checks their shapes
    leaves = _leaves(values, manifolds)
    made = [
        _group(given, k, values, structure, params0, leaves)
        for k, given in enumerate(blocks)
    ]
    groups, outputs = (tuple(part) for part in zip(*made, strict=True))
    pattern = Structure(tuple(g.pattern for g in groups), None, leaves)
    names = [
        paths.name_of(path) or "params"
        for path, _ in jax.tree_util.tree_leaves_with_path(params0)
    ]
    linear_solver = choose(pattern, linear_solver, names)
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
        groups, tuple(orders), outputs, pattern, tuple(manifolds), linear_solver
    )


def build(
    prepared: Prepared, params0: Any, bounds: Any, fixed: Any
) -> tuple[BlockProblem, Array]:
    """Return the problem and its flat start, inside a trace."""
    values = jax.tree.leaves(params0)
    dtype = jnp.result_type(*values)
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


def _leaves(values, manifolds) -> tuple[Leaf, ...]:
    found, start = [], 0
    for value, manifold in zip(values, manifolds, strict=True):
        rows = value.shape[0] if value.ndim else 1
        size = value.size // max(rows, 1)
        if manifold is not None:
            size = size // manifold.size * manifold.tangent_size
        found.append(Leaf(start, rows, size))
        start += rows * size
    return tuple(found)


def _group(given, number, values, structure, params0, leaves):
    """Return the blocks of one kind as they were given, and the shape of a residual."""
    name = f"blocks[{number}].at"
    rows = paths.spread(name, given.at, params0, lambda x: hasattr(x, "shape"))
    k = given.blocks
    for leaf, (value, at) in enumerate(zip(values, rows, strict=True)):
        if at is not None:
            rows[leaf] = _checked(name, at, value, leaf, params0)
    pick = lambda value, at: value if at is None else value[at[0]]
    one = jax.tree.unflatten(
        structure, [pick(v, at) for v, at in zip(values, rows, strict=True)]
    )
    first = jax.tree.map(lambda x: x[0], tuple(given.args))
    fn = program_cache.model("fn", given.fn, one, *first)
    used, out = _used(fn, one, first)
    slots, picked, spans = [], [], []
    for leaf, at in enumerate(rows):
        if at is None:
            if used[leaf]:
                whole = Slot(leaf, leaves[leaf].rows * leaves[leaf].size, True)
                spans.append((leaf, len(slots), len(slots) + 1, False))
                slots.append(whole)
                picked.append(np.zeros(k, np.int32))
            continue
        columns = [at] if at.ndim == 1 else [at[:, j] for j in range(at.shape[1])]
        spans.append((leaf, len(slots), len(slots) + len(columns), at.ndim == 2))
        slots += [Slot(leaf, leaves[leaf].size, False)] * len(columns)
        picked += columns
    stack = jnp if any(isinstance(x, Tracer) for x in picked) else np
    picked = stack.stack([x.astype(np.int32) for x in picked])
    pattern = Group(picked, tuple(slots), out.size)
    mask = given.mask
    args = tuple(given.args)
    if mask is not None:
        # what is masked may be NaN, and a derivative of 0 times NaN is NaN
        keep = jnp.argmax(mask)
        args = jax.tree.map(
            lambda x: jnp.where(
                jnp.reshape(mask, (-1,) + (1,) * (x.ndim - 1)), x, x[keep]
            ),
            args,
        )
    sigma = _inverse_sigma(given.sigma, k, out)
    given = fn, args, sigma, mask, given.loss, given.loss_scale
    reverse = FEWER * out.size <= pattern.width and _is_reversible(fn, one, first)
    group = BlockGroup(*given, pattern, tuple(spans), structure, reverse)
    return group, out.shape


def _is_reversible(fn, one, first) -> bool:
    """Return whether reverse mode can differentiate a function."""
    total = lambda one: jnp.sum(fn(one, *first))
    try:
        jax.eval_shape(jax.grad(total), one)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def _checked(name, at, value, leaf, params0):
    """Return rows that exist."""
    path = jax.tree_util.tree_leaves_with_path(params0)[leaf][0]
    where = f"{name}{jax.tree_util.keystr(path)}"
    if not value.ndim:
        raise ValueError(f"{where}: expected a leaf with rows, got a number in params0")
    if isinstance(at, Tracer):
        return at
    at = np.asarray(at)
    wrong = (at < 0) | (at >= value.shape[0])
    if wrong.any():
        block = int(np.argwhere(wrong)[0][0])
        raise ValueError(
            f"{where}: expected rows from 0 to {value.shape[0] - 1}, got "
            f"{at[wrong][0]} in block {block}"
        )
    return at


def _used(fn, one, first):
    """Return which leaves of the parameters a function reads, and what it returns."""
    closed, out = jax.make_jaxpr(fn, return_shape=True)(one, *first)
    _, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    if len(jax.tree.leaves(out)) != 1 or not hasattr(out, "shape"):
        raise ValueError(
            f"fn: expected one array of residuals, got {jax.tree.structure(out)}"
        )
    return used[: len(jax.tree.leaves(one))], out


def _inverse_sigma(sigma, k, out):
    if sigma is None:
        return None
    sigma = jnp.asarray(sigma)
    shape = (k, *out.shape)
    if sigma.shape == (k,):
        sigma = sigma.reshape(k, *(1,) * len(out.shape))
    try:
        sigma = jnp.broadcast_to(sigma, shape)
    except ValueError as error:
        raise ValueError(
            f"sigma: expected a shape that broadcasts to ({k},) or {shape}, got "
            f"{sigma.shape}"
        ) from error
    return 1.0 / sigma.reshape(k, -1).T


def choose(pattern: Structure, linear_solver: Any, names: list[str]) -> Any:
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
