"""A model as `curvefit` takes it, with one name per scalar parameter."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lmjax._jax import paths
from lmjax.models import Model

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


class Curve(NamedTuple):
    """A model of a flat vector of parameters.

    Attributes:
        source: A function ``f(x, *params)``; a Module without its parameters; or a
            class with a ``guess``.
        names: One name per parameter.
        structure: Structure of the parameters of a Module, None for the others.
        shapes: Their shapes.
    """

    source: Callable
    names: tuple[str, ...]
    structure: Any = None
    shapes: tuple[tuple[int, ...], ...] = ()

    def bind(self, x: Any, y: Any) -> tuple[Array | None, Callable]:
        """Return the start that the data suggest, if any, and ``(vector, x) -> y``."""
        if isinstance(self.source, type):
            params, rest = eqx.partition(
                guess_of(self.source)(x, y), paths.is_parameter
            )
            start, unravel = ravel_pytree(params)
            return start, lambda p, x: eqx.combine(unravel(p), rest)(x)
        if self.structure is None:
            return None, lambda p, x: self.source(x, *p)
        return None, lambda p, x: eqx.combine(self._params(p), self.source)(x)

    def _params(self, p: Float[Array, " n"]) -> Any:
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = jnp.split(p, np.cumsum(sizes)[:-1])
        leaves = [x.reshape(s) for x, s in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)


def curve_of(
    model: Any, param_names: Sequence[str] | None, x: Any, y: Any
) -> tuple[Curve, dict[str, float]]:
    """Return the curve of a model, and the starts that it brings along.

    Args:
        model: As `curvefit` takes it.
        param_names: Names that replace those of the model.
        x: Shapes and dtypes of the independent variables of one fit.
        y: Shape and dtype of the data of one fit.
    """
    if isinstance(model, type) and issubclass(model, Model):
        return Curve(model, _renamed(_guessed_names(model, x, y), param_names)), {}
    if isinstance(model, eqx.Module):
        params, rest = eqx.partition(model, paths.is_parameter)
        paths.check_params(params)
        names = _renamed(paths.parameter_names(params), param_names)
        leaves, structure = jax.tree.flatten(params)
        flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
        curve = Curve(rest, names, structure, tuple(np.shape(leaf) for leaf in leaves))
        return curve, dict(zip(names, flat.tolist(), strict=True))
    if not callable(model) or isinstance(model, type):
        raise TypeError(
            "model: expected a function f(x, a, b) or a model of lmjax.models, "
            f"got {model!r}"
        )
    return _function(model, param_names)


def _function(model: Callable, param_names: Any) -> tuple[Curve, dict[str, float]]:
    """Return the curve of a function, and the defaults in its signature."""
    try:
        arguments = inspect.signature(model).parameters
    except ValueError:
        arguments = {}
    empty = inspect.Parameter.empty
    by_place = [name for name, a in arguments.items() if a.kind in POSITIONAL]
    named = by_place[1:]
    needed = [name for name in named if arguments[name].default is empty]
    variable = any(given.kind in VARIABLE for given in arguments.values())
    if param_names is None and (variable or not named):
        raise ValueError(
            "param_names: expected the names of the parameters, because the arguments "
            f"of the model do not tell them, got None for {model!r}"
        )
    names = named if param_names is None else _listed(param_names)
    fitting = len(needed) <= len(names) <= len(named)
    if not variable and arguments and not fitting:
        raise ValueError(
            f"param_names: expected {len(named)} names, one for each of "
            f"{', '.join(named)}, got {names}"
        )
    starts = {
        name: float(arguments[name].default)
        for name in names
        if name in arguments and arguments[name].default is not empty
    }
    return Curve(model, tuple(names)), starts


def _renamed(own: Sequence[str], param_names: Any) -> tuple[str, ...]:
    names = list(own) if param_names is None else _listed(param_names)
    if len(names) != len(own):
        raise ValueError(
            f"param_names: expected {len(own)} names, one for each of "
            f"{', '.join(own)}, got {names}"
        )
    return tuple(names)


def _listed(param_names: Any) -> list[str]:
    """Return names as a list, or raise unless they are distinct strings."""
    names = [] if isinstance(param_names, str) else list(param_names)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"param_names: expected distinct names in a list, got {param_names!r}"
        )
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"param_names: expected strings, got {param_names!r}")
    return names


@lru_cache(maxsize=32)  # a trace of a guess takes as long as some thousand fits
def _guessed_names(model: type[Model], x: Any, y: Any) -> tuple[str, ...]:
    module = jax.eval_shape(guess_of(model), x, y)
    is_parameter = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact)
    return tuple(paths.parameter_names(eqx.filter(module, is_parameter)))


def guess_of(model: type[Model]) -> Callable:
    """Return how a model finds its start, or raise if it cannot."""
    guess = getattr(model, "guess", None)
    if guess is None:
        raise TypeError(
            f"model: expected a class with guess(x, y), got {model.__name__}; give a "
            "model with its parameters, which are the start"
        )
    return guess
