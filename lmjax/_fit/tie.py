"""Parameters tied to one another: a model composed with a map of its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from lmjax._errors.advice import calling
from lmjax._errors.checks import check_function
from lmjax._jax import arrays, paths
from lmjax._jax.closures import Split, unwrapped
from lmjax._jax.dead_code import read_leaves
from lmjax._jax.types import Params
from lmjax._statistics.delta import propagated


@dataclasses.dataclass(frozen=True)
class Tied:
    """The model as a function of the free parameters: ``model(tie(free), x)``.

    Equal for equal parts, so that fits made in different traces have one structure.

    Attributes:
        model: ``model(params, x)``; None if ``tie`` returns a callable Module.
        tie: What the user gave.
        structure: Pytree of the start.
        left_out: Shape of each leaf of the start that ``tie`` does not read, None for
            those that it does.
        rest: What a Module holds beside its parameters, else None.
    """

    model: Callable | None
    tie: Callable
    structure: Any
    left_out: tuple[tuple[int, ...] | None, ...]
    rest: Any

    def params(self, free: Params) -> Params:
        """Return all parameters of the model."""
        leaves = iter(jax.tree.leaves(free))
        # nobody reads a parameter that was left out; of weak type, as it has no dtype
        filled = [
            next(leaves) if shape is None else jnp.broadcast_to(jnp.nan, shape)
            for shape in self.left_out
        ]
        start = jax.tree.unflatten(self.structure, filled)
        if self.rest is not None:
            start = eqx.combine(start, self.rest)
        return calling(self.tie, "tie(params)")(start)

    def __call__(self, free: Params, x: Any) -> Any:
        """Return the model at ``x``."""
        params = self.params(free)
        if self.model is None:
            return calling(params, "model(x)")(x)
        return calling(self.model, "model(params, x)")(params, x)


def tied(model: Callable, params0: Params, tie: Callable) -> tuple[Tied, Params]:
    """Return the model as a function of the free parameters, and their start.

    Leaves of the start that ``tie`` does not read are None in the start of the fit.
    """
    check_function("tie", tie, "tie(params) that returns all parameters of the model")
    start, rest = arrays.leaves_of("params0", params0), None
    if params0 is None:
        model = arrays.leaves_of("model", model)
        start, rest = eqx.partition(model, paths.is_parameter)
    paths.check_params(start)
    leaves, structure = jax.tree.flatten(start)
    whole = Tied(
        None if params0 is None else model, tie, structure, (None,) * len(leaves), rest
    )
    read = read_leaves(lambda free: _numbers(whole.params(free)), start)
    if not any(read):
        raise ValueError(
            "tie: expected a function of the parameters, got one that reads none of "
            f"them; their names are {', '.join(paths.parameter_names(start))}"
        )
    pairs = list(zip(leaves, read, strict=True))
    left_out = tuple(None if used else jnp.shape(leaf) for leaf, used in pairs)
    free = structure.unflatten([leaf if used else None for leaf, used in pairs])
    return dataclasses.replace(whole, left_out=left_out), free


def _numbers(params: Params) -> Params:
    """Return the parameters without the rest of a callable model, or raise."""
    numbers = eqx.filter(params, paths.is_parameter)
    if not jax.tree.leaves(numbers):
        raise TypeError(
            "tie: expected a function that returns all parameters of the model, got "
            f"one that returns {params!r}"
        )
    return numbers


def model_name(fit: Any) -> str:
    """Return the name of the function or class that is the model of a fit."""
    model = fit.params if fit.model is None else unwrapped(fit.model)
    if isinstance(model, Tied):
        model = unwrapped(model.rest if model.model is None else model.model)
    if isinstance(model, Split):
        model = model.rest
    if not isinstance(model, eqx.Module):
        model = getattr(model, "func", model)  # of functools.partial, which has no name
    return getattr(model, "__name__", type(model).__name__)


def all_params(fit: Any) -> Params:
    """Return the parameters of the model of a fit, also of a batch."""
    model = unwrapped(fit.model)
    if not isinstance(model, Tied):
        return fit.params
    complete = model.params
    for _ in fit.cost.shape:
        complete = eqx.filter_vmap(complete)
    return complete(fit.params)


def all_stderr(fit: Any) -> Params:
    """Return their standard errors, NaN where there is none."""
    model = unwrapped(fit.model)
    if not isinstance(model, Tied):
        return fit.stderr
    if fit.covariance is None:
        nan = lambda leaf: jnp.full(jnp.shape(leaf), jnp.nan)
        return jax.tree.map(nan, _numbers(all_params(fit)))
    numbers = lambda free: jax.tree.map(jnp.asarray, _numbers(model.params(free)))
    return propagated(numbers, fit.params, fit.covariance, fit.flat_status)[1]
