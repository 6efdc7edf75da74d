"""Joint confidence regions of two parameters: chi-square profiled over a grid.

At each point of the grid the two parameters are held and all others fitted anew. The
rise of chi-square above its minimum is ``z^2 s^2``, as in `lmjax._uncertainty.profile`:
for a linear model z is constant on ellipses, those of the covariance. The line ``z =
k`` reaches as far along either axis as the profile interval of k standard deviations
(Bates and Watts 1988, chapter 6).
"""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from lmjax._errors.checks import check_above
from lmjax._fit.curve_result import CurveFit
from lmjax._jax import paths
from lmjax._jax.arrays import as_array
from lmjax._uncertainty.profile import choose
from lmjax._uncertainty.profile_search import BETTER, variance_of
from lmjax._uncertainty.refit import FitOptions, Refit, prepare_refit


class Contour(eqx.Module):
    """Outcome of `contour`; of a batch of fits, with leading axes.

    Attributes:
        names: Names of the two parameters.
        values: Their fitted values.
        covariance: Their covariance.
        first: Values of the first parameter on the grid, also called ``x``.
        second: Values of the second parameter on the grid, also called ``y``.
        z: Root of the rise of chi-square in units of ``s^2`` at ``(first[i],
            second[j])``; NaN where a refit did not converge.
        dof: Degrees of freedom; infinite if sigma is absolute.
        found_lower_minimum: Whether a refit went below the minimum that was given: fit
            again from another start.
    """

    names: tuple[str, str] = eqx.field(static=True)
    values: Float[Array, "*batch 2"]
    covariance: Float[Array, "*batch 2 2"]
    first: Float[Array, "*batch k"]
    second: Float[Array, "*batch l"]
    z: Float[Array, "*batch k l"]
    dof: Float[Array, "*batch"]
    found_lower_minimum: Bool[Array, "*batch"]

    @property
    def x(self) -> Float[Array, "*batch k"]:
        """Values of the first parameter on the grid, as a plot calls them.

        ``plt.contour(region.x, region.y, region.z.T)`` draws one region.
        """
        return self.first

    @property
    def y(self) -> Float[Array, "*batch l"]:
        """Values of the second parameter on the grid, as a plot calls them."""
        return self.second

    @property
    def probability(self) -> Float[Array, "*batch k l"]:
        """Probability of the joint region of both parameters that ends at each point.

        By Fisher's F on 2 and ``dof`` degrees of freedom, chi-square on 2 if sigma is
        absolute.
        """
        square, dof = self.z**2, self.dof[..., None, None]
        finite = jnp.where(jnp.isinf(dof), 1.0, dof)
        exponent = jnp.where(
            jnp.isinf(dof), square, finite * jnp.log1p(square / finite)
        )
        return -jnp.expm1(-0.5 * exponent)


