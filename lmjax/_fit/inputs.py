"""The keywords of `curve_fit` and `global_fit` as arrays and pytrees."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lmjax._errors import advice
from lmjax._errors.checks import check_choice
from lmjax._fit.validate import (
    check_feasible,
    check_pair,
    check_possible,
    name_refused_argument,
    resolve_likelihood,
    resolve_loss,
)
from lmjax._jax import arrays, paths, program_cache
from lmjax._jax.closures import Program, Split, as_pytree
from lmjax._jax.types import Params
from lmjax._problem import data
from lmjax._problem.precision import warn_of_rounding
from lmjax._problem.terms import LossTerm


class Inputs(NamedTuple):
    """Model, data and conditions, as one pytree for `jax.jit`.

    Attributes:
        model: The function ``(params, x)`` as the user gave it, and a callable pytree
            after `with_programs`; or a Module that holds its own start, `splitted`.
        x: Independent variables, lists turned into arrays.
        y: Observations.
        params0: Start, or None if the model holds it.
        sigma: Standard deviations, covariance or None.
        mask: Which points to use, or None.
        bounds: Pair of prefix pytrees, or None.
        fixed: Prefix pytree, or None.
        term: Robust loss, or None.
        likelihood: Likelihood, `splitted`, or None.
        jac: Derivative of the model, if the user gave one.
    """

    model: Callable
    x: Any
    y: Any
    params0: Params
    sigma: Any
    mask: Any
    bounds: tuple[Any, Any] | None
    fixed: Any
    term: LossTerm | None
    likelihood: Split | None
    jac: Callable | None = None

    @property
    def start(self) -> Params:
        """The start, also where the model holds it."""
        if self.params0 is not None:
            return self.params0
        assert isinstance(self.model, Split)
        module = eqx.combine(self.model.arrays, self.model.rest)
        return eqx.filter(module, paths.is_parameter)

    def with_programs(self, solver: Any) -> tuple[Self, Any]:
        """Return the inputs with programs for their functions, and the solver.

        The Jacobian that the user gave moves from the solver into the inputs.
        """
        if self.params0 is None:
            return self, solver
        args = (self.params0, self.x)
        model = program_cache.model("model", self.model, *args, data=self.y)
        if not callable(vars(solver)["jac"]) and self.term is None:
            return self._replace(model=model), solver
        solver, jac = program_cache.jacobian(solver, model, *args)
        term = program_cache.term(self.term, model)
        return self._replace(model=model, jac=jac, term=term), solver

    def name_refused_argument(self, error: Exception) -> Exception:
        """Return an error that names the argument which jax refused."""
        names = ("x", "y", "params0", "sigma", "mask", "bounds", "fixed")
        named = {name: getattr(self, name) for name in names}
        return name_refused_argument(error, named)

    def check_answer(self, fit: Any) -> None:
        """Raise if a concrete status says that bounds or data cannot be met."""
        if self.bounds is not None:
            check_feasible(fit.status, self.bounds, fit.params)
        if self.likelihood is not None:
            likelihood = eqx.combine(self.likelihood.arrays, self.likelihood.rest)
            check_possible(fit.status, likelihood, self.y, self.mask)


def convert(
    model: Callable,
    x: Any,
    y: Any,
    params0: Params,
    *,
    sigma: Any,
    absolute_sigma: bool,
    mask: Any,
    likelihood: Any,
    bounds: Any,
    fixed: Any,
    loss: str | Callable | None,
    loss_scale: Any,
) -> Inputs:
    """Return the inputs, or raise if a keyword is wrong; data are arrays already."""
    if not isinstance(absolute_sigma, bool | np.bool_):
        raise TypeError(f"absolute_sigma: expected a bool, got {absolute_sigma!r}")
    for name, value in (("sigma", sigma), ("mask", mask)):
        if isinstance(value, Mapping) and (not value or hasattr(y, "shape")):
            raise TypeError(
                f"{name}: expected an array like y, or the names of its data sets, "
                f"got {value!r}"
            )
    data.check_sigma(sigma, mask, y)
    check_pair(bounds)
    term = resolve_loss(loss, loss_scale)
    given = {"sigma": sigma, "absolute_sigma": absolute_sigma or None, "loss": loss}
    likelihood = resolve_likelihood(likelihood, given)
    if likelihood is not None:
        likelihood = splitted(arrays.leaves_of("likelihood", likelihood))
    if isinstance(model, eqx.Module):
        model = arrays.leaves_of("model", model)
    x = arrays.arrays_of("x", x)
    warn_of_rounding(x, y, sigma)
    return Inputs(
        model if params0 is not None else splitted(model),
        x,
        y,
        arrays.leaves_of("params0", params0),
        sigma,
        mask,
        arrays.leaves_of("bounds", bounds),
        arrays.leaves_of("fixed", fixed),
        term,
        likelihood,
    )


def check_choices(model: Any, params0: Any, nan_policy: str) -> None:
    """Raise unless there are a model, a start and a known policy."""
    if not callable(model) or isinstance(model, type):
        hint = "; make one, or let it guess" if isinstance(model, type) else ""
        raise TypeError(
            f"model: expected a function model(params, x), got {model!r}{hint}"
        )
    if params0 is None and not isinstance(model, eqx.Module):
        raise ValueError(
            "params0: expected a start; it may be left out only if model is a callable "
            "eqx.Module that holds its own parameters"
        )
    check_choice("nan_policy", nan_policy, data.NAN_POLICIES)


def splitted(model: Any) -> Split:
    """Return a Module whose parameters, plain floats too, are traced, not compiled."""
    traced = lambda leaf: eqx.is_array(leaf) or paths.is_parameter(leaf)
    return Split(*eqx.partition(model, traced))


def resolved(model: Any, params0: Params) -> tuple[Params, Callable]:
    """Return the start and ``(params, x) -> y``.

    The start of a Module that holds its own (`splitted`) is taken from it.
    """
    if isinstance(model, Program):
        return model.cast(params0), model
    if params0 is not None:
        paths.check_params(params0)
        return params0, advice.calling(model, "model(params, x)")
    module = eqx.combine(model.arrays, model.rest)
    params0, rest = eqx.partition(module, paths.is_parameter)
    paths.check_params(params0)
    return (
        params0,
        advice.calling(lambda params, x: eqx.combine(params, rest)(x), "model(x)"),
    )


def dtype_of(out: Any, y: Any) -> Any:
    """Return the dtype of the residual; raise unless the model returns what y holds."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if shapes(out) != shapes(y):
        raise ValueError(
            f"model: expected what y holds, {shapes(y)}, got {shapes(out)}"
            f"{advice.on_shapes(out, y)}"
        )
    observed = (leaf.dtype for leaf in jax.tree.leaves(y))
    inexact = (dtype for dtype in observed if jnp.issubdtype(dtype, jnp.inexact))
    dtype = paths.common_dtype(*(leaf.dtype for leaf in jax.tree.leaves(out)), *inexact)
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise TypeError(f"x, y: expected float32 or float64, got {dtype}")
    return dtype


def completed(fit: Any, model: Any, params0: Params) -> Any:
    """Return the fit with the model put back: outside jit as it was given.

    A Module that holds its own start is put back without its parameters: jit would
    return them as arrays.
    """
    if params0 is not None:
        # in place: nobody else has this fit yet, and a copy would double the time of
        # this function
        object.__setattr__(fit, "model", as_pytree(model))
        return fit
    rest = eqx.filter(model, paths.is_parameter, inverse=True)
    return dataclasses.replace(fit, params=eqx.combine(fit.params, rest))
