"""Damped steps from several starts at once, for curves with more than one minimum.

A grid finds the basins, yet where two of them have floors that differ by less than the
grid resolves, only a descent into both tells which is the lower. The steps are
Levenberg-Marquardt's on the nonlinear parameters alone, the factor and the constant
solved out (variable projection, with Kaufman's Jacobian: Kaufman 1975, BIT 15, 49-57).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._solver.damping import Nielsen
from lmjax.models._guess import Data

# Enough to tell two sigmoids apart on all but 1 % of measured amplification curves, as
# twice as many are, and the fits go on from there; 12 mistake every tenth.
STEPS = 30
# From 0.1 of unit columns: the first step stays within the grid's resolution.
RULE = Nielsen(initial=0.1)


class _State(NamedTuple):
    """One descent.

    Attributes:
        trial: Parameters to be tried.
        kept: Best parameters so far.
        cost: Their sum of squares.
        gram: Their projected ``J^T J``.
        slope: Their ``J^T r``, downhill.
        predicted: Reduction expected of the trial.
        damping: Lambda, relative to unit columns.
        growth: Factor of the next rejection.
    """

    trial: Array
    kept: Array
    cost: Array
    gram: Array
    slope: Array
    predicted: Array
    damping: Array
    growth: Array


def refine(
    shape: Callable,
    starts: Float[Array, "k n"],
    data: Data,
    least: float,
    limits: Float[Array, " n"],
) -> Float[Array, "k n"]:
    """Return each start moved downhill by `STEPS` damped steps.

    Args:
        shape: Maps n nonlinear parameters to the curve of height 1 at the points.
        starts: Where to begin, one start a row.
        data: The points.
        least: Steps to a shape of which the points see less than this share of its
            height are refused.
        limits: Steps to parameters of larger size are refused.
    """

    def step(_, state):
        cost, gram, slope, seen = _project(shape, state.trial, data)
        allowed = (seen >= least) & jnp.all(jnp.abs(state.trial) <= limits)
        lower = allowed & (cost < state.cost)
        return _next(state, lower, cost, gram, slope)

    def descend(start):
        n, dtype = start.size, start.dtype
        number = lambda value: jnp.asarray(value, dtype)
        damping, growth = RULE.start(dtype)
        state = _State(
            trial=start,
            kept=start,
            cost=number(jnp.inf),
            gram=jnp.zeros((n, n), dtype),
            slope=jnp.zeros(n, dtype),
            predicted=number(1.0),
            damping=damping,
            growth=growth,
        )
        return sharded.fori_loop(0, STEPS, step, state).kept

    return jax.vmap(descend)(starts)


def _project(shape, q, data):
    """Return (sum of squares, Gram matrix, slope, range of the shape) at q."""
    number = jnp.maximum(jnp.sum(data.keep), 1.0)
    centre = lambda v: (v - jnp.sum(v * data.keep) / number) * data.keep
    values, jac = shape(q), jax.jacfwd(shape)(q)
    seen = jnp.max(values) - jnp.min(values)
    s, y = centre(values), centre(data.y)
    square = jnp.sum(s * s)
    square = jnp.where(square > 0.0, square, 1.0)
    scale = jnp.sum(s * y) / square
    r = y - scale * s
    columns = []
    for k in range(q.size):
        column = centre(jac[:, k])
        columns.append(scale * (column - s * (jnp.sum(column * s) / square)))
    gram = jnp.stack([jnp.stack([jnp.sum(a * b) for b in columns]) for a in columns])
    slope = jnp.stack([jnp.sum(a * r) for a in columns])
    return jnp.sum(r * r), gram, slope, seen


def _next(state, lower, cost, gram, slope):
    """Return the state after a trial, which is kept if it is lower."""
    first = ~jnp.isfinite(state.cost)
    gain = jnp.where(first, 0.5, (state.cost - cost) / state.predicted)
    damping, growth = RULE.update(state.damping, state.growth, gain, lower)
    kept = jnp.where(lower, state.trial, state.kept)
    gram = jnp.where(lower, gram, state.gram)
    slope = jnp.where(lower, slope, state.slope)
    size = jnp.sqrt(jnp.diagonal(gram))
    size = jnp.where(size > 0.0, size, 1.0)
    unit = slope / size
    step = _solve(gram / jnp.outer(size, size), damping, unit)
    predicted = jnp.sum(step * (unit + damping * step))
    return _State(
        trial=kept + step / size,
        kept=kept,
        cost=jnp.where(lower, cost, state.cost),
        gram=gram,
        slope=slope,
        predicted=jnp.where(predicted > 0.0, predicted, 1.0),
        damping=damping,
        growth=growth,
    )


def _solve(matrix, damping, b):
    """Return the damped step by elimination: unrolled, two or three unknowns."""
    n = b.size
    a = [[matrix[i, j] for j in range(n)] for i in range(n)]
    b = [b[i] for i in range(n)]
    for i in range(n):
        a[i][i] = 1.0 + damping
    for i in range(n):
        for j in range(i + 1, n):
            factor = a[j][i] / a[i][i]
            b[j] = b[j] - factor * b[i]
            for k in range(i + 1, n):
                a[j][k] = a[j][k] - factor * a[i][k]
    for i in reversed(range(n)):
        for j in range(i + 1, n):
            b[i] = b[i] - a[i][j] * b[j]
        b[i] = b[i] / a[i][i]
    return jnp.stack(b)
