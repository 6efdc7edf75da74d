"""A fit of a model to data as it was asked for: what both doors make of keywords."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lmjax import _arrays, _data, _params
from lmjax._callables import Split, as_pytree
from lmjax._doors import (
    blame,
    check_feasible,
    check_pair,
    check_possible,
    resolve_likelihood,
    resolve_loss,
)
from lmjax._precision import warn_of_rounding
from lmjax._result import Solution
from lmjax._status import Status
from lmjax._terms import Robust
from lmjax._types import Params


class Request(NamedTuple):
    """Model, data and conditions, as one pytree for `jax.jit`.

    Attributes:
        model: ``(params, x)`` as a callable pytree, or a Module, `splitted`, that holds
            its own start.
        x: Independent variables, lists turned into arrays.
        y: Observations.
        params0: Start, or None if the model holds it.
        sigma: Standard deviations, covariance or None.
        mask: Which points to use, or None.
        bounds: Pair of prefix pytrees, or None.
        fixed: Prefix pytree, or None.
        term: Robust loss, or None.
        likelihood: Likelihood, `splitted`, or None.
    """

    model: Callable
    x: Any
    y: Any
    params0: Params
    sigma: Any
    mask: Any
    bounds: tuple[Any, Any] | None
    fixed: Any
    term: Robust | None
    likelihood: Split | None

    @property
    def start(self) -> Params:
        """The start, also where the model holds it."""
        if self.params0 is not None:
            return self.params0
        assert isinstance(self.model, Split)
        module = eqx.combine(self.model.arrays, self.model.rest)
        return eqx.filter(module, _params.is_parameter)

    def blame(self, error: TypeError, solver: Any, derivative: Any) -> TypeError:
        """Return an error that names the argument which jax refused."""
        names = ("x", "y", "params0", "sigma", "mask", "bounds", "fixed")
        named = {name: getattr(self, name) for name in names}
        return blame(error, solver, derivative, named)

    def check_answer(self, fit: Any) -> None:
        """Raise if a concrete status says that bounds or data cannot be met."""
        if self.bounds is not None:
            check_feasible(fit.status, self.bounds, fit.params)
        if self.likelihood is not None:
            likelihood = eqx.combine(self.likelihood.arrays, self.likelihood.rest)
            check_possible(fit.status, likelihood, self.y, self.mask)


def request(
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
) -> Request:
    """Return a request, or raise if a keyword is wrong; data are arrays already."""
    if not isinstance(absolute_sigma, bool | np.bool_):
        raise TypeError(f"absolute_sigma: expected a bool, got {absolute_sigma!r}")
    _data.check_sigma(sigma, mask, y)
    check_pair(bounds)
    term = resolve_loss(loss, loss_scale)
    given = {"sigma": sigma, "absolute_sigma": absolute_sigma or None, "loss": loss}
    likelihood = resolve_likelihood(likelihood, given)
    if likelihood is not None:
        likelihood = splitted(_arrays.leaves_of("likelihood", likelihood))
    if isinstance(model, eqx.Module):
        model = _arrays.leaves_of("model", model)
    x = _arrays.arrays_of("x", x)
    warn_of_rounding(x, y, sigma)
    return Request(
        as_pytree(model) if params0 is not None else splitted(model),
        x,
        y,
        _arrays.leaves_of("params0", params0),
        sigma,
        mask,
        _arrays.leaves_of("bounds", bounds),
        _arrays.leaves_of("fixed", fixed),
        term,
        likelihood,
    )


def check_choices(model: Any, params0: Any, nan_policy: str) -> None:
    """Raise unless there are a model, a start and a known policy."""
    if not callable(model):
        raise TypeError(f"model: expected a function model(params, x), got {model!r}")
    if params0 is None and not isinstance(model, eqx.Module):
        raise ValueError(
            "params0: expected a start; it may be left out only if model is a callable "
            "eqx.Module that holds its own parameters"
        )
    if nan_policy not in _data.NAN_POLICIES:
        raise ValueError(
            f"nan_policy: expected one of {', '.join(_data.NAN_POLICIES)}, "
            f"got {nan_policy!r}"
        )


def splitted(model: Any) -> Split:
    """Return a Module whose parameters, plain floats too, are traced, not compiled."""
    traced = lambda leaf: eqx.is_array(leaf) or _params.is_parameter(leaf)
    return Split(*eqx.partition(model, traced))


def resolved(model: Any, params0: Params) -> tuple[Params, Callable, Callable | None]:
    """Return the start, ``(params, x) -> y``, and the model for the result to keep.

    None for a Module (`splitted`) that holds its own start: its parameters are all.
    """
    if params0 is not None:
        _params.check_params(params0)
        return params0, model, model
    module = eqx.combine(model.arrays, model.rest)
    params0, rest = eqx.partition(module, _params.is_parameter)
    _params.check_params(params0)
    return params0, lambda params, x: eqx.combine(params, rest)(x), None


def dtype_of(out: Any, y: Any) -> Any:
    """Return the dtype of the residual; raise unless the model returns what y holds."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if shapes(out) != shapes(y):
        raise ValueError(
            f"model: expected what y holds, {shapes(y)}, got {shapes(out)}"
            + _column_hint(out, y)
        )
    observed = (leaf.dtype for leaf in jax.tree.leaves(y))
    inexact = (dtype for dtype in observed if jnp.issubdtype(dtype, jnp.inexact))
    dtype = _params.common_dtype(
        *(leaf.dtype for leaf in jax.tree.leaves(out)), *inexact
    )
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise TypeError(f"x, y: expected float32 or float64, got {dtype}")
    return dtype


def _column_hint(out: Any, y: Any) -> str:
    """Return what to do where one side is a column and the other is flat."""
    shapes = [getattr(tree, "shape", ()) for tree in (out, y)]
    flat, column = sorted(shapes, key=len)
    if len(flat) == 1 and column == (*flat, 1):
        return "; a column becomes flat by .ravel(), in x and y alike"
    return ""


def fields_of(solution: Solution, num_used) -> dict[str, Any]:
    """Return what a fit to data takes over from its solution."""
    fields = {name: getattr(solution, name) for name in Solution.__dataclass_fields__}
    if num_used is not None:
        # no data at all: zero residuals, yet nothing was learned
        nothing = jnp.int32(Status.SINGULAR)
        fields["status"] = jnp.where(num_used > 0, solution.status, nothing)
    return fields


def completed(fit: Any, model: Any) -> Any:
    """Return the fit of a Module with all that is no parameter put back.

    Outside jit, where that would come back as arrays.
    """
    rest = eqx.filter(model, _params.is_parameter, inverse=True)
    return dataclasses.replace(fit, params=eqx.combine(fit.params, rest))


def pearson(problem, f):
    """Return Pearson's statistic of the predictions."""
    return jnp.sum(problem.term.rows(f)[0] ** 2)
