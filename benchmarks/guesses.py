"""How often does a model's own start lead to the best known minimum?

    python -m benchmarks.guesses --data FOLDER [--curves 300] [--only NAME,NAME]
        [--tolerance 1e-4] [--save [NAME]]

FOLDER holds measured curves; `cases` names files and arrays, and what is missing is
left out. Each curve is fitted by ``lmjax.curve_fit`` from ``Model.guess`` alone, in
float64 with default settings. The best known minimum is the lowest sum of squares that
this fit and SciPy's ``least_squares`` reach, the latter from our answer, from the
guess, from random changes of it, and from a start that knows nothing of our guess. A
fit counts if its sum of squares exceeds the best by less than the share ``tolerance``
(the default is far below one standard error); one that does not and claims success is
"silently worse".
"""

import argparse
import csv
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares

import lmjax
from benchmarks._report import save

jax.config.update("jax_enable_x64", True)

models = lmjax.models
RANDOM_STARTS = 4
SEED = 7


@dataclasses.dataclass
class Case:
    """Curves that share a model; ``x`` has a leading axis if it differs per curve.

    ``positive`` names fields whose sign is part of the model: SciPy gets a bound.
    """

    name: str
    model: type
    x: Any
    y: np.ndarray
    naive: Callable
    x_batched: bool = False
    positive: tuple[str, ...] = ()


def fit_one(model, x, y):
    """Return the guess, the fit and its sum of squares."""
    guess = model.guess(x, y)
    fit = lmjax.curve_fit(guess, x, y, nan_policy="omit")
    return guess, fit.params, fit.chi2, fit.status


def best_known(residual, jac, starts, lower):
    """Return the lowest sum of squares SciPy reaches from the starts."""
    best = np.inf
    for start in starts:
        if not np.isfinite(residual(start)).all():
            continue
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                found = least_squares(
                    residual,
                    start,
                    jac,
                    (lower, np.inf),
                    x_scale="jac",
                    xtol=1e-12,
                    max_nfev=500,
                )
            except (ValueError, np.linalg.LinAlgError):
                continue
        best = min(best, 2.0 * found.cost)
    return best


def run(case: Case, curves: int, tolerance: float) -> dict:
    """Fit a case and compare with SciPy."""
    chosen = np.unique(np.linspace(0, len(case.y) - 1, curves).astype(int))
    y = np.asarray(case.y[chosen], float)
    x = jax.tree.map(lambda v: v[chosen], case.x) if case.x_batched else case.x
    in_axes = (0 if case.x_batched else None, 0)
    fit_all = jax.jit(jax.vmap(partial(fit_one, case.model), in_axes))
    guess, params, chi2, status = jax.device_get(fit_all(x, y))
    rng = np.random.default_rng(SEED)
    one = jax.tree.map(lambda v: v[0], params)
    unravel = ravel_pytree(one)[1]
    fields = [field.name for field in dataclasses.fields(case.model)]
    lower = np.array([0.0 if f in case.positive else -np.inf for f in fields])

    @jax.jit
    def residual(p, x, y):
        r = unravel(p)(x) - y
        return jnp.where(jnp.isnan(y), 0.0, r).ravel()

    jac = jax.jit(jax.jacfwd(residual))
    excess = []
    for i in range(len(y)):
        pick = jax.tree.map(lambda v: v[i], x) if case.x_batched else x  # noqa: B023
        row = lambda tree: ravel_pytree(jax.tree.map(lambda v: v[i], tree))[0]  # noqa: B023
        start, answer = np.array(row(guess)), np.array(row(params))
        noise = rng.normal(0.0, 0.5, (RANDOM_STARTS, start.size))
        starts = [start, answer, *(start * np.exp(noise))]
        starts.append(np.asarray(case.naive(pick, y[i]), float))
        best = best_known(
            lambda p: np.asarray(residual(p, pick, y[i])),  # noqa: B023
            lambda p: np.asarray(jac(p, pick, y[i])),  # noqa: B023
            starts,
            lower,
        )
        floor = 1e-20 * np.nansum(y[i] ** 2)
        best = min(best, float(chi2[i]))
        excess.append((float(chi2[i]) - best) / max(best, floor))
    excess = np.nan_to_num(np.array(excess), nan=np.inf)
    worse = excess > tolerance
    return {
        "model": case.model.__name__,
        "curves": len(y),
        "reached": int(np.sum(~worse)),
        "converged": int(np.sum(status > 0)),
        "worst_excess": float(np.max(excess)),
        "silently_worse": int(np.sum(worse & (status > 0))),
        "missed": [int(i) for i in chosen[worse][:20]],
    }


