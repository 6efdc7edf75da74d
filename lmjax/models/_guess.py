"""Starts for fits: the model's own least squares, solved exactly on a grid.

Most parameters of a curve enter linearly (amplitude, offset). For each candidate of the
others the best linear ones follow in closed form, so comparing a few hundred candidates
is a few products of a small matrix with the data, and the start lies in the basin of
the global minimum as long as the grid is finer than the basins (variable projection:
Golub and Pereyra 1973, SIAM J. Numer. Anal. 10, 413-432). The grids depend on x only:
in a batch with common x they are built once. `docs/design.md` lists the helpers.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax._jax import arrays
from lmjax.models import _domain
from lmjax.models._stable import log_positive

M = TypeVar("M")
Guess = TypeVar("Guess", bound=Callable)

MOST = 100  # the degree of a polynomial: each power is compiled
LEAST_SEEN = 1e-4  # share of a shape: a thousand roundings of float32


class Data(NamedTuple):
    """Points of one curve, flat, safe to compute with.

    Attributes:
        x: Independent variable (or a tuple of them); where it was not finite, its
            smallest value.
        y: Observations in units of ``unit``; 0 where ``keep`` is.
        keep: 1 for points that count, 0 for those with NaN or infinity.
        unit: Largest size of an observation, so that squares do not leave float32.
    """

    x: Any
    y: Float[Array, " m"]
    keep: Float[Array, " m"]
    unit: Float[Array, ""]


class Best(NamedTuple):
    """The candidate with the smallest sum of squares, in the units of y.

    Attributes:
        which: Its number.
        scale: Its factor (a tuple of two after `search_pair`).
        constant: What is added, 0 if there was no constant.
        gain: By how much it lowers the sum of squares, for comparisons.
    """

    which: Array
    scale: Any
    constant: Float[Array, ""]
    gain: Float[Array, ""]


def compiled(guess: Guess) -> Guess:
    """Compile a guess: op by op its first call takes several times as long."""
    choices = list(inspect.signature(guess).parameters)[2:]
    jitted = jax.jit(guess, static_argnames=choices)

    @functools.wraps(guess)
    def call(x, y, *args, **options):
        several = isinstance(x, list) and any(np.ndim(part) for part in x)
        read = arrays.leaves_of if several else arrays.arrays_of
        x = read("x", x)
        y = arrays.as_array("y", y)
        for name, value in [*zip(choices, args, strict=False), *options.items()]:
            whole = isinstance(value, int | np.integer)
            if not whole or isinstance(value, bool) or not 0 <= value <= MOST:
                raise ValueError(f"{name}: expected an int, 0 to {MOST}, got {value!r}")
        try:
            return jitted(x, y, *args, **options)
        except (IndexError, TypeError, ValueError) as error:
            if str(error).startswith(("x:", "y:", "x, y:", *choices)):
                raise
            shapes = jax.tree.map(np.shape, (x, y))
            raise ValueError(
                "x, y: expected arrays of one shape (a tuple of them where the model "
                f"takes several x), got {shapes}, for which {guess.__qualname__} fails "
                f"with {type(error).__name__}: {error}"
            ) from error

    return cast(Guess, call)


def clean(x: Any, y: Any) -> Data:
    """Flatten, cast and mark what counts.

    The dtype is that of y, or of x if y holds integers, or the default float.
    """
    y = jnp.asarray(y)
    x = jax.tree.map(jnp.asarray, np.asarray(x) if isinstance(x, list) else x)
    if y.size == 0:
        raise ValueError("y: expected at least one observation, got none")
    dtypes = [leaf.dtype for leaf in (y, *jax.tree.leaves(x))]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    dtype = floating[0] if floating else jnp.result_type(float)
    keep = jnp.isfinite(y)
    leaves, structure = jax.tree.flatten(x)
    flat = []
    for leaf in leaves:
        leaf = jnp.broadcast_to(leaf, y.shape).ravel().astype(dtype)
        known = jnp.isfinite(leaf)
        keep = keep & known.reshape(y.shape)
        flat.append(jnp.where(known, leaf, low_and_span(leaf)[0]))
    keep, y = keep.ravel(), y.ravel().astype(dtype)
    y = jnp.where(keep, y, 0.0)
    unit = largest(y)
    x = jax.tree.unflatten(structure, flat)
    return Data(x, y / unit, keep.astype(dtype), unit)


def low_and_span(x: Array, usable: Any = True) -> tuple[Array, Array]:
    """Return the smallest finite x and the positive width of their range.

    The width is 1 where all are equal; (0, 1) without any.
    """
    known = jnp.isfinite(x) & usable
    low = jnp.min(jnp.where(known, x, jnp.inf))
    low = jnp.where(jnp.isfinite(low), low, 0.0)
    span = jnp.max(jnp.where(known, x, low)) - low
    return low, jnp.where((span > 0.0) & jnp.isfinite(span), span, 1.0)


def largest(x: Array) -> Array:
    """Return the largest size of x, 1 if all are 0."""
    size = jnp.max(jnp.abs(x))
    return jnp.where(size > 0.0, size, 1.0)


def log_axis(x: Array) -> tuple[Array, Array]:
    """Return the smallest ``log(x)`` and the span, over positive x."""
    log_x, positive = log_positive(x)
    return low_and_span(log_x, positive)


def tiles(first: int, last: int, margin: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return (position, width) of shapes that cover the unit interval at every scale.

    Widths are ``2**-first`` to ``2**-last``, each at positions one width apart, from
    ``-margin`` to ``1 + margin``.
    """
    positions, widths = [], []
    for level in range(first, last + 1):
        width = 2.0**-level
        count = int(np.ceil((1.0 + 2.0 * margin) / width)) + 1
        positions.append(np.linspace(-margin, 1.0 + margin, max(count, 3)))
        widths.append(np.full(max(count, 3), width))
    return np.concatenate(positions), np.concatenate(widths)


