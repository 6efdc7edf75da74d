"""A fit that can be made again: with other data, starts, weights or fixed values."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lmjax._derivatives.implicit import Implicit
from lmjax._errors.checks import check_choice
from lmjax._fit.curve_fit import curve_fit
from lmjax._fit.curve_result import CurveFit
from lmjax._fit.validate import (
    check_pair,
    resolve_likelihood,
    resolve_loss,
)
from lmjax._fit.validate_solver import check_solver
from lmjax._jax import arrays, paths, program_cache
from lmjax._jax.closures import unwrapped
from lmjax._jax.types import Flag, Params, Scalar
from lmjax._problem.data import NAN_POLICIES, Data, likelihood_term, prepare
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.status import ParamStatus
from lmjax.likelihoods import Likelihood


class FitOptions(TypedDict, total=False):
    """The keywords of `curve_fit` that `profile` and `bootstrap` need to fit again."""

    sigma: Any
    mask: Any
    nan_policy: str
    bounds: tuple[Any, Any] | None
    fixed: Any
    linear: Any
    loss: str | Callable | None
    loss_scale: Any
    solver: LevenbergMarquardt
    likelihood: str | Likelihood | None


class Refit(eqx.Module):
    """What a fit was made of.

    Attributes:
        fit: The fit: one, not a batch. Its model is a program for these x.
        x: Independent variables.
        y: Observations, a pytree if there are several data sets.
        options: The `FitOptions` that were given.
        usable: Whether the fit converged, and on these data.
    """

    fit: CurveFit
    x: Any
    y: Any
    options: dict[str, Any]
    consistent: Flag

    @property
    def p(self) -> Float[Array, " n"]:
        """The fitted parameters in ravel order."""
        return ravel_pytree(self.fit.varied())[0]

    def spread(self, name: str, prefix: Any, default: Any, dtype: Any) -> Array:
        """Return a prefix pytree of the parameters as one value per flat parameter."""
        return paths.ravel_prefix(name, prefix, self.fit.varied(), default, dtype)

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
        option = self.options.get
        policy = option("nan_policy", "propagate")
        return prepare(
            self.x, self.y, option("sigma"), option("mask"), policy, self.fit.cost.dtype
        )

    def residual(self, data: Data, p: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return the residual at ``p`` in units of sigma."""
        flat = lambda tree: ravel_pytree(tree)[0]
        return data.whiten(flat(self.curve(data, p)) - flat(data.y))

    def curve(self, data: Data, p: Float[Array, " n"]) -> Any:
        """Return the model at ``p``, a pytree like y."""
        curve = self.fit.evaluate(self.fit.unravel(p), data.x)
        return jax.tree.map(lambda f, y: f.astype(y.dtype), curve, data.y)

    def chi2(self, data: Data, p: Float[Array, " n"]) -> Scalar:
        """Return the sum of squared residuals at ``p``, of losses, or the deviance."""
        likelihood = self.options.get("likelihood")
        if likelihood is None:
            r = self.residual(data, p)
            scale = self.options.get("loss_scale", 1.0)
            term = resolve_loss(self.options.get("loss"), scale)
            if term is None:
                return jnp.sum(r**2)
            return 2.0 * jnp.sum(term.prepared(r.size, r.dtype).half_terms(r))
        f = self.curve(data, p)
        term = likelihood_term(likelihood, data, f.dtype)
        return 2.0 * jnp.sum(term.half_terms(f.ravel()))

    @eqx.filter_jit
    def same_data(self) -> Flag:
        """Return whether the data give the residual of the fit."""
        data, fit = self.data, self.fit
        there, _ = ravel_pytree(fit.residual)
        observed = data.whiten(ravel_pytree(data.y)[0])
        size = jnp.max(jnp.abs(observed)) + jnp.max(jnp.abs(there))
        error = jnp.max(jnp.abs(self.residual(data, self.p) - there))
        tolerance = jnp.finfo(there.dtype).eps ** 0.5
        same = error <= tolerance * size
        # a difference beyond rounding means another loss or likelihood
        chi2, grain = self.chi2(data, self.p), jnp.finfo(there.dtype).eps * size
        room = tolerance * (chi2 + fit.chi2) + 1e3 * there.size * grain**2
        same &= jnp.abs(chi2 - fit.chi2) <= room
        kinds, (lower, upper) = fit.flat_status, self.box
        fixed = self.spread("fixed", self.options.get("fixed"), False, bool)
        same &= jnp.all((kinds == ParamStatus.FIXED) == fixed)
        same &= jnp.all((kinds != ParamStatus.AT_LOWER) | jnp.isfinite(lower))
        same &= jnp.all((kinds != ParamStatus.AT_UPPER) | jnp.isfinite(upper))
        return same | ~fit.success

    def __call__(
        self, p: Float[Array, " n"], y: Any = None, **changes: Any
    ) -> CurveFit:
        """Fit again from ``p``, with some keywords changed; ``vmap`` makes batches."""
        fit = self.fit
        start: Params = fit.unravel(p)
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
            absolute_sigma=fit.absolute_sigma and fit.likelihood is None,
            **{**self.options, **changes},
        )


