"""A fit that can be made again: with other data, starts, weights or fixed values."""

from collections.abc import Callable
from typing import Any, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lmjax import _data, _problem
from lmjax._curve_fit import curve_fit
from lmjax._data import Data
from lmjax._fitted import CurveFit
from lmjax._solver import LevenbergMarquardt
from lmjax._types import Flag, Params


class FitOptions(TypedDict, total=False):
    """The keywords of `curve_fit` that belong to the data, for whoever fits again."""

    sigma: Any
    mask: Any
    nan_policy: str
    bounds: tuple[Any, Any] | None
    fixed: Any
    loss: str | Callable | None
    loss_scale: Any
    solver: LevenbergMarquardt


class Refit(eqx.Module):
    """What a fit was made of.

    Attributes:
        fit: The fit: one, not a batch.
        x: Independent variables.
        y: Observations.
        options: The `FitOptions` that were given.
        usable: Whether the fit converged, and on these data.
    """

    fit: CurveFit
    x: Any
    y: Array
    options: dict[str, Any]
    usable: Flag

    @property
    def p(self) -> Float[Array, " n"]:
        """The fitted parameters in ravel order."""
        return ravel_pytree(self.fit._varied())[0]

    def spread(self, name: str, prefix: Any, default: Any, dtype: Any) -> Array:
        """Return a prefix pytree of the parameters as one value per flat parameter."""
        return _problem.ravel_prefix(name, prefix, self.fit._varied(), default, dtype)

    @property
    def box(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Lower and upper bounds, infinite where there are none."""
        lower, upper = self.options.get("bounds") or (None, None)
        dtype = self.p.dtype
        return (
            self.spread("bounds[0]", lower, -jnp.inf, dtype),
            self.spread("bounds[1]", upper, jnp.inf, dtype),
        )

    @property
    def data(self) -> Data:
        """The observations with their weights."""
        given = self.options.get
        policy = given("nan_policy", "propagate")
        return _data.prepare(
            self.x, self.y, given("sigma"), given("mask"), policy, self.fit.cost.dtype
        )

    def residual(self, data: Data, p: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return the residual at ``p`` in units of sigma."""
        curve = self.fit._evaluate(self.fit._unravel(p), data.x)
        return data.whiten((curve.astype(data.y.dtype) - data.y).ravel())

    @eqx.filter_jit
    def same_data(self) -> Flag:
        """Return whether the data leave the residual that the fit has."""
        data = self.data
        there = self.fit.residual.ravel()
        size = jnp.max(jnp.abs(data.whiten(data.y.ravel()))) + jnp.max(jnp.abs(there))
        error = jnp.max(jnp.abs(self.residual(data, self.p) - there))
        # NaN is no contradiction: that fit failed
        return ~(error > jnp.finfo(there.dtype).eps ** 0.5 * size)

    def __call__(
        self, p: Float[Array, " n"], y: Any = None, **changes: Any
    ) -> CurveFit:
        """Fit again from ``p``, with some keywords changed; ``vmap`` makes batches."""
        fit = self.fit
        start: Params = fit._unravel(p)
        if fit.model is None:
            _, rest = eqx.partition(fit.params, eqx.is_inexact_array)
            model, params0 = eqx.combine(start, rest), None
        else:
            model, params0 = fit.model, start
        return curve_fit(
            model,
            self.x,
            self.y if y is None else y,
            params0,
            absolute_sigma=fit.absolute_sigma,
            **{**self.options, **changes},
        )


def refit(fit: Any, x: Any, y: Any, options: FitOptions) -> Refit:
    """Check what a user hands over and return it as a pytree.

    Raises:
        TypeError: If ``fit`` is no `CurveFit`, or a keyword is none of `FitOptions`.
        ValueError: If ``fit`` is a batch, or x, y or options are not what was fitted:
            whoever forgets a sigma would get an answer, and a wrong one. Inside a trace
            the result is unusable instead.
    """
    if not isinstance(fit, CurveFit):
        raise TypeError(f"fit: expected what curve_fit returns, got {fit!r}")
    if jnp.ndim(fit.cost):
        raise ValueError(
            f"fit: expected one fit, got a batch of {fit.cost.shape}; use jax.vmap"
        )
    unknown = options.keys() - FitOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"{min(unknown)}: expected a keyword of curve_fit out of "
            + ", ".join(FitOptions.__annotations__)
        )
    x, y = (np.asarray(v) if isinstance(v, list | float) else v for v in (x, y))
    if jnp.shape(y) != fit.residual.shape:
        raise ValueError(
            f"y: expected the shape that was fitted, {fit.residual.shape}, "
            f"got {jnp.shape(y)}"
        )
    lists = {k: np.asarray(v) for k, v in options.items() if isinstance(v, list)}
    given = dict(options) | lists
    # plain numbers are data, too: whoever changes one compiles nothing
    traced = lambda leaf: (
        jnp.asarray(leaf) if isinstance(leaf, bool | int | float) else leaf
    )
    again = Refit(fit, x, y, jax.tree.map(traced, given), fit.success)
    same = again.same_data()
    if not isinstance(same, Tracer) and not same:
        raise ValueError(
            "x, y: expected the data of the fit, and the keywords that curve_fit was "
            "given (sigma, mask, ...); these leave another residual"
        )
    return eqx.tree_at(lambda again: again.usable, again, fit.success & same)
