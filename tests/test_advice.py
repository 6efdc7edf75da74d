"""What people are told who write what other libraries want."""

import math
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax

T = np.linspace(0.0, 3.0, 8)
Y = 2.0 * np.exp(-0.7 * T)
START = {"a": 1.0, "k": 1.0}


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t)


def fit(model=decay, y=Y, start=START, **options):
    return lmjax.curve_fit(model, T, y, start, **options)


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("p0", "params0="),
        ("weights", "sigma = 1 / weights"),
        ("method", "solver="),
        ("maxfev", "max_steps"),
        ("colour", "absolute_sigma"),
    ],
)
def test_keyword_of_another_library(keyword, hint):
    with pytest.raises(TypeError, match=f"^{keyword}: ") as caught:
        fit(**{keyword: 1.0})
    assert hint in str(caught.value)


def test_a_fit_cannot_be_unpacked():
    with pytest.raises(TypeError, match=r"fit\.params.*popt, pcov"):
        _popt, _pcov = fit()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": None}, "^solver: expected LevenbergMarquardt"),
        ({"derivative": None}, "^derivative: expected Implicit"),
        ({"mask": {}}, "^mask: expected an array like y"),
        (
            {"solver": lmjax.LevenbergMarquardt(ftol=np.array([1e-3, 1e-4]))},
            "^solver: expected a number for ftol",
        ),
    ],
    ids=["solver", "derivative", "mask", "ftol"],
)
def test_argument_that_is_none_or_empty(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit(**options)


def ones(*shape):
    return lambda p, t: p["a"] * jnp.ones(shape)


@pytest.mark.parametrize(
    ("model", "y", "hint"),
    [
        (decay, np.stack([Y] * 5), r"5 data sets on its first axis.*jax\.vmap"),
        (decay, np.stack([Y] * 5).T, "5 data sets on its last axis"),
        (decay, Y[:, None], r"flat by \.ravel\(\), in x and y"),
        (ones(3, 4), np.ones((4, 3)), r"transposed: give y\.T"),
        (ones(3, 4), np.ones(12), r"give y\.reshape\(\(3, 4\)\)"),
        (lambda p, t: p["a"], Y, "is x used"),
    ],
    ids=["vmap", "columns", "column", "transposed", "flat", "number"],
)
def test_shape_error_says_what_to_try(model, y, hint):
    with pytest.raises(ValueError, match=hint):
        fit(model, y)


def branching(p, t):
    return decay(p, t) if p["a"] > 0 else t


TRACED = {
    "if": branching,
    "float": lambda p, t: float(p["a"]) * t,
    "math": lambda p, t: math.exp(p["a"]) * t,
    "mask": lambda p, t: t[t > p["a"]],
}


@pytest.mark.parametrize("model", TRACED.values(), ids=TRACED.keys())
@pytest.mark.parametrize("way", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_python_on_traced_values_is_told_of_jnp(model, way):
    with pytest.raises((TypeError, IndexError)) as caught:
        way(lambda y: fit(model, y).cost)(Y)
    (note,) = [n for n in caught.value.__notes__ if "lmjax" in n]
    assert "lmjax calls model(params, x)" in note
    assert "jnp.where" in note
    assert "jnp.exp" in note


def test_errors_of_a_model_say_how_it_was_called():
    with pytest.raises(KeyError) as caught:
        fit(lambda p, t: p["b"] * t)
    assert caught.value.__notes__ == ["lmjax calls model(params, x)"]
    with pytest.raises(TypeError) as caught:
        lmjax.least_squares(lambda p: p["a"], START, (T,))
    assert caught.value.__notes__ == ["lmjax calls residual_fn(params, *args)"]


def test_a_model_that_returns_no_numbers():
    with pytest.raises(TypeError, match="expected it to return numbers.*'text'"):
        fit(lambda p, t: "text")


def test_what_is_not_finite_at_the_start_is_named():
    y = np.where(T > 2.0, np.nan, Y)
    result = fit(y=y)
    assert result.status == lmjax.Status.NONFINITE_START
    for text in (
        result.report(),
        str(pytest.raises(lmjax.FitError, result.raise_if_failed).value),
    ):
        assert "3 of 8 residuals are not finite, the first is residual[5]" in text
        assert 'nan_policy="omit"' in text
    assert "The start of k is nan." in fit(start={"a": 1.0, "k": np.nan}).report()


def test_status_of_parameters_is_a_pytree_like_them():
    kinds = fit(fixed={"k": True}).param_status
    assert kinds["a"] == lmjax.ParamStatus.FREE
    assert kinds["k"] == lmjax.ParamStatus.FIXED
    batch = jax.vmap(lambda y: fit(y=y).param_status)(np.stack([Y, 2.0 * Y]))
    assert batch["a"].shape == (2,)


def test_profile_of_nothing_and_starts_without_an_axis():
    with pytest.raises(ValueError, match="^which: expected at least one name"):
        lmjax.profile(fit(), T, Y, which=[])
    for starts in (1.0, {"a": jnp.ones(3), "b": jnp.ones(2)}):
        with pytest.raises(ValueError, match="^starts: expected arrays"):
            lmjax.multi_start(lambda p: p, starts)


def test_a_traceback_ends_in_the_frames_of_the_user():
    def broken(p, t):
        return p["b"] * t

    def frames():
        with pytest.raises(KeyError) as caught:
            lmjax.curve_fit(broken, np.arange(3.0), np.arange(3.0), {"a": 1.0})
        return traceback.extract_tb(caught.value.__traceback__)

    package = str(Path(lmjax.__file__).parent)
    own = lambda found: [f for f in found if f.filename.startswith(package)]
    shown = frames()
    assert shown[-1].name == "broken"
    assert [frame.name for frame in own(shown)] == ["explaining"]
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        assert len(own(frames())) > 3
    finally:
        jax.config.update("jax_traceback_filtering", before)
