"""Sums written out as additions equal those of NumPy, in whatever number of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax._sums import dot_points, sum_points

# around the eighths that long sums are folded into, and eighths of eighths
COUNTS = [1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 71, 200]
A, B = np.random.default_rng(1).normal(size=(2, max(COUNTS), 3))


@pytest.fixture(scope="module")
def found():
    """Return both sums for every number of points, compiled as one."""

    @jax.jit
    def both(a, b):
        return {m: (sum_points(a[:m]), dot_points(a[:m], b[:m])) for m in COUNTS}

    return both(A, B)


@pytest.mark.parametrize("m", COUNTS)
def test_every_point_counts_once(m, found):
    total, product = found[m]
    np.testing.assert_allclose(total, A[:m].sum(axis=0), rtol=1e-13, atol=1e-14)
    expected = (A[:m] * B[:m]).sum(axis=0)
    np.testing.assert_allclose(product, expected, rtol=1e-13, atol=1e-14)


def test_sums_are_additions_alone():
    """A `reduce` would be handed to a library kernel."""
    jaxpr = jax.make_jaxpr(lambda a: (sum_points(a), dot_points(a, a)))(A).jaxpr
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    assert names <= {"slice", "squeeze", "add", "mul"}
    # folded before multiplied: a multiplication of an eighth, not one per point
    assert len(jaxpr.eqns) < 100


def test_long_sums_round_less_than_one_addition_after_the_other():
    rows = np.random.default_rng(2).uniform(size=(4096, 50)).astype(np.float32)
    exact = rows.astype(float).sum(axis=0)
    worst = lambda got: np.abs(np.asarray(got, float) - exact).max()
    in_order = np.add.accumulate(rows, axis=0)[-1]
    assert worst(jax.jit(sum_points)(rows)) < 0.2 * worst(in_order)


def test_sums_of_one_fit_have_no_axis_of_fits():
    assert sum_points(jnp.arange(20.0)) == 190.0
    assert dot_points(jnp.arange(20.0), jnp.ones(20)) == 190.0
