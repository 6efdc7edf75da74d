"""Constant indices beyond an array of the arguments are errors, all others are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax._jax.constant_indices import traced_shapes

T = np.linspace(0.0, 4.0, 12)
Y = 3.0 * np.exp(-0.8 * T) + 0.5


def decay(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def loop(p):
    """Read an element in every turn, one of them constant."""
    return jax.lax.fori_loop(0, 3, lambda i, total: total + p[i] + p[4], 0.0)


BEYOND = {
    "positive": (lambda p: p[2], 2),
    "negative": (lambda p: p[-3], -3),
    "of-numpy": (lambda p: p[np.int64(5)], 5),
    "of-array": (lambda p: p[np.array([0, 3])].sum(), 3),
    "of-jitted": (jax.jit(lambda p: 2.0 * p[2]), 2),
    "after-arithmetic": (lambda p: jnp.exp(p)[7], 7),
    "in-a-loop": (loop, 4),
    "in-a-branch": (lambda p: jax.lax.cond(p[0] > 0, lambda: p[9], lambda: p[0]), 9),
    "in-remat": (jax.checkpoint(lambda p: jnp.sin(p[2])), 2),
    "by-lax": (lambda p: jax.lax.dynamic_index_in_dim(p, 2), 2),
}


@pytest.mark.parametrize("name", BEYOND)
def test_constant_index_beyond_the_end_is_found(name):
    fn, index = BEYOND[name]
    with pytest.raises(ValueError, match=f"p: index {index} .* p of length 2;"):
        traced_shapes(fn, p=jnp.ones(2))


LEGAL = {
    "inside": lambda p, x: p[1] + p[-2] + p[np.array([0, -1, 1])].sum(),
    "by-data": lambda p, x: p[x.astype(int)].sum(),
    "by-a-parameter": lambda p, x: p[jnp.argmax(p) + 7],
    "by-a-counter": lambda p, x: jax.lax.fori_loop(0, 9, lambda i, s: s + p[i], 0.0),
    "by-batch": lambda p, x: jax.vmap(lambda i: p[i])(jnp.arange(5)),
    "clipped": lambda p, x: jnp.take(p, 5, mode="clip"),
    "filled": lambda p, x: p.at[5].get(mode="fill", fill_value=0.0),
    "window": lambda p, x: jax.lax.dynamic_slice(p, (1,), (2,)),
    "slices": lambda p, x: p[1:9],
    "dead-branch": lambda p, x: jax.lax.cond(True, lambda: p[0], lambda: p[3]),
    "interpolation": lambda p, x: jnp.interp(x, jnp.arange(2.0), p),
    "scatter": lambda p, x: jnp.zeros(3).at[np.array([0, 1])].add(p),
}


@pytest.mark.parametrize("name", LEGAL)
def test_other_indices_are_left_alone(name):
    fn, x = LEGAL[name], jnp.linspace(0.0, 9.0, 5)
    got = traced_shapes(fn, p=jnp.ones(2), x=x)
    assert got == jax.eval_shape(fn, jnp.ones(2), x)


def test_axis_and_argument_are_named():
    fn = lambda params, x: params["a"][1, 4] + x[0]
    params = {"b": 1.0, "a": jnp.ones((2, 3))}
    message = r"params: index 4 .* params\['a'\] of axis 1 of shape \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        traced_shapes(fn, params=params, x=jnp.ones(2))
    with pytest.raises(ValueError, match=r"x: index 5 .* x\[0\] of length 2"):
        traced_shapes(lambda params, x: x[0][5], params=params, x=(jnp.ones(2),))


SHORT = np.array([2.0, 1.0])
CALLS = {
    "curve_fit": lambda: lmjax.curve_fit(decay, T, Y, SHORT),
    "least_squares": lambda: lmjax.least_squares(
        lambda p, t, y: decay(p, t) - y, SHORT, (T, Y)
    ),
    "global_fit": lambda: lmjax.global_fit(
        lambda p, t: p["s"] * decay(p["q"], t),
        T,
        np.stack([Y, Y]),
        {"s": 1.0, "q": SHORT},
        shared={"q": True},
    ),
    "own-start-of-curves": lambda: lmjax.global_fit(
        lambda p, t: p["s"] * decay(p["q"], t),
        T,
        np.stack([Y, Y, Y]),
        {"s": 1.0, "q": np.stack([SHORT] * 3)},
        shared={"s": True},
    ),
    "jit": lambda: jax.jit(lambda y: lmjax.curve_fit(decay, T, y, SHORT).cost)(Y),
    "vmap": lambda: jax.vmap(lambda p: lmjax.curve_fit(decay, T, Y, p).cost)(
        np.stack([SHORT, SHORT])
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_start_that_is_too_short_is_refused(name):
    with pytest.raises(
        ValueError, match="params0: index 2 .*of length 2; give as many"
    ):
        CALLS[name]()
    # a second call meets no trace that was kept
    with pytest.raises(ValueError, match="params0: index 2"):
        CALLS[name]()


def test_columns_that_x_does_not_have_are_refused():
    model = lambda p, x: p[0] * x[0] + p[1] * x[2]
    with pytest.raises(ValueError, match=r"x: index 2 .* axis 0 of shape \(2, 12\)"):
        lmjax.curve_fit(model, np.stack([T, T**2]), Y, SHORT)


@pytest.mark.parametrize("kind", [np.array, jnp.array])
def test_a_table_of_indices_beyond_the_start_is_refused_outside_jit(kind):
    index = kind([0, 1, 2])
    with pytest.raises(ValueError, match="params0: index 2 is out of range"):
        lmjax.least_squares(lambda p: p[index] - 1.0, jnp.ones(2))
    model = lambda p, t: p[index].sum() * t
    with pytest.raises(ValueError, match="params0: index 2 is out of range"):
        lmjax.curve_fit(model, np.arange(5.0), np.arange(5.0), jnp.ones(2))
