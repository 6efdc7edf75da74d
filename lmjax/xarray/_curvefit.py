"""`curvefit`: a model fitted at every place of a map."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import xarray as xr

import lmjax
from lmjax._errors.checks import check_choice, check_flag
from lmjax._jax.captured_values import fingerprints
from lmjax.likelihoods import Likelihood
from lmjax.xarray import _request as request
from lmjax.xarray._curve import Curve, curve_of
from lmjax.xarray._fits import Block, Fitted, OneFit, dtypes
from lmjax.xarray._layout import Layout

Coord = Hashable | xr.DataArray
Value = float | xr.DataArray
_DEFAULT = lmjax.LevenbergMarquardt()
_CORE = Fitted(("param",), ("cov_i", "cov_j"), ("param",), (), (), ())
# Codes and names by the convention for climate and forecast data.
_FLAGS = {
    "flag_values": np.array([s.value for s in lmjax.Status], np.int32),
    "flag_meanings": " ".join(s.name for s in lmjax.Status),
}


class Options(NamedTuple):
    """Keywords that go to `lmjax.curve_fit` as they are."""

    absolute_sigma: bool
    nan_policy: str
    likelihood: Any
    loss: Any
    loss_scale: Any
    solver: lmjax.LevenbergMarquardt


def curvefit(
    obj: xr.Dataset | xr.DataArray,
    coords: Coord | Iterable[Coord],
    model: Callable | lmjax.models.Model | type[lmjax.models.Model],
    *,
    reduce_dims: Hashable | Iterable[Hashable] | None = None,
    skipna: bool = True,
    p0: Mapping[str, Value] | None = None,
    bounds: Mapping[str, tuple[Value | None, Value | None]] | None = None,
    param_names: Sequence[str] | None = None,
    errors: str = "raise",
    sigma: Value | None = None,
    absolute_sigma: bool = False,
    likelihood: str | Likelihood | None = None,
    fixed: Mapping[str, bool] | None = None,
    loss: str | Callable | None = None,
    loss_scale: float = 1.0,
    solver: lmjax.LevenbergMarquardt = _DEFAULT,
    dtype: Any = None,
) -> xr.Dataset:
    """Fit ``model`` along some dimensions of the data, at every place along the others.

    Arguments and result are those of ``xarray.DataArray.curvefit``, with standard
    errors, statuses and costs. Data in dask arrays stay lazy: one block is one task,
    on whatever scheduler or cluster dask uses.

    Args:
        obj: A DataArray, or a Dataset whose variables are fitted one by one.
        coords: The independent variable or variables: names of coordinates or
            DataArrays. They may differ from place to place.
        model: ``f(x, a, b)`` in ``jax.numpy``, whose arguments after the first name the
            parameters. ``x`` is an array of the n points of a fit, or a tuple of them,
            one per coordinate, and the result has shape (n,). Or a model of
            `lmjax.models`: an instance, which is the start, or a class, whose ``guess``
            finds a start at every place.
        reduce_dims: Further dimensions whose points go into one fit. Dimensions that
            ``coords`` names are always among them.
        skipna: Leave out points where the data or ``x`` are NaN. Otherwise a fit with
            NaN fails.
        p0: Starts by name of the parameter: numbers, or DataArrays that vary over the
            map. What is left out starts at its default in the signature, at what the
            model of `lmjax.models` says, or at 1; the first and the last move between
            the bounds, as with SciPy.
        bounds: Pairs (lower, upper) by name of the parameter, as ``p0``; None is no
            bound.
        param_names: Names of the parameters, where they cannot be read from the
            signature, or in place of those.
        errors: "raise" makes a failed fit an error (of lazy data when they are
            computed); "ignore" returns NaN for it, and its status. A place without data
            is NaN in both cases, with status ``SINGULAR``.
        sigma: Standard deviation of the data: a number, or a DataArray that broadcasts
            to the data.
        absolute_sigma: As in `lmjax.curve_fit`.
        likelihood: As in `lmjax.curve_fit`; numbers in it are the same at all places.
        fixed: Which parameters keep their start, by name.
        loss: As in `lmjax.curve_fit`.
        loss_scale: As in `lmjax.curve_fit`.
        solver: Algorithm and settings.
        dtype: What the fits compute in, float32 or float64, whatever
            ``jax_enable_x64`` is. None takes float32 for data in float32 and float64
            for all others.

    Returns:
        A Dataset with the coordinates and attributes of ``obj``. Its variables, with
        the name of the variable and "_" in front if ``obj`` is a Dataset, are
        ``curvefit_coefficients`` (..., param), ``curvefit_covariance`` (..., cov_i,
        cov_j), ``curvefit_stderr`` (..., param), ``curvefit_status`` (values of
        `lmjax.Status`), ``curvefit_cost`` (half the sum of squared residuals, as in
        `lmjax.curve_fit`) and ``curvefit_num_steps``. A parameter that is fixed or at a
        bound has zeros in the covariance and no standard error.

    Raises:
        ValueError: If a name, a dimension or a bound is wrong, indexes differ, or the
            points of one fit are spread over several chunks.
        TypeError: If data, coordinates, starts or bounds are no real numbers.
        FitError: If a fit fails and ``errors`` is "raise".

    Example:
        >>> import jax.numpy as jnp, numpy as np, xarray as xr, lmjax.xarray
        >>> t = np.linspace(0.0, 3.0, 20)
        >>> rate = np.array([[0.5, 1.0, 1.5], [1.0, 1.5, 2.0]])
        >>> values = 2.0 * np.exp(-rate[..., None] * t)
        >>> images = xr.DataArray(values, dims=("y", "x", "t"), coords={"t": t})
        >>> def decay(t, amplitude, rate):
        ...     return amplitude * jnp.exp(-rate * t)
        >>> fits = lmjax.xarray.curvefit(images, "t", decay)
        >>> fits.curvefit_coefficients.sel(param="rate").values.round(3)
        array([[0.5, 1. , 1.5],
               [1. , 1.5, 2. ]])
    """
    if not isinstance(obj, xr.Dataset | xr.DataArray):
        raise TypeError(f"obj: expected a Dataset or a DataArray, got {type(obj)}")
    check_flag("skipna", skipna)
    check_choice("errors", errors, ("raise", "ignore"))
    options = Options(
        absolute_sigma,
        "omit" if skipna else "propagate",
        likelihood,
        loss,
        loss_scale,
        solver,
    )
    x = request.named_coords(obj, coords)
    core = request.dims_of_a_fit(obj, x, reduce_dims)
    places = [dim for dim in obj.dims if dim not in core]
    if sigma is not None:
        sigma = request.number_or_map("sigma", sigma, obj.dims)
    variables = _variables(obj, core)
    points = jax.ShapeDtypeStruct((_count(obj, core),), np.dtype(np.float32))
    x_of_a_fit = points if len(x) == 1 else (points,) * len(x)
    curve, own = curve_of(model, param_names, x_of_a_fit, points)
    starts = request.starts_of(p0, curve.names, places)
    limits = request.bounds_of(bounds, curve.names, places)
    keep = request.fixed_of(fixed, curve.names)
    _check_aligned(obj, coords, sigma, starts, limits)
    arrays, rest = eqx.partition(options, eqx.is_array)
    plain = curve.structure is None and not isinstance(model, type)
    fit = OneFit(
        curve,
        tuple(fingerprints(model).items()) if plain else (),
        len(x),
        bool(limits),
        tuple(plain and name not in starts for name in curve.names),
        keep,
        rest,
    )
    results = {}
    for prefix, y in variables.items():
        layout = Layout(y.variable, core, dict(obj.sizes), _dtype(dtype, y))
        for i, coord in enumerate(x):
            layout.add(f"x[{i}]", coord.variable, spread=True)
        if sigma is not None:
            layout.add("sigma", _variable(sigma))
        _add_params(layout, curve, own | starts, limits)
        layout.check_chunks(str(y.name))
        block = Block(
            fit,
            (arrays, layout.shared),
            tuple(layout.keys),
            tuple(map(len, layout.core_dims)),
            layout.dtype,
            layout.largest,
            errors == "raise",
        )
        results |= _apply(block, layout, prefix)
    kept = obj.coords.to_dataset().drop_dims(core, errors="ignore").coords
    return xr.Dataset(results, kept | _labels(curve.names), obj.attrs)


@lru_cache(maxsize=32)  # three indexes take as long as a hundred fits
def _labels(names: tuple[str, ...]) -> xr.Coordinates:
    """Return the coordinates that name the parameters."""
    return xr.Dataset(coords={dim: list(names) for dim in request.OWN_DIMS}).coords


def _apply(block: Block, layout: Layout, prefix: str) -> dict[str, xr.Variable]:
    """Return the results of one variable by name, lazy where its data are."""
    n = len(block.fit.curve.names)
    found = xr.apply_ufunc(
        block,
        *layout.arrays,
        input_core_dims=layout.core_dims,
        output_core_dims=list(_CORE),
        dask="parallelized",
        output_dtypes=list(dtypes(block.dtype)),
        dask_gufunc_kwargs={"output_sizes": {"param": n, "cov_i": n, "cov_j": n}},
    )
    found = Fitted(*found)
    found.status.attrs = _FLAGS
    return {f"{prefix}curvefit_{k}": v for k, v in found._asdict().items()}


def _add_params(layout: Layout, curve: Curve, starts: dict, limits: dict) -> None:
    """Take up start and bounds of each parameter."""
    for name in curve.names:
        if name in starts:
            layout.add(f"p0[{name}]", _variable(starts[name]))
        elif not isinstance(curve.source, type):
            layout.add(f"p0[{name}]", 1.0)
        for side in (0, 1) if limits else ():
            value = limits.get(name, (-np.inf, np.inf))[side]
            layout.add(f"bounds[{side}][{name}]", _variable(value))


def _variables(
    obj: xr.Dataset | xr.DataArray, core: tuple[Hashable, ...]
) -> dict[str, xr.DataArray]:
    """Return the data by the prefix of their results."""
    if isinstance(obj, xr.DataArray):
        variables = {"": obj}
    else:
        variables = {f"{name}_": y for name, y in obj.data_vars.items()}
    if not variables:
        raise ValueError("obj: expected a Dataset with variables, got none")
    for y in variables.values():
        request.check_numbers(request.called("obj", y), y)
        missing = [dim for dim in core if dim not in y.dims]
        if missing:
            raise ValueError(
                f"obj: expected data along {', '.join(map(str, core))}, got {y.name!r} "
                f"with dimensions {', '.join(map(str, y.dims))}; leave it out of the "
                "Dataset"
            )
    return variables


def _check_aligned(obj, coords, sigma, starts: dict, limits: dict) -> None:
    """Raise unless the coordinates of all that was given are those of the data."""
    listed = coords if isinstance(coords, tuple | list) else [coords]
    given = [*listed, sigma, *starts.values()]
    given += [side for pair in limits.values() for side in pair]
    maps = [value for value in given if isinstance(value, xr.DataArray)]
    if maps:
        xr.align(obj, *maps, join="exact", copy=False)


def _dtype(dtype: Any, y: xr.DataArray) -> np.dtype:
    """Return the dtype of the fits: what was asked for, or that of the data."""
    if dtype is None:
        return y.dtype if y.dtype == np.float32 else np.dtype(np.float64)
    known = np.dtype(dtype)
    if known not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {dtype!r}")
    return known


def _count(obj: xr.Dataset | xr.DataArray, dims: Iterable[Hashable]) -> int:
    return int(np.prod([obj.sizes[dim] for dim in dims]))


def _variable(value: Any) -> Any:
    return value.variable if isinstance(value, xr.DataArray) else value
