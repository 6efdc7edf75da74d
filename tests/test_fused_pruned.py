"""A batch works out and writes those results only that somebody uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr
from test_ptx import equations

import lmjax
from lmjax._engines.fused.engine import program_p

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

X = np.linspace(0.0, 1.0, 12)
Y = np.stack([3.0 * X + 1.0, X**2, np.cos(X), np.exp(X), -X, 1.0 + X])


def line(p, x):
    return p["a"] * x + p["b"]


def fit_one(y):
    start = {"a": 1.0, "b": 0.0}
    fit = lmjax.curve_fit(line, X, y, start, solver=lmjax.LevenbergMarquardt())
    return fit.params, fit.status, fit.stderr, fit.num_steps


def pruned(fn, used, *args):
    closed = jax.make_jaxpr(fn)(*args)
    return dce_jaxpr(closed.jaxpr, used, instantiate=True)[0], closed.consts


def results_of_programs(jaxpr):
    calls = [eqn for eqn in equations(jaxpr) if eqn.primitive is program_p]
    return [len(eqn.outvars) for eqn in calls]


def test_programs_write_only_what_is_used():
    batch = jax.vmap(fit_one)
    jaxpr, _ = pruned(batch, [True, True, False, False, False, False], Y)
    assert results_of_programs(jaxpr) == [1]  # the parameters
    jaxpr, _ = pruned(batch, [False] * 5 + [True], Y)
    assert results_of_programs(jaxpr) == [1]
    jaxpr, _ = pruned(batch, [False] * 6, Y)
    assert results_of_programs(jaxpr) == []


@pytest.mark.parametrize("used", [(0, 1), (2,), (5,), (1, 4), (0, 1, 2, 3, 4, 5)])
def test_what_is_left_has_the_same_bits(used):
    flags = [i in used for i in range(6)]
    every = jax.jit(jax.vmap(fit_one))(Y)
    wanted = [x for x, flag in zip(jax.tree.leaves(every), flags, strict=True) if flag]
    some = lambda y: [
        x
        for x, flag in zip(jax.tree.leaves(jax.vmap(fit_one)(y)), flags, strict=True)
        if flag
    ]
    for a, b in zip(jax.jit(some)(Y), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_left_of_a_batch_is_batched_once_more():
    jaxpr, consts = pruned(
        jax.vmap(fit_one), [True, False, False, False, False, True], Y
    )
    call = lambda y: jax.core.eval_jaxpr(jaxpr, consts, y)
    twice = jax.jit(jax.vmap(call))(jnp.stack([Y, 2.0 * Y]))
    for number, y in enumerate((Y, 2.0 * Y)):
        params, *_, steps = jax.jit(jax.vmap(fit_one))(y)
        np.testing.assert_array_equal(twice[0][number], params["a"])
        np.testing.assert_array_equal(twice[1][number], steps)