def naive_spot(x, y):
    """Start in the middle of the image, against its rim."""
    middle = y[y.shape[0] // 2, y.shape[1] // 2]
    rim = np.median(np.r_[y[0], y[-1], y[:, 0], y[:, -1]])
    return [middle - rim, np.mean(x[0]), np.mean(x[1]), 2.0, rim]


def naive_decay(x, y):
    """Start with a third of the range as the time constant."""
    return [y[0] - y[-1], 3.0 / (x[-1] - x[0]), y[-1]]


def naive_sigmoid(log: bool, extra=()):
    """Return a start at half height, in x or log x."""

    def start(x, y):
        known = np.isfinite(y)
        x, y = x[known], y[known]
        half = x[np.argmin(np.abs(y - 0.5 * (y.min() + y.max())))]
        if log:
            return [y.min(), y.max(), np.log(max(half, 1e-3)), 5.0, *extra]
        return [y.max() - y.min(), 8.0 / (x[-1] - x[0]), half, y.min()]

    return start


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table with a header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def groups(path: Path, key: str, x: str, y: str, negative=False):
    """Yield (name, x, y) for each value of a column."""
    rows = read_csv(path)
    for value in dict.fromkeys(row[key] if key else "" for row in rows):
        part = [row for row in rows if not key or row[key] == value]
        yield value, *(np.array([float(row[c]) for row in part]) for c in (x, y))


CLASSIC = [
    ("puromycin", "state", "conc", "rate", "MichaelisMenten", lambda x, y: [200, 0.1]),
    ("bod", "", "Time", "demand", "Exponential", lambda x, y: [-20, 0.5, 20]),
    (
        "indometh",
        "Subject",
        "time",
        "conc",
        "BiExponential",
        lambda x, y: [2, 2, 1, 0.2],
    ),
    (
        "theoph",
        "Subject",
        "Time",
        "conc",
        "BiExponential",
        lambda x, y: [-9, 2, 9, 0.1],
    ),
    ("orange", "Tree", "age", "circumference", "LogisticGrowth", naive_sigmoid(False)),
    ("drc_ryegrass", "", "conc", "rootl", "Logistic4", lambda x, y: [0, 8, 1, -3]),
    (
        "drc_s_alba",
        "Herbicide",
        "Dose",
        "DryMatter",
        "Logistic4",
        lambda x, y: [1, 4, 3, -2],
    ),
]


def cases(folder: Path) -> Iterator[Case]:
    """Yield every case whose file is there."""

    def load(name):
        path = folder / name
        return np.load(path) if path.exists() else None

    if file := load("colloid_rois.npz"):
        image = file["roi"].astype(float)
        xy = tuple(
            np.meshgrid(*(np.arange(n, dtype=float) for n in image.shape[:0:-1]))
        )
        yield Case("colloid_rois", models.Gaussian2D, xy, image, naive_spot)
    for name in ("qpcr_vermeulen1", "qpcr_reps384"):
        if file := load(f"{name}.npz"):
            x, y = file["cycle"].astype(float), file["fluorescence"].astype(float)
            four, five = naive_sigmoid(True), naive_sigmoid(True, [0.0])
            yield Case(f"{name} 4", models.Logistic4, x, y, four)
            yield Case(f"{name} 5", models.Logistic5, x, y, five)
    if file := load("growth_od.npz"):
        hours, od = file["time_s"].astype(float) / 3600.0, file["od"].astype(float)
        for model in (models.LogisticGrowth, models.GompertzGrowth):
            name = f"growth_od {model.__name__[0]}"
            # a Gompertz curve of negative rate is its mirror image, another model
            sign = ("rate",) if model is models.GompertzGrowth else ()
            naive = naive_sigmoid(False)
            yield Case(name, model, hours, od, naive, positive=sign)
    if file := load("flim_image_a.npz"):
        yield flim(file)
    if file := load("dwi_dsi_600vox.npz"):
        yield dwi(file)
    if (path := folder / "t1_vfa_prostate.csv").exists():
        yield flip_angles(path)
    for name, key, x, y, model, start in CLASSIC:
        if (path := folder / "classic" / f"{name}.csv").exists():
            for group, xs, ys in groups(path, key, x, y):
                label = f"{name} {group}".strip()
                yield Case(label, getattr(models, model), xs, ys[None], start)


def flim(file) -> Case:
    """Sums of 3 by 3 pixels with more than 100 photons, from the peak on."""
    counts = file["counts"].astype(float)
    side = counts.shape[0] // 3
    blocks = counts[: 3 * side, : 3 * side].reshape(side, 3, side, 3, -1).sum((1, 3))
    blocks = blocks.reshape(side * side, -1)
    peak = int(np.argmax(blocks.sum(0)))
    bright = blocks[blocks.sum(1) > 100, peak:]
    time = np.arange(bright.shape[1]) * float(file["bin_width_ns"])
    return Case("flim_image_a", models.Exponential, time, bright, naive_decay)


def dwi(file) -> Case:
    """Attenuation along the direction with the most b-values."""
    bval, bvec = file["bval_s_mm2"], file["bvec"]
    norm = np.linalg.norm(bvec, axis=1)
    unit = bvec / np.where(norm > 0.0, norm, 1.0)[:, None]
    near = np.abs(unit @ unit.T) > np.cos(np.deg2rad(10.0))
    line = near[np.argmax(near.sum(1))]
    signal = file["signal"].reshape(-1, bval.size)[:, line].astype(float)
    signal = signal[signal.max(1) > 0.0]
    naive = lambda x, y: [y.max(), 1e-3]
    return Case("dwi_dsi", models.Diffusion, bval[line].astype(float), signal, naive)


def flip_angles(path: Path) -> Case:
    """Signals at five flip angles, with angles and repetition times per row."""
    rows = read_csv(path)

    def columns(prefix):
        return np.array(
            [[float(row[f"{prefix}_{k}"]) for k in range(1, 6)] for row in rows]
        )

    x = (np.deg2rad(columns("fa_deg")), columns("tr_ms"))
    naive = lambda x, y: [10.0 * y.max(), 1000.0]
    signal = columns("signal")
    return Case("t1_vfa_prostate", models.VariableFlipAngle, x, signal, naive, True)


def main():
    """Run every case, print a table, save the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of curves")
    parser.add_argument("--curves", type=int, default=300, help="most curves per set")
    parser.add_argument(
        "--only", default="", help="sets whose name contains one of these"
    )
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument(
        "--save", nargs="?", const="guesses", help="write results/NAME.json"
    )
    options = parser.parse_args()
    results = {}
    print(f"{'set':<28}{'model':<20}{'reached':>12}{'converged':>10}{'worst':>10}")
    for case in cases(options.data):
        if not any(part in case.name for part in options.only.split(",")):
            continue
        found = results[case.name] = run(case, options.curves, options.tolerance)
        print(
            f"{case.name:<28}{found['model']:<20}"
            f"{found['reached']:>6}/{found['curves']:<5}{found['converged']:>10}"
            f"{found['worst_excess']:>10.1e}  {found['missed'] or ''}",
            flush=True,
        )
    if options.save:
        settings = {"curves": options.curves, "tolerance": options.tolerance}
        print(save(options.save, {**settings, "sets": results}))


if __name__ == "__main__":
    main()