def grid(*axes: Any) -> list[np.ndarray]:
    """Return every combination of the values, one flat array per axis."""
    return [part.ravel() for part in np.meshgrid(*axes, indexing="ij")]


def column(values: Any, data: Data) -> Array:
    """Return candidates as a column, to broadcast against points in a row."""
    return jnp.asarray(values).astype(data.y.dtype)[:, None]


def row(data: Data) -> Any:
    """Return x as rows (1, m)."""
    return jax.tree.map(lambda leaf: leaf[None, :], data.x)


def search(
    shapes: Float[Array, "g m"],
    data: Data,
    constant: bool = True,
    least: float = 0.0,
    positive: Any = False,
) -> Best:
    """Return the candidate whose multiple (plus a constant) is closest to y.

    Shapes are centred by their plain mean first: nothing is left to cancel then unless
    points are missing. A shape of which the points see less than ``LEAST_SEEN`` is
    left out: its amplitude would be huge and its variation near rounding.

    Args:
        shapes: Candidates, one a row.
        data: The points.
        constant: Whether a constant is added. The curve then stays within what the
            data suggest (see `_domain`).
        least: Share of the height, which is 1 for shapes that say so, that the points
            must see. It bounds the factor by what the data can tell: the foot of a
            sigmoid, say, fits any rise of a steep enough one.
        positive: Points at which a shape must not vanish (by underflow) where
            something was measured, if nothing measured is negative: zero is
            impossible to a likelihood of counts.
    """
    whole = jnp.max(jnp.abs(shapes), axis=1)
    possible = whole >= 0.0
    if positive is not False:
        possible = _domain.possible(shapes, data, positive)
    reach = whole - jnp.min(shapes, axis=1) if constant else whole
    mean = jnp.mean(shapes, axis=1) if constant else jnp.zeros_like(shapes[:, 0])
    shapes = shapes - mean[:, None]
    size = jnp.max(jnp.abs(shapes), axis=1)
    seen = (size > LEAST_SEEN * whole) & (reach >= least) & possible
    size = jnp.where(size > 0.0, size, 1.0)
    shapes = shapes / size[:, None]
    number = jnp.maximum(jnp.sum(data.keep), 1.0)
    y_mean = jnp.sum(data.y) / number if constant else jnp.zeros_like(number)
    y = (data.y - y_mean) * data.keep
    shape_mean = _dot(shapes, data.keep) / number
    square = _dot(shapes**2, data.keep)
    product = _dot(shapes, y)
    floor = _floor(data) * square
    if constant:
        square = square - number * shape_mean**2
    usable = (square > floor) & (square > 0.0) & seen
    scale = jnp.where(usable, product / jnp.where(usable, square, 1.0), 0.0)
    gain = jnp.where(usable, scale * product, -1.0)
    i = jnp.argmax(gain)
    scale, shift = scale[i], y_mean
    if constant:
        shift = y_mean - scale * shape_mean[i]
        share, level = _domain.share_of_mean(scale * shapes[i] + shift, data)
        scale, shift = (1.0 - share) * scale, (1.0 - share) * shift + share * level
    else:
        scale = scale * _domain.shrunk(scale * shapes[i], data)
    scale = scale / size[i]
    unit = data.unit
    return Best(i, scale * unit, (shift - scale * mean[i]) * unit, gain[i])


