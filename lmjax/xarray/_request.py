"""What a caller of `curvefit` asks for, checked."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

REAL = "biuf"
# Dimensions of the result.
OWN_DIMS = ("param", "cov_i", "cov_j")


def named_coords(obj: xr.Dataset | xr.DataArray, coords: Any) -> list[xr.DataArray]:
    """Return the independent variables, found by name where names are given."""
    alone = isinstance(coords, str | xr.DataArray) or not isinstance(coords, Iterable)
    given = [coords] if alone else list(coords)
    if not given:
        raise ValueError("coords: expected at least one coordinate, got none")
    found = []
    for coord in given:
        if not isinstance(coord, xr.DataArray):
            if coord not in obj.dims and coord not in obj.coords:
                known = ", ".join(map(str, {**dict.fromkeys(obj.dims), **obj.coords}))
                raise ValueError(
                    f"coords: expected a DataArray or one of {known}, got {coord!r}"
                )
            coord = obj[coord]
        check_numbers(called("coords", coord), coord)
        found.append(coord)
    return found


def dims_of_a_fit(
    obj: xr.Dataset | xr.DataArray, coords: list[xr.DataArray], reduce_dims: Any
) -> tuple[Hashable, ...]:
    """Return the dimensions that one fit covers, in the order of the data."""
    for dim in OWN_DIMS:
        if dim in obj.dims or dim in obj.coords:
            raise ValueError(
                f"obj: expected no dimension or coordinate called {dim!r}, which the "
                f"result has; rename it by .rename({{{dim!r}: ...}})"
            )
    alone = isinstance(reduce_dims, str) or not isinstance(reduce_dims, Iterable)
    reduced = [reduce_dims] if alone else list(reduce_dims)
    reduced = [dim for dim in reduced if dim is not None]
    for dim in reduced:
        if dim not in obj.dims:
            raise ValueError(
                f"reduce_dims: expected some of {_listed(obj.dims)}, got {dim!r}"
            )
    along = {coord.dims[0] for coord in coords if _is_dimension(obj, coord)}
    core = tuple(dim for dim in obj.dims if dim in along or dim in reduced)
    if not core:
        raise ValueError(
            "coords: expected a coordinate that is a dimension of the data, "
            f"{_listed(obj.dims)}; got {_listed([c.name for c in coords])}. "
            "reduce_dims= names the dimensions along which others vary"
        )
    for coord in coords:
        check_dims(called("coords", coord), coord, obj.dims)
    return core


def _is_dimension(obj: xr.Dataset | xr.DataArray, coord: xr.DataArray) -> bool:
    """Return whether a coordinate is the one of a dimension of the data."""
    own = coord.ndim == 1 and coord.dims[0] in obj.dims
    return own and coord.variable.equals(obj[coord.dims[0]].variable)


def called(argument: str, value: xr.DataArray) -> str:
    """Return how a message calls an array: by its argument, and its name if any."""
    return argument if value.name is None else f"{argument}: {value.name}"


def check_dims(name: str, value: Any, allowed: Iterable[Hashable]) -> None:
    """Raise if a DataArray has dimensions other than those allowed."""
    unexpected = [dim for dim in value.dims if dim not in set(allowed)]
    if unexpected:
        raise ValueError(
            f"{name} has unexpected dimensions {_listed(unexpected)}; "
            f"expected some of {_listed(allowed) or 'none'}"
        )


def check_numbers(name: str, value: xr.DataArray) -> None:
    """Raise unless an array holds real numbers."""
    if value.dtype.kind in "mM":
        raise TypeError(
            f"{name}: expected real numbers, got {value.dtype}; convert times first, "
            'as in (t - t[0]) / np.timedelta64(1, "s")'
        )
    if value.dtype.kind not in REAL:
        raise TypeError(f"{name}: expected real numbers, got {value.dtype}")


def number_or_map(name: str, value: Any, allowed: Iterable[Hashable]) -> Any:
    """Return a number as a float and a DataArray as it is, or raise."""
    if isinstance(value, xr.DataArray):
        check_numbers(name, value)
        check_dims(name, value, allowed)
        return value
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in REAL:
        raise TypeError(
            f"{name}: expected a number or a DataArray, got {value!r}; "
            "xr.DataArray(values, dims=...) says over what it varies"
        )
    return float(array)


def starts_of(
    p0: Any, names: tuple[str, ...], allowed: Iterable[Hashable]
) -> dict[str, Any]:
    """Return the starts that were given, by name of the parameter."""
    by_name("p0", p0, names)
    return {
        name: number_or_map(f"p0: initial guess for {name!r}", value, allowed)
        for name, value in (p0 or {}).items()
    }


def bounds_of(
    bounds: Any, names: tuple[str, ...], allowed: Iterable[Hashable]
) -> dict[str, tuple[Any, Any]]:
    """Return the bounds that were given, by name of the parameter."""
    by_name("bounds", bounds, names)
    found = {}
    for name, pair in (bounds or {}).items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"bounds: expected a pair (lower, upper) for {name!r}, got {pair!r}"
            )
        none = (-np.inf, np.inf)
        low, high = (
            number_or_map(
                f"bounds: {side} bound for {name!r}",
                none[i] if pair[i] is None else pair[i],
                allowed,
            )
            for i, side in enumerate(("lower", "upper"))
        )
        numbers = isinstance(low, float) and isinstance(high, float)
        if numbers and not low <= high:
            raise ValueError(
                f"bounds: expected lower <= upper for {name!r}, got {low:g}, {high:g}"
            )
        found[name] = low, high
    return found


def fixed_of(fixed: Any, names: tuple[str, ...]) -> tuple[bool, ...] | None:
    """Return which parameters keep their start, None if all are fitted."""
    by_name("fixed", fixed, names)
    for name, flag in (fixed or {}).items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(
                f"fixed: expected True or False for {name!r}, got {flag!r}; its value "
                "is p0's"
            )
    if not any((fixed or {}).values()):
        return None
    return tuple(bool(fixed.get(name, False)) for name in names)


def by_name(argument: str, value: Any, names: tuple[str, ...]) -> None:
    """Raise unless a value is a mapping from names of parameters."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{argument}: expected a dict from names of parameters "
            f"({', '.join(names)}), got {value!r}"
        )
    for name in value:
        if name not in names:
            raise ValueError(
                f"{argument}: expected names among {', '.join(names)}; got {name!r}"
            )


def _listed(things: Iterable[Any]) -> str:
    return ", ".join(map(str, things))
