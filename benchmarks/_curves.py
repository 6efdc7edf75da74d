"""Measured curves, their models, and starts that know nothing of ``Model.guess``."""

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import models


@dataclasses.dataclass
class Case:
    """Curves that share a model; ``x`` has a leading axis if it differs per curve.

    ``naive`` returns a start, or several. ``mirrors`` names parameters whose sign the
    referee turns, ``also`` values that it tries for a parameter beside. ``positive``
    names those whose sign is part of the model: minima elsewhere do not count.
    ``counts`` says that the noise is Poisson's.
    """

    name: str
    model: type
    x: Any
    y: np.ndarray
    naive: Callable
    linear: tuple[str, ...]
    mirrors: tuple[str, ...] = ()
    also: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    x_batched: bool = False
    positive: tuple[str, ...] = ()
    counts: bool = False


def naive_spot(x, y):
    """Start in the middle of the image, at its brightest and at its darkest pixel."""
    rim = np.median(np.r_[y[0], y[-1], y[:, 0], y[:, -1]])
    middle = y.shape[0] // 2 * y.shape[1] + y.shape[1] // 2
    across, along = (part.ravel() for part in x)
    return [
        [y.flat[i] - rim, across[i], along[i], 2.0, rim]
        for i in (middle, np.argmax(y), np.argmin(y))
    ]


def naive_decay(x, y):
    """Start with a third of the range as the time constant."""
    return [[y[0] - y[-1], 3.0 / (x[-1] - x[0]), y[-1]]]


def naive_sigmoid(log: bool, extra=()):
    """Return a start at half height, in x or log x."""

    def start(x, y):
        known = np.isfinite(y)
        x, y = x[known], y[known]
        half = x[np.argmin(np.abs(y - 0.5 * (y.min() + y.max())))]
        if log:
            half = np.log(max(half, 1e-3))
            return [[y.min(), y.max(), half, slope, *extra] for slope in (5.0, 15.0)]
        return [[y.max() - y.min(), 8.0 / (x[-1] - x[0]), half, y.min()]]

    return start


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table with a header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def groups(path: Path, key: str, x: str, y: str):
    """Yield (name, x, y) for each value of a column."""
    rows = read_csv(path)
    for value in dict.fromkeys(row[key] if key else "" for row in rows):
        part = [row for row in rows if not key or row[key] == value]
        yield value, *(np.array([float(row[c]) for row in part]) for c in (x, y))


# Fields that enter linearly, and fields whose sign the referee turns.
SHAPES = {
    models.MichaelisMenten: (("vmax",), ()),
    models.Exponential: (("amplitude", "offset"), ("rate",)),
    models.BiExponential: (("amplitude_1", "amplitude_2"), ("rate_1", "rate_2")),
    models.LogisticGrowth: (("amplitude", "offset"), ("rate",)),
    models.GompertzGrowth: (("amplitude", "offset"), ("rate",)),
    models.Logistic4: (("bottom", "top"), ("slope",)),
    models.Logistic5: (("bottom", "top"), ("slope",)),
    models.Diffusion: (("s0",), ("adc",)),
    models.VariableFlipAngle: (("s0",), ()),
    models.Gaussian2D: (("amplitude", "offset"), ()),
}


def case(name, model, x, y, naive, **more) -> Case:
    """Return a case with what `SHAPES` says of its model."""
    linear, mirrors = SHAPES[model]
    return Case(name, model, x, y, naive, linear, mirrors, **more)


# file, column of the group, columns of x and y, model, start
CLASSIC = [
    ("puromycin", "state", "conc", "rate", models.MichaelisMenten, [[200, 0.1]]),
    ("bod", "", "Time", "demand", models.Exponential, [[-20, 0.5, 20]]),
    ("indometh", "Subject", "time", "conc", models.BiExponential, [[2, 2, 1, 0.2]]),
    ("theoph", "Subject", "Time", "conc", models.BiExponential, [[-9, 2, 9, 0.1]]),
    ("orange", "Tree", "age", "circumference", models.LogisticGrowth, None),
    ("drc_ryegrass", "", "conc", "rootl", models.Logistic4, [[0, 8, 1, -3]]),
    ("drc_s_alba", "Herbicide", "Dose", "DryMatter", models.Logistic4, [[1, 4, 3, -2]]),
]


