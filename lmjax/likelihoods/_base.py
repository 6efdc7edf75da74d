"""What a likelihood is: the noise of the data, point by point."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from lmjax._errors.checks import check_real
from lmjax._jax.arrays import as_array

Number = float | Float[Array, "..."]
Points = Float[Array, " m"]


def numbers(name: str) -> Callable[[Any], Any]:
    """Return what makes of a value what a field holds: a number or an array."""

    def converted(value: Any) -> Any:
        if isinstance(value, list):
            value = as_array(name, value)
        check_real(name, value)
        return value

    return converted


class Likelihood(eqx.Module):
    """The noise of the data, point by point: subclass it for one of your own.

    The methods work on arrays, one element per point; `sample` is for `lmjax.bootstrap`
    alone. Numbers and arrays in fields
    are data: they may be traced, differ per fit and be differentiated; arrays must
    broadcast to y.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> class Exponential(lmjax.likelihoods.Likelihood):
        ...     '''Waiting times y whose mean is f.'''
        ...
        ...     def best(self, y):
        ...         return jnp.where(y > 0, y, jnp.nan)
        ...
        ...     def log_ratio(self, f, f_new, y):
        ...         return jnp.log(f / f_new) + y / f - y / f_new
        ...
        ...     def slope(self, f, y):
        ...         return (f - y) / f**2
        ...
        ...     def information(self, f):
        ...         return 1 / f**2
        >>> mean, x, y = lambda p, x: p + 0 * x, jnp.arange(3.0), jnp.array([1, 3, 5.0])
        >>> fit = lmjax.curve_fit(mean, x, y, 1.0, likelihood=Exponential())
        >>> print(f"{fit.params:.3f} +- {fit.stderr:.3f}")
        3.000 +- 1.732
    """

    @abc.abstractmethod
    def best(self, y: Points) -> Points:
        """Return the f under which y is most probable, NaN where y is impossible."""

    @abc.abstractmethod
    def log_ratio(self, f: Points, f_new: Points, y: Points) -> Points:
        """Return ``log(L(f_new; y) / L(f; y))``.

        +inf where only f is impossible, -inf where only f_new is. Keep the digits where
        the two are close, and it must be twice differentiable by autodiff.
        """

    @abc.abstractmethod
    def slope(self, f: Points, y: Points) -> Points:
        """Return the derivative of ``-log L`` by f; finite even where L vanishes."""

    @abc.abstractmethod
    def information(self, f: Points) -> Points:
        """Return the Fisher information about f, ``E[slope^2]``, above zero."""

    def sample(self, key: PRNGKeyArray, f: Points) -> Points:
        """Return observations drawn at random, given f."""
        raise NotImplementedError(
            f"likelihood: lmjax.bootstrap draws data with the method sample(key, f), "
            f"which {type(self).__name__} does not have"
        )