def contour(
    fit: CurveFit,
    x: Any,
    y: Any,
    which: tuple[str, str] | list[str],
    *,
    points: int = 49,
    reach: float = 4.0,
    limits: Any = None,
    **options: Unpack[FitOptions],
) -> Contour:
    """Return how chi-square rises around a fit in two of its parameters.

    Works under ``jax.jit`` and ``jax.vmap`` (over fits and their data). `lmjax.plot`
    draws it.

    Args:
        fit: What `curve_fit` returned: one fit, converged.
        x: Independent variables, as given there.
        y: Observations, as given there.
        which: Names of two parameters as reports print them.
        points: Values of each parameter on the grid.
        reach: How far the grid goes, in standard errors to either side; not beyond a
            bound.
        limits: Pair of pairs ``((low, high), (low, high))``, one per parameter, in
            place of ``reach``.
        options: Keywords of `curve_fit`, as given there: sigma, mask, nan_policy,
            bounds, fixed, linear, loss, loss_scale, solver, likelihood. The fit
            remembers its tie, which is left out.

    Returns:
        The `Contour`: ``z[i, j]`` belongs to ``(x[i], y[j])``, its ``x`` and ``y``
        being values of the two parameters.

    Raises:
        ValueError: If x, y or options are not those of the fit, ``which`` does not name
            two parameters, or one of them has no error and there are no limits.
        TypeError: If ``fit`` is no `CurveFit` or a keyword is unknown.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> x = jnp.array([0.2, 0.5, 1.0, 2.0])
        >>> y = jnp.array([0.9, 1.7, 2.4, 2.9])
        >>> rise = lambda p, x: p["top"] * x / (p["half"] + x)
        >>> fit = lmjax.curve_fit(rise, x, y, {"top": 3.0, "half": 1.0})
        >>> region = lmjax.contour(fit, x, y, ("top", "half"), points=5)
        >>> print(region.z.shape, f"{region.z[2, 2]:.1f} {region.z[0, 2]:.0f}")
        (5, 5) 0.0 11
        >>> print(f"top = {region.x[0]:.2f}, half = {region.y[2]:.2f}")
        top = 3.47, half = 0.63

    References:
        Bates and Watts (1988), "Nonlinear Regression Analysis and Its Applications",
        chapter 6; Cook and Weisberg (1990), J. Amer. Statist. Assoc. 85, 544-551.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ValueError(f"points: expected an int from 2 on, got {points!r}")
    check_above("reach", reach, 0.0)
    refit = prepare_refit(fit, x, y, options)
    names = paths.parameter_names(fit.varied())
    chosen = choose(which, names)
    if which is None or len(chosen) != 2:
        raise ValueError(
            f"which: expected the names of two parameters, got {which!r}; the names "
            "here are " + ", ".join(names)
        )
    given = None if limits is None else as_array("limits", limits)
    if given is not None and jnp.shape(given) != (2, 2):
        raise ValueError(
            "limits: expected ((low, high), (low, high)), one pair per parameter, got "
            f"shape {jnp.shape(given)}"
        )
    ends = _ends(refit, chosen, reach, given)
    if not isinstance(ends, Tracer) and not jnp.all(jnp.isfinite(ends)):
        raise ValueError(
            f"which: expected two parameters that have errors; of "
            f"{names[chosen[0]]} and {names[chosen[1]]} one has none here; "
            "limits= says where to look instead"
        )
    return _contour(refit, ends, chosen, points)


def _ends(refit: Refit, chosen, reach, limits) -> Float[Array, "2 2"]:
    """Return (low, high) of both parameters."""
    j, p = jnp.asarray(chosen), refit.p
    if limits is not None:
        return jnp.asarray(limits, p.dtype)
    variance = jnp.diagonal(refit.fit.known_covariance())[j]
    half = jnp.where(variance > 0.0, reach * jnp.sqrt(variance), jnp.nan)
    lower, upper = (side[j] for side in refit.box)
    low, high = jnp.maximum(p[j] - half, lower), jnp.minimum(p[j] + half, upper)
    return jnp.stack([low, high], axis=1).astype(p.dtype)


@eqx.filter_jit
def _contour(refit: Refit, ends: Array, chosen: tuple[int, ...], points: int):
    fit, p, data, j = refit.fit, refit.p, refit.data, jnp.asarray(chosen)
    covariance = fit.known_covariance()
    first, second = (jnp.linspace(low, high, points) for low, high in ends)
    held = jnp.zeros(p.size, bool).at[j].set(True)
    fixed = refit.spread("fixed", refit.options.get("fixed"), False, bool) | held
    variance = variance_of(fit)

    def rise_at(pair):
        near = p.at[j].set(pair)
        along = p + _slopes(covariance, j) @ (pair - p[j])
        along = along.at[j].set(pair)
        costs = [refit.chi2(data, start) for start in (near, along)]
        start = jnp.where(costs[1] < costs[0], along, near)
        new = refit(start, fixed=fit.unravel(fixed))
        rise = jnp.where(new.success, (new.chi2 - fit.chi2) / variance, jnp.nan)
        return jnp.where(refit.consistent, rise, jnp.nan)

    grid = jnp.stack(jnp.meshgrid(first, second, indexing="ij"), axis=-1)
    rise = jax.vmap(rise_at)(grid.reshape(-1, 2)).reshape(points, points)
    rounding = 100.0 * jnp.finfo(p.dtype).eps * fit.chi2 / variance
    dof = jnp.maximum(fit.dof, 0).astype(p.dtype)
    names = paths.parameter_names(fit.varied())
    return Contour(
        names=(names[chosen[0]], names[chosen[1]]),
        values=p[j],
        covariance=covariance[j[:, None], j],
        first=first,
        second=second,
        z=jnp.sqrt(jnp.maximum(rise, 0.0)),
        dof=jnp.full_like(dof, jnp.inf) if fit.absolute_sigma else dof,
        found_lower_minimum=jnp.any(rise < -BETTER - rounding),
    )


def _slopes(covariance, j) -> Float[Array, "n 2"]:
    """Return where the others go, per unit of the two, where the model is linear."""
    (a, b), (_, c) = covariance[j[:, None], j]
    det = a * c - b * b
    inverse = jnp.stack([jnp.stack([c, -b]), jnp.stack([-b, a])])
    inverse = jnp.where(det > 0.0, inverse / jnp.where(det > 0.0, det, 1.0), 0.0)
    return covariance[:, j] @ inverse
