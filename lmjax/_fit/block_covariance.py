"""Covariance of chosen rows of a structured fit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax._fit.block_result import BlockSolution
from lmjax._fit.validate import resolve_manifold
from lmjax._jax import paths
from lmjax._linalg.linearization import PRECISION
from lmjax._problem import block_build
from lmjax._problem.residual_blocks import ResidualBlocks
from lmjax._solver.status import ParamStatus

# Directions that are looked for: a world may move, turn and grow (7), twice.
MOST_OPEN = 14
# Damping of the solves, in units of the columns of J; refinement takes it out again.
TRACE = 1e-11
# A direction is open if J changes the residual by less than this along it, squared, in
# units of the columns of J: rounding leaves 1e-14, and reconstructions that are long
# and thin have directions at 1e-7.
OPEN = 1e-10
TURNS = 3


class BlockCovariance(NamedTuple):
    """Covariance of chosen rows.

    Attributes:
        blocks: For each leaf that was asked for an array (rows, unknowns, unknowns); on
            a manifold of a step from there.
        open_directions: How many combinations of the unknowns the residuals leave
            open, such as where a reconstruction stands (7 of a bundle adjustment
            without fixed cameras). The covariance is that of all others: the inverse of
            least norm, in units of the columns of J.
        dof: Degrees of freedom, residuals less unknowns that are determined.
    """

    blocks: dict[str, Float[Array, "rows d d"]]
    open_directions: int
    dof: int


def block_covariance(
    blocks: Any,
    solution: BlockSolution,
    rows: dict[str, Any],
    *,
    manifold: Any = None,
    absolute_sigma: bool = False,
) -> BlockCovariance:
    """Return the covariance of chosen rows of a structured fit.

    The diagonal blocks of ``(J^T J)^-1``, each row by itself, by one solve per unknown
    asked for: nothing as large as J^T J is formed. For float64. What the fit held has
    covariance zero, fixed or at a bound, as in dense fits.

    Args:
        blocks: What `least_squares` was given.
        solution: What it returned.
        rows: Names of leaves of the parameters, and the rows asked for.
        manifold: As given to `least_squares`.
        absolute_sigma: Whether residuals are in units of their standard deviations.
            If not, the covariance is scaled by ``2 cost / dof``.

    Raises:
        ValueError: If there is no such leaf or row.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> hold = lambda p, y: p["x"] - y
        >>> ends = jnp.array([0, 0, 1, 1])
        >>> given = lmjax.ResidualBlocks(hold, {"x": ends}, (jnp.arange(4.0),))
        >>> sol = lmjax.least_squares(given, {"x": jnp.zeros(2)})
        >>> found = lmjax.block_covariance(given, sol, {"x": [1]})
        >>> print(f"{found.blocks['x'][0, 0, 0]:.3f}")
        0.250

    References:
        Triggs, McLauchlan, Hartley, Fitzgibbon (1999), "Bundle adjustment: a modern
        synthesis", section 9, for gauge freedom.
    """
    given = [blocks] if isinstance(blocks, ResidualBlocks) else list(blocks)
    given = [each.native() for each in given]
    manifolds = resolve_manifold(manifold, solution.params, None)
    prepared = block_build.prepare(given, solution.params, manifolds, None)
    names = paths.leaf_names(solution.params)
    wanted = {}
    for name, asked in rows.items():
        if name not in names:
            raise ValueError(
                f"rows: expected names among {', '.join(names)}, got {name!r}"
            )
        leaf = prepared.structure.leaves[names.index(name)]
        numbers = np.atleast_1d(np.asarray(asked))
        if numbers.size and not (0 <= numbers.min() <= numbers.max() < leaf.rows):
            raise ValueError(
                f"rows: expected rows of {name} from 0 to {leaf.rows - 1}, got "
                f"{numbers.tolist()}"
            )
        unknowns = leaf.start + numbers[:, None] * leaf.size + np.arange(leaf.size)
        wanted[name] = unknowns
    every = np.concatenate([w.ravel() for w in wanted.values()]).astype(np.int32)
    status = solution.flat_status
    columns, values, dof = _columns(prepared, solution.params, status, every)
    open_directions = int(np.sum(np.asarray(values) < OPEN))
    dof = int(dof) + open_directions
    scale = 1.0 if absolute_sigma else 2.0 * solution.cost / max(dof, 1)
    found, start = {}, 0
    for name, unknowns in wanted.items():
        count, size = unknowns.shape
        part = columns[start : start + unknowns.size].reshape(count, size, -1)
        start += unknowns.size
        block = jnp.take_along_axis(part, unknowns[:, None].repeat(size, 1), axis=2)
        found[name] = scale * 0.5 * (block + jnp.swapaxes(block, 1, 2))
    return BlockCovariance(found, open_directions, dof)


@jax.jit
def _columns(prepared, params, status, wanted):
    """Return columns of the inverse, the smallest eigenvalues, degrees of freedom."""
    problem, p = block_build.build(prepared, params, None, None)
    charts = problem.constraints.charts
    flags = lambda of: of if charts is None else charts.flags(of)
    fixed = flags(status == ParamStatus.FIXED)
    bound = flags((status == ParamStatus.AT_LOWER) | (status == ParamStatus.AT_UPPER))
    model = problem.linearize(p, problem.residual_fn(p), False)
    _, norms, _ = model.moments()
    used = (norms > 0.0) & ~fixed
    free = used & ~bound
    scale = jnp.where(free, 1.0 / jnp.where(free, norms, 1.0), 0.0)
    scaled = model.rescale(scale)
    trace = jnp.asarray(TRACE, p.dtype)
    solve = lambda v: problem.linear_solver(scaled.with_gradient(-v), trace)
    product = lambda v: scaled.rmv(scaled.mv(v))
    # what is not free has an effect of one: such a direction is none that is open
    whole = lambda fn: lambda v: jnp.where(free, fn(jnp.where(free, v, 0.0)), v)
    basis, values = _open_directions(whole(solve), whole(product), free.size, p.dtype)
    null = jnp.where((values < OPEN)[None], basis, 0.0)
    outside = lambda v: v - _dot(null, _dot(null.T, v))

    def column(k):
        unit = outside(jnp.zeros_like(norms).at[k].set(jnp.where(free[k], 1.0, 0.0)))
        x = outside(solve(unit))
        for _ in range(2):  # takes out the trace of damping
            x = x + outside(solve(outside(unit - product(x))))
        return scale[k] * scale * x

    residuals = sum(group.num_used for group in problem.groups)
    dof = residuals - jnp.sum(used, dtype=jnp.int32)
    return jax.lax.map(column, wanted), values, dof


def _open_directions(solve, product, n, dtype):
    """Return orthonormal directions of least effect, and the squares of their effects.

    By inverse iteration of a subspace: a few turns separate what is open.
    """
    draws = np.random.default_rng(0).normal(size=(n, min(MOST_OPEN, n)))
    basis = jnp.linalg.qr(jnp.asarray(draws, dtype))[0]
    each = lambda fn, matrix: jax.lax.map(fn, matrix.T).T
    for _ in range(TURNS):
        basis = jnp.linalg.qr(each(solve, basis))[0]
    small = _dot(basis.T, each(product, basis))
    values, vectors = jnp.linalg.eigh(0.5 * (small + small.T))
    return _dot(basis, vectors), values


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=PRECISION)
