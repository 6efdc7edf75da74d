"""`solve`, which all entry points share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmjax._derivatives.unrolled import Derivative
from lmjax._engines import dispatch
from lmjax._jax.types import Params
from lmjax._linalg.arrowhead import Arrow
from lmjax._linalg.solvers import Schur
from lmjax._problem.problem import Problem, build
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
    manifold: tuple[Any, ...] | None = None,
) -> tuple[Solution, Problem, dispatch.Outcome]:
    """Solve inside a trace; return the solution and what it was made from."""
    if arrow is None and isinstance(solver.linear_solver, Schur):
        raise ValueError(
            "solver: expected a linear solver for one set of parameters, got Schur(), "
            "which is that of lmjax.global_fit"
        )
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
    history = None
    if outcome.record is not None:
        record = outcome.record
        history = History(
            jax.vmap(unravel)(record.p),
            record.cost,
            record.damping,
            record.gain,
            record.accepted,
        )
    iterated = problem.constraints.size(p0) - sum(linear or ())
    linear_solver = solver.choose_linear_solver(problem.m, iterated)
    matrix_free = getattr(linear_solver, "matrix_free", False)
    solution = Solution(
        params=unravel(outcome.p),
        cost=outcome.cost,
        status=outcome.status,
        num_steps=outcome.num_steps,
        num_accepted=outcome.num_accepted,
        optimality=outcome.optimality,
        damping=outcome.damping,
        normal_matrix=outcome.normal_matrix,
        residual=unravel_residual(outcome.r),
        flat_status=outcome.param_status(problem.constraints, p0),
        start_projected=None
        if bounds is None
        else jnp.any(problem.constraints.project(p0) != p0),
        history=history,
        derivative_check=derivative.report(problem, outcome),
        tolerances=solver.given_tolerances(),
        engine=outcome.engine,
        lane_steps=outcome.lane_steps,
        linear_solver=_name(linear_solver),
        jacobian="matrix-free" if matrix_free else problem.jacobian,
    )
    return solution, problem, outcome


def _name(linear_solver):
    function = getattr(linear_solver, "func", linear_solver)  # of a jax Partial
    return getattr(function, "__name__", type(function).__name__)