def cases(folder: Path) -> Iterator[Case]:
    """Yield every case whose file is there."""

    def load(name):
        path = folder / name
        return np.load(path) if path.exists() else None

    if file := load("colloid_rois.npz"):
        image = file["roi"].astype(float)
        axes = (np.arange(n, dtype=float) for n in image.shape[:0:-1])
        xy = tuple(np.meshgrid(*axes))
        yield case("colloid_rois", models.Gaussian2D, xy, image, naive_spot)
    for name in ("qpcr_vermeulen1", "qpcr_reps384"):
        if file := load(f"{name}.npz"):
            x, y = file["cycle"].astype(float), file["fluorescence"].astype(float)
            yield from amplification(name, x, y)
    if file := load("growth_od.npz"):
        hours, od = file["time_s"].astype(float) / 3600.0, file["od"].astype(float)
        for model in (models.LogisticGrowth, models.GompertzGrowth):
            name = f"growth_od {model.__name__[0]}"
            # a Gompertz curve of negative rate is its mirror image, another model
            sign = ("rate",) if model is models.GompertzGrowth else ()
            yield case(name, model, hours, od, naive_sigmoid(False), positive=sign)
    if file := load("flim_image_a.npz"):
        yield flim(file)
    if file := load("dwi_dsi_600vox.npz"):
        yield dwi(file)
    if (path := folder / "t1_vfa_prostate.csv").exists():
        yield flip_angles(path)
    for name, key, x, y, model, start in CLASSIC:
        if (path := folder / "classic" / f"{name}.csv").exists():
            naive = (lambda x, y, s=start: s) if start else naive_sigmoid(False)
            for group, xs, ys in groups(path, key, x, y):
                yield case(f"{name} {group}".strip(), model, xs, ys[None], naive)


def amplification(name: str, x: np.ndarray, y: np.ndarray) -> Iterator[Case]:
    """Yield the four- and five-parameter logistics of curves over cycles."""
    yield case(f"{name} 4", models.Logistic4, x, y, naive_sigmoid(True))
    naive = naive_sigmoid(True, [0.0])
    also = {"log_asymmetry": (-1.5, 0.0, 1.5)}
    yield case(f"{name} 5", models.Logistic5, x, y, naive, also=also)


def flim(file) -> Case:
    """Sums of 3 by 3 pixels with more than 100 photons, from the peak on."""
    counts = file["counts"].astype(float)
    side = counts.shape[0] // 3
    blocks = counts[: 3 * side, : 3 * side].reshape(side, 3, side, 3, -1).sum((1, 3))
    blocks = blocks.reshape(side * side, -1)
    peak = int(np.argmax(blocks.sum(0)))
    bright = blocks[blocks.sum(1) > 100, peak:]
    time = np.arange(bright.shape[1]) * float(file["bin_width_ns"])
    model = models.Exponential
    return case("flim_image_a", model, time, bright, naive_decay, counts=True)


def dwi(file) -> Case:
    """Attenuation along the direction with the most b-values."""
    bval, bvec = file["bval_s_mm2"], file["bvec"]
    norm = np.linalg.norm(bvec, axis=1)
    unit = bvec / np.where(norm > 0.0, norm, 1.0)[:, None]
    near = np.abs(unit @ unit.T) > np.cos(np.deg2rad(10.0))
    line = near[np.argmax(near.sum(1))]
    signal = file["signal"].reshape(-1, bval.size)[:, line].astype(float)
    signal = signal[signal.max(1) > 0.0]
    naive = lambda x, y: [[y.max(), 1e-3]]
    return case("dwi_dsi", models.Diffusion, bval[line].astype(float), signal, naive)


def flip_angles(path: Path) -> Case:
    """Signals at five flip angles, with angles and repetition times per row."""
    rows = read_csv(path)

    def columns(prefix):
        names = [f"{prefix}_{k}" for k in range(1, 6)]
        return np.array([[float(row[name]) for name in names] for row in rows])

    x = (np.deg2rad(columns("fa_deg")), columns("tr_ms"))
    naive = lambda x, y: [[10.0 * y.max(), 1000.0]]
    signal, model = columns("signal"), models.VariableFlipAngle
    return case("t1_vfa_prostate", model, x, signal, naive, x_batched=True)
