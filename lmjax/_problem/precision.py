"""A warning if float64 data lose digits in float32 that a fit needs.

Without ``jax_enable_x64`` jax rounds NumPy's float64 to float32, a relative change of
up to ``2**-24``. Whether that matters depends on what the numbers are for:

    x      rounding against the spacing of the points (times since 1970)
    y      rounding against the spread (a signal on a large offset) and against sigma
    any    numbers beyond the range of float32

A bound is tested first, which takes a few microseconds. Only if it is reached is the
rounding itself computed.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmjax._errors.warn import warn

# The largest relative error of rounding to float32, and its range.
_ROUNDING = 2.0**-24
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
# Rounding matters if it moves points by this share of their spacing, or y by this share
# of its spread or of sigma: a fit changes by about as much as good data can tell.
_OF_SPACING = 0.1
_OF_SPREAD = 1e-3
_OF_SIGMA = 0.1
# Below this share of the range no model tells points apart by rounding, however many
# there are (a million points between 0 and 1 are less than 2**-20 apart).
_OF_RANGE = 1e-6


def rounds() -> bool:
    """Return whether 64-bit numbers become 32-bit ones."""
    return jax.dtypes.canonicalize_dtype(np.float64) != np.float64


def warn_of_rounding(x: Any = None, y: Any = None, sigma: Any = None) -> None:
    """Warn, once per line of the caller, if float32 loses what matters of the data.

    Only concrete NumPy arrays are tested.
    """
    if not rounds():
        return
    _look("x", x, _spacing_is_lost, "a tenth of their spacing")
    _look("y", y, _spread_is_lost, "a thousandth of their spread")
    _look("sigma", sigma, lambda *_: False, "")
    if isinstance(y, np.ndarray) and isinstance(sigma, np.ndarray):
        drowns = lambda values, size, _: _drowns_sigma(values, size, sigma)
        _look("y", y, drowns, "a tenth of sigma")


def warn_of_rounded(**arguments: Any) -> None:
    """Warn as `warn_of_rounding` does of arguments whose use is not known."""
    if not rounds():
        return
    for name, value in arguments.items():
        _look(name, value, _spread_is_lost, "a thousandth of their spread")


def _look(name: str, tree: Any, is_lost: Callable, what: str) -> None:
    """Warn if a test of an array (values, magnitude, range) says that it is lost.

    Integers are tested, too: they become float32 where they meet a parameter.
    """
    # a single array takes a shorter path: every call outside jit passes here
    for leaf in [tree] if type(tree) is np.ndarray else jax.tree.leaves(tree):
        if not isinstance(leaf, np.ndarray) or leaf.dtype.itemsize < 4 or not leaf.size:
            continue
        wide = leaf.dtype == np.float64
        if not wide and leaf.dtype.kind not in "iu":
            continue
        size, extent = _extent(leaf)
        if wide and (size > _LARGEST or 0.0 < size < _SMALLEST):
            return _warn(name, "the range of that type")
        if is_lost(leaf, size, extent):
            return _warn(name, what)
    return None


def _extent(values: np.ndarray) -> tuple[float, float]:
    """Return the largest magnitude and the range of the finite values."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        finite = values[np.isfinite(values)]
        if not finite.size:
            return 0.0, 0.0
        low, high = float(finite.min()), float(finite.max())
    return max(abs(low), abs(high)), high - low


def _error(values: np.ndarray) -> np.ndarray:
    """Return the rounding of each finite value."""
    finite = values[np.isfinite(values)].astype(np.float64)
    with np.errstate(over="ignore"):
        return np.abs(finite.astype(np.float32) - finite)


def _spacing_is_lost(values: np.ndarray, size: float, extent: float) -> bool:
    most = max(_OF_SPACING * extent / max(values.size - 1, 1), _OF_RANGE * extent)
    if extent == 0.0 or _ROUNDING * size <= most:
        return False
    gaps = np.diff(np.unique(values[np.isfinite(values)]).astype(np.float64))
    return bool(_error(values).max() > _OF_SPACING * np.median(gaps))


def _spread_is_lost(values: np.ndarray, size: float, extent: float) -> bool:
    most = _OF_SPREAD * extent
    if extent == 0.0 or _ROUNDING * size <= most:
        return False
    return bool(_error(values).max() > most)


def _drowns_sigma(y: np.ndarray, size: float, sigma: np.ndarray) -> bool:
    if sigma.shape == (y.size, y.size):
        sigma = np.sqrt(np.abs(np.diagonal(sigma)))
    if not sigma.size or _ROUNDING * size <= _OF_SIGMA * sigma.min():
        return False
    sigma = np.broadcast_to(sigma, y.shape)
    used = np.isfinite(y) & (sigma > 0.0)
    return bool((_error(y[used]) > _OF_SIGMA * sigma[used]).any())


def _warn(name: str, what: str) -> None:
    """Warn in the line that called lmjax.

    The text is the same for all numbers: Python then shows it once per line, also where
    a loop goes over many data sets.
    """
    warn(
        f"{name}: 64-bit numbers become float32 here, whose rounding exceeds {what}; "
        'jax.config.update("jax_enable_x64", True) keeps them, and so may a shift of '
        "the origin or other units"
    )
