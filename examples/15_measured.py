"""Does it give the numbers in the textbook?

Enzyme kinetics, oxygen demand and two studies of drugs in blood, next to what R prints
for the same data; then T1 of 50 voxels in one batch, next to the values their authors
publish, and the diffusion of water in 600 voxels of a brain.

Expect: every estimate and every error agrees with R to the digits that R prints, and T1
with the authors' to five digits. Every voxel converges; the median diffusivity is about
0.5 um^2/ms, which is less than that of free water (3).
"""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

jax.config.update("jax_enable_x64", True)

HERE = Path(__file__).parent
TENSORS = HERE.parent / "benchmarks" / "data" / "dwi_dsi_600vox.npz"


def michaelis_menten(p, conc):
    """Return the rate of an enzyme."""
    return p["Vm"] * conc / (p["K"] + conc)


def demand(p, time):
    """Return the oxygen demand of bacteria in a closed bottle."""
    return p["A"] * (1 - jnp.exp(-jnp.exp(p["lrc"]) * time))


def two_phases(p, time):
    """Return the concentration of a drug given into a vein."""
    fast = p["A1"] * jnp.exp(-jnp.exp(p["lrc1"]) * time)
    return fast + p["A2"] * jnp.exp(-jnp.exp(p["lrc2"]) * time)


def absorbed(p, given):
    """Return the concentration of a drug that was swallowed."""
    time, dose = given
    ke, ka, cl = jnp.exp(p["lKe"]), jnp.exp(p["lKa"]), jnp.exp(p["lCl"])
    phases = jnp.exp(-ke * time) - jnp.exp(-ka * time)
    return dose * ke * ka / cl / (ka - ke) * phases


MODELS = {
    "puromycin": michaelis_menten,
    "bod": demand,
    "indometh": two_phases,
    "theoph": absorbed,
}


def load_classic():
    """Return the textbook curves as (record, model, x)."""
    cases = []
    for record in json.loads((HERE / "data" / "classic.json").read_text()):
        x = jnp.array(record["x"])
        if "dose" in record:
            x = (x, record["dose"])
        cases.append((record, MODELS[record["name"].split(",")[0]], x))
    return cases


def fit_classic(record, model, x):
    """Fit one curve from the start that its record gives."""
    start = dict(zip(record["params"], map(float, record["start"]), strict=True))
    return lmjax.curve_fit(model, x, jnp.array(record["y"]), start)


def load_flip_angles():
    """Return angles, repetition times, signals and the authors' T1."""
    with (HERE / "data" / "t1_vfa_prostate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = lambda name: np.array([float(row[name]) for row in rows])
    five = lambda name: np.stack([column(f"{name}_{k}") for k in range(1, 6)], axis=1)
    return (
        np.deg2rad(five("fa_deg")),
        five("tr_ms"),
        five("signal"),
        column("ref_T1_nonlinear"),
    )


def fit_t1(angle, tr, signal):
    """Fit one voxel from its own guess."""
    guess = lmjax.models.VariableFlipAngle.guess((angle, tr), signal)
    fit = lmjax.curve_fit(guess, (angle, tr), signal)
    return fit.params.t1, fit.stderr.t1, fit.status


def fit_tensors():
    """Return the mean diffusivity of each voxel in um^2/ms, and the statuses."""
    with np.load(TENSORS) as file:
        signal = file["signal"].reshape(600, -1) / 100.0
        b, g = file["bval_s_mm2"] / 1000.0, file["bvec"]
    x, y, z = g.T
    weights = b * np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z])

    def attenuation(p, weights):
        return p["s0"] * jnp.exp(-p["tensor"] @ weights)

    def fit_one(signal):
        isotropic = jnp.array([0.7, 0.7, 0.7, 0.0, 0.0, 0.0])
        start = {"s0": jnp.max(signal), "tensor": isotropic}
        fit = lmjax.curve_fit(attenuation, weights, signal, start)
        return jnp.mean(fit.params["tensor"][:3]), fit.status

    return jax.jit(jax.vmap(fit_one))(signal)


def main():
    """Fit everything and print it next to what was published."""
    for record, model, x in load_classic():
        fit = fit_classic(record, model, x)
        print(record["name"])
        published = zip(record["estimates"], record["std_errors"], strict=True)
        for name, (estimate, error) in zip(record["params"], published, strict=True):
            print(
                f"  {name:<5}{fit.params[name]:>12.6g} +- {fit.stderr[name]:<11.5g}"
                f" R prints {estimate:g} +- {error:g}"
            )
    angle, tr, signal, published = load_flip_angles()
    t1, _, status = jax.jit(jax.vmap(fit_t1))(angle, tr, signal)
    worst = float(np.max(np.abs(t1 / published - 1)))
    converged = int((status > 0).sum())
    print(f"T1: {converged} of {t1.size} converged, median {np.median(t1):.0f} ms")
    print(f"    farthest from the authors' value: {worst:.0e}")
    diffusivity, status = fit_tensors()
    print(
        f"diffusion: {int((status > 0).sum())} of {status.size} converged, median "
        f"{np.median(diffusivity):.2f} um^2/ms"
    )


if __name__ == "__main__":
    main()
