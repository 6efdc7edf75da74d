r"""Profile likelihood: how far a parameter moves before the data object.

With the other parameters fitted anew at each value of the j-th one, chi-square rises
from its minimum by ``t(p_j)^2 s^2``, where ``s^2`` is the reduced chi-square (1 if sigma
is absolute). The interval ends where ``t`` reaches the quantile of Student's T on dof
degrees of freedom (of the normal distribution): Bates and Watts (1988), chapter 6. For a
linear model ``t`` is a straight line and the interval the usual ``p +- t stderr``;
otherwise it is neither symmetric nor necessarily finite, and does not depend on how the
model is parametrised.

Each side of each parameter is a search for one root, one refit a round; all of them run
side by side as one batch.
"""

import enum
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from lmjax import _bracket, _problem
from lmjax._bracket import Bracket
from lmjax._data import Data
from lmjax._fitted import CurveFit
from lmjax._refit import FitOptions, Refit, check_same_data, refit
from lmjax._status import ParamStatus
from lmjax._types import Flag, Params, Scalar

# Status of a search that goes on.
SEARCHING = 100
# A refit that lies below the minimum by more than this share of s^2 found a better one.
BETTER = 1e-4


class ProfileStatus(enum.IntEnum):
    """What stands at one end of a profile interval.

    Example:
        >>> import lmjax
        >>> lmjax.ProfileStatus.OPEN.remark
        'no limit: the threshold is never reached'
    """

    FOUND = 1
    AT_BOUND = 2
    OPEN = 3
    HELD = 0
    LOST = -1

    @property
    def remark(self) -> str:
        """A few words for a report."""
        return _REMARKS[self]


_REMARKS = {
    ProfileStatus.FOUND: "",
    ProfileStatus.AT_BOUND: "a bound, or the end of where the model is finite",
    ProfileStatus.OPEN: "no limit: the threshold is never reached",
    ProfileStatus.HELD: "fixed, without effect or not asked for",
    ProfileStatus.LOST: "the fit, or the refits on the way, failed",
}


class Profile(eqx.Module):
    """Outcome of `profile`; of a batch of fits, with leading axes.

    Attributes:
        params: The fitted parameters.
        interval: Pair (lower, upper) of pytrees like ``params``; infinite where there
            is no limit, NaN where there is no interval.
        status: One `ProfileStatus` per flat parameter and side.
        better: Whether a refit went below the minimum that was given: the interval
            then belongs to no minimum; fit again from another start.
        threshold: Quantile that ``z`` has to reach.
        names: Names of the parameters that were profiled.
        flat: Their fitted values; the axes k below count them.
        stderr: Their standard errors.
        value: Values of the parameter that were visited, the fitted one first; the last
            axis is padded with NaN. The axis before it counts the two sides.
        z: Signed root of the rise of chi-square in units of ``s^2`` there.
    """

    params: Params
    interval: tuple[Params, Params]
    status: Int[Array, "*batch n 2"]
    better: Bool[Array, "*batch"]
    threshold: Float[Array, "*batch"]
    names: tuple[str, ...] = eqx.field(static=True)
    flat: Float[Array, "*batch k"]
    stderr: Float[Array, "*batch k"]
    value: Float[Array, "*batch k 2 r"]
    z: Float[Array, "*batch k 2 r"]


def profile(
    fit: CurveFit,
    x: Any,
    y: Any,
    which: str | list[str] | tuple[str, ...] | None = None,
    *,
    level: float | Scalar = 0.95,
    **options: Unpack[FitOptions],
) -> Profile:
    """Return profile-likelihood intervals of the parameters of a fit.

    Right where ``fit.stderr`` is not: curved models, few points, parameters that the
    data bound on one side only. Works under ``jax.jit`` and ``jax.vmap`` (over fits and
    their data). The limits have derivatives, by the implicit function theorem.

    Args:
        fit: What `curve_fit` returned: one fit, converged.
        x: Independent variables, as given there.
        y: Observations, as given there.
        which: Names of parameters as reports print them, or of pytrees of parameters;
            None takes all that are not fixed.
        level: Probability that an interval holds the true value.
        options: Keywords of `curve_fit`, as given there: sigma, mask, nan_policy,
            bounds, fixed, loss, loss_scale, solver. Bounds end an interval.

    Returns:
        The `Profile`. Trouble does not raise: see its ``status`` and ``better``.

    Raises:
        ValueError: If x, y or options are not those of the fit, a name in ``which`` is
            unknown, or ``level`` does not lie between 0 and 1.
        TypeError: If ``fit`` is no `CurveFit` or a keyword is unknown.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> x = jnp.array([0.2, 0.5, 1.0, 2.0])
        >>> y = jnp.array([0.9, 1.7, 2.4, 2.9])
        >>> rise = lambda p, x: p["top"] * x / (p["half"] + x)
        >>> fit = lmjax.curve_fit(rise, x, y, {"top": 3.0, "half": 1.0})
        >>> lower, upper = lmjax.profile(fit, x, y, "top").interval
        >>> print(f"{lower['top']:.2f} < {fit.params['top']:.2f} < {upper['top']:.2f}")
        3.32 < 3.68 < 4.11

    References:
        Bates and Watts (1988), "Nonlinear Regression Analysis and Its Applications",
        chapter 6; Venzon and Moolgavkar (1988), Applied Statistics 37, 87-94.
    """
    again = refit(fit, x, y, options)
    if not isinstance(level, jax.Array) and not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    names = _problem.parameter_names(fit._varied())
    # outside what is compiled per model: the quantile takes as long as a fit to compile
    threshold = fit._quantile(level)
    found, same = _profile(again, threshold, _choose(which, names))
    check_same_data(same)
    return found


