"""User functions as JAX sees them: traced once per call, in float64."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator

from lmjax._jax import program_cache, sharded
from lmjax._jax.program_cache import Fresh

# What JAX raises where a function wants the value of a parameter.
_WANTS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)

_INSIDE = (
    "{name}: expected numbers, got what is known to a trace only; functions of "
    "lmjax.scipy work outside jit, vmap and grad, those of lmjax inside too"
)


def float64() -> Any:
    """Return the context in which JAX computes in float64, as SciPy always does.

    The setting of the process and of other threads stays what it is.
    """
    return jax.enable_x64(True)


def traced(name: str, fn: Callable, start: np.ndarray) -> Callable:
    """Return ``fn`` as it is now, for arguments like ``start``.

    The one place where a user's function is called. It is called in every fit, because
    what it reads may have changed since the last one; the arrays that it reads become
    data of the traced function. What was compiled for an equal function serves it.

    Raises:
        TypeError: If it cannot be traced; ``name`` is that of the argument.
    """
    if sharded.is_jitted():
        raise TypeError(_INSIDE.format(name=name))
    with float64(), _explained(name):
        function = program_cache.function(name, Fresh(fn), jnp.asarray(start))
    concrete(name, jax.tree.leaves(function))
    return function


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"{name}: expected a function in jax.numpy, got one that hands a parameter "
            "to NumPy or SciPy; write jnp.exp(p) for np.exp(p), jax.scipy.special for "
            "scipy.special, jnp.asarray(x)[p] for x[p]"
        ) from error
    except _WANTS_VALUES as error:
        raise TypeError(
            f"{name}: expected a function that does not depend on the values of its "
            "parameters in Python, got one with if, float(), int() or an index made of "
            "them; write jnp.where for if, jnp.exp for math.exp"
        ) from error
    except ValueError as error:
        if not isinstance(error.__cause__, _WANTS_VALUES):
            raise
        raise TypeError(
            f"{name}: expected a function in jax.numpy, got one that fills a NumPy "
            "array with what depends on parameters; write jnp.array([...]) or "
            "jnp.stack([...])"
        ) from error


def residual_of(fn: Callable, start: np.ndarray) -> tuple[Callable, int]:
    """Return the residual ``(n,) -> (m,)`` behind ``fn``, and m."""
    sizes = []

    def flat(x):
        out = fn(x)
        if out is None:
            raise TypeError("`fun`: expected residuals, got None; does it return?")
        if jnp.iscomplexobj(out):
            raise ValueError(
                "`fun`: expected real residuals, got complex ones; return real and "
                "imaginary parts as separate residuals"
            )
        out = jnp.atleast_1d(jnp.asarray(out, float))
        if out.ndim != 1:
            raise ValueError(
                "`fun` must return at most 1-d array_like. "
                f"f0.shape: {out.shape}; write .ravel()"
            )
        sizes.append(out.size)
        return out

    residual = traced("model or residual", flat, start)
    m = sizes[-1]  # of this very call: `traced` has called it
    if m == 0:
        raise ValueError("`fun` must return at least one residual, got none.")
    return residual, m


def jacobian_of(fn: Callable, start: np.ndarray, shaped: Callable) -> Callable:
    """Return the Jacobian ``(n,) -> (m, n)`` behind ``fn``.

    ``shaped`` makes a matrix of what ``fn`` returns, or raises. What is sparse is
    refused.
    """
    try:
        return traced("jac or Dfun", lambda x: shaped(dense(fn(x))), start)
    except TypeError as error:
        if isinstance(error.__cause__, jax.errors.JAXTypeError):
            # perhaps a sparse matrix, which holds no traced values: say that instead
            dense(fn(start))
        raise


def dense(matrix: Any) -> jax.Array:
    """Return a Jacobian as an array of float64, or raise if it is sparse."""
    if issparse(matrix) or isinstance(matrix, LinearOperator):
        raise ValueError(
            f"jac or Dfun: expected a dense array, got {type(matrix).__name__}; sparse "
            "Jacobians and LinearOperator are not supported here, leave it out "
            "(derivatives are exact without)"
        )
    return jnp.asarray(matrix, float)


def floats(name: str, values: Any) -> np.ndarray:
    """Return an array of doubles, or raise what NumPy raises and name the argument."""
    concrete(name, values)
    try:
        if np.iscomplexobj(values):
            raise ValueError("got complex ones, expected real ones")
        return np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{name}`: expected numbers; {error}") from error


def concrete(name: str, value: Any) -> None:
    """Raise if a value, or an entry of a list, is known to a trace only."""
    entries = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(entry, Tracer) for entry in entries):
        raise TypeError(_INSIDE.format(name=name))
