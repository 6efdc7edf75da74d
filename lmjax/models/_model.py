"""What every model is: a callable Module whose floating leaves are its parameters."""

import abc
import dataclasses
import functools
import operator
import re
from collections.abc import Callable
from typing import Any, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._errors.checks import check_function, check_real
from lmjax._jax import arrays
from lmjax.models._in_turn import guess_parts

Parameter = float | Float[Array, "..."]


class Model(eqx.Module):
    """A curve with parameters: subclass it to add one of your own.

    A model is called with the independent variable only, ``model(x)``; its fields are
    the parameters. Fields may be numbers or arrays that broadcast against ``x``.
    ``a + b`` is the `Sum` of two models, ``a * b`` their `Product`.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> class Line(lmjax.models.Model):
        ...     slope: float
        ...     offset: float
        ...
        ...     def __call__(self, x):
        ...         return self.slope * x + self.offset
        >>> x, y = jnp.arange(3.0), jnp.array([1.0, 3.0, 5.0])
        >>> fit = lmjax.curve_fit(Line(slope=1.0, offset=0.0), x, y)
        >>> print(f"{fit.params.slope:.3f} {fit.params.offset:.3f}")
        2.000 1.000
    """

    @abc.abstractmethod
    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""

    def __add__(self, other: "Model") -> "Sum":
        """Return the sum of two models as a `Sum`."""
        return _joined(Sum, self, other)

    def __mul__(self, other: "Model") -> "Product":
        """Return the product of two models as a `Product`."""
        return _joined(Product, self, other)

    def replace(self, **parameters: Any) -> Self:
        """Return the model with some parameters changed; of a `Sum`, some parts.

        Example:
            >>> import lmjax
            >>> peak = lmjax.models.Gaussian(amplitude=2.0, centre=0.0, width=1.0)
            >>> print(peak.replace(width=0.5).width)
            0.5
        """
        return dataclasses.replace(self, **parameters)

    def __check_init__(self):
        for field in dataclasses.fields(self):
            if field.type is Parameter:
                where = f"{type(self).__name__}.{field.name}"
                check_real(where, getattr(self, field.name))
        for path, leaf in jax.tree_util.tree_leaves_with_path(self):
            where = type(self).__name__ + jax.tree_util.keystr(path)
            dtype = getattr(leaf, "dtype", None)
            whole = isinstance(leaf, int) if dtype is None else dtype.kind in "iub"
            if whole:
                # curve_fit varies floating leaves: an integer would be held silently
                raise TypeError(
                    f"{where}: expected a floating-point parameter, got {leaf!r} "
                    "(write 1.0 instead of 1)"
                )


class _Composite(Model):
    """Several models, each under a name of its own."""

    parts: dict[str, Callable]

    def __init__(self, **parts: Callable):
        if not parts:
            raise ValueError("parts: expected at least one model, got none")
        for name, part in parts.items():
            check_function(f"parts[{name!r}]", part, "model(x)")
        self.parts = parts

    def replace(self, **parts: Callable) -> Self:
        """Return the composite with some parts changed."""
        unknown = parts.keys() - self.parts.keys()
        if unknown:
            raise ValueError(
                f"parts: no part is called {min(unknown)!r}; the names here are "
                + ", ".join(self.parts)
            )
        return type(self)(**{**self.parts, **parts})

    def __getitem__(self, name: str) -> Any:
        """Return the part called ``name``."""
        return self.parts[name]


