"""One last look at J itself, for fits whose normal matrix cannot be trusted.

Normal equations square the condition number. Where the matrix has lost a direction, an
orthogonal basis of the columns of J tells whether the fit is at a minimum.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmjax import _rounding, _stopping
from lmjax._problem import Problem
from lmjax._projection import eliminate
from lmjax._rarely import rarely
from lmjax._solver import LevenbergMarquardt
from lmjax._status import Status


def status(
    problem: Problem,
    p: Float[Array, " n"],
    free: Bool[Array, " n"],
    cost: Float[Array, ""],
    status: Int[Array, ""],
    solver: LevenbergMarquardt,
) -> Int[Array, ""]:
    """Return the status of a fit, DOUBTFUL ones decided."""
    doubtful = status == _stopping.DOUBTFUL
    operands = problem, p, free, cost, solver.tolerances(p.dtype)[0]
    ill = jnp.full_like(status, Status.ILL_CONDITIONED)
    return rarely(doubtful, _look, jnp.where(doubtful, ill, status), operands)


def _look(operands: Any) -> Int[Array, ""]:
    problem, p, free, cost, ftol = operands
    n = p.size
    model = problem.linearize(p, problem.residual_fn(p), False)
    r = model.residual
    norms = jnp.sqrt(jnp.sum(model.columns**2, axis=1))
    usable = free & (norms > 0.0)
    unit = jnp.where(usable, 1.0 / jnp.where(usable, norms, 1.0), 0.0)
    columns = model.columns * unit[:, None]
    basis, rest, change = eliminate([columns[j] for j in range(n)], r)
    weights = jnp.where(basis.weights > 0.0, basis.weights, jnp.inf)
    pivots = jnp.where(usable, 1.0 / weights, jnp.inf)

    effects = (norms * p) ** 2
    effect = jnp.sum(model.mv(jnp.where(free, p, 0.0)) ** 2)
    cancels = _rounding.cancels(effect, jnp.sum(jnp.where(free, effects, 0.0)))
    rounding = _rounding.residual_rounding(jnp.sum(effects), cost)
    noise = _rounding.cost_rounding(rounding, cost)
    relevant = _stopping.relevant_reduction(cost, problem.m, n)
    strict = jnp.maximum(ftol * cost, _stopping.MARGIN * noise)
    promise = 0.5 * jnp.sum((r - rest) * (r + rest))
    minimum = _stopping.trusted(jnp.min(pivots), cancels, n, False)
    minimum &= _stopping.step_resolved(jnp.sqrt(jnp.sum(change**2)), cost)
    minimum &= promise <= jnp.maximum(strict, relevant)
    minimum |= _rounding.is_zero(cost, rounding, cancels)
    return jnp.where(minimum, Status.FTOL, Status.ILL_CONDITIONED).astype(jnp.int32)
