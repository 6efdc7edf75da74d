"""What do measured curves look like from here, if a model brings its own start?

Enzyme kinetics, a drug in blood, T1 and diffusion of tissue by MR ship with the tests;
PCR, growth, dose-response and lifetimes are read from the files of ``--data FOLDER``.

Expect: a row per set, all converged from their guess alone (but for wells where nothing
grew). Km is 0.064 +- 0.008, the fast rate of indometacin 1.79, as R prints them.
"""

import argparse
import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from lmjax import models

jax.config.update("jax_enable_x64", True)

DATA = Path(__file__).parents[1] / "tests" / "data"


def shipped():
    """Yield (name, model, x, curves, parameter); a tuple x differs per curve."""
    treated, _, _, subject, *_ = json.loads((DATA / "classic.json").read_text())
    enzyme, drug = models.MichaelisMenten, models.BiExponential
    yield "Km of puromycin", enzyme, np.array(treated["x"]), [treated["y"]], "km"
    yield "indometacin, 1/h", drug, np.array(subject["x"]), [subject["y"]], "rate_1"
    lines = (DATA / "t1_vfa_prostate.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    five = lambda of: [[float(row[f"{of}_{k}"]) for k in "12345"] for row in rows]
    x = (np.deg2rad(five("fa_deg")), np.array(five("tr_ms")))
    yield "T1 of prostate, ms", models.VariableFlipAngle, x, five("signal"), "t1"
    file = np.load(DATA.parents[1] / "benchmarks/data/dwi_dsi_600vox.npz")
    b, signal = file["bval_s_mm2"], file["signal"].reshape(600, -1)
    yield "diffusion of brain, mm2/s", models.Diffusion, b, signal, "adc"


def others(folder):
    """Yield the sets that do not ship."""
    names = ("qpcr_reps384", "growth_od", "flim_image_a")
    pcr, od, image = (np.load(folder / f"{name}.npz") for name in names)
    cycle, light = pcr["cycle"], pcr["fluorescence"]
    yield "PCR, log of middle cycle", models.Logistic4, cycle, light, "log_ec50"
    yield "growth, 1/s", models.GompertzGrowth, od["time_s"], od["od"], "rate"
    table = folder / "classic/drc_ryegrass.csv"
    root, dose = np.loadtxt(table, delimiter=",", skiprows=1).T
    yield "ryegrass, log of dose", models.Logistic4, dose, [root], "log_ec50"
    pixels, time = image["counts"].reshape(-1, 256), np.arange(168)
    bright, time = pixels[pixels.sum(axis=1) > 250], time * image["bin_width_ns"]
    yield "lifetimes, 1/ns", models.Exponential, time, bright[:, 88:], "rate"


def fit_all(model, x, curves):
    """Fit every curve from the start that the model guesses."""
    fit_one = lambda x, y: lmjax.curve_fit(model.guess(x, y), x, y, nan_policy="omit")
    axes = (0 if isinstance(x, tuple) else None, 0)
    return jax.jit(jax.vmap(fit_one, axes))(x, np.asarray(curves, float))


def main():
    """Print how many curves of each set converged, and the median of one parameter."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder with the other sets")
    folder = parser.parse_args().data
    print(f"{'set':<30}{'curves':>8}{'converged':>11}{'median':>12}{'its error':>11}")
    for name, model, x, y, field in [*shipped(), *(others(folder) if folder else [])]:
        fits = fit_all(model, x, y)
        both = (getattr(tree, field) for tree in (fits.params, fits.stderr))
        value, error = map(jnp.nanmedian, both)
        count = f"{len(y):>8}{int(fits.success.sum()):>11}"
        print(f"{name:<30}{count}{value:>12.4g}{error:>11.2g}")


if __name__ == "__main__":
    main()
