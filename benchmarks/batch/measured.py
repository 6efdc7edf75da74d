"""Workloads of measured data."""

from pathlib import Path

import numpy as np

from benchmarks.batch import models
from benchmarks.batch.workloads import GAUSS_2D, Workload, pixels, spread

ROOT = Path(__file__).parents[2]
SPOTS = ROOT / "lmjax" / "_datasets" / "colloid_spots.npz"
VOXELS = ROOT / "benchmarks" / "data" / "dwi_dsi_600vox.npz"


def colloid(fits: int) -> Workload:
    """Dark spots of micron-sized spheres, 11 x 11 pixels, some out of focus."""
    with np.load(SPOTS) as file:
        images = file["roi"]
    images = images[spread(len(images), fits)].astype(np.float32)
    size = images.shape[1]
    rim = np.concatenate(
        [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1
    )
    offset, middle = np.median(rim, axis=1), (size - 1) / 2
    depth = images[:, size // 2, size // 2] - offset
    ones = np.ones_like(offset)
    start = np.stack([depth, middle * ones, middle * ones, 2 * ones, offset], axis=1)
    return Workload(
        "colloid",
        models.gauss2d,
        pixels(size),
        images.reshape(len(images), -1),
        start.astype(np.float32),
        ftol=1e-4,
        max_steps=100,
        noise="measured",
        cpufit=GAUSS_2D,
    )


def diffusion_mri(fits: int) -> Workload:
    """Diffusion tensors of brain voxels, 102 directions and weightings.

    Signals in units of 100 counts, b in ms/um^2 and D in um^2/ms: all parameters are of
    order one, so that solvers without scaling are not at a disadvantage.
    """
    with np.load(VOXELS) as file:
        signal = file["signal"].reshape(600, -1)[spread(600, fits)] / 100.0
        b, g = file["bval_s_mm2"], file["bvec"]
    b = b / 1000.0
    x, y, z = g.T
    gradients = (x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z)
    start = np.tile([1.0, 0.7, 0.7, 0.7, 0.0, 0.0, 0.0], (len(signal), 1))
    start[:, 0] = signal[:, np.argmin(b)]  # the unweighted image
    return Workload(
        "diffusion_mri",
        models.diffusion_tensor,
        tuple(b * product for product in gradients),
        signal,
        start,
        ftol=1e-6,
        max_steps=100,
        noise="measured",
    )


def flim(fits: int, path: Path) -> Workload:
    """Fluorescence decays of the pixels of a lifetime image, sums over 3 x 3 pixels.

    From the peak on, pixels with at least 200 photons; time in ns.
    """
    with np.load(path) as file:
        counts, width = file["counts"].astype(float), float(file["bin_width_ns"])
    counts = counts[:255, :255].reshape(85, 3, 85, 3, -1).sum(axis=(1, 3))
    counts = counts.reshape(85 * 85, -1)
    peak = int(np.argmax(counts.sum(axis=0)))
    curves = counts[:, peak:]
    curves = curves[curves.sum(axis=1) >= 200]
    curves = curves[spread(len(curves), fits)]
    background = curves[:, -20:].mean(axis=1)
    height = curves[:, :5].mean(axis=1) - background
    rate = np.full_like(height, 0.5)  # a lifetime of 2 ns
    return Workload(
        "flim",
        models.decay,
        width * np.arange(curves.shape[1]),
        curves,
        np.stack([height, rate, background], axis=1),
        ftol=1e-6,
        max_steps=100,
        noise="poisson",
    )
