"""Every call of lmjax.scipy is one of its own, in float64, whatever JAX is set to."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from processes import run_python

import lmjax.scipy

X = np.linspace(0.0, 4.0, 20)
DOORS = ("curve_fit", "least_squares", "leastsq")


@pytest.mark.parametrize("name", DOORS)
def test_signature_is_that_of_scipy(name):
    expected = inspect.signature(getattr(scipy.optimize, name)).parameters
    got = inspect.signature(getattr(lmjax.scipy, name)).parameters
    without_hint = lambda p: (p.name, p.kind, p.default)
    assert list(map(without_hint, got.values())) == [
        without_hint(p) for p in expected.values()
    ]


def test_float64_needs_no_setting_and_changes_none():
    # the offset leaves float32 no digit of the slope
    out = run_python(
        "-c",
        "import jax, jax.numpy as jnp, numpy as np, lmjax.scipy\n"
        "before = dict(jax.config.values)\n"
        "x = np.linspace(0.0, 1.0, 20)\n"
        "y = 1e9 + 3.0 * x\n"
        "line = lambda x, a, b: a + b * x\n"
        "popt, pcov = lmjax.scipy.curve_fit(line, x, y)\n"
        "fit = lmjax.scipy.least_squares(lambda p: line(x, *p) - y, [1.0, 1.0])\n"
        "one = lmjax.scipy.leastsq(lambda p: line(x, *p) - y, [1.0, 1.0])[0]\n"
        "assert dict(jax.config.values) == before\n"
        "assert jnp.zeros(1).dtype == jnp.float32\n"
        "for array in (popt, pcov, fit.x, fit.jac, one):\n"
        "    assert type(array) is np.ndarray and array.dtype == np.float64\n"
        "print(popt[1], fit.x[1], one[1])\n",
    )
    np.testing.assert_allclose(np.array(out.split(), float), 3.0, rtol=1e-6)


RATE = 1.0


class Instrument:
    gain = 1.0

    def response(self, x, a):
        return self.gain * a * x


def test_what_a_model_reads_counts_as_it_is_now():
    global RATE
    table, device = np.ones(X.size), Instrument()
    fits = {
        "global": lambda: lmjax.scipy.curve_fit(lambda x, a: a * RATE * x, X, X),
        "array": lambda: lmjax.scipy.curve_fit(lambda x, a: a * table * x, X, X),
        "attribute": lambda: lmjax.scipy.curve_fit(device.response, X, X),
    }
    for name, fit in fits.items():
        np.testing.assert_allclose(fit()[0], 1.0, err_msg=name)
    RATE, device.gain = 2.0, 2.0
    table[:] = 2.0
    for name, fit in fits.items():
        np.testing.assert_allclose(fit()[0], 0.5, err_msg=name)
    RATE = 1.0


def test_arrays_of_arguments_may_be_filled_again():
    y = X.copy()
    fit = lambda: lmjax.scipy.least_squares(lambda p, y: p * X - y, 0.5, args=(y,)).x
    np.testing.assert_allclose(fit(), 1.0)
    y *= 3.0
    np.testing.assert_allclose(fit(), 3.0)


def test_model_is_called_once_per_fit():
    calls = []

    def model(x, a):
        calls.append(a)
        return a * x

    for count in (1, 2):
        lmjax.scipy.curve_fit(model, X, X)
        assert len(calls) == count


def fills(x, a):
    out = np.zeros(x.size)
    out[0] = a
    return out


MODELS = {
    "fills": (fills, "fills a NumPy array .* jnp.stack"),
    "numpy": (lambda x, a: np.exp(a) * x, "hands a parameter to NumPy or SciPy"),
    "if": (lambda x, a: a * x if a > 0 else x, "jnp.where for if"),
    "math": (lambda x, a: math.exp(a) * x, "jnp.exp for math.exp"),
    "index": (lambda x, a: x[x > a], "hands a parameter to NumPy or SciPy"),
}


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)
def test_models_that_jax_cannot_trace_are_told_what_to_write(case):
    model, advice = case
    with pytest.raises(TypeError, match=advice):
        lmjax.scipy.curve_fit(model, X, X)
    with pytest.raises(TypeError, match=f"jac or Dfun: .*{advice}"):
        lmjax.scipy.curve_fit(lambda x, a: a * x, X, X, jac=model)


def test_complex_residuals_and_arrays_of_arrays_are_told_what_to_write():
    with pytest.raises(ValueError, match="real and imaginary parts"):
        lmjax.scipy.least_squares(lambda x: jax.lax.complex(x, x), [1.0])
    with pytest.raises(ValueError, match="ravel"):
        lmjax.scipy.leastsq(lambda x: jnp.outer(x, x), [1.0, 2.0])


def test_doors_of_scipy_are_closed_inside_a_trace():
    fit = lambda y: lmjax.scipy.curve_fit(lambda x, a: a * x, X, y)[0]
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(fit)(X)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda a: lmjax.scipy.least_squares(lambda x: x - a, 1.0).x)(2.0)
    with pytest.raises(TypeError, match="outside jit"):
        jax.grad(lambda a: lmjax.scipy.least_squares(lambda x: x - a, a).cost)(1.0)


UNNAMED = {
    "f": lambda: lmjax.scipy.curve_fit(None, X, X),
    "xdata": lambda: lmjax.scipy.curve_fit(lambda x, a: a * x, ["a", "b"], [1, 2]),
    "ydata": lambda: lmjax.scipy.curve_fit(lambda x, a: a * x, X, X[:3]),
    "sigma": lambda: lmjax.scipy.curve_fit(lambda x, a: a * x, X, X, sigma=0.0),
    "x0": lambda: lmjax.scipy.least_squares(lambda x: x, "start"),
    "bounds": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, bounds=None),
    "ftol": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, ftol="tight"),
    "args": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, args=3.0),
    "kwargs": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, kwargs=[3.0]),
    "callback": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, callback=3),
    "fun": lambda: lmjax.scipy.least_squares(lambda x: None, 1.0),
    "tr_options": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, tr_options=[1]),
    "workers": lambda: lmjax.scipy.least_squares(lambda x: x, 1.0, workers="two"),
    "p0": lambda: lmjax.scipy.curve_fit(lambda x, a: a * x, X, X, p0="one"),
    "func": lambda: lmjax.scipy.leastsq(None, 1.0),
    "Dfun": lambda: lmjax.scipy.leastsq(lambda x: x, 1.0, Dfun=3),
    "diag": lambda: lmjax.scipy.leastsq(lambda x: x, 1.0, diag=[1.0, 2.0]),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_errors_name_the_argument(name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        UNNAMED[name]()


def test_user_exceptions_pass():
    def model(x, a):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lmjax.scipy.curve_fit(model, X, X)


def test_equal_functions_share_what_was_compiled():
    fit = lambda gain: lmjax.scipy.curve_fit(lambda x, a: a * gain * x, X, X)[0]
    fit(1.0)
    before = lmjax.scipy._run._minimise._cache_size()
    for gain in (2.0, 4.0):
        np.testing.assert_allclose(fit(gain), 1.0 / gain)
    assert lmjax.scipy._run._minimise._cache_size() == before