def _choose(which, names: list[str]) -> tuple[int, ...]:
    """Return the indices of the parameters that ``which`` names."""
    if which is None:
        return tuple(range(len(names)))
    chosen = []
    for wanted in (which,) if isinstance(which, str) else which:
        below = (f"{wanted}.", f"{wanted}[")
        found = [
            j
            for j, name in enumerate(names)
            if name == wanted or name.startswith(below)
        ]
        if not found:
            raise ValueError(
                f"which: no parameter is called {wanted!r}; the names here are "
                + ", ".join(names)
            )
        chosen += [j for j in found if j not in chosen]
    return tuple(chosen)


@eqx.filter_jit
def _profile(again: Refit, threshold: Scalar, chosen: tuple[int, ...]):
    fit, index = again.fit, np.asarray(chosen)
    same = again.same_data(again.data)
    j, upward = map(jnp.asarray, (np.repeat(index, 2), [False, True] * index.size))
    # derivatives come from what is done with the root, not through the search
    still = lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf
    constant = jax.tree.map(still, (again, threshold, fit.success & same))
    sides = jax.vmap(lambda j, upward: _search(*constant, j, upward))(j, upward)
    limit = jax.vmap(
        lambda j, upward, side: _limit(again, threshold, j, upward, side)
    )(j, upward, sides)
    pairs = lambda array: array.reshape(index.size, 2, *array.shape[1:])
    blank = jnp.full((again.p.size, 2), jnp.nan, limit.dtype)
    limits = blank.at[index].set(pairs(limit))
    status = jnp.full(blank.shape, ProfileStatus.HELD, jnp.int8)
    errors = _flat_errors(fit)[index]
    return Profile(
        params=fit.params,
        interval=(fit._unravel(limits[:, 0]), fit._unravel(limits[:, 1])),
        status=status.at[index].set(pairs(sides.status)),
        better=jnp.any(sides.better),
        threshold=threshold,
        names=tuple(np.take(_problem.parameter_names(fit._varied()), index).tolist()),
        flat=again.p[index],
        stderr=errors,
        value=pairs(sides.value),
        z=pairs(sides.z),
    ), same


def _flat_errors(fit: CurveFit) -> Float[Array, " n"]:
    return ravel_pytree(fit.stderr)[0]


class Side(NamedTuple):
    """One side of one parameter, between two rounds of its search.

    Attributes:
        bracket: Where the limit is known to lie, as a distance from the fitted value.
        direction: Chord from the minimum to the last refit, per unit of distance: the
            next refit starts on it.
        status: A `ProfileStatus`; HELD while the search goes on.
        better: Whether a refit went below the minimum.
        value: Parameter at each look, the fitted one first.
        z: Signed root there.
    """

    bracket: Bracket
    direction: Float[Array, " n"]
    status: Int[Array, ""]
    better: Flag
    value: Float[Array, " r"]
    z: Float[Array, " r"]


def _search(again: Refit, threshold: Scalar, usable: Flag, j, upward) -> Side:
    """Find where the profile of parameter j crosses the threshold on one side."""
    fit, p, data = again.fit, again.p, again.data
    sign, variance = _sign(upward, p), _variance(fit)
    wall = jnp.where(upward, again.box[1][j] - p[j], p[j] - again.box[0][j])
    guess, direction = _linear(again, threshold, variance, sign, j)
    eps = jnp.finfo(p.dtype).eps
    settings = {
        "goal": threshold,
        # what the dtype can tell, and rounding of chi2
        "tolerance": eps**0.5 * threshold + eps * fit.chi2 / variance / threshold,
        "guess": guess,
        "wall": wall,
    }

    def one_round(side: Side) -> Side:
        bracket, rounds = side.bracket, side.bracket.rounds + 1
        value = p[j] + sign * bracket.u
        start = _better(again, data, p + bracket.u * side.direction, p, j, value)
        new = _at(again, j, value, start)
        rise = (new.chi2 - fit.chi2) / variance
        z = jnp.sign(rise) * jnp.sqrt(jnp.abs(rise))
        chord = (ravel_pytree(new._varied())[0] - p) / bracket.u
        grain = 4.0 * eps * (jnp.abs(p[j]) + bracket.u)
        bracket = _bracket.look(bracket, z, grain=grain, **settings)
        return Side(
            bracket,
            jnp.where(jnp.isfinite(rise), chord, side.direction),
            _status(bracket.outcome, new.success),
            side.better | (rise < -BETTER - 100.0 * eps * fit.chi2 / variance),
            side.value.at[rounds].set(value),
            side.z.at[rounds].set(z),
        )

    blank = jnp.full(_bracket.MAX_ROUNDS + 1, jnp.nan, p.dtype)
    begin = Side(
        _bracket.begin(guess, wall),
        direction,
        _first_status(fit, threshold, usable, guess, wall, j),
        jnp.array(False),
        blank.at[0].set(p[j]),
        blank.at[0].set(0.0),
    )
    searching = lambda side: side.status == SEARCHING
    return jax.lax.while_loop(searching, one_round, begin)


