"""Fits whose squares leave the range of the dtype, and whose status would be wrong.

The method works with squares of residuals and of columns of J. In float32 those of
numbers below 1e-19 vanish (energies in joule) and those beyond 1e19 overflow. A cost of
zero then does not mean a perfect fit, nor a column of zeros a parameter without effect.
In float64 the limits are 1e-154 and 1e154, beyond any units in use.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax.batched_cond import batched_cond
from lmjax._jax.types import Flag
from lmjax._problem.problem import Problem
from lmjax._problem.terms import LikelihoodTerm
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.status import Status

# A residual of this many eps times the model counts as zero: it may be rounding.
GONE = 100.0
# Data smaller than this share of the residual count as zero.
ORIGIN = 1e-3
# A norm may be wrong by more than 1 % if its square is below this many times what m
# squares lose by underflow.
FAINT = 30.0


class RangeState(NamedTuple):
    """A fit whose status is checked.

    Attributes:
        status: A `Status` value.
        small: Whether its cost is too small to be told from 0.
        faint: Which norms of columns are.
        overflow: Whether it could not start.
        doubtful: Whether it needs a check.
    """

    status: Int[Array, ""]
    small: Flag
    faint: Bool[Array, " n"]
    overflow: Flag
    doubtful: Flag


def matters(problem: Problem, dtype: Any) -> bool:
    """Return whether squares can leave the range.

    Not with a likelihood: counts are of order 1, and impossible ones have an infinite
    cost. Nor with a projected residual: the whole problem is checked in its place. Nor
    with rotations and poses, which are of order 1, and blocks, whose J has no columns.
    """
    apart = isinstance(problem.term, LikelihoodTerm)
    apart |= problem.jacobian in ("projected", "blocks")
    apart |= problem.constraints.charts is not None
    return np.dtype(dtype) == np.float32 and not apart


def status(
    problem: Problem, p0: Float[Array, " n"], outcome: Any, solver: LevenbergMarquardt
) -> Int[Array, ""]:
    """Return the status of an outcome: OUT_OF_RANGE if its squares were."""
    if not matters(problem, outcome.cost.dtype):
        return outcome.status
    ranged = begin(problem, outcome)
    linear_solver = solver.choose_linear_solver(problem.m, p0.size)
    matrix_free = getattr(linear_solver, "matrix_free", False)

    def rare(operands: Any):
        problem, p0, p, norms, ranged = operands
        largest = lambda *args: problem.largest(*args, matrix_free)
        return check(largest, p0, p, norms, ranged).status

    operands = problem, p0, outcome.p, outcome.norms, ranged
    return batched_cond(ranged.doubtful, rare, ranged.status, operands)


def begin(fit: Any, outcome: Any) -> RangeState:
    """Return what is known without a check; ``fit`` has ``m`` and ``constraints``."""
    cost, norms, status = outcome.cost, outcome.norms, outcome.status
    limits = jnp.finfo(cost.dtype)
    # m squares may each lose `tiny`, which the accuracy of their sum must survive
    lost = fit.m * limits.tiny
    small, faint = cost < lost / limits.eps**0.5, norms**2 < FAINT * lost
    if fit.constraints.fixed is not None:
        faint &= ~fit.constraints.fixed
    overflow = status == Status.NONFINITE_START
    ended = (status > 0) | (status == Status.SINGULAR) | (status == Status.PLATEAU)
    doubtful = overflow | (ended & (small | jnp.any(faint)))
    return RangeState(status, small, faint, overflow, doubtful)


def check(largest: Any, p0, p, norms, ranged: RangeState) -> RangeState:
    """Return the fit after a check.

    Args:
        largest: From parameters and a direction v to the largest entries of the
            residual there and of ``J v``.
        p0: Where the fit began.
        p: Where it ended.
        norms: Norms of the columns of J there.
        ranged: What is known of it.
    """
    eps = jnp.finfo(p.dtype).eps
    model = jnp.max(jnp.where(ranged.faint, 0.0, norms * jnp.abs(p)))
    size, effect = largest(p, jnp.where(ranged.faint, p, 0.0))
    # the residual with these parameters at zero is what they had to explain; if that
    # is nothing, zero is their value, however small the residual is
    gone = jnp.abs(p) <= eps**0.5 * jnp.abs(p0)
    data, _ = largest(jnp.where(gone, 0.0, p), jnp.zeros_like(p))
    vanished = ranged.small & (size > GONE * eps * model)
    vanished |= effect > eps * jnp.maximum(size, model)
    vanished &= data > ORIGIN * size
    _, whole = largest(p, jnp.where(p == 0.0, 1.0, p))
    finite = jnp.isfinite(size) & jnp.isfinite(whole)
    beyond = jnp.where(ranged.overflow, finite, vanished)
    status = jnp.where(beyond, jnp.int32(Status.OUT_OF_RANGE), ranged.status)
    return ranged._replace(status=status, doubtful=jnp.array(False))
