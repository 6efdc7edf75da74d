"""Elementary functions of the fused engine, against mpmath over their range."""

import ctypes
import math
from functools import cache

import mpmath
import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

from lmjax._engines.fused.elementary import LIBRARY, OF_TWO
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.module import Module
from lmjax._engines.fused.values import Name
from lmjax._jax import machine

ULPS = {"float32": 2.0, "float64": 4.0}  # what the engine promises
# Of each function: the smallest and the largest argument of interest.
RANGES = {
    "exp": (-105.0, 89.0),
    "exp2": (-149.0, 128.0),
    "expm1": (-105.0, 89.0),
    "log": (0.0, 1e30),
    "log1p": (-1.0, 1e30),
    "cbrt": (-1e38, 1e38),
    "sin": (-1e5, 1e5),
    "cos": (-1e5, 1e5),
    "tan": (-1e5, 1e5),
    "asin": (-1.0, 1.0),
    "acos": (-1.0, 1.0),
    "atan": (-1e6, 1e6),
    "sinh": (-89.4, 89.4),
    "cosh": (-89.4, 89.4),
    "tanh": (-30.0, 30.0),
    "asinh": (-1e38, 1e38),
    "acosh": (1.0, 1e38),
    "atanh": (-1.0, 1.0),
    "erf": (-6.0, 6.0),
    "erfc": (-6.0, 10.0),
    "logistic": (-80.0, 80.0),
}
# Those whose range is larger in float64.
DOUBLE_RANGES = {
    "exp": (-745.0, 709.7),
    "exp2": (-1074.0, 1024.0),
    "expm1": (-745.0, 709.7),
    "cbrt": (-5e307, 5e307),
    "sinh": (-710.4, 710.4),
    "cosh": (-710.4, 710.4),
    "asinh": (-5e307, 5e307),
    "acosh": (1.0, 5e307),
    "erfc": (-6.0, 27.2),
}
CIRCULAR = ["sin", "cos", "tan"]
# The numbers next to a multiple of pi / 2, from the continued fractions of 2**e 2 / pi.
NEAREST = {
    "float32": [
        *(16367173 * 2.0**72, 10741887 * 2.0**11, 10741887 * 2.0**12),
        *(16573937 * 2.0**-16, 10057457 * 2.0**62, 11617958 * 2.0**17),
    ],
    "float64": [
        *(6381956970095103 * 2.0**797, 6411027962775774 * 2.0**-47),
        *(7763785107565477 * 2.0**-29, 5916243447979695 * 2.0**79),
        *(8444920710073313 * 2.0**939, 5850965514341686 * 2.0**525),
    ],
}
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30])


