"""Textbook data give the numbers that others have published for them."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax

HERE = Path(__file__).parent


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
    return fit.params.t1, fit.status


CLASSIC = load_classic()


def half_a_digit(printed):
    """Return half a unit of the last digit of a printed number."""
    exponent = Decimal(str(printed)).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


@pytest.mark.one_of(2)
@pytest.mark.parametrize("case", CLASSIC, ids=[case[0]["name"] for case in CLASSIC])
def test_estimates_and_errors_are_those_that_r_prints(case):
    record, model, x = case
    fit = fit_classic(record, model, x)
    assert fit.success
    got = [
        *(fit.params[name] for name in record["params"]),
        *(fit.stderr[name] for name in record["params"]),
        np.sqrt(fit.reduced_chi2),
    ]
    printed = [
        *record["estimates"],
        *record["std_errors"],
        record["residual_std_error"],
    ]
    for value, expected in zip(got, printed, strict=True):
        assert abs(value - expected) <= 1.0001 * half_a_digit(expected)


def test_t1_of_fifty_voxels_is_the_one_their_authors_publish():
    angle, tr, signal, published = load_flip_angles()
    t1, status = jax.jit(jax.vmap(fit_t1))(angle, tr, signal)
    assert np.all(status > 0)
    # the table itself is 3e-6 away from an exact minimum
    np.testing.assert_allclose(t1, published, rtol=5e-6)
