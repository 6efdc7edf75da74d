"""`least_squares` of `ResidualBlocks`."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lmjax._derivatives.implicit import Implicit
from lmjax._fit.block_result import BlockSolution, BlockSummary
from lmjax._fit.solve import of_outcome
from lmjax._fit.validate import (
    check_feasible,
    check_pair,
    resolve_manifold,
)
from lmjax._fit.validate_solver import check_solver
from lmjax._jax import arrays, paths
from lmjax._linalg.blocks.elimination import Elimination
from lmjax._linalg.solvers import BlockCG
from lmjax._problem import block_build
from lmjax._problem.block_build import Prepared
from lmjax._problem.residual_blocks import ResidualBlocks
from lmjax._solver.damping import Nielsen
from lmjax._solver.settings import LevenbergMarquardt

# Relative change of the cost that ends a fit of blocks, unless one is given.
FTOL = 1e-8
# First lambda unless one is given, that of Ceres.
DAMPING = 1e-4


def is_blocks(given: Any) -> bool:
    """Return whether residuals are given as blocks, or as a list of them."""
    if isinstance(given, ResidualBlocks):
        return True
    many = isinstance(given, list | tuple) and len(given) > 0
    return many and all(isinstance(each, ResidualBlocks) for each in given)


def fit_blocks(
    given: Any,
    params0: Any,
    *,
    unused: dict[str, Any],
    bounds: Any,
    fixed: Any,
    manifold: Any,
    solver: LevenbergMarquardt,
    derivative: Any,
) -> BlockSolution:
    """Return the solution of a problem of blocks.

    ``unused`` are arguments that have no meaning for blocks.
    """
    for name, value in unused.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected none with ResidualBlocks, got {value!r}; args and "
                "loss are theirs"
            )
    check_pair(bounds)
    check_solver(solver, derivative)
    if not isinstance(derivative, Implicit):
        raise ValueError(
            "derivative: expected Implicit(...) with ResidualBlocks, whose steps have "
            f"no derivatives; got {derivative!r}"
        )
    params0 = arrays.leaves_of("params0", params0)
    bounds = arrays.leaves_of("bounds", bounds)
    fixed = arrays.leaves_of("fixed", fixed)
    single = isinstance(given, ResidualBlocks)
    blocks = [each.native() for each in ([given] if single else given)]
    asked = solver.linear_solver
    if callable(solver.jac):
        raise ValueError(
            "solver: expected jac='fwd', 'rev' or None with ResidualBlocks, whose J is "
            "not one matrix; got a function"
        )
    manifolds = resolve_manifold(manifold, params0, bounds)
    prepared = block_build.prepare(blocks, params0, manifolds, asked, solver.jac)
    solver = dataclasses.replace(
        solver,
        linear_solver=prepared.linear_solver,
        ftol=FTOL if solver.ftol is None else solver.ftol,
    )
    rule = solver.damping
    if isinstance(rule, Nielsen) and rule.initial is None:
        rule = dataclasses.replace(rule, initial=DAMPING)
        solver = dataclasses.replace(solver, damping=rule)
    summary = _summary(prepared, params0, asked)
    solution = _fit(
        prepared, params0, bounds, fixed, solver, derivative, single, summary
    )
    if bounds is not None:
        check_feasible(solution.status, bounds, params0)
    return solution


@partial(jax.jit, static_argnames=("single", "summary"))
def _fit(
    prepared, params0, bounds, fixed, solver, derivative, single, summary
) -> BlockSolution:
    structure = jax.tree.structure(params0)
    problem, p0 = block_build.build(prepared, params0, bounds, fixed)
    outcome = derivative.solve(problem, p0, solver)

    def unravel(p):
        parts = [leaf.of(p).reshape(leaf.shape) for leaf in problem.leaves]
        return jax.tree.unflatten(structure, parts)

    residuals = [
        _in_order(part, order, out)
        for part, order, out in zip(
            prepared.structure.split(outcome.r),
            prepared.orders,
            prepared.outputs,
            strict=True,
        )
    ]
    return BlockSolution(
        **of_outcome(outcome, problem.constraints, p0, solver, unravel),
        normal_matrix=None,
        residual=residuals[0] if single else residuals,
        derivative_check=derivative.report(problem, outcome),
        linear_solver=type(solver.linear_solver).__name__,
        jacobian="blocks",
        initial_cost=outcome.start_cost,
        summary=summary,
    )


def _in_order(part, order, shape):
    """Return the residuals of a group, blocks first, as they were given."""
    rows = part.T
    if order is not None:
        rows = jnp.zeros_like(rows).at[order].set(rows)
    return rows.reshape(len(rows), *shape)


def _summary(prepared: Prepared, params0, asked) -> BlockSummary:
    structure = prepared.structure
    names = paths.leaf_names(params0)
    leaves = tuple(
        (name, leaf.rows, leaf.size)
        for name, leaf in zip(names, structure.leaves, strict=True)
    )
    groups = tuple((g.blocks, g.outputs) for g in structure.groups)
    asked = None if asked is None else type(asked).__name__
    eliminated, reduced = None, 0
    method = type(prepared.linear_solver).__name__
    plan = structure.plan
    if isinstance(plan, Elimination):
        leaf = structure.leaves[plan.leaf]
        eliminated = names[plan.leaf]
        reduced = structure.size - leaf.rows * leaf.size
        how = "dense Cholesky" if plan.dense else "conjugate gradients"
        how = "sparse Cholesky" if plan.pattern is not None else how
        method = f"Schur, reduced system by {how}"
    elif plan is None and not isinstance(prepared.linear_solver, BlockCG):
        method = "no pattern known beforehand: dense Cholesky or BlockCG by size"
    return BlockSummary(leaves, groups, asked, eliminated, reduced, method)
