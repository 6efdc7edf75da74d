"""Keys of jaxprs: equal for equal programs, different where anything differs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmjax._jax.jaxpr_key import ByIdentity, is_data, jaxpr_key

X = jnp.linspace(0.0, 1.0, 6).reshape(2, 3)
TABLE = jnp.linspace(0.0, 1.0, 3)
ROW = TABLE[None]


def key(fn, *args, data=lambda atom: False):
    return jaxpr_key(jax.make_jaxpr(lambda *args: fn(*args))(*args).jaxpr, data)


@jax.custom_jvp
def squared(x):
    """A function with a rule of its own."""
    return x * x


squared.defjvp(lambda x, dx: (squared(x[0]), 2.0 * x[0] * dx[0]))


@jax.custom_vjp
def cubed(x):
    """A function with a reverse rule of its own."""
    return x * x * x


cubed.defvjp(lambda x: (cubed(x), x), lambda x, g: (3.0 * x * x * g,))


def doubled_forward(factor):
    @jax.custom_jvp
    def same(x):
        return 2.0 * x

    same.defjvp(lambda x, dx: (same(x[0]), factor * dx[0]))
    return same


SAME = {
    "arithmetic": lambda x: x * jnp.exp(-x) + 2.0,
    "where": lambda x: jnp.where(x > 0.5, x, 0.0),
    "interp": lambda x: jnp.interp(x, TABLE, TABLE),
    "custom_jvp of jax": lambda x: jax.nn.relu(x) + jnp.logaddexp(x, 1.0),
    "custom_jvp": lambda x: squared(x),
    "custom_vjp": lambda x: cubed(x),
    "scan": lambda x: lax.scan(lambda c, a: (c + a, c), jnp.zeros(3), x)[1],
    "cond": lambda x: lax.cond(x[0, 0] > 0.0, jnp.sin, jnp.cos, x),
    "while": lambda x: lax.while_loop(lambda c: c[0, 0] < 3.0, lambda c: c + 1.0, x),
    "solve": lambda x: jnp.linalg.solve(jnp.eye(2) + x @ x.T, x),
}


@pytest.mark.parametrize("fn", SAME.values(), ids=SAME.keys())
def test_two_traces_of_one_function_are_equal(fn):
    first, second = key(fn, X), key(fn, X)
    assert first == second
    assert hash(first) == hash(second)


def loop(body):
    return lambda x: lax.scan(body, jnp.zeros(3), x)[1]


SIBLINGS = {
    "a literal": (lambda x: x * 2.0, lambda x: x * 3.0),
    "the sign of zero": (lambda x: x * 0.0, lambda x: x * -0.0),
    "an integer": (lambda x: x**2, lambda x: x**3),
    "an axis": (lambda x: x.sum(0, keepdims=True), lambda x: x.sum(1, keepdims=True)),
    "a direction": (lambda x: jnp.cumsum(x, 0), lambda x: lax.cumsum(x, 0, True)),
    "a primitive": (jnp.sin, jnp.cos),
    "order of operands": (lambda x: x - ROW, lambda x: ROW - x),
    "which operand": (lambda x: (x + 1) * x, lambda x: (x + 1) * (x + 1)),
    "which result": (lambda x: (x, x + 1.0), lambda x: (x + 1.0, x)),
    "dtype inside": (
        lambda x: x.astype(jnp.float32).astype(float),
        lambda x: x.astype(jnp.float16).astype(float),
    ),
    "a literal of a loop": (
        loop(lambda c, a: (c + a, 2.0 * c)),
        loop(lambda c, a: (c + a, 3.0 * c)),
    ),
    "a literal of a jitted function": (
        lambda x: jax.jit(lambda x: x + 2.0)(x),
        lambda x: jax.jit(lambda x: x + 3.0)(x),
    ),
    "a branch": (
        lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
        lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.tan, x),
    ),
    "order of branches": (
        lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
        lambda x: lax.cond(x[0, 0] > 0, jnp.cos, jnp.sin, x),
    ),
    "precision": (
        lambda x: jnp.dot(x, x.T, precision="highest"),
        lambda x: jnp.dot(x, x.T, precision="default"),
    ),
    "a rule for derivatives": (doubled_forward(2.0), doubled_forward(3.0)),
    "a callback": (
        lambda x: jax.pure_callback(np.sin, X, x),
        lambda x: jax.pure_callback(np.cos, X, x),
    ),
}


@pytest.mark.parametrize("pair", SIBLINGS.values(), ids=SIBLINGS.keys())
def test_siblings_differ(pair):
    first, second = (key(fn, X) for fn in pair)
    assert first != second


def test_arguments_differ_by_shape_dtype_and_weak_type():
    double = lambda x: 2.0 * x
    keys = [key(double, x) for x in (X, X[:1], X.astype(jnp.float32), 1.0, X[0, 0])]
    assert len(set(keys)) == len(keys)


def test_numbers_that_are_data_do_not_count_but_their_dtype_does():
    by = lambda factor: key(lambda x: x * factor, X, data=is_data)
    assert by(2.0) == by(3.0)
    power = lambda n: key(lambda x: x**n, X, data=is_data)
    assert power(2) != power(3)
    inner = lambda factor: key(
        lambda x: jax.jit(lambda x: x * factor)(x), X, data=is_data
    )
    assert inner(2.0) != inner(3.0)  # only in the outermost equations


def test_a_closed_over_array_counts_by_shape():
    table = lambda values: key(lambda x: x + jnp.asarray(values), X)
    assert table(np.arange(6.0).reshape(2, 3)) == table(np.ones((2, 3)))
    assert table(np.arange(6.0).reshape(2, 3)) != table(np.ones((1, 3)))


def test_an_object_that_stands_for_itself_is_held():
    one, other = [1], [1]
    assert ByIdentity(one) == ByIdentity(one)
    assert ByIdentity(one) != ByIdentity(other)
    assert len({ByIdentity(one), ByIdentity(one), ByIdentity(other)}) == 2


def test_partial_in_a_rule_counts_with_its_arguments():
    def scaled(k):
        fn = jax.custom_jvp(lambda x: 2.0 * x)
        fn.defjvp(partial(lambda k, x, dx: (2.0 * x[0], k * dx[0]), k))
        return fn

    assert key(scaled(2.0), X) != key(scaled(3.0), X)
