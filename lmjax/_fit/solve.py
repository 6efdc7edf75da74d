"""`solve`, which all entry points share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmjax._derivatives.unrolled import Derivative
from lmjax._fit.validate_solver import check_dense_solver
from lmjax._jax.types import Params
from lmjax._linalg.arrowhead import Arrow
from lmjax._problem.bounds import Constraints
from lmjax._problem.problem import Problem, build
from lmjax._solver.outcome import Outcome
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.solution import History, Solution


def solve(
    residual_fn: Callable,
    params0: Params,
    *,
    bounds,
    fixed,
    term,
    solver: LevenbergMarquardt,
    derivative: Derivative,
    jac,
    whiten: Callable | None = None,
    linear: tuple[bool, ...] | None = None,
    arrow: Arrow | None = None,
    manifold: list[Any] | None = None,
) -> tuple[Solution, Problem, Outcome]:
    """Solve inside a trace; return the solution and what it was made from."""
    if arrow is None:
        check_dense_solver(solver)
    problem, p0, unravel, unravel_residual = build(
        residual_fn,
        params0,
        bounds=bounds,
        fixed=fixed,
        term=term,
        jac=jac,
        whiten=whiten,
        linear=linear,
        arrow=arrow,
        manifold=manifold,
    )
    outcome = derivative.solve(problem, p0, solver)
    iterated = problem.constraints.size(p0) - sum(linear or ())
    linear_solver = solver.choose_linear_solver(problem.m, iterated)
    matrix_free = getattr(linear_solver, "matrix_free", False)
    solution = Solution(
        **of_outcome(outcome, problem.constraints, p0, solver, unravel),
        normal_matrix=outcome.normal_matrix,
        residual=unravel_residual(outcome.r),
        derivative_check=derivative.report(problem, outcome),
        linear_solver=_name(linear_solver),
        jacobian="matrix-free" if matrix_free else problem.jacobian,
    )
    return solution, problem, outcome


def of_outcome(
    outcome: Outcome, constraints: Constraints, p0, solver, unravel: Callable
) -> dict[str, Any]:
    """Return the fields of a `Solution` that all kinds of problems fill alike."""
    history, record = None, outcome.record
    if record is not None:
        history = History(
            jax.vmap(unravel)(record.p),
            record.cost,
            record.damping,
            record.gain,
            record.accepted,
        )
    projected = None
    if constraints.box is not None:
        projected = jnp.any(constraints.project(p0) != p0)
    return {
        "params": unravel(outcome.p),
        "cost": outcome.cost,
        "status": outcome.status,
        "num_steps": outcome.num_steps,
        "num_accepted": outcome.num_accepted,
        "optimality": outcome.optimality,
        "damping": outcome.damping,
        "flat_status": outcome.param_status(constraints, p0),
        "start_projected": projected,
        "history": history,
        "tolerances": solver.given_tolerances(),
        "engine": outcome.engine,
        "lane_steps": outcome.lane_steps,
    }


def _name(linear_solver):
    function = getattr(linear_solver, "func", linear_solver)  # of a jax Partial
    return getattr(function, "__name__", type(function).__name__)
