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
from lmjax._terms import Likely

# A residual this much smaller than the model is zero for all purposes, in eps.
GONE = 100.0
# Data of this share of the residual are none.
ORIGIN = 1e-3
# Below so many times what m squares may lose, norms of columns are wrong by 1 %.
FAINT = 30.0


def status(
    problem: Problem, p0: Float[Array, " n"], outcome: Any, solver: LevenbergMarquardt
) -> Int[Array, ""]:
    """Return the status of an outcome, OUT_OF_RANGE where squares were."""
    p, cost, norms, status = outcome.p, outcome.cost, outcome.norms, outcome.status
    limits = jnp.finfo(cost.dtype)
    # counts are of order 1, and their cost is infinite where they are impossible
    if cost.dtype == jnp.float64 or isinstance(problem.term, Likely):
        return status
    # m squares may each lose `tiny`, which the accuracy of their sum must survive
    lost = problem.m * limits.tiny
    small, faint = cost < lost / limits.eps**0.5, norms**2 < FAINT * lost
    if problem.conditions.fixed is not None:
        faint &= ~problem.conditions.fixed
    overflow = status == Status.NONFINITE_START
    ended = (status > 0) | (status == Status.SINGULAR) | (status == Status.PLATEAU)
    doubtful = overflow | (ended & (small | jnp.any(faint)))
    linear_solver = solver.choose_linear_solver(problem.m, p0.size)
    matrix_free = getattr(linear_solver, "matrix_free", False)
    model = jnp.max(jnp.where(faint, 0.0, norms * jnp.abs(p)))

    def look(operands: Any):
        problem, p0, p, small, faint, overflow, model, status = operands
        largest = lambda x: jnp.max(jnp.abs(x))
        here = problem.linearize(p, problem.residual_fn(p), matrix_free)
        size = largest(here.residual)
        # without the parameters that went to zero the residual is what they had to
        # explain; where that is nothing, zero is the answer, however small the rest
        gone = jnp.abs(p) <= limits.eps**0.5 * jnp.abs(p0)
        rest = jnp.where(gone, 0.0, p)
        data = largest(
            problem.linearize(rest, problem.residual_fn(rest), True).residual
        )
        vanished = small & (size > GONE * limits.eps * model)
        effect = largest(here.mv(jnp.where(faint, p, 0.0)))
        vanished |= effect > limits.eps * jnp.maximum(size, model)
        vanished &= data > ORIGIN * size
        finite = jnp.isfinite(size) & jnp.isfinite(
            largest(here.mv(jnp.where(p == 0.0, 1.0, p)))
        )
        beyond = jnp.where(overflow, finite, vanished)
        return jnp.where(beyond, jnp.int32(Status.OUT_OF_RANGE), status)

    operands = (problem, p0, p, small, faint, overflow, model, status)
    return rarely(doubtful, look, status, operands)
