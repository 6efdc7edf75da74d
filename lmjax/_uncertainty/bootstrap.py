r"""Bootstrap: the scatter of fits to data that could have been measured instead.

Each replica is a data set made from the fit and fitted again; all of them run as one
batch. With ``e`` the residual in units of sigma, ``f`` the fitted curve and ``C`` the
factor that turns white noise into that of y, the kinds are

    residual     y* = f - C e*,        e* drawn from the e_i with replacement
    wild         y* = f - C (v e),     v_i = +1 or -1 with equal probability
    parametric   y* = f + s C n,       n standard normal, s^2 the reduced chi-square
    case         y* = y,               point i counted as often as it was drawn

With a likelihood "parametric" draws y* from it, around f, and is the only kind.

The first two multiply the residuals by ``sqrt(N / dof)``, because a fit makes them
smaller than the errors: Davison and Hinkley (1997), chapters 6 and 7.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lmjax._errors.checks import check_choice
from lmjax._fit.curve_result import CurveFit
from lmjax._jax.types import Params, Scalar
from lmjax._problem.data import Data, is_covariance, likelihood_term, per_set
from lmjax._solver.status import ParamStatus, Status
from lmjax._uncertainty.refit import FitOptions, Refit, prepare_refit

KINDS = ("residual", "case", "parametric", "wild")


class Bootstrap(eqx.Module):
    """Outcome of `bootstrap`; replicas that failed are left out of every number.

    Attributes:
        params: Parameters of every replica, with a leading axis; a callable model holds
            arrays with that axis.
        status: `Status` of every replica.
        fit: The fit whose uncertainty is asked for.
    """

    params: Params
    status: Int[Array, "*batch num"]
    fit: CurveFit

    @property
    def success(self) -> Bool[Array, "*batch num"]:
        """Which replicas converged."""
        return self.status > 0

    @property
    def num_failed(self) -> Int[Array, "*batch"]:
        """How many replicas failed and are left out."""
        return jnp.sum(~self.success, axis=-1, dtype=jnp.int32)

    @property
    def stderr(self) -> Params:
        """Standard deviation of the replicas, NaN for parameters that are fixed."""
        return self._summary(partial(jnp.nanstd, ddof=1))

    @property
    def bias(self) -> Params:
        """Mean of the replicas less the fitted parameters."""
        return jax.tree.map(jnp.subtract, self._summary(jnp.nanmean), self.fit.varied())

    def interval(self, level: float | Scalar = 0.95) -> tuple[Params, Params]:
        """Return (lower, upper): percentiles of the replicas, a little further out.

        Plain percentiles of normal estimates are ``p +- 1.96 stderr``; these are
        ``p +- t stderr`` with Student's t on dof degrees of freedom, as in the other
        intervals (for absolute sigma the two are the same). A few hundred replicas give
        a standard error, a few thousand a 95 % interval.

        References:
            Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13;
            Hesterberg (2015), The American Statistician 69, 371-386, for the expanded
            percentiles.
        """
        tail = jax.scipy.special.ndtr(-self.fit._quantile(level))
        lower = self._summary(partial(_quantile, share=tail))
        return lower, self._summary(partial(_quantile, share=1.0 - tail))

    def _summary(self, over: Callable) -> Params:
        """Return a statistic of the replicas that converged, per parameter."""
        axis = self.fit.cost.ndim
        fixed = self.fit.unravel(self.fit.flat_status == ParamStatus.FIXED)

        def one(values, fixed):
            trailing = tuple(range(self.status.ndim, values.ndim))
            good = jnp.expand_dims(self.success, trailing)
            return jnp.where(
                fixed, jnp.nan, over(jnp.where(good, values, jnp.nan), axis=axis)
            )

        varied = eqx.filter(self.params, eqx.is_inexact_array)
        return jax.tree.map(one, varied, fixed)


def _quantile(values: Array, axis: int, share: Array) -> Array:
    """Return the order statistic at ``share * (count + 1)``, NaN left out.

    With that rule the share below is right for any ``count``, not only a large one:
    Davison and Hinkley (1997), section 2.3.
    """
    ordered = jnp.sort(values, axis=axis)  # NaN last
    count = jnp.sum(~jnp.isnan(values), axis=axis, keepdims=True)
    share = share.reshape(share.shape + (1,) * (values.ndim - share.ndim))
    place = share.astype(values.dtype) * (count + 1).astype(values.dtype) - 1.0
    place = jnp.clip(place, 0.0, jnp.maximum(count - 1, 0).astype(values.dtype))
    below = jnp.floor(place)
    at = lambda k: jnp.take_along_axis(ordered, k.astype(jnp.int32), axis=axis)
    weight = place - below
    between = (1.0 - weight) * at(below) + weight * at(jnp.ceil(place))
    return jnp.squeeze(between, axis)


def bootstrap(
    key: PRNGKeyArray,
    fit: CurveFit,
    x: Any,
    y: Any,
    *,
    num: int = 1000,
    kind: str | None = None,
    **options: Unpack[FitOptions],
) -> Bootstrap:
    """Fit ``num`` data sets that could have been measured instead.

    Every replica starts at ``fit.params``. Works under ``jax.jit`` and ``jax.vmap``
    (over keys, fits and their data). It has derivatives, except through counts drawn at
    random, which are integers.

    Args:
        key: Random key, ``jax.random.key(seed)``.
        fit: What `curve_fit` returned: one fit.
        x: Independent variables, as given there.
        y: Observations, as given there.
        num: Number of replicas.
        kind: "residual", the default, draws residuals in units of sigma, which are
            taken to be alike. "wild" flips their signs at random: each keeps its size,
            for noise that sigma does not describe. "parametric"
            draws normal noise of the size of sigma. "case" draws the points: x is
            random, too, and the model may be wrong; not with a robust loss. With a
            likelihood only "parametric", the default then.
        options: Keywords of `curve_fit`, as given there: sigma, mask, nan_policy,
            bounds, fixed, linear, loss, loss_scale, solver, likelihood. The fit
            remembers its tie, which is left out.

    Returns:
        The `Bootstrap`. Replicas that fail do not raise: see its ``num_failed``. If
        ``fit`` failed all of them have its status.

    Raises:
        ValueError: If x, y or options are not those of the fit; if ``kind`` or ``num``
            is out of range; if points are to be drawn whose errors are correlated.
        TypeError: If ``key`` is no random key, ``fit`` no `CurveFit` or a keyword is
            unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> x = jnp.linspace(0.0, 4.0, 20)
        >>> y = 1.0 + 2.0 * x + 0.1 * jnp.cos(40.0 * x)
        >>> line = lambda p, x: p["slope"] * x + p["offset"]
        >>> fit = lmjax.curve_fit(line, x, y, {"slope": 1.0, "offset": 0.0})
        >>> boot = lmjax.bootstrap(jax.random.key(0), fit, x, y, num=500)
        >>> low, high = boot.interval(0.9)
        >>> bool(low["slope"] < fit.params["slope"] < high["slope"])
        True

    References:
        Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapters 9 and
        13; Davison and Hinkley (1997), "Bootstrap Methods and their Application",
        chapters 6 and 7; Wu (1986), Annals of Statistics 14, 1261-1295, for "wild".
    """
    try:
        jax.eval_shape(jax.random.split, key)
    except (TypeError, ValueError):
        raise TypeError(f"key: expected jax.random.key(seed), got {key!r}") from None
    refit = prepare_refit(fit, x, y, options)
    kinds = KINDS if fit.likelihood is None else ("parametric",)
    kind = kinds[0] if kind is None else kind
    check_choice("kind", kind, kinds)
    if not isinstance(num, int | np.integer) or num < 2:
        raise ValueError(f"num: expected an int >= 2, got {num!r}")
    if kind == "case" and any(_correlated(*one) for one in _weighted(refit)):
        raise ValueError(
            "kind: points with correlated errors cannot be drawn one by one; use "
            "'residual' or 'parametric'"
        )
    if kind == "case" and refit.options.get("loss") is not None:
        raise ValueError(
            "kind: 'case' counts a point twice by its weight, which is not what a "
            "robust loss makes of two points; use 'residual', 'wild' or 'parametric'"
        )
    return dataclasses.replace(_bootstrap(key, refit, int(num), kind), fit=fit)


def _weighted(refit: Refit) -> list[tuple[Any, Array]]:
    """Return (sigma, y) of every data set."""
    sigma = per_set("sigma", refit.options.get("sigma"), refit.y)
    return list(zip(sigma, jax.tree.leaves(refit.y), strict=True))


def _correlated(sigma: Any, y: Array) -> bool:
    if sigma is None:
        return False
    return isinstance(sigma, tuple) or is_covariance(jnp.asarray(sigma), y.size, y.ndim)


@eqx.filter_jit
def _bootstrap(key, refit: Refit, num: int, kind: str) -> Bootstrap:
    fit, data = refit.fit, refit.data
    curve, like_y = ravel_pytree(refit.curve(data, refit.p))
    # replicas are finite where a NaN of y was omitted, so the mask must say so
    same = {} if data.mask is None else {"mask": _like(data.y, data.mask)}

    def replica(key):
        if kind == "case":
            new = refit(refit.p, **_drawn(key, refit, data))
        elif fit.likelihood is not None:
            new = refit(refit.p, y=like_y(_sample(key, refit, data, curve)), **same)
        else:
            noise = data.unwhiten(_noise(key, kind, fit, data))
            new = refit(refit.p, y=like_y(curve + noise), **same)
        failed = jnp.minimum(fit.status, Status.RUNNING)
        return new.varied(), jnp.where(refit.consistent, new.status, failed)

    varied, status = jax.vmap(replica)(jax.random.split(key, num))
    rest = eqx.filter(fit.params, eqx.is_inexact_array, inverse=True)
    return Bootstrap(eqx.combine(varied, rest), status, fit)


def _sample(key, refit: Refit, data: Data, f: Float[Array, " m"]) -> Array:
    """Return observations of f; where masked they do not matter."""
    term = likelihood_term(refit.options["likelihood"], data, f.dtype)
    return term.likelihood.sample(key, f).astype(f.dtype)


def _noise(key, kind: str, fit: CurveFit, data: Data) -> Float[Array, " m"]:
    """Return noise in units of sigma."""
    e = -ravel_pytree(fit.residual)[0]
    if kind == "parametric":
        size = 1.0 if fit.absolute_sigma else jnp.sqrt(fit.reduced_chi2)
        return size * jax.random.normal(key, e.shape, e.dtype)
    shrunk = fit.num_points.astype(e.dtype) / jnp.maximum(fit.dof, 1).astype(e.dtype)
    e = jnp.sqrt(shrunk) * e
    if kind == "wild":
        return e * jax.random.rademacher(key, e.shape, e.dtype)
    used = _used(data)
    mean = jnp.sum(e) / jnp.sum(used)  # masked residuals are zero
    return jax.random.choice(key, e - mean, e.shape, p=used / jnp.sum(used))


def _drawn(key, refit: Refit, data: Data) -> dict[str, Any]:
    """Return the keywords that count every point as often as it was drawn.

    As many are drawn as are in use, a number that may be traced.
    """
    used = _used(data)
    drawn = jax.random.choice(key, used.size, used.shape, p=used / jnp.sum(used))
    enough = jnp.arange(used.size, dtype=used.dtype) < jnp.sum(used)
    counts = _like(
        data.y, jnp.zeros_like(used).at[drawn].add(enough.astype(used.dtype))
    )
    sigma = [1.0 if sigma is None else sigma for sigma, _ in _weighted(refit)]
    smaller = lambda sigma, counts: sigma / jnp.sqrt(jnp.maximum(counts, 1.0))
    return {
        "sigma": jax.tree.map(
            smaller, jax.tree.unflatten(jax.tree.structure(data.y), sigma), counts
        ),
        "mask": jax.tree.map(lambda counts: counts > 0.0, counts),
    }


def _like(y: Any, flat: Array) -> Any:
    """Return values per point in the structure of y."""
    leaves, structure = jax.tree.flatten(y)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = zip(jnp.split(flat, ends), leaves, strict=True)
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in parts])


def _used(data: Data) -> Float[Array, " m"]:
    """Return 1 for points that count and 0 for the others."""
    flat, _ = ravel_pytree(data.y)
    return jnp.ones_like(flat) if data.mask is None else data.mask.astype(flat.dtype)
