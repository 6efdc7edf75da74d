"""All workloads by name, with the number of fits each runs with unless told."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.batch import measured, workloads

# Numbers of fits as in Gpufit's examples; its headline benchmark runs 10 to 10^7.
SIMULATED: dict[str, tuple[int, Callable]] = {
    "headline_5x5": (10_000, workloads.headline),
    "headline_15x15": (10_000, partial(workloads.headline, size=15)),
    "gauss_fit_2d_30x30": (10_000, workloads.gauss_fit_2d),
    "gauss2d_12x12": (10_000, workloads.gauss2d),
    "gauss2d_12x12_poisson": (10_000, workloads.gauss2d_poisson),
    "gauss2d_constrained_20x20": (20_000, workloads.gauss2d_constrained),
    "linear_regression": (10_000, workloads.linear_regression),
    "decays": (10_000, workloads.decays),
    "peaks_2": (2_000, partial(workloads.peaks, count=2)),
    "peaks_4": (2_000, partial(workloads.peaks, count=4)),
}
MEASURED: dict[str, tuple[int, Callable]] = {
    "colloid": (4_000, measured.colloid),
    "diffusion_mri": (600, measured.diffusion_mri),
}
# Data that do not ship: name of the file in the folder given by --data.
ELSEWHERE: dict[str, tuple[int, Callable, str]] = {
    "flim": (5_000, measured.flim, "flim_image_a.npz"),
}
NAMES = [*SIMULATED, *MEASURED, *ELSEWHERE]


def load(name: str, fits: int | None = None, folder: Path | None = None):
    """Return a workload, or None where its data are not at hand.

    Measured data hold what they hold: ``fits`` beyond that changes nothing.
    """
    if name in ELSEWHERE:
        usual, build, file = ELSEWHERE[name]
        path = None if folder is None else folder / file
        if path is None or not path.exists():
            return None
        return build(fits or usual, path)
    usual, build = (SIMULATED | MEASURED)[name]
    return build(fits or usual)
