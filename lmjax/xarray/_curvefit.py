"""`curvefit`: a model fitted at every place of a map."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

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


class Options(eqx.Module):
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
    """TODO."""
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
    results = {}
    for prefix, y in variables.items():
        fit_dtype = _dtype(dtype, y)
        points = jax.ShapeDtypeStruct((_count(obj, core),), fit_dtype)
        x_of_a_fit = points if len(x) == 1 else (points,) * len(x)
        with jax.enable_x64(fit_dtype == np.float64):
            curve, own = curve_of(model, param_names, x_of_a_fit, points)
        starts = request.starts_of(p0, curve.names, places)
        limits = request.bounds_of(bounds, curve.names, places)
        keep = request.fixed_of(fixed, curve.names)
        _check_aligned(obj, coords, sigma, starts, limits)
        layout = Layout(y.variable, core, dict(obj.sizes), fit_dtype)
        for i, coord in enumerate(x):
            layout.add(f"x[{i}]", coord.variable, spread=True)
        if sigma is not None:
            layout.add("sigma", _variable(sigma))
        _add_params(layout, curve, own | starts, limits)
        layout.check_chunks(str(y.name))
        arrays, rest = eqx.partition(options, eqx.is_array)
        plain = curve.structure is None and not isinstance(model, type)
        one = OneFit(
            curve,
            tuple(fingerprints(model).items()) if plain else (),
            len(x),
            bool(limits),
            tuple(plain and name not in starts for name in curve.names),
            keep,
            rest,
        )
        block = Block(
            one,
            (arrays, layout.shared),
            tuple(layout.keys),
            tuple(map(len, layout.core_dims)),
            fit_dtype,
            layout.largest,
            errors == "raise",
        )
        results |= _apply(block, layout, prefix)
    kept = {k: c for k, c in obj.coords.items() if not set(c.dims) & set(core)}
    names = list(curve.names)
    own_coords = {"param": names, "cov_i": names, "cov_j": names}
    return xr.Dataset(results, kept | own_coords, obj.attrs)


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
        request.check_numbers(f"obj: {y.name}", y)
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