def prepare_refit(fit: Any, x: Any, y: Any, options: FitOptions) -> Refit:
    """Check a fit, its data and its options, and return them as a pytree.

    Raises:
        TypeError: If ``fit`` is no `CurveFit`, or a keyword is none of `FitOptions`.
        ValueError: If ``fit`` is a batch, or x, y or options are not those of the fit:
            without the sigma of the fit, say, the answer would be wrong. Inside a trace
            nothing is raised, and the result is not usable.
    """
    if not isinstance(fit, CurveFit):
        raise TypeError(f"fit: expected what curve_fit returns, got {fit!r}")
    if jnp.ndim(fit.cost):
        raise ValueError(
            f"fit: expected one fit, got a batch of {fit.cost.shape}; use jax.vmap"
        )
    unknown = options.keys() - FitOptions.__annotations__.keys()
    if "tie" in unknown:
        raise TypeError(
            "tie: expected to be left out, as the fit remembers the tie that curve_fit "
            "was given"
        )
    if unknown:
        raise TypeError(
            f"{min(unknown)}: expected a keyword of curve_fit out of "
            + ", ".join(FitOptions.__annotations__)
            + " (the fit itself knows the others)"
        )
    check_pair(options.get("bounds"))
    check_choice("nan_policy", options.get("nan_policy", "propagate"), NAN_POLICIES)
    if "solver" in options:
        check_solver(options["solver"], Implicit())
    resolve_loss(options.get("loss"), options.get("loss_scale", 1.0))
    x = arrays.arrays_of("x", x)
    y = arrays.as_arrays("y", y)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if shapes(y) != shapes(fit.residual):
        raise ValueError(
            f"y: expected the shape that was fitted, {shapes(fit.residual)}, "
            f"got {shapes(y)}"
        )
    curve = jax.eval_shape(fit.evaluate, fit.varied(), x)
    if shapes(curve) != shapes(y):
        raise ValueError(
            f"x: expected that of the fit, whose y has shape {shapes(y)}; here the "
            f"model gives {shapes(curve)}"
        )
    likelihood = resolve_likelihood(options.get("likelihood"), {})
    name = None if likelihood is None else type(likelihood).__name__
    if name != fit.likelihood:
        raise ValueError(
            f"likelihood: expected the one that was fitted, {fit.likelihood}, "
            f"got {name}"
        )
    weights = {k: v for k, v in options.items() if k in ("sigma", "mask")}
    data = {k: arrays.as_weights(k, v, y) for k, v in weights.items()}
    limits = {k: v for k, v in options.items() if k in ("bounds", "fixed")}
    data |= {k: arrays.leaves_of(k, v) for k, v in limits.items()}
    spread = partial(paths.ravel_prefix, params=fit.varied(), dtype=bool)
    jax.eval_shape(lambda: spread("fixed", data.get("fixed"), default=False))
    given = {**options, **data, "likelihood": likelihood}
    # plain numbers are data, too: changing one compiles nothing
    traced = lambda leaf: (
        jnp.asarray(leaf) if isinstance(leaf, bool | int | float) else leaf
    )
    if fit.model is not None:
        varied = fit.varied()
        model = program_cache.model("model", unwrapped(fit.model), varied, x, data=y)
        fit = dataclasses.replace(fit, model=model)
    choices = {"linear": given.pop("linear")} if "linear" in given else {}
    refit = Refit(fit, x, y, jax.tree.map(traced, given) | choices, fit.success)
    same = refit.same_data()
    if not isinstance(same, Tracer) and not same:
        raise ValueError(
            "x, y: expected the data of the fit, and the keywords that curve_fit was "
            "given (sigma, mask, likelihood, ...); these give another fit"
        )
    return eqx.tree_at(lambda refit: refit.consistent, refit, fit.success & same)
