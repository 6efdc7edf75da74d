"""The report in lmfit's layout against the text that lmfit itself writes."""

import re

import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import pytest

import lmjax

X = np.linspace(0.0, 10.0, 41)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")


def peak(p, x):
    bell = p["height"] * jnp.exp(-((x - p["centre"]) ** 2) / (2.0 * p["width"] ** 2))
    return bell + p["base"]


def decay(p, t):
    fast, slow = jnp.exp(-p["fast"] * t), jnp.exp(-p["slow"] * t)
    return p["first"] * fast + p["second"] * slow


# model, start in lmfit's words, tie of lmjax, fixed
CASES = {
    "expression": (
        peak,
        {
            "height": {"value": 2.0},
            "centre": {"value": 4.0},
            "width": {"value": 1.0},
            "base": {"expr": "height / 100"},
        },
        lambda p: {**p, "base": p["height"] / 100.0},
        None,
    ),
    "fixed": (
        decay,
        {
            "first": {"value": 1000.0},
            "fast": {"value": 2.0},
            "second": {"value": 1e-3},
            "slow": {"value": 0.125, "vary": False},
        },
        None,
        {"slow": True},
    ),
    "all at once": (
        peak,
        {
            "width": {"value": 1.0},
            "base": {"value": -0.02, "vary": False},
            "centre": {"value": 4.5},
            "height": {"expr": "3 * width"},
        },
        lambda p: {**p, "height": 3.0 * p["width"]},
        {"base": True},
    ),
}


def data(model, rng):
    if model is peak:
        truth = {"height": 3.0, "centre": 4.4, "width": 1.1, "base": 0.03}
        return np.asarray(model(truth, X)) + rng.normal(0.0, 0.05, X.size)
    truth = {"first": 1234.5, "fast": 1.5, "second": 0.02, "slow": 0.125}
    return np.asarray(model(truth, X)) + rng.normal(0.0, 1e-3, X.size)


def layout_and_numbers(text):
    """Return what a diff sees without numbers, and the numbers.

    The expressions are blanked, which a function does not have, and the count of calls,
    which depends on how derivatives are made.
    """
    text = re.sub(r"== '.*'", "== 'tie'", text)
    text = re.sub(r"(function evals   = )\d+", r"\1", text)
    return NUMBER.sub("#", text), [float(found) for found in NUMBER.findall(text)]


@pytest.mark.parametrize("name", CASES)
def test_report_differs_from_lmfits_by_rounding_only(name, rng):
    model, words, tie, fixed = CASES[name]
    y = data(model, rng)
    residual = lambda p: np.asarray(model(p.valuesdict(), X)) - y
    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "epsfcn": 1e-12}
    theirs = lmfit.minimize(residual, lmfit.create_params(**words), **tight)
    # as a script that moves over writes it: lmfit's order, without the expression
    start = {k: v["value"] for k, v in words.items() if "value" in v}
    fit = lmjax.curve_fit(model, X, y, start, tie=tie, fixed=fixed)
    ours = fit.report("lmfit", start=start | {k: 0.0 for k in words if k not in start})
    layout, numbers = layout_and_numbers(ours)
    expected, their_numbers = layout_and_numbers(lmfit.fit_report(theirs))
    assert layout == expected
    # the last digit of four of a correlation, of two of a percentage
    assert np.allclose(numbers, their_numbers, rtol=1e-3, atol=2e-4)


def test_without_a_start_the_init_is_unknown_as_lmfit_says_it():
    y = 2.0 * X + 1.0 + np.cos(5.0 * X)
    line = lambda p, x: p["slope"] * x + p["offset"]
    start = {"slope": 1.0, "offset": 0.0}
    text = lmjax.curve_fit(line, X, y, start).report(style="lmfit")
    assert text.count("(init = ?)") == 2
    assert text.index("offset:") < text.index("slope:")


def test_what_has_no_error_says_so_as_in_lmfit():
    y = np.exp(-0.3 * X)
    flat = lambda p, x: p["height"] * jnp.exp(-p["rate"] * x)
    fit = lmjax.curve_fit(
        flat, X, y, {"height": 1.0, "rate": 0.1}, bounds=(None, {"rate": 0.2})
    )
    text = fit.report("lmfit")
    assert "##  Warning: uncertainties could not be estimated:" in text
    assert "    rate:    at boundary" in text
    with pytest.raises(ValueError, match="style: expected one of lmjax, lmfit"):
        fit.report("scipy")
    fits = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), fit)
    with pytest.raises(ValueError, match="style: expected 'lmjax' for a batch"):
        fits.report("lmfit")
