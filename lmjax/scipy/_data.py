"""Data of a curve fit, read as SciPy reads them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from lmjax.scipy._trace import float64, floats


class Data(NamedTuple):
    """What a model is compared with.

    Attributes:
        x: What the model is called with.
        y: Observations, in float64.
        whiten: Divides rows, of a residual or of a Jacobian, by their noise.
    """

    x: Any
    y: np.ndarray
    whiten: Callable

    def compared(self, predicted: Any) -> jax.Array:
        """Return the residual, or raise if a model returns another shape."""
        if predicted is None:
            raise TypeError("f: expected values, got None; does it return?")
        predicted = jnp.asarray(predicted)
        shape = predicted.shape
        try:
            np.broadcast_shapes(shape, self.y.shape)
        except ValueError as error:
            raise ValueError(
                f"f: expected values of the shape of ydata, {self.y.shape}, got {shape}"
            ) from error
        return predicted - self.y


def prepare(
    xdata: Any, ydata: Any, sigma: Any, check_finite: bool | None, nan_policy: Any
) -> Data:
    """Return the data in float64 without the points that are left out, or raise."""
    if check_finite is None:
        check_finite = nan_policy is None
    y = _observed("ydata", ydata, check_finite)
    x = _independent(xdata, check_finite)
    if y.size == 0:
        raise ValueError("`ydata` must not be empty!")
    sigma = None if sigma is None else floats("sigma", _unmasked("sigma", sigma))
    if sigma is not None and sigma.ndim < 2 and not np.all(sigma != 0.0):
        raise ValueError("`sigma`: expected numbers other than 0, got 0.")
    if not check_finite and nan_policy is not None:
        x, y, sigma = _by_policy(nan_policy, x, y, sigma)
    return Data(x, y, _whitening(sigma, y.size))


def _independent(xdata: Any, check_finite: bool) -> Any:
    """Return x as an array of float64, or as it is where SciPy does not touch it."""
    if isinstance(xdata, list | tuple | np.ndarray) or _is_series(xdata):
        return _observed("xdata", xdata, check_finite)
    keys = isinstance(xdata, jax.Array) and not hasattr(xdata.dtype, "kind")
    if keys:
        raise TypeError("`xdata`: expected numbers, got random keys")
    if isinstance(xdata, jax.Array) and not jnp.iscomplexobj(xdata):
        with float64():
            return jnp.asarray(xdata, float)
    return xdata


def _is_series(data: Any) -> bool:
    """Return whether data are a column of pandas or alike, of numbers."""
    kind = getattr(getattr(data, "dtype", None), "kind", "")
    return hasattr(data, "to_numpy") and kind in "biuf"


def _observed(name: str, values: Any, check_finite: bool) -> np.ndarray:
    values = floats(name, _unmasked(name, values))
    if check_finite and not np.isfinite(values).all():
        raise ValueError(
            f"`{name}`: array must not contain infs or NaNs; nan_policy='omit' leaves "
            "out points with NaN."
        )
    return values


def _unmasked(name: str, values: Any) -> Any:
    if np.ma.is_masked(values):
        raise ValueError(
            f"`{name}`: expected an array, got a masked one, whose mask SciPy ignores; "
            "give .filled(numpy.nan) and nan_policy='omit', or .compressed()"
        )
    return values


def _by_policy(nan_policy: Any, x: Any, y: np.ndarray, sigma: np.ndarray | None):
    """Return x, y and sigma after NaN were refused or left out."""
    if isinstance(nan_policy, str) and nan_policy == "propagate":
        raise ValueError("`nan_policy='propagate'` is not supported by this function.")
    if not isinstance(nan_policy, str) or nan_policy not in ("raise", "omit"):
        raise ValueError(
            f"nan_policy must be one of {{None, 'raise', 'omit'}}; got {nan_policy!r}"
        )
    is_nan = np.isnan(y)
    if x is not None:
        x_nan = np.isnan(floats("xdata", x))
        is_nan = is_nan | x_nan.any(axis=tuple(range(x_nan.ndim - 1)))
    if not is_nan.any():
        return x, y, sigma
    if nan_policy == "raise":
        raise ValueError("The input contains nan values")
    kept = ~is_nan
    x, y = None if x is None else x[..., kept], y[kept]
    if sigma is not None and sigma.ndim == 1 and sigma.size > 1:
        sigma = sigma[kept]
    elif sigma is not None and sigma.ndim == 2:
        sigma = sigma[np.ix_(kept, kept)]
    return x, y, sigma


def _whitening(sigma: np.ndarray | None, m: int) -> Callable:
    if sigma is None:
        return lambda rows: rows
    if sigma.size == 1 or sigma.shape == (m,):
        weight = 1.0 / sigma.reshape(-1)
        return lambda rows: weight.reshape(-1, *[1] * (jnp.ndim(rows) - 1)) * rows
    if sigma.shape != (m, m):
        raise ValueError(
            f"`sigma` has incorrect shape: expected a number, ({m},) or ({m}, {m}), "
            f"got {sigma.shape}."
        )
    try:
        root = scipy.linalg.cholesky(sigma, lower=True)
    except scipy.linalg.LinAlgError as error:
        raise ValueError(f"`sigma` must be positive definite: {error}.") from error
    return lambda rows: jax.scipy.linalg.solve_triangular(root, rows, lower=True)
