"""Elementary functions of the fused engine, against mpmath over their range."""

import ctypes
from functools import cache

import mpmath
import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

from lmjax._fused import machine
from lmjax._fused.elementary import LIBRARY
from lmjax._fused.ir import Code
from lmjax._fused.module import Module
from lmjax._fused.values import Name

ULPS = {"float32": 2.0, "float64": 4.0}  # what the engine promises
# Of each function: whether its argument is positive, and the largest one of interest.
RANGES = {
    "exp": (-105.0, 89.0),
    "expm1": (-105.0, 89.0),
    "log": (0.0, 1e30),
    "log1p": (-1.0, 1e30),
    "sin": (-1e5, 1e5),
    "cos": (-1e5, 1e5),
    "tanh": (-30.0, 30.0),
    "logistic": (-80.0, 80.0),
}
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30])


@cache
def compiled(name, dtype):
    """Return the function as one of arrays, four lanes wide."""
    module, width = Module(4), 4
    code = Code(module, "x")
    vector = code.vector(dtype)
    y = code.text(code.emit(name, [Name("%x", dtype)], dtype))
    module.parts["@run"] = "\n".join(
        [
            "define void @run(ptr %from, ptr %to, i64 %n) {",
            "entry:",
            "  br label %loop",
            "loop:",
            "  %i = phi i64 [0, %entry], [%i1, %loop]",
            f"  %p = getelementptr {vector}, ptr %from, i64 %i",
            f"  %x = load {vector}, ptr %p, align 4",
            *code.lines,
            f"  %q = getelementptr {vector}, ptr %to, i64 %i",
            f"  store {vector} {y}, ptr %q, align 4",
            "  %i1 = add i64 %i, 1",
            "  %more = icmp ult i64 %i1, %n",
            "  br i1 %more, label %loop, label %done",
            "done:",
            "  ret void",
            "}",
        ]
    )
    assert not machine.available()
    engine = machine.assembled("\n\n".join(module.parts.values()))
    address = engine.get_function_address("run")
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

    def call(x):
        x = np.asarray(x, dtype)
        padded = np.resize(x, -(-x.size // width) * width)
        out = np.empty_like(padded)
        run(address)(padded.ctypes.data, out.ctypes.data, padded.size // width)
        return out[: x.size]

    call.engine = engine  # the code lives as long as this
    return call


def exact(name, x):
    with mpmath.workdps(60):
        z = mpmath.mpf(float(x))
        if name == "logistic":
            return 1 / (1 + mpmath.exp(-z))
        return getattr(mpmath, name)(z)


def ulps_off(got, x, name, dtype):
    """Return the error in units of the last place of the exact value."""
    found = []
    for g, v in zip(got, x, strict=True):
        truth = exact(name, v)
        size = np.asarray(abs(float(truth)), dtype)
        place = float(np.spacing(size)) if np.isfinite(size) else 1.0
        with mpmath.workdps(60):
            found.append(float(abs(mpmath.mpf(float(g)) - truth) / place))
    return np.array(found)


def arguments(name, dtype, rng, count=3000):
    low, high = RANGES[name]
    if dtype == "float64" and name in ("exp", "expm1"):
        low, high = -745.0, 709.7
    wide = rng.uniform(low, high, count)
    largest = max(abs(low), abs(high))
    near = np.exp(rng.uniform(np.log(1e-30), np.log(largest), count))
    if low < 0.0:
        near *= rng.choice([-1.0, 1.0], count)
    around_one = 1.0 + rng.uniform(-0.5, 0.5, count)
    x = np.concatenate([wide, near, around_one]).astype(dtype)
    return x[(x > low) & (x < high)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANGES)
def test_error_in_last_places(name, dtype, rng):
    x = arguments(name, dtype, rng)
    got = compiled(name, dtype)(x)
    normal = np.abs([float(exact(name, v)) for v in x]) < np.finfo(dtype).max
    off = ulps_off(got[normal], x[normal], name, dtype)
    worst = int(np.argmax(off))
    assert off.max() <= ULPS[dtype], (x[normal][worst], off.max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANGES)
def test_special_values_are_those_of_numpy(name, dtype):
    x = SPECIAL.astype(dtype)
    numpy = {"logistic": lambda x: 1.0 / (1.0 + np.exp(-x))}.get(
        name, getattr(np, name, None)
    )
    with np.errstate(all="ignore"):
        expected = numpy(x)
    got = compiled(name, dtype)(x)
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)
    if name != "logistic":
        np.testing.assert_array_equal(np.signbit(got[:2]), np.signbit(expected[:2]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_lane_does_not_feel_its_neighbours(dtype):
    """One argument beyond the reduction sends its own lane to the C library alone."""
    x = np.array([0.3, 1.0, 2.0, 1e7], dtype)
    calm = np.array([0.3, 1.0, 2.0, 3.0], dtype)
    sine = compiled("sin", dtype)
    np.testing.assert_array_equal(sine(x)[:3], sine(calm)[:3])
    np.testing.assert_allclose(sine(x)[3], np.sin(x[3].astype(float)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(set(LIBRARY) - {"pow", "atan2", "rem"}))
def test_functions_of_the_library_are_found(name, dtype):
    x = np.array([0.1, 0.5, 0.6, 0.7], dtype)  # away from zeros of the functions
    if name == "acosh":
        x += 1
    if name == "cbrt":
        expected = np.cbrt(x)
    elif name in ("erf", "erfc", "lgamma"):
        expected = [float(getattr(__import__("math"), name)(v)) for v in x]
    else:
        called = name.removeprefix("library_")
        names = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
        names |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
        expected = getattr(np, names.get(called, called))(x.astype(float))
    got = compiled(name, dtype)(x)
    np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(dtype).eps)