@cache
def compiled(name, dtype):
    """Return the function as one of arrays, four lanes wide."""
    module, width = Module(4), 4
    code = Code(module, "x")
    vector = code.vector(dtype)
    names = "xy" if name in OF_TWO else "x"
    arguments = [Name(f"%{x}", dtype) for x in names]
    result = code.text(code.emit(name, arguments, dtype))
    loads = []
    for x in names:
        loads += [
            f"  %p{x} = getelementptr {vector}, ptr %from{x}, i64 %i",
            f"  %{x} = load {vector}, ptr %p{x}, align 4",
        ]
    module.parts["@run"] = "\n".join(
        [
            f"define void @run({', '.join(f'ptr %from{x}' for x in names)}, ptr %to, "
            "i64 %n) {",
            "entry:",
            "  br label %loop",
            "loop:",
            "  %i = phi i64 [0, %entry], [%i1, %loop]",
            *loads,
            *code.lines,
            f"  %q = getelementptr {vector}, ptr %to, i64 %i",
            f"  store {vector} {result}, ptr %q, align 4",
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
    pointers = [ctypes.c_void_p] * (len(names) + 1)
    run = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64)

    def call(*arrays):
        size = len(arrays[0])
        count = -(-size // width)
        padded = [np.resize(np.asarray(x, dtype), count * width) for x in arrays]
        out = np.empty_like(padded[0])
        run(address)(*(x.ctypes.data for x in [*padded, out]), count)
        return out[:size]

    call.engine = engine  # the code lives as long as this
    return call


def exact(name, *arguments):
    with mpmath.workdps(60):
        z, *more = (mpmath.mpf(float(x)) for x in arguments)
        formulas = {
            "logistic": lambda: 1 / (1 + mpmath.exp(-z)),
            "exp2": lambda: mpmath.mpf(2) ** z,
            "pow": lambda: mpmath.power(z, *more),
            "cbrt": lambda: mpmath.sign(z) * mpmath.cbrt(abs(z)),
        }
        if name in formulas:
            return formulas[name]()
        # sines of large angles
        with mpmath.workdps(60 if abs(z) < 1e6 else 400):
            return getattr(mpmath, name)(z, *more)


def ulps_off(name, dtype, *arguments):
    """Return errors in units of the last place of the exact value."""
    found = []
    for g, *v in zip(compiled(name, dtype)(*arguments), *arguments, strict=True):
        truth = exact(name, *v)
        if abs(truth) > np.finfo(dtype).max:  # too large for the dtype
            assert np.isinf(g) or abs(g) > np.finfo(dtype).max * (1 - 1e-6)
            found.append(0.0)
            continue
        place = float(np.spacing(np.asarray(abs(float(truth)), dtype)))
        with mpmath.workdps(60):
            found.append(float(abs(mpmath.mpf(float(g)) - truth) / place))
    return np.array(found)


def arguments(name, dtype, rng, count):
    low, high = RANGES[name]
    if dtype == "float64":
        low, high = DOUBLE_RANGES.get(name, (low, high))
    wide = rng.uniform(low, high, count)
    largest = max(abs(low), abs(high))
    near = np.exp(rng.uniform(np.log(1e-30), np.log(largest), count))
    if low < 0.0:
        near *= rng.choice([-1.0, 1.0], count)
    around_one = 1.0 + rng.uniform(-0.5, 0.5, count)
    x = np.concatenate([wide, near, around_one]).astype(dtype)
    return x[(x > low) & (x < high)]


def check(name, dtype, *arguments):
    off = ulps_off(name, dtype, *arguments)
    worst = int(np.argmax(off))
    assert off.max() <= ULPS[dtype], ([x[worst] for x in arguments], off.max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_error_in_last_places(count, name, dtype, rng):
    check(name, dtype, arguments(name, dtype, rng, count))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CIRCULAR)
def test_angles_of_any_size(name, dtype, rng):
    largest = np.log(np.finfo(dtype).max)
    x = np.exp(rng.uniform(np.log(1e3), largest, 1500)) * rng.choice([-1, 1], 1500)
    check(name, dtype, x.astype(dtype))


@pytest.mark.parametrize("name", CIRCULAR)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_angles_next_to_a_quarter_of_a_turn(name, dtype):
    """Next to a multiple of pi / 2, all digits of the remainder are lost but a few."""
    check(name, dtype, np.array(NEAREST[dtype], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers(dtype, rng):
    most = np.log(np.finfo(dtype).max)
    wide = np.exp(rng.uniform(-most, most, 3000))
    near_one = 1.0 + rng.uniform(-0.5, 0.5, 1500) * 10.0 ** -rng.uniform(0, 6, 1500)
    x = np.concatenate([wide, near_one]).astype(dtype)
    # from numbers that are not normal to infinity
    x = x[x != 1.0]
    y = rng.uniform(-1.02 * most - 16, 1.02 * most, x.size) / np.log(x.astype(float))
    check("pow", dtype, x, y.astype(dtype))
    few = rng.uniform(0.01, 30.0, 1500), rng.uniform(-8.0, 8.0, 1500)
    check("pow", dtype, *(x.astype(dtype) for x in few))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_angles_of_points(dtype, rng):
    most = 0.4 * np.log(np.finfo(dtype).max)
    sign = lambda: rng.choice([-1.0, 1.0], 4000)
    x = np.exp(rng.uniform(-most, most, 4000)) * sign()
    y = np.abs(x) * np.exp(rng.uniform(-12.0, 12.0, 4000)) * sign()
    check("atan2", dtype, y.astype(dtype), x.astype(dtype))
    huge = np.array([0.9, -0.7, 0.8]) * np.finfo(dtype).max
    check("atan2", dtype, huge.astype(dtype), huge[::-1].astype(dtype))


def numpy_of(name):
    """Return a function of arrays by its name in jax."""
    own = {
        "logistic": lambda x: 1.0 / (1.0 + np.exp(-x)),
        "erf": np.vectorize(math.erf),
        "erfc": np.vectorize(math.erfc),
    }
    arc = "arc" + name.removeprefix("a")
    return own.get(name) or getattr(np, name if hasattr(np, name) else arc)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANGES)
def test_special_values_are_those_of_numpy(name, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.concatenate([SPECIAL, [tiny, -tiny, 2.0, -2.0]]).astype(dtype)
    with np.errstate(all="ignore"):
        expected = np.asarray(numpy_of(name)(x), dtype)
    got = compiled(name, dtype)(x)
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)
    if name != "logistic":
        zero = expected == 0.0
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_special_pairs_are_those_of_numpy(name, dtype):
    info = np.finfo(dtype)
    numbers = [0.0, 0.5, 1.0, 2.0, 3.0, 2.5, 1e7 + 1, np.inf, info.max, info.tiny]
    numbers += [info.smallest_subnormal, 1.0 + info.eps, 1.0 - info.epsneg]
    numbers = np.array([*numbers, *(-x for x in numbers), np.nan], dtype)
    x, y = (v.ravel() for v in np.meshgrid(numbers, numbers))
    with np.errstate(all="ignore"):
        expected = getattr(np, name if name == "pow" else "arctan2")(x, y)
    got = compiled(name, dtype)(x, y)
    tolerance = {"rtol": 4 * info.eps, "atol": 2 * info.smallest_subnormal}
    np.testing.assert_allclose(got, expected, **tolerance)
    sure = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[sure]), np.signbit(expected[sure]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*CIRCULAR, "exp", "pow", "erf", "atan2"])
def test_a_lane_does_not_feel_its_neighbours(name, dtype):
    """One large angle has a path of its own, which the other lanes do not notice."""
    calm = np.array([0.3, 1.0, 2.0, 3.0], dtype)
    wild = np.array([0.3, 1e7, np.inf, 3.0], dtype)
    function = compiled(name, dtype)
    call = lambda x: function(*[x] * (2 if name in OF_TWO else 1))
    np.testing.assert_array_equal(call(wild)[[0, 3]], call(calm)[[0, 3]])
    alone = [call(np.full(4, x))[0] for x in wild]
    np.testing.assert_array_equal(call(wild), alone)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_the_library_are_found(dtype):
    assert set(LIBRARY) == {"lgamma", "rem"}
    x = np.array([0.1, 0.5, 0.6, 0.7], dtype)
    near = {"rtol": 8 * np.finfo(dtype).eps}
    expected = [math.lgamma(v) for v in x]
    np.testing.assert_allclose(compiled("lgamma", dtype)(x), expected, **near)
    rest = compiled("rem", dtype)(np.array([7.5, -7.5, 1.0, 3.0]), x)
    wide = np.array([7.5, -7.5, 1.0, 3.0], dtype)
    np.testing.assert_array_equal(rest, np.fmod(wide, x))
