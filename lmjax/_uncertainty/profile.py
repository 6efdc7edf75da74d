r"""Profile likelihood: how far a parameter can move before the fit is clearly worse.

With the other parameters fitted anew at each value of the j-th one, chi-square rises
from its minimum by ``z(p_j)^2 s^2``, where ``s^2`` is the reduced chi-square (1 if
sigma is absolute). The interval ends where ``z`` reaches the quantile of Student's T on
dof degrees of freedom (of the normal distribution): Bates and Watts (1988), chapter 6.
For a linear model ``z`` is a straight line and the interval the usual ``p +- t
stderr``; otherwise it is neither symmetric nor necessarily finite, and does not depend
on how the model is parametrised.

All sides of all parameters run as one batch, see `lmjax._uncertainty.profile_search`.
"""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from lmjax._fit.curve_result import CurveFit
from lmjax._jax import paths
from lmjax._jax.types import Params, Scalar
from lmjax._solver.status import ProfileStatus
from lmjax._uncertainty.profile_search import find_side, limit_of
from lmjax._uncertainty.refit import FitOptions, Refit, prepare_refit


class Profile(eqx.Module):
    """Outcome of `profile`; of a batch of fits, with leading axes.

    Attributes:
        params: The fitted parameters.
        interval: Pair (lower, upper) of pytrees like ``params``; infinite where there
            is no limit, NaN where there is no interval.
        status: One `ProfileStatus` per flat parameter and side.
        found_lower_minimum: Whether a refit has a lower chi-square than the fit: the
            interval then means nothing; fit again from another start.
        threshold: Quantile that ``z`` has to reach.
        names: Names of the parameters that were profiled.
        values: Their fitted values; the axes k below count them.
        stderr: Their standard errors.
        value: Values of the parameter that were visited, the fitted one first; the last
            axis is padded with NaN. The axis before it counts the two sides.
        z: Signed root of the rise of chi-square in units of ``s^2`` there.
    """

    params: Params
    interval: tuple[Params, Params]
    status: Int[Array, "*batch n 2"]
    found_lower_minimum: Bool[Array, "*batch"]
    threshold: Float[Array, "*batch"]
    names: tuple[str, ...] = eqx.field(static=True)
    values: Float[Array, "*batch k"]
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

    They are right where ``fit.stderr`` is not: for curved models, few points, or
    parameters that the data bound on one side only. Works under ``jax.jit`` and
    ``jax.vmap`` (over fits and their data). The limits have derivatives (implicit
    function theorem).

    Args:
        fit: What `curve_fit` returned: one fit, converged.
        x: Independent variables, as given there.
        y: Observations, as given there.
        which: Names of parameters as reports print them, or of pytrees of parameters;
            None takes all that are not fixed.
        level: Probability that an interval holds the true value.
        options: Keywords of `curve_fit`, as given there: sigma, mask, nan_policy,
            bounds, fixed, linear, loss, loss_scale, solver, likelihood. Bounds end an
            interval. The fit remembers its tie, which is left out.

    Returns:
        The `Profile`. A failure does not raise: see its ``status`` and
        ``found_lower_minimum``.

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
        3.48 < 3.84 < 4.29

    References:
        Bates and Watts (1988), "Nonlinear Regression Analysis and Its Applications",
        chapter 6; Venzon and Moolgavkar (1988), Applied Statistics 37, 87-94.
    """
    refit = prepare_refit(fit, x, y, options)
    names = paths.parameter_names(fit.varied())
    # outside the function compiled per model: the quantile compiles as long as a fit
    threshold = fit._quantile(level)
    return _profile(refit, threshold, choose(which, names))


def choose(which, names: list[str]) -> tuple[int, ...]:
    """Return the indices of the parameters that ``which`` names."""
    if which is None:
        return tuple(range(len(names)))
    if not isinstance(which, str | list | tuple):
        raise TypeError(f"which: expected names of parameters, got {which!r}")
    if not which:
        raise ValueError(
            "which: expected at least one name of a parameter, got none; None takes "
            "all that are not fixed"
        )
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
def _profile(refit: Refit, threshold: Scalar, chosen: tuple[int, ...]) -> Profile:
    fit, index = refit.fit, np.asarray(chosen)
    j, upward = map(jnp.asarray, (np.repeat(index, 2), [False, True] * index.size))
    # derivatives come from what is done with the root, not through the search
    still = lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf
    constant, goal = jax.tree.map(still, (refit, threshold))
    search = lambda j, upward: find_side(constant, goal, j, upward)
    sides = jax.vmap(search)(j, upward)
    end = lambda j, upward, side: limit_of(refit, threshold, j, upward, side)
    limit = jax.vmap(end)(j, upward, sides)
    pairs = lambda array: array.reshape(index.size, 2, *array.shape[1:])
    blank = jnp.full((refit.p.size, 2), jnp.nan, limit.dtype)
    limits = blank.at[index].set(pairs(limit))
    status = jnp.full(blank.shape, ProfileStatus.HELD, jnp.int8)
    return Profile(
        params=fit.params,
        interval=(fit.unravel(limits[:, 0]), fit.unravel(limits[:, 1])),
        status=status.at[index].set(pairs(sides.status)),
        found_lower_minimum=jnp.any(sides.better),
        threshold=threshold,
        names=tuple(np.take(paths.parameter_names(fit.varied()), index).tolist()),
        values=refit.p[index],
        stderr=ravel_pytree(fit.stderr)[0][index],
        value=pairs(sides.value),
        z=pairs(sides.z),
    )
