"""The arrays of a map in the order in which blocks of fits want them."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr


class Layout:
    """Numbers that all fits share, and arrays that have some for each place on the map.

    Args:
        y: The data.
        core: Dimensions that one fit covers.
        sizes: Sizes of all dimensions.
        dtype: What the fits compute in.
    """

    def __init__(
        self,
        y: xr.Variable,
        core: tuple[Hashable, ...],
        sizes: dict[Hashable, int],
        dtype: np.dtype,
    ):
        self.core, self.sizes, self.dtype = core, sizes, dtype
        self.shared: dict[str, np.ndarray] = {}
        self.keys, self.arrays = ["y"], [y]
        self.core_dims: list[tuple[Hashable, ...]] = [core]

    def add(self, key: str, value: Any, spread: bool = False) -> None:
        """Take up a number or a variable; ``spread``: it has a value per point."""
        if not isinstance(value, xr.Variable):
            self.shared[key] = np.asarray(value, self.dtype)
            return
        per_point = spread or any(dim in self.core for dim in value.dims)
        own = self.core if per_point else ()
        missing = {dim: self.sizes[dim] for dim in own if dim not in value.dims}
        value = value.set_dims({**missing, **value.sizes}) if missing else value
        if set(value.dims) == set(own):
            whole = np.asarray(value.transpose(*own).data, self.dtype)
            self.shared[key] = whole.ravel() if own else whole
            return
        self.keys.append(key)
        self.arrays.append(value)
        self.core_dims.append(own)

    @property
    def largest(self) -> int | None:
        """Fits in the largest block at most; None if nothing is in blocks."""
        chunked = [x.chunksizes for x in self.arrays if x.chunks]
        if not chunked:
            return None
        fits = 1
        for dim, size in self.sizes.items():
            if dim not in self.core:
                fits *= min([max(c[dim]) for c in chunked if dim in c] or [size])
        return fits

    def check_chunks(self, name: str) -> None:
        """Raise if the points of one fit are spread over several chunks."""
        for key, x, own in zip(self.keys, self.arrays, self.core_dims, strict=True):
            for dim in own:
                if x.chunks and len(x.chunksizes[dim]) > 1:
                    what = name if key == "y" else key
                    raise ValueError(
                        f"obj: expected one chunk along {dim!r}, which a fit covers, "
                        f"got {len(x.chunksizes[dim])} in {what}; rechunk it by "
                        f".chunk({{{dim!r}: -1}})"
                    )
