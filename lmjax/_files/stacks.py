"""Stacks: arrays of several axes, one of which holds the points of each curve.

NPY, NPZ, HDF5, Zarr, NIfTI and TIFF. Arrays of NPY, HDF5 and Zarr stay on disk.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmjax._files.problem import FileProblem, library
from lmjax._files.tables import complete, tried

# By suffix: the library that reads and writes it, if NumPy does not.
SUFFIXES = {
    ".npy": None,
    ".npz": None,
    ".h5": "h5py",
    ".hdf5": "h5py",
    ".zarr": "zarr",
    ".nii": "nibabel",
    ".nii.gz": "nibabel",
    ".tif": "tifffile",
    ".tiff": "tifffile",
}
# Of these a file holds one array, so that every map has a file of its own.
ONE_EACH = {".npy", ".nii", ".nii.gz", ".tif", ".tiff"}


class Stack(NamedTuple):
    """What a file holds.

    Attributes:
        values: An array, or what slices like one.
        dims: Names of its axes, where the file has them.
        header: Of NIfTI, the image: maps take their place in space from it.
    """

    values: Any
    dims: tuple[str, ...] = ()
    header: Any = None


def suffix_of(path: Path) -> str:
    """Return the suffix of a file name in lower case, ``.nii.gz`` as a whole."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def is_stack(path: Path) -> bool:
    """Return whether the name of a file is that of a stack."""
    return suffix_of(path) in SUFFIXES


def read_stack(path: Path, key: str | None = None) -> Stack:
    """Return an array of a file.

    Args:
        path: The file.
        key: Name of the array, for files that hold several.

    Raises:
        FileProblem: If there is no such file or array, or it cannot be read.
    """
    suffix = suffix_of(path)
    if not path.exists():
        raise FileProblem(f"{path}: there is no such file")
    if named := SUFFIXES[suffix]:
        library(named, suffix)
    stack = tried(path, lambda: _READERS[suffix](path, key))
    if stack.values.dtype.kind not in "fiub":
        raise FileProblem(f"{path}: expected real numbers, got {stack.values.dtype}")
    return stack


def arrays_in(path: Path) -> list[str]:
    """Return the names of the arrays that a file holds, if it holds any by name."""
    suffix = suffix_of(path)
    if suffix == ".npz":
        with np.load(path) as archive:
            return list(archive.files)
    if suffix in (".h5", ".hdf5"):
        h5py, names = library("h5py", suffix), []
        visit = lambda name, item: (
            names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        with h5py.File(path, "r") as file:
            file.visititems(visit)
        return names
    if suffix == ".zarr":
        group = library("zarr", suffix).open(path, mode="r")
        return [] if hasattr(group, "dtype") else sorted(group.array_keys())
    return []


def _chosen(path: Path, key: str | None, names: list[str]) -> str:
    """Return the array that is meant."""
    if key is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:9]) or "none"
    if key is None:
        raise FileProblem(f"{path}: name an array with --y; the file holds {listed}")
    if key not in names:
        raise FileProblem(f"{path}: there is no array {key!r}; the file holds {listed}")
    return key


def _read_npy(path: Path, key: str | None) -> Stack:
    return Stack(np.load(path, mmap_mode="r", allow_pickle=False))


def _read_npz(path: Path, key: str | None) -> Stack:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return Stack(archive[_chosen(path, key, list(archive.files))])


def _read_hdf5(path: Path, key: str | None) -> Stack:
    h5py = library("h5py", ".h5")
    name = _chosen(path, key, arrays_in(path))
    dataset = h5py.File(path, "r")[name]
    return Stack(dataset, tuple(dim.label for dim in dataset.dims))


def _read_zarr(path: Path, key: str | None) -> Stack:
    found = library("zarr", ".zarr").open(path, mode="r")
    if not hasattr(found, "dtype"):
        found = found[_chosen(path, key, sorted(found.array_keys()))]
    dims = getattr(found.metadata, "dimension_names", None)
    dims = dims or found.attrs.get("_ARRAY_DIMENSIONS", ())
    return Stack(found, tuple(map(str, dims)))


def _read_nifti(path: Path, key: str | None) -> Stack:
    image = library("nibabel", ".nii").load(path)
    values = np.asanyarray(image.dataobj)
    return Stack(values, ("x", "y", "z", "t")[: values.ndim], image)


def _read_tiff(path: Path, key: str | None) -> Stack:
    return Stack(library("tifffile", ".tif").imread(path))


_READERS: dict[str, Callable[[Path, str | None], Stack]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".zarr": _read_zarr,
    ".nii": _read_nifti,
    ".nii.gz": _read_nifti,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}


def map_files(path: Path, names: list[str]) -> dict[str, Path]:
    """Return where each map goes: a file for all, or ``NAME_tau.nii.gz`` and so on."""
    suffix = suffix_of(path)
    if suffix not in ONE_EACH:
        return dict.fromkeys(names, path)
    stem = path.name[: -len(suffix)]
    return {name: path.with_name(f"{stem}_{name}{suffix}") for name in names}


def write_maps(path: Path, maps: Mapping[str, np.ndarray], stack: Stack) -> None:
    """Write maps of parameters, each file once it is complete.

    Args:
        path: As the user gave it; see `map_files`.
        maps: The maps by their names.
        stack: Where they come from.
    """
    suffix = suffix_of(path)
    if suffix in ONE_EACH:
        for name, to in map_files(path, list(maps)).items():
            complete(to, lambda to, name=name: _write_one(to, maps[name], stack))
    elif suffix == ".npz":
        complete(path, lambda to: np.savez(to, allow_pickle=False, **maps))
    elif suffix == ".zarr":
        complete(path, lambda to: _write_zarr(to, maps, stack))
    else:
        complete(path, lambda to: _write_hdf5(to, maps))


def _write_one(path: Path, values: np.ndarray, stack: Stack) -> None:
    suffix = suffix_of(path)
    if suffix == ".npy":
        np.save(path, values)
    elif suffix in (".tif", ".tiff"):
        tifffile = library("tifffile", suffix)
        tifffile.imwrite(path, _single(values), photometric="minisblack")
    else:
        nibabel = library("nibabel", suffix)
        affine = None if stack.header is None else stack.header.affine
        image = nibabel.Nifti1Image(_single(values), affine)
        if stack.header is not None:
            zooms = stack.header.header.get_zooms()
            image.header.set_zooms(zooms[: values.ndim])
            image.header.set_xyzt_units(*stack.header.header.get_xyzt_units())
        nibabel.save(image, path)


def _single(values: np.ndarray) -> np.ndarray:
    """Return what every viewer of images reads: float32, or small integers."""
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int16)


def _write_zarr(path: Path, maps: Mapping[str, np.ndarray], stack: Stack) -> None:
    group = library("zarr", ".zarr").open_group(path, mode="w")
    for name, values in maps.items():
        group.create_array(name, data=values)


def _write_hdf5(path: Path, maps: Mapping[str, np.ndarray]) -> None:
    with library("h5py", ".h5").File(path, "w") as file:
        for name, values in maps.items():
            file[name] = values
