"""The search for one end of a profile-likelihood interval: one refit a round."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from lmjax._fit.curve_result import CurveFit
from lmjax._jax import sharded
from lmjax._jax.types import Flag, Scalar
from lmjax._problem.data import Data
from lmjax._solver.status import ParamStatus, ProfileStatus
from lmjax._uncertainty import root_search
from lmjax._uncertainty.refit import Refit
from lmjax._uncertainty.root_search import Bracket

# Status of a search that goes on.
SEARCHING = 100
# A refit found a lower minimum if its chi-square is lower by more than this share of
# s^2.
BETTER = 1e-4


class Side(NamedTuple):
    """One side of one parameter, between two rounds of its search.

    Attributes:
        bracket: Where the limit is known to lie, as a distance from the fitted value.
        direction: Chord from the minimum to the last refit, per unit of distance: the
            next refit starts on it.
        status: A `ProfileStatus`; HELD while the search goes on.
        better: Whether a refit went below the minimum.
        value: Parameter at each refit, the fitted one first.
        z: Signed root there.
    """

    bracket: Bracket
    direction: Float[Array, " n"]
    status: Int[Array, ""]
    better: Flag
    value: Float[Array, " r"]
    z: Float[Array, " r"]


def find_side(refit: Refit, threshold: Scalar, j, upward) -> Side:
    """Find where the profile of parameter j crosses the threshold on one side."""
    fit, p, data = refit.fit, refit.p, refit.data
    sign, variance = _sign(upward, p), variance_of(fit)
    upper_limit = jnp.where(upward, refit.box[1][j] - p[j], p[j] - refit.box[0][j])
    guess, direction = _linear(refit, threshold, variance, sign, j)
    eps = jnp.finfo(p.dtype).eps
    settings = {
        "goal": threshold,
        # what the dtype resolves, and the rounding of chi2
        "tolerance": eps**0.5 * threshold + eps * fit.chi2 / variance / threshold,
        "guess": guess,
        "upper_limit": upper_limit,
    }

    def one_round(side: Side) -> Side:
        bracket, rounds = side.bracket, side.bracket.rounds + 1
        value = p[j] + sign * bracket.u
        start = _better(refit, data, p + bracket.u * side.direction, p, j, value)
        new = _at(refit, j, value, start)
        rise = (new.chi2 - fit.chi2) / variance
        z = jnp.sign(rise) * jnp.sqrt(jnp.abs(rise))
        chord = (ravel_pytree(new.varied())[0] - p) / bracket.u
        min_width = 0.1 * eps**0.5 * bracket.u + 4.0 * eps * jnp.abs(p[j])
        bracket = root_search.update(bracket, z, min_width=min_width, **settings)
        return Side(
            bracket,
            jnp.where(jnp.isfinite(rise), chord, side.direction),
            _status(bracket.outcome, new.success),
            side.better | (rise < -BETTER - 100.0 * eps * fit.chi2 / variance),
            side.value.at[rounds].set(value),
            side.z.at[rounds].set(z),
        )

    blank = jnp.full(root_search.MAX_ROUNDS + 1, jnp.nan, p.dtype)
    begin = Side(
        root_search.begin(guess, upper_limit),
        direction,
        _first_status(refit, threshold, guess, upper_limit, j),
        jnp.array(False),
        blank.at[0].set(p[j]),
        blank.at[0].set(0.0),
    )
    searching = lambda side: side.status == SEARCHING
    return sharded.while_loop(searching, one_round, begin)


def _linear(refit: Refit, threshold, variance, sign, j):
    """Return half the width of the linear interval, and the change of the others there.

    A parameter at a bound has no covariance: the width is then the one with all others
    held, which is too short and good enough to begin with.
    """
    fit = refit.fit
    column = fit.known_covariance()[:, j]
    known = column[j] > 0.0
    alone = jnp.arange(column.size) == j
    conditional = variance / jnp.diagonal(jnp.asarray(fit.normal_matrix))[j]
    column = jnp.where(known, column, alone.astype(column.dtype))
    width = jnp.sqrt(jnp.where(known, column[j], conditional))
    return threshold * width, sign * column / column[j]


def _first_status(refit: Refit, threshold, guess, upper_limit, j):
    """Return the status of a side that needs no search, or SEARCHING."""
    kind = refit.fit.flat_status[j]
    held = (kind == ParamStatus.FIXED) | (kind == ParamStatus.IDLE)
    cases = [
        (~refit.consistent, ProfileStatus.LOST),
        (held, ProfileStatus.HELD),
        (jnp.isinf(threshold), ProfileStatus.OPEN),  # no degrees of freedom
        (upper_limit <= 0.0, ProfileStatus.AT_BOUND),
        (guess == 0.0, ProfileStatus.FOUND),  # data without any scatter
        (~jnp.isfinite(guess), ProfileStatus.LOST),
    ]
    constraints, outcomes = zip(*cases, strict=True)
    return jnp.select(constraints, outcomes, SEARCHING).astype(jnp.int8)


def _status(outcome, success: Flag):
    """Return what the outcome of the search means; a refit must have converged."""
    meaning = jnp.select(
        [
            outcome == root_search.SEARCHING,
            outcome == root_search.NOWHERE,
            (outcome == root_search.EDGE) | (outcome == root_search.BLOCKED),
            (outcome == root_search.FOUND) & success,
        ],
        [SEARCHING, ProfileStatus.OPEN, ProfileStatus.AT_BOUND, ProfileStatus.FOUND],
        ProfileStatus.LOST,
    )
    return meaning.astype(jnp.int8)


def _better(refit: Refit, data: Data, one, other, j, value) -> Float[Array, " n"]:
    """Return the start of lower chi-square: a chord may leave the model's domain."""
    first, second = (refit.chi2(data, p.at[j].set(value)) for p in (one, other))
    return jnp.where(~(second < first) & jnp.isfinite(first), one, other)


