"""Where float32 loses what matters of 64-bit data, one warning says so."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax._problem.precision import warn_of_rounded, warn_of_rounding

RNG = np.random.default_rng(5)
ONES = np.float32([1.0, 1.0])
STEPS = np.arange(5.0)


def line(p, x):
    return p[0] + p[1] * x


def messages(*given, **options):
    """Return what a call warns of in float32, and check that float64 is silent."""
    call = given[0] if given else warn_of_rounding
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*given[1:], **options)
    assert not caught
    with jax.enable_x64(False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*given[1:], **options)
    return [str(warning.message) for warning in caught]


LOST = {
    "unix-times": ({"x": 1.7e9 + STEPS}, "x: .*a tenth of their spacing"),
    "unix-times-of-a-day": ({"x": 1.7e9 + np.arange(86400.0)}, "x: .*spacing"),
    "unix-times-as-integers": ({"x": 1_700_000_001 + np.arange(5)}, "x: .*spacing"),
    "unordered": ({"x": RNG.permutation(1.7e9 + np.arange(50.0))}, "x: .*spacing"),
    "in-a-tree": ({"x": {"a": STEPS, "t": 1.7e9 + STEPS}}, "x: .*spacing"),
    "beside-nan": ({"x": np.append(1.7e9 + STEPS, np.nan)}, "x: .*spacing"),
    "on-an-offset": ({"y": 1e7 + 3.0 * RNG.random(50)}, "y: .*their spread"),
    "small-sigma": (
        {"y": 1.0 + RNG.random(9), "sigma": np.full(9, 1e-9)},
        "y: .*a tenth of sigma",
    ),
    "small-covariance": (
        {"y": 1.0 + RNG.random(9), "sigma": 1e-18 * np.eye(9)},
        "y: .*a tenth of sigma",
    ),
    "overflow": ({"y": 1e40 * STEPS}, "y: .*the range of that type"),
    "underflow": ({"sigma": np.full(5, 1e-46)}, "sigma: .*the range of that type"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_named(name):
    data, expected = LOST[name]
    (message,) = messages(**data)
    warnings_of = pytest.warns(UserWarning, match=expected)
    with jax.enable_x64(False), warnings_of:
        warn_of_rounding(**data)
    assert 'jax.config.update("jax_enable_x64", True)' in message


KEPT = {
    "usual": {"x": np.linspace(0.0, 5.0, 50), "y": RNG.normal(size=50)},
    "many-points": {"x": np.linspace(0.0, 1.0, 3_000_000)},
    "wavelengths": {"x": np.arange(400.0, 700.0, 0.1)},
    "years": {"x": 1950.0 + np.arange(840) / 12.0},
    "large-integers-that-fit": {"x": 2.0**24 - STEPS},
    "even-beyond": {"x": 2.0**26 + 8.0 * STEPS},
    "constant": {"x": np.full(9, 1.7e9), "y": np.full(9, 1e9)},
    "signal-on-background": {"y": 1000.0 + RNG.normal(size=50)},
    "counts": {"y": RNG.poisson(1e6, 50), "sigma": np.full(50, 1e3)},
    "wide-range": {
        "y": np.geomspace(1.0, 1e8, 9),
        "sigma": 0.01 * np.geomspace(1.0, 1e8, 9),
    },
    "float32": {"x": (1.7e9 + 200.0 * STEPS).astype("float32"), "y": np.float32(STEPS)},
    "bytes": {"y": np.arange(9, dtype=np.uint8)},
    "nothing-finite": {"x": np.full(3, np.nan), "y": np.full(3, np.inf)},
    "one-number": {"x": np.array(1.7e9), "y": np.array([1.7e9])},
    "zeros": {"y": np.zeros(4)},
    "empty": {"x": np.zeros(0)},
    "device": {"x": jnp.asarray(1.7e9 + STEPS)},
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_no_warning(name):
    assert messages(**KEPT[name]) == []


def test_arguments_of_unknown_use_are_judged_by_their_spread():
    assert messages(warn_of_rounded, args=(1.7e9 + STEPS, 2.0, None)) != []
    assert messages(warn_of_rounded, args=(STEPS, 1e3 + STEPS)) == []


T = 1.7e9 + STEPS
Y = np.float32([1.0, 3.0, 2.0, 5.0, 4.0])
FITS = {
    "curve_fit": lambda: lmjax.curve_fit(line, T, Y, ONES),
    "jit": lambda: jax.jit(lambda y: lmjax.curve_fit(line, T, y, ONES).params)(Y),
    "least_squares": lambda: lmjax.least_squares(
        lambda p, x, y: line(p, x) - y, ONES, (T, Y)
    ),
    "global_fit": lambda: lmjax.global_fit(
        lambda p, x: p["a"] + p["b"] * x,
        T,
        np.stack([Y, Y]),
        {"a": ONES[0], "b": ONES[0]},
        shared={"b": True},
    ),
    "fit_batch": lambda: lmjax.fit_batch(lambda row: row[0], np.stack([T, 2.0 * T])),
}


@pytest.mark.parametrize("name", FITS)
def test_the_line_of_the_user_is_named(name):
    with (
        jax.enable_x64(False),
        pytest.warns(UserWarning, match="jax_enable_x64") as got,
    ):
        FITS[name]()
    (warning,) = got
    assert warning.filename == __file__


def test_a_loop_warns_once():
    with jax.enable_x64(False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for k in range(3):
            lmjax.curve_fit(line, T + k, Y, ONES)
    assert len(caught) == 1


def test_whole_numbers_beyond_32_bits_are_looked_at():
    stamps = np.arange(30) + 1_700_000_000_000
    with (
        jax.enable_x64(False),
        pytest.warns(UserWarning, match="x: 64-bit numbers become float32"),
    ):
        lmjax.curve_fit(line, stamps, np.arange(30.0), ONES)


def test_rows_of_one_number_are_looked_at_together():
    with (
        jax.enable_x64(False),
        pytest.warns(UserWarning, match="data: 64-bit numbers become float32"),
    ):
        lmjax.fit_batch(lambda row: row, np.array([1e9 + 0.25, 1e9]))
