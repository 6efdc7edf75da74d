"""Fits whose squares leave the range of the dtype, which would pass for something else.

The method works with squares of residuals and of columns of J. In float32 those of
numbers below 1e-19 vanish (energies in joule) and those beyond 1e19 overflow. A cost of
zero is then no fit, a column of zeros no parameter without effect. In float64 the
limits are 1e-154 and 1e154, where nobody's units are.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmjax._problem import Problem
from lmjax._rarely import rarely
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status

# A residual this much smaller than at the start is zero for all purposes, in eps.
GONE = 100.0


def status(
    problem: Problem, p0: Float[Array, " n"], outcome: Any, solver: LevenbergMarquardt
) -> Int[Array, ""]:
    """Return the status of an outcome, OUT_OF_RANGE where squares were."""
    p, cost, norms, status = outcome.p, outcome.cost, outcome.norms, outcome.status
    limits = jnp.finfo(cost.dtype)
    if cost.dtype == jnp.float64:
        return status
    # m squares may each lose `tiny`, which the accuracy of a cost must survive
    small = cost < problem.m * limits.tiny / limits.eps**0.5
    idle = norms == 0.0
    overflow = status == Status.NONFINITE_START
    ended = (status > 0) | (status == Status.SINGULAR)
    linear_solver = solver.choose_linear_solver(problem.m, p0.size)
    matrix_free = getattr(linear_solver, "matrix_free", False)
    doubtful = overflow | (ended & (small | jnp.any(idle)))

    def look(operands: Any):
        problem, p0, p, small, idle, overflow, status = operands
        at = lambda p: problem.linearize(p, problem.residual_fn(p), matrix_free)
        here = at(p)
        size = jnp.max(jnp.abs(here.residual))
        start = jnp.max(jnp.abs(at(p0).residual))
        eps = limits.eps
        vanished = small & (size > GONE * eps * start)
        effect = jnp.max(jnp.abs(here.mv(jnp.where(idle, p, 0.0))))
        vanished |= jnp.any(idle) & (effect > eps * size)
        finite = jnp.isfinite(size + jnp.sum(here.mv(jnp.where(p == 0.0, 1.0, p))))
        beyond = jnp.where(overflow, finite, vanished)
        return jnp.where(beyond, jnp.int32(Status.OUT_OF_RANGE), status)

    operands = (problem, p0, p, small, idle, overflow, status)
    return rarely(doubtful, look, status, operands)