class Sum(_Composite):
    """The sum of several models, each under a name of its own.

    ``Gaussian(...) + Polynomial(...)`` names the parts after their classes
    (``gaussian``, ``gaussian_2``, ``polynomial``); ``Sum(left=..., right=...)`` takes
    your names. Parameters are called ``parts.<name>.<field>`` in reports; bounds and
    ``fixed`` address them as ``{"<name>": {"<field>": value}}``.

    Args:
        parts: The models by name; ``total["name"]`` returns one.

    Example:
        >>> import lmjax
        >>> peak = lmjax.models.Gaussian(amplitude=2.0, centre=0.0, width=1.0)
        >>> total = peak + lmjax.models.Polynomial([0.5])
        >>> sorted(total.parts)
        ['gaussian', 'polynomial']
        >>> print(total(0.0), total["gaussian"].amplitude)
        2.5 2.0
    """

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return functools.reduce(operator.add, (part(x) for part in self.parts.values()))

    @staticmethod
    def guess(x: Any, y: Any, /, **parts: Any) -> "Sum":
        """Return a start for a fit of several models to the points (x, y).

        The background first, then peak after peak (the first name takes the highest),
        then each anew on the data less all others. Where x is not one array, each part
        is guessed from all points, which finds less.

        Of 400 synthetic spectra of one to four peaks and a background, the peaks 2.5
        widths apart, `curve_fit` ends at the minimum in 399; with peaks anywhere, on
        top of one another too, in 359; with dips among them in 379
        (``python -m benchmarks.sums``).

        Args:
            x: As in the ``guess`` of the parts.
            y: Observations; NaN and infinity are skipped.
            parts: By name a class of `lmjax.models`, or a function ``guess(x, y)``.

        Raises:
            ValueError: If there is no part.
            TypeError: If a part is neither a class with a guess nor a function.

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> from lmjax.models import Gaussian, Polynomial, Sum
            >>> x = jnp.linspace(0.0, 10.0, 101)
            >>> one, two = Gaussian(3.0, 3.0, 0.5), Gaussian(2.0, 6.0, 0.8)
            >>> y = one(x) + two(x) + 0.1 * x
            >>> start = Sum.guess(x, y, a=Gaussian, b=Gaussian, floor=Polynomial)
            >>> fit = lmjax.curve_fit(start, x, y)
            >>> print(f"{fit.params['a'].centre:.3f} {fit.params['b'].centre:.3f}")
            3.000 6.000
        """
        if not parts:
            raise ValueError("parts: expected at least one model, got none")
        guesses = {}
        for name, part in parts.items():
            guesses[name] = getattr(part, "guess", part)
            check_function(f"parts[{name!r}]", guesses[name], "guess(x, y)")
            if guesses[name] is part and isinstance(part, type):
                raise TypeError(
                    f"parts[{name!r}]: expected a class with a guess, or a function "
                    f"guess(x, y), got {part!r}"
                )
        x = jax.tree.map(real, arrays.arrays_of("x", x))
        y = real(arrays.as_array("y", y))
        return Sum(**guess_parts(x, y, tuple(guesses.items())))


class Product(_Composite):
    """The product of several models, each under a name of its own.

    ``Exponential(...) * DampedSine(...)`` names the parts as in a `Sum`. The height of
    a product is that of all parts together: fix the amplitudes of all but one.

    Args:
        parts: The models by name; ``total["name"]`` returns one.

    Example:
        >>> import lmjax
        >>> peak = lmjax.models.Gaussian(amplitude=2.0, centre=0.0, width=1.0)
        >>> tilted = peak * lmjax.models.Polynomial([1.0, 0.5])
        >>> print(tilted(0.0), sorted(tilted.parts))
        2.0 ['gaussian', 'polynomial']
    """

    def __call__(self, x: Any) -> Array:
        """Return the model at ``x``."""
        return functools.reduce(operator.mul, (part(x) for part in self.parts.values()))


C = TypeVar("C", bound=_Composite)


def _joined(kind: type[C], one: Model, other: Any) -> C:
    """Return a composite of two models; the parts of one of its kind stay parts."""
    if not isinstance(other, Model):
        return NotImplemented
    named = {}
    for model in (one, other):
        parts = model.parts if isinstance(model, kind) else {_name(model): model}
        for name, part in parts.items():
            named[_unused(name, named)] = part
    return kind(**named)


def real(x: Any) -> Array:
    """Return ``x`` as an array; integers become floats, other dtypes stay."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return x.astype(jnp.result_type(float))


def _name(model):
    """Return the class name in snake case, digits kept with their word."""
    name = type(model).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()


def _unused(name, taken):
    if name not in taken:
        return name
    base, number = re.sub(r"_\d+$", "", name), 2
    while f"{base}_{number}" in taken:
        number += 1
    return f"{base}_{number}"
