"""Whatever is asked for, the answer is a result or names what was wrong with it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from odd_requests import NONSENSE, NUMBERS, Door, is_fit, outcome

import lmjax
import lmjax.optax
import lmjax.scipy
from lmjax import models
from lmjax._fit import curve_fit, global_fit

T = np.linspace(0.0, 3.0, 4)
Y = np.array([2.1, 1.0, 0.6, 0.2])
START = {"a": 1.0, "k": 1.0}
CURVES = np.stack([Y, 2.0 * Y])


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t)


def residual(p, t, y):
    return decay(p, t) - y


def mean(y):
    return jnp.mean(y)


def failed(start):
    return lmjax.curve_fit(decay, T, Y, start)


def scipy_decay(x, a, k):
    return a * jnp.exp(-k * x)


def scipy_residual(p):
    return scipy_decay(T, *p) - Y


FIT = lmjax.curve_fit(decay, T, Y, START)
FITS = jax.vmap(lambda y: lmjax.curve_fit(decay, T, y, START))(CURVES)
GOOD = {"model": decay, "x": T, "y": Y, "params0": START}
OPTIONS = {
    "sigma": None,
    "absolute_sigma": False,
    "mask": None,
    "nan_policy": "propagate",
    "likelihood": None,
    "bounds": None,
    "fixed": None,
    "loss": None,
    "loss_scale": 1.0,
    "solver": lmjax.LevenbergMarquardt(),
    "derivative": lmjax.Implicit(),
}
AGAIN = {k: v for k, v in OPTIONS.items() if k not in ("absolute_sigma", "derivative")}
anything = lambda result: True
is_pair = lambda result: len(result) == 2
is_pair_or_full = lambda result: len(result) in (2, 5)

DOORS = {
    "curve_fit": Door(
        lmjax.curve_fit, GOOD | OPTIONS | {"linear": None, "tie": None}, is_fit
    ),
    "least_squares": Door(
        lmjax.least_squares,
        {"residual_fn": residual, "params0": START, "args": (T, Y)}
        | {k: OPTIONS[k] for k in ("bounds", "fixed", "loss", "solver", "derivative")}
        | {"loss_scale": 1.0, "linear": None},
        is_fit,
    ),
    "global_fit": Door(
        lmjax.global_fit, GOOD | OPTIONS | {"y": CURVES, "shared": {"k": True}}, is_fit
    ),
    "fit_batch": Door(
        lmjax.fit_batch,
        {"fit_one": mean, "data": CURVES}
        | dict.fromkeys(("chunk_size", "mesh", "checkpoint"))
        | {"progress": False},
        lambda result: isinstance(result, np.ndarray),
    ),
    "rescue": Door(
        lmjax.rescue,
        {"fits": FITS, "fit_one": mean, "data": CURVES},
        is_fit,
    ),
    "multi_start": Door(
        lmjax.multi_start, {"fit_one": failed, "starts": {"a": T, "k": Y}}, is_fit
    ),
    "pad_ragged": Door(
        lmjax.pad_ragged, {"curves": [[1.0, 2.0], [3.0]], "fill": None}, is_pair
    ),
    "profile": Door(
        lmjax.profile,
        {"fit": FIT, "x": T, "y": Y, "which": "a", "level": 0.95} | AGAIN,
        lambda result: isinstance(result, lmjax.Profile),
    ),
    "contour": Door(
        lmjax.contour,
        {"fit": FIT, "x": T, "y": Y, "which": ("a", "k"), "points": 3, "reach": 2.0}
        | {"limits": None}
        | AGAIN,
        lambda result: isinstance(result, lmjax.Contour),
    ),
    "bootstrap": Door(
        lmjax.bootstrap,
        {"key": jax.random.key(0), "fit": FIT, "x": T, "y": Y, "num": 3, "kind": None}
        | AGAIN,
        lambda result: isinstance(result, lmjax.Bootstrap),
    ),
    "predict": Door(FIT.predict, {"x": T}, anything),
    "propagate": Door(FIT.propagate, {"fn": lambda p: p["a"]}, is_pair),
    "confidence_band": Door(FIT.confidence_band, {"x": T, "level": 0.9}, is_pair),
    "prediction_band": Door(
        FIT.prediction_band, {"x": T, "level": 0.9, "sigma": 1.0}, is_pair
    ),
    "LevenbergMarquardt": Door(
        lmjax.LevenbergMarquardt,
        dict.fromkeys(("ftol", "xtol", "gtol", "linear_solver", "jac"))
        | {"max_steps": 9, "damping": lmjax.Nielsen()}
        | {"geodesic": False, "record_history": False},
        anything,
    ),
}
SCIPY = {
    "scipy.curve_fit": Door(
        lmjax.scipy.curve_fit,
        {"f": scipy_decay, "xdata": T, "ydata": Y, "p0": [1.0, 1.0]}
        | {"absolute_sigma": False, "bounds": (-np.inf, np.inf), "full_output": False}
        | dict.fromkeys(("sigma", "check_finite", "method", "jac", "nan_policy")),
        is_pair_or_full,
        loose=True,
    ),
    "scipy.least_squares": Door(
        lmjax.scipy.least_squares,
        {"fun": scipy_residual, "x0": [1.0, 1.0], "bounds": (-np.inf, np.inf)}
        | {"jac": "2-point", "method": "trf", "loss": "linear", "f_scale": 1.0}
        | dict.fromkeys(("ftol", "gtol"), 1e-8)
        | {"xtol": 1e-8, "verbose": 0, "args": (), "callback": None, "workers": None}
        | dict.fromkeys(("x_scale", "diff_step", "tr_solver", "tr_options", "kwargs"))
        | dict.fromkeys(("jac_sparsity", "max_nfev")),
        lambda result: "success" in result,
        loose=True,
    ),
    "scipy.leastsq": Door(
        lmjax.scipy.leastsq,
        {"func": scipy_residual, "x0": [1.0, 1.0], "args": (), "Dfun": None}
        | {"full_output": False, "col_deriv": False, "ftol": 1e-8, "xtol": 1e-8}
        | {"gtol": 0.0, "maxfev": 0, "epsfcn": None, "factor": 100, "diag": None},
        is_pair_or_full,
        loose=True,
    ),
}
PARTS = {
    "Nielsen": Door(
        lmjax.Nielsen, {"initial": 1.0, "shrink": 0.3, "fast_shrink": 0.1}, anything
    ),
    "Classical": Door(
        lmjax.Classical, {"up": 9.0, "down": 9.0, "initial": 1.0}, anything
    ),
    "Fixed": Door(lmjax.Fixed, {"value": 0.0}, anything),
    "CG": Door(lmjax.CG, {"tol": 0.1, "max_steps": None}, anything),
    "Implicit": Door(
        lmjax.Implicit,
        {"hessian": "full", "failed": "zero", "polish": False, "check": False},
        anything,
    ),
    "Unrolled": Door(lmjax.Unrolled, {"num_steps": 3}, anything),
    "Poisson": Door(lmjax.likelihoods.Poisson, {"read_noise": 0.0}, anything),
    "Binomial": Door(lmjax.likelihoods.Binomial, {"trials": 1.0}, anything),
    "Rician": Door(lmjax.likelihoods.Rician, {"sigma": 1.0}, anything),
    "Polynomial": Door(models.Polynomial, {"coefficients": [1.0]}, anything),
    "Gaussian": Door(
        models.Gaussian, {"amplitude": 1.0, "centre": 1.0, "width": 1.0}, anything
    ),
    "Sum": Door(models.Sum, {"parts": models.Gaussian(1.0, 1.0, 1.0)}, anything),
    "convolve": Door(
        lmjax.convolve,
        {"signal": Y, "response": Y, "shift": None, "periodic": False},
        anything,
    ),
    "optax": Door(
        lmjax.optax.levenberg_marquardt,
        {"damping": None, "linear_solver": None},
        anything,
    ),
}
GUESSES = {
    "Exponential.guess": Door(models.Exponential.guess, {"x": T, "y": Y}, anything),
    "Polynomial.guess": Door(
        models.Polynomial.guess, {"x": T, "y": Y, "degree": 1}, anything
    ),
}
DOORS |= SCIPY | PARTS | GUESSES
# Other names by which a message may begin. The shape that a model returns is compared
# with y, by the name of the model; SciPy has words of its own, which are kept.
ALSO = {
    ("curve_fit", "x"): ("model",),
    ("curve_fit", "y"): ("model",),
    ("global_fit", "x"): ("model",),
    ("global_fit", "y"): ("model",),
    ("global_fit", "params0"): ("shared",),  # names what params0 does not have
    ("scipy.curve_fit", "xdata"): ("the data", "Optimal parameters"),
    ("scipy.curve_fit", "ydata"): ("the data", "Optimal parameters"),
    ("scipy.curve_fit", "sigma"): ("the data",),
    ("scipy.curve_fit", "p0"): ("the start", "number of func parameters"),
    ("scipy.least_squares", "x0"): ("Initial guess",),
    ("scipy.least_squares", "bounds"): ("upper bound",),
    ("scipy.leastsq", "x0"): ("the start",),
    ("multi_start", "starts"): ("params0",),
    ("profile", "sigma"): ("keywords that curve_fit was given",),
    ("contour", "sigma"): ("keywords that curve_fit was given",),
}
# What is legal, though it looks odd: (argument, value).
LEGAL = {
    ("bounds", "list of None"),  # no bounds on either side
    ("linear_solver", "function"),
    ("jac", "function"),
    ("parts", "function"),
    ("parts", "class"),
    ("curves", "unequal lists"),
    ("checkpoint", "text"),
    ("args", "empty text"),  # no arguments
    ("args", "generator"),
    ("tr_options", "dict of text"),  # without effect
    ("tr_options", "dict of objects"),
    ("workers", "function"),
    ("workers", "class"),
    # FITS has no failed fit that would be tried again
    ("fit_one", "function"),
    ("fit_one", "class"),
}
# NumPy makes floats of these, and SciPy's functions take what NumPy does.
FLOATS = ("decimal", "array of dates", "array of records", "list of None")
# Compiling a profile takes seconds; what a fit makes of numbers the other doors show.
NONSENSE_ONLY = ("profile", "contour", "bootstrap")


def values_of(name):
    return NONSENSE if name in NONSENSE_ONLY else NONSENSE | NUMBERS


SHARES = 3


def answers(name, argument, value):
    """Return whether a request may be answered."""
    if value in NUMBERS or (argument, value) in LEGAL:
        return True
    return name.startswith("scipy") and value in FLOATS


@pytest.mark.one_of(SHARES)
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("name", DOORS)
def test_odd_requests_are_answered_or_refused_by_name(
    name, share, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)  # a checkpoint may be called "text"
    monkeypatch.setattr(warnings, "filters", [("ignore", None, Warning, None, 0)])
    for door in (curve_fit, global_fit):
        if name == door.__name__.removeprefix("lmjax._"):
            compiled = quick.jit(door._fit_impl, static_argnums=(3, 4, 5))
            monkeypatch.setattr(door, "_fit", compiled)
    raw = []
    for argument in DOORS[name].given:
        # an answer takes a fit: each share has every third value of each argument
        for value, odd in list(values_of(name).items())[share::SHARES]:
            also = ALSO.get((name, argument), ())
            got = outcome(DOORS[name], argument, odd, also)
            if got == "answered" and answers(name, argument, value):
                continue
            if got != "refused":
                raw.append(f"{argument} [{value}]: {got[:200]}")
    assert not raw, "\n".join(raw)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", DOORS)
def test_each_request_is_odd_in_one_argument_only(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    door = DOORS[name]
    first = next(iter(door.given))
    assert outcome(door, first, door.given[first]) == "answered"


def test_there_are_at_least_a_thousand_requests():
    assert sum(len(d.given) * len(values_of(n)) for n, d in DOORS.items()) >= 1000


def test_the_judge_tells_raw_errors_from_named_ones():
    def raising(error):
        def call(x):
            raise error

        return Door(call, {"x": 1.0}, lambda result: True)

    judge = lambda error: outcome(raising(error), "x", 2.0) == "refused"
    assert judge(ValueError("x: expected a number, got None"))
    assert judge(TypeError("x, y: expected numbers"))
    assert not judge(KeyError("x"))
    assert not judge(ValueError("The truth value of an array x is ambiguous"))
    assert not judge(TypeError("'NoneType' object is not callable"))
    noted = KeyError("tau")
    noted.add_note("lmjax calls model(params, x)")
    assert judge(noted)
