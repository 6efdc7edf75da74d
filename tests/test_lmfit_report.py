"""The report in lmfit's layout against the text that lmfit itself writes."""

import functools
import re

import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import pytest

import lmjax
from lmjax import models

X = np.linspace(0.0, 10.0, 41)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")


def peak(p, x):
    bell = p["height"] * jnp.exp(-((x - p["centre"]) ** 2) / (2.0 * p["width"] ** 2))
    return bell + p["base"]


def decay(p, t):
    fast, slow = jnp.exp(-p["fast"] * t), jnp.exp(-p["slow"] * t)
    return p["first"] * fast + p["second"] * slow


def peak_in_numpy(x, height, centre, width, base):
    return height * np.exp(-((x - centre) ** 2) / (2.0 * width**2)) + base


def decay_in_numpy(t, first, fast, second, slow):
    return first * np.exp(-fast * t) + second * np.exp(-slow * t)


IN_NUMPY = {peak: peak_in_numpy, decay: decay_in_numpy}
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

    The expressions are blanked, which a function does not have, the count of calls,
    which depends on how derivatives are made, and the other language of the model.
    """
    text = re.sub(r"== '.*'", "== tied", text).replace("_in_numpy", "")
    text = re.sub(r"(function evals   = )\d+", r"\1", text)
    return NUMBER.sub("#", text), [float(found) for found in NUMBER.findall(text)]


@pytest.mark.parametrize("name", CASES)
def test_report_differs_from_lmfits_by_rounding_only(name, rng):
    model, words, tie, fixed = CASES[name]
    y = data(model, rng)
    same = lmfit.Model(IN_NUMPY[model])
    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "epsfcn": 1e-12}
    independent = {same.independent_vars[0]: X}
    params = lmfit.create_params(**words)
    theirs = same.fit(y, params, fit_kws=tight, **independent)
    # as a script that moves over writes it: lmfit's order, without the expression
    start = {k: v["value"] for k, v in words.items() if "value" in v}
    fit = lmjax.curve_fit(model, X, y, start, tie=tie, fixed=fixed)
    start |= {k: 0.0 for k in words if k not in start}
    ours = fit.report("lmfit", start, (X, y))
    layout, numbers = layout_and_numbers(ours)
    expected, their_numbers = layout_and_numbers(theirs.fit_report())
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


def test_without_data_there_is_no_r_squared(rng):
    y = data(peak, rng)
    start = {"height": 2.0, "centre": 4.0, "width": 1.0, "base": 0.0}
    fit = lmjax.curve_fit(peak, X, y, start)
    lines = fit.report("lmfit", start, (X, y)).splitlines()
    bare = [line for line in lines if "R-squared" not in line]
    assert len(bare) == len(lines) - 1
    assert fit.report("lmfit", start).splitlines() == bare
    with pytest.raises(ValueError, match=r"xy: expected the pair \(x, y\)"):
        fit.report("lmfit", start, X)
    with pytest.raises(ValueError, match="this y gives"):
        fit.report("lmfit", start, (X, y[1:]))
    with pytest.raises(ValueError, match="this x gives"):
        fit.report("lmfit", start, (X[1:], y))


def r_squared(text):
    return float(text.split("R-squared          = ")[1].split()[0])


def test_r_squared_leaves_out_what_the_fit_does_and_does_not_weight(rng):
    y, keep = data(peak, rng), X < 6.0
    start = {"height": 2.0, "centre": 4.0, "width": 1.0, "base": 0.0}
    sigma = 0.05 + 0.01 * X
    fit = lmjax.curve_fit(peak, X, y, start, mask=keep, sigma=sigma)
    cut = lmjax.curve_fit(peak, X[keep], y[keep], start, sigma=sigma[keep])
    theirs = lmfit.Model(peak_in_numpy).fit(
        y[keep], x=X[keep], weights=1.0 / sigma[keep], **start
    )
    expected = pytest.approx(theirs.rsquared, rel=1e-6)
    assert r_squared(fit.report("lmfit", start, (X, y))) == expected
    assert r_squared(cut.report("lmfit", start, (X[keep], y[keep]))) == expected
    holes = np.where(keep, y, np.nan)
    omit = lmjax.curve_fit(peak, X, holes, start, sigma=sigma, nan_policy="omit")
    assert r_squared(omit.report("lmfit", start, (X, holes))) == expected


def test_the_model_is_called_by_its_name(rng):
    y = data(peak, rng)
    start = models.Gaussian(2.0, 4.0, 1.0)
    wider = lambda m: m.replace(width=2.0 * m.amplitude)
    for fit in (
        lmjax.curve_fit(start, X, y),
        lmjax.curve_fit(start, X, y, tie=wider),
    ):
        assert fit.report("lmfit").startswith("[[Model]]\n    Model(Gaussian)\n")
    line = lambda p, x: p["a"] * x
    fit = lmjax.curve_fit(line, X, y, {"a": 1.0})
    assert "    Model(<lambda>)\n" in fit.report("lmfit")
    scaled = functools.partial(lambda scale, p, x: scale * p["a"] * x, 2.0)
    fit = lmjax.curve_fit(scaled, X, y, {"a": 1.0})
    assert "    Model(<lambda>)\n" in fit.report("lmfit")


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
