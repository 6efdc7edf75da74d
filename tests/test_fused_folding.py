"""Operations of known numbers, against jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmjax._engines.fused.folding import FOLDED, folded

F32, F64, I32, I64 = np.float32, np.float64, np.int32, np.int64
DIVISIONS = [
    (I32(7), I32(2)),
    (I32(-7), I32(2)),
    (I32(7), I32(-2)),
    (I32(3), I32(0)),
    (I32(-(2**31)), I32(-1)),
    (I64(2**62 + 6), I64(2)),
    (F64(7.0), F64(2.0)),
    (F32(1.0), F32(0.0)),
]
CASTS = [
    (x, dtype)
    for x in (2.7, -2.7, 1e20, -1e20, np.inf, -np.inf, np.nan, 2.0**31, -(2.0**63))
    for dtype in (I32, I64, F32)
]
NUMBERS = [-2.5, -0.5, 0.0, 0.5, 2.5, np.inf, np.nan]
UNARY = {
    "neg": lax.neg,
    "abs": lax.abs,
    "sqrt": lax.sqrt,
    "rsqrt": lax.rsqrt,
    "square": lax.square,
    "exp": lax.exp,
    "log": lax.log,
    "is_finite": lax.is_finite,
    "sign": lax.sign,
    "floor": lax.floor,
    "ceil": lax.ceil,
}
BINARY = {
    "add": lax.add,
    "add_any": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "max": lax.max,
    "min": lax.min,
    "pow": lax.pow,
    "lt": lax.lt,
    "le": lax.le,
    "gt": lax.gt,
    "ge": lax.ge,
    "eq": lax.eq,
    "ne": lax.ne,
}
LOGIC = {"and": lax.bitwise_and, "or": lax.bitwise_or, "xor": lax.bitwise_xor}


def agrees(name, values, wanted):
    got = folded(name, list(values), np.dtype(wanted.dtype))
    assert got.dtype == wanted.dtype
    rtol = 4 * np.finfo(got.dtype).eps if got.dtype.kind == "f" else 0
    np.testing.assert_allclose(got, wanted, rtol=rtol)


@pytest.mark.parametrize("pair", DIVISIONS, ids=str)
def test_divisions_are_those_of_jax(pair):
    agrees("div", pair, lax.div(*map(jnp.asarray, pair)))


@pytest.mark.parametrize(("number", "dtype"), CASTS)
def test_casts_are_those_of_jax(number, dtype):
    # as a program does it: NumPy casts what is known as it likes
    cast = jax.jit(lambda x: x.astype(dtype))
    agrees("convert_element_type", [F64(number)], cast(jnp.float64(number)))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number_are_those_of_jax(name, dtype):
    for x in map(dtype, NUMBERS):
        agrees(name, [x], UNARY[name](jnp.asarray(x)))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers_are_those_of_jax(name, dtype):
    for x in map(dtype, NUMBERS):
        for y in map(dtype, NUMBERS):
            agrees(name, [x, y], BINARY[name](jnp.asarray(x), jnp.asarray(y)))


@pytest.mark.parametrize("name", LOGIC)
def test_logic_is_that_of_jax(name):
    for x in (np.False_, np.True_):
        for y in (np.False_, np.True_):
            agrees(name, [x, y], LOGIC[name](jnp.asarray(x), jnp.asarray(y)))


def test_choices_are_those_of_jax():
    low, x, high = F64(-1.0), F64(3.0), F64(2.0)
    agrees("clamp", [low, x, high], lax.clamp(*map(jnp.asarray, (low, x, high))))
    agrees("not", [np.True_], lax.bitwise_not(jnp.asarray(True)))
    pick = lax.select_n(jnp.asarray(True), jnp.float64(1.0), jnp.float64(2.0))
    agrees("select_n", [np.True_, F64(1.0), F64(2.0)], pick)


def test_every_operation_is_tried_here():
    others = {"div", "convert_element_type", "clamp", "not", "select_n"}
    assert others | set(UNARY) | set(BINARY) | set(LOGIC) == set(FOLDED)