def _at(refit: Refit, j, value: Scalar, p: Float[Array, " n"]) -> CurveFit:
    """Fit the other parameters with the j-th one held at a value."""
    alone = jnp.arange(p.size) == j
    fixed = refit.spread("fixed", refit.options.get("fixed"), False, bool) | alone
    return refit(jnp.where(alone, value, p), fixed=refit.fit.unravel(fixed))


def limit_of(refit: Refit, threshold: Scalar, j, upward, side: Side) -> Scalar:
    """Return the end of the interval, with derivatives.

    A limit solves ``chi2(limit) = chi2 + threshold^2 s^2`` and so depends on whatever
    chi2 depends on; a bound depends on itself only.
    """
    fit, p = refit.fit, refit.p
    at_rest = jax.lax.stop_gradient(p)
    found = side.status == ProfileStatus.FOUND
    u = jnp.where(found, side.bracket.u, 0.0)
    sign = _sign(upward, p)
    aim = fit.chi2 + variance_of(fit) * jnp.where(found, threshold, 0.0) ** 2
    start = at_rest + u * side.direction

    def excess(value):
        return _at(refit, j, value, start).chi2 - aim

    def divide(linear, y):
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0.0, 1.0, slope)

    root = jax.lax.custom_root(
        excess, at_rest[j] + sign * u, lambda _, value: value, divide
    )
    bound = jnp.where(upward, refit.box[1][j], refit.box[0][j])
    edge = at_rest[j] + sign * side.bracket.inside
    blocked = side.bracket.outcome != root_search.EDGE
    return jnp.select(
        [
            found,
            side.status == ProfileStatus.AT_BOUND,
            side.status == ProfileStatus.OPEN,
        ],
        [root, jnp.where(blocked, bound, edge), sign * jnp.inf],
        jnp.nan,
    )


def _sign(upward, p):
    return jnp.where(upward, 1.0, -1.0).astype(p.dtype)


def variance_of(fit: CurveFit) -> Scalar:
    """Return ``s^2``."""
    if fit.absolute_sigma:
        return jnp.ones_like(fit.chi2)
    return fit.chi2 / jnp.maximum(fit.dof, 1).astype(fit.chi2.dtype)