def search_pair(
    first: Float[Array, "g m"],
    second: Float[Array, "g m"],
    data: Data,
    positive: bool = False,
) -> Best:
    """Return the pair of shapes whose best combination is closest to y.

    Pairs that the points cannot tell apart fall back on the first shape alone. Where
    all shapes are ``positive`` and no datum is negative, neither is the curve: it is
    mixed with the first shape, as little as that takes.

    In contrast to `search` there is no share that the points must see, and no mask: two
    shapes together have no height, and no pair of the models vanishes at some x.
    """
    keep, y = data.keep, data.y
    aa, bb = _dot(first**2, keep), _dot(second**2, keep)
    ab = _dot(first * second, keep)
    ay, by = _dot(first, y), _dot(second, y)
    det = aa * bb - ab * ab
    both = (det > 30.0 * _floor(data) * aa * bb) & (det > 0.0)
    safe, single = jnp.where(both, det, 1.0), jnp.where(aa > 0.0, aa, 1.0)
    a = jnp.where(both, (bb * ay - ab * by) / safe, ay / single)
    b = jnp.where(both, (aa * by - ab * ay) / safe, 0.0)
    gain = a * ay + b * by
    usable = jnp.isfinite(gain)
    if positive:
        usable = usable & _domain.possible(first, data, True)
    i = jnp.argmax(jnp.where(usable, gain, -1.0))
    a, b = a[i], b[i]
    if positive:
        curve, alone = a * first[i] + b * second[i], ay[i] / single[i]
        share = _domain.share_of(alone * first[i], curve, data)
        a, b = (1.0 - share) * a + share * alone, (1.0 - share) * b
        factor = _domain.shrunk(a * first[i] + b * second[i], data)
        a, b = factor * a, factor * b
    zero = jnp.zeros_like(data.unit)
    return Best(i, (a * data.unit, b * data.unit), zero, gain[i])


def finite(model: M, data: Data) -> M:
    """Return the model with every parameter in the dtype of the data and finite."""
    most = float(jnp.finfo(data.y.dtype).max) ** 0.5

    def mend(value):
        value = jnp.asarray(value).astype(data.y.dtype)
        value = jnp.where(jnp.isnan(value), 1.0, value)
        return jnp.clip(value, -most, most)

    return jax.tree.map(mend, model)


def _dot(shapes, values):
    # in full precision: a GPU would round to 10 bits and mix up the candidates
    return jnp.matmul(shapes, values, precision=jax.lax.Precision.HIGHEST)


def _floor(data):
    """Return the relative size below which a difference of sums is rounding."""
    return data.y.size * float(jnp.finfo(data.y.dtype).eps)
