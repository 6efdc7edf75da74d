"""Rare branches: one fit takes the one it needs, a batch computes it for few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax._jax.batched_cond import (
    BLOCK,
    batched_cond,
    indices_of,
    with_batched_implementation,
)

COUNT = 150  # more than two blocks of the rare branch
X = np.linspace(0.1, 2.0, COUNT)
SCALES = np.array([1.0, 2.0, 4.0])


def rare(operands):
    x, scales = operands
    return {"sum": jnp.sum(x * scales), "each": x * scales}


def usual(x):
    return {"sum": -x, "each": jnp.zeros(3)}


def choose(needed, x, scales=SCALES):
    return batched_cond(needed, rare, usual(x), (x, jnp.asarray(scales)))


def expected(needed):
    each = np.where(needed[:, None], X[:, None] * SCALES, 0.0)
    return {"sum": np.where(needed, 7.0 * X, -X), "each": each}


def assert_same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), got, wanted)


@pytest.mark.parametrize("needed", [True, False])
def test_one_fit_takes_one_branch(needed):
    got = jax.jit(choose)(needed, X[3])
    wanted = {"sum": 7.0 * X[3], "each": X[3] * SCALES}
    assert_same(got, wanted if needed else {"sum": -X[3], "each": np.zeros(3)})


NEEDED = {
    "none": np.zeros(COUNT, bool),
    "one": np.arange(COUNT) == 149,
    "some": np.arange(COUNT) % 7 == 3,
    "more than a block": np.arange(COUNT) > 40,
    "all": np.ones(COUNT, bool),
}


@pytest.fixture(scope="module")
def batch():
    return jax.jit(jax.vmap(choose, in_axes=(0, 0)))


@pytest.mark.parametrize("name", NEEDED)
def test_fits_of_a_batch_take_the_branch_that_each_needs(name, batch):
    assert_same(batch(NEEDED[name], X), expected(NEEDED[name]))


def test_rare_branch_is_for_those_that_need_it():
    """What the others hold never reaches it: a callback sees who came."""
    seen = []

    def look(x):
        seen.append(np.asarray(x))
        return x

    def watched(x):
        # one call per turn of the loop
        shape = jax.ShapeDtypeStruct((), X.dtype)
        return jax.pure_callback(look, shape, x, vmap_method="broadcast_all")

    fit = jax.jit(jax.vmap(lambda needed, x: batched_cond(needed, watched, -x, x)))
    needed = NEEDED["some"]
    np.testing.assert_array_equal(fit(needed, X), np.where(needed, X, -X))
    (turn,) = seen
    assert turn.shape == (BLOCK,)
    # the block is filled up with the last fit
    assert set(turn) == {*X[needed], X[-1]}
    seen.clear()
    fit(NEEDED["none"], X)
    assert seen == []


def test_what_all_fits_share_may_be_anything():
    every = jax.vmap(choose, in_axes=(None, 0))
    assert_same(every(jnp.array(True), X), expected(NEEDED["all"]))
    assert_same(every(jnp.array(False), X), expected(NEEDED["none"]))
    needed = NEEDED["some"]
    got = jax.vmap(choose, in_axes=(0, None))(needed, X[3])
    np.testing.assert_allclose(got["sum"], np.where(needed, 7.0, -1.0) * X[3])
    own = np.outer(X, SCALES)
    got = jax.vmap(choose)(needed, X, own)
    np.testing.assert_allclose(got["each"], own * np.where(needed, X, 0.0)[:, None])


def test_nested_batches_are_one():
    needed = NEEDED["some"].reshape(3, 50)
    got = jax.vmap(jax.vmap(choose))(needed, X.reshape(3, 50))
    flat = jax.tree.map(lambda a: np.asarray(a).reshape(COUNT, *a.shape[2:]), got)
    assert_same(flat, expected(NEEDED["some"]))


@pytest.mark.parametrize("size", [0, 1, 5, 12])
def test_indices_are_those_of_nonzero(size):
    for flags in (np.arange(9) % 4 == 1, np.zeros(9, bool), np.ones(9, bool)):
        got = indices_of(jnp.asarray(flags), size)
        wanted = jnp.nonzero(flags, size=size, fill_value=9)[0]
        np.testing.assert_array_equal(got, wanted)


def test_twin_serves_batches_and_nothing_else():
    fn = with_batched_implementation(lambda x, y: x + y, lambda x, y: x - y)
    assert fn(3.0, 1.0) == 4.0
    assert jax.jit(fn)(3.0, 1.0) == 4.0
    np.testing.assert_array_equal(jax.vmap(fn, (0, None))(X, 1.0), X - 1.0)
    np.testing.assert_array_equal(jax.vmap(fn)(X, X), np.zeros(COUNT))