def _linear(again: Refit, threshold, variance, sign, j):
    """Return half the width of the linear interval, and where the others go meanwhile.

    A parameter at a bound has no covariance: the width is then the one with all others
    held, which is too short and good enough to begin with.
    """
    fit = again.fit
    column = fit._covariance()[:, j]
    known = column[j] > 0.0
    alone = jnp.arange(column.size) == j
    conditional = variance / jnp.diagonal(fit.normal_matrix)[j]
    column = jnp.where(known, column, alone.astype(column.dtype))
    width = jnp.sqrt(jnp.where(known, column[j], conditional))
    return threshold * width, sign * column / column[j]


def _first_status(fit: CurveFit, threshold, usable, guess, wall, j):
    """Return the status of a side that needs no search, or SEARCHING."""
    kind = fit.param_status[j]
    held = (kind == ParamStatus.FIXED) | (kind == ParamStatus.IDLE)
    cases = [
        (~usable, ProfileStatus.LOST),
        (held, ProfileStatus.HELD),
        (jnp.isinf(threshold), ProfileStatus.OPEN),  # no degrees of freedom
        (wall <= 0.0, ProfileStatus.AT_BOUND),
        (guess == 0.0, ProfileStatus.FOUND),  # data without any scatter
        (~jnp.isfinite(guess), ProfileStatus.LOST),
    ]
    return jnp.select(*zip(*cases, strict=True), SEARCHING).astype(jnp.int8)


def _status(outcome, success: Flag):
    """Return what the outcome of the search means; a refit must have converged."""
    meaning = jnp.select(
        [
            outcome == _bracket.SEARCHING,
            outcome == _bracket.NOWHERE,
            (outcome == _bracket.EDGE) | (outcome == _bracket.BLOCKED),
            (outcome == _bracket.FOUND) & success,
        ],
        [SEARCHING, ProfileStatus.OPEN, ProfileStatus.AT_BOUND, ProfileStatus.FOUND],
        ProfileStatus.LOST,
    )
    return meaning.astype(jnp.int8)


def _better(again: Refit, data: Data, one, other, j, value) -> Float[Array, " n"]:
    """Return the start of lower chi-square: a chord may leave where the model works."""
    first, second = (
        jnp.sum(again.residual(data, p.at[j].set(value)) ** 2) for p in (one, other)
    )
    return jnp.where(~(second < first) & jnp.isfinite(first), one, other)


def _at(again: Refit, j, value: Scalar, p: Float[Array, " n"]) -> CurveFit:
    """Fit the other parameters with the j-th one held at a value."""
    alone = jnp.arange(p.size) == j
    fixed = again.spread("fixed", again.options.get("fixed"), False, bool) | alone
    return again(jnp.where(alone, value, p), fixed=again.fit._unravel(fixed))


def _limit(again: Refit, threshold: Scalar, j, upward, side: Side) -> Scalar:
    """Return the end of the interval, with derivatives.

    It solves ``chi2(limit) = chi2 + threshold^2 s^2``, hence moves with whatever chi2
    depends on; a bound moves by itself.
    """
    fit, p = again.fit, again.p
    at_rest = jax.lax.stop_gradient(p)
    found = side.status == ProfileStatus.FOUND
    u = jnp.where(found, side.bracket.u, 0.0)
    sign = _sign(upward, p)
    aim = fit.chi2 + _variance(fit) * jnp.where(found, threshold, 0.0) ** 2
    start = at_rest + u * side.direction

    def excess(value):
        return _at(again, j, value, start).chi2 - aim

    def divide(linear, y):
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0.0, 1.0, slope)

    root = jax.lax.custom_root(
        excess, at_rest[j] + sign * u, lambda _, value: value, divide
    )
    bound = jnp.where(upward, again.box[1][j], again.box[0][j])
    edge = at_rest[j] + sign * side.bracket.inside
    blocked = side.bracket.outcome != _bracket.EDGE
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


def _variance(fit: CurveFit) -> Scalar:
    """Return ``s^2``."""
    if fit.absolute_sigma:
        return jnp.ones_like(fit.chi2)
    return fit.chi2 / jnp.maximum(fit.dof, 1).astype(fit.chi2.dtype)
