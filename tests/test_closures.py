"""Functions as pytrees: what they hold are leaves, what they do is compared."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lmjax._jax.closures import as_pytree, hoisted


class Line(eqx.Module):
    """A model with an array, a number and a word."""

    slope: jax.Array
    offset: float
    unit: str = eqx.field(static=True)

    def __call__(self, x):
        return self.slope * x + self.offset


def make_line(slope, unit="m"):
    return as_pytree(Line(jnp.array(slope), 1.0, unit))


def count_traces(fn):
    """Return how often a jitted function of one callable is traced, and its results."""
    traces = []

    @jax.jit
    def call(callable_, x):
        traces.append(1)
        return callable_(x)

    return traces, [float(call(each, 3.0)) for each in fn]


def test_plain_function_has_no_leaves_and_is_itself_alone():
    double, other = (lambda x: 2.0 * x), (lambda x: 2.0 * x)
    assert jax.tree.leaves(as_pytree(double)) == []
    assert jax.tree.structure(as_pytree(double)) == jax.tree.structure(
        as_pytree(double)
    )
    assert jax.tree.structure(as_pytree(double)) != jax.tree.structure(as_pytree(other))
    traces, results = count_traces([as_pytree(double)] * 2 + [as_pytree(other)])
    assert results == [6.0, 6.0, 6.0]
    assert len(traces) == 2


def test_arrays_of_a_module_are_leaves_and_the_rest_is_not():
    line = make_line(2.0)
    assert [float(leaf) for leaf in jax.tree.leaves(line)] == [2.0]
    traces, results = count_traces([line, make_line(5.0), make_line(5.0, "mm")])
    assert results == [7.0, 16.0, 16.0]
    assert len(traces) == 2


def test_partial_of_jax_stays_as_it_is():
    given = jax.tree_util.Partial(lambda k, x: k * x, jnp.array(4.0))
    assert as_pytree(given) is given
    plain = as_pytree(partial(lambda k, x: k * x, 4.0))
    assert jax.tree.leaves(plain) == []
    assert plain(2.0) == 8.0


def test_what_a_function_closes_over_is_hoisted():
    def cost(scale):
        weights = scale * jnp.arange(3.0)
        fn = hoisted(lambda p: {"sum": jnp.sum(weights * p["x"])}, {"x": jnp.ones(3)})
        assert len(jax.tree.leaves(fn)) == len(fn.consts) > 0
        return fn({"x": jnp.array([1.0, 2.0, 3.0])})["sum"]

    assert float(cost(2.0)) == 16.0
    # derivatives and batches reach it
    assert float(jax.grad(cost)(2.0)) == 8.0
    np.testing.assert_allclose(jax.vmap(cost)(jnp.arange(3.0)), [0.0, 8.0, 16.0])


def test_hoisted_function_is_traced_once():
    traces = []

    def square(x):
        traces.append(1)
        return x**2

    fn = hoisted(square, jnp.zeros(2))
    np.testing.assert_array_equal(fn(jnp.array([2.0, 3.0])), [4.0, 9.0])
    again = jax.jit(lambda x: fn(x))(jnp.array([1.0, 5.0]))
    np.testing.assert_array_equal(again, [1.0, 25.0])
    assert len(traces) == 1
