"""Fits on manifolds: what they return, what a manifold must have, what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax.manifolds import SE3

SPACE = SE3()
RNG = np.random.default_rng(5)
TRUE = SPACE.exp(jnp.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]))
POINTS = RNG.normal(size=(9, 3))
SEEN = np.asarray(jax.vmap(lambda x: SPACE.apply(TRUE, x))(POINTS))
SEEN = 1.5 * SEEN + 0.01 * RNG.normal(size=SEEN.shape)
HERE = jnp.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
START = {"pose": HERE, "size": jnp.array(1.0)}
MANIFOLD = {"pose": SPACE}


def residual(p, seen=SEEN):
    return p["size"] * jax.vmap(lambda x: SPACE.apply(p["pose"], x))(POINTS) - seen


def fit(seen=SEEN, **options):
    return lmjax.least_squares(residual, START, (seen,), manifold=MANIFOLD, **options)


def textbook(sol, free=slice(None)):
    """Return s^2 (J^T J)^-1 by NumPy, J that of a step from the solution."""

    def moved(v):
        pose = SPACE.retract(sol.params["pose"], v[:6])
        return residual({"pose": pose, "size": sol.params["size"] + v[6]}).ravel()

    jac = np.asarray(jax.jacobian(moved)(jnp.zeros(7)))[:, free]
    return np.linalg.inv(jac.T @ jac) * 2 * sol.cost / (jac.shape[0] - jac.shape[1])


def test_errors_are_those_of_a_step():
    sol = fit()
    wanted = textbook(sol)
    np.testing.assert_allclose(sol.covariance, wanted, rtol=1e-6, atol=1e-12)
    assert sol.stderr["pose"].shape == (6,)
    assert sol.stderr["size"].shape == ()
    errors = np.append(sol.stderr["pose"], sol.stderr["size"])
    np.testing.assert_allclose(errors, np.sqrt(np.diag(wanted)), rtol=1e-6)
    assert int(sol.dof) == 27 - 7
    assert sol.param_status["pose"].shape == (7,)


def test_errors_beside_a_pose_that_is_held():
    sol = fit(fixed={"pose": True})
    assert int(sol.dof) == 27 - 1
    assert np.all(np.isnan(sol.stderr["pose"]))
    wanted = textbook(sol, slice(6, 7))
    np.testing.assert_allclose(sol.stderr["size"] ** 2, wanted[0, 0], rtol=1e-6)


def test_a_batch_has_the_errors_of_each():
    seen = jnp.stack([SEEN, SEEN + 0.02 * RNG.normal(size=SEEN.shape)])
    many = jax.vmap(fit)(seen)
    assert many.stderr["pose"].shape == (2, 6)
    for k in range(2):
        for name in START:
            np.testing.assert_allclose(
                many.stderr[name][k], fit(seen[k]).stderr[name], rtol=1e-6
            )


def test_records_hold_errors_of_plain_parameters_only():
    found = fit().to_dict()
    assert {"pose[6]", "size", "size_stderr"} <= set(found)
    assert not any(name.startswith("pose") and "stderr" in name for name in found)
    assert "size" in lmjax.table(fit())


class Direction(eqx.Module):
    """The circle with the least that a manifold needs: no size."""

    tangent_size: int = eqx.field(static=True, default=1)

    def retract(self, x, v):
        c, s = jnp.cos(v[0]), jnp.sin(v[0])
        return jnp.stack([c * x[0] - s * x[1], s * x[0] + c * x[1]])

    def local(self, x, y):
        cross, dot = x[0] * y[1] - x[1] * y[0], x[0] * y[0] + x[1] * y[1]
        return jnp.arctan2(cross, dot)[None]


class Plain:
    """A manifold in all but its class."""

    tangent_size = 1
    retract, local = Direction.retract, Direction.local


ANGLES = np.array([0.3, 1.4, -0.8])
TARGETS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
ALL_EAST = {"d": jnp.tile(jnp.array([1.0, 0.0]), (3, 1))}


def test_a_manifold_needs_no_size():
    dense = lmjax.least_squares(
        lambda p: p["d"] - TARGETS, ALL_EAST, manifold={"d": Direction()}
    )
    blocks = lmjax.ResidualBlocks(
        lambda p, y: p["d"] - y, {"d": np.arange(3)}, (TARGETS,)
    )
    sparse = lmjax.least_squares(blocks, ALL_EAST, manifold={"d": Direction()})
    for sol in (dense, sparse):
        assert bool(sol.success)
        np.testing.assert_allclose(sol.params["d"], TARGETS, atol=1e-7)


def test_one_pose_may_be_a_leaf_that_all_blocks_see():
    blocks = lmjax.ResidualBlocks(
        lambda p, point, seen: 1.5 * SPACE.apply(p["pose"], point) - seen,
        {"offset": np.arange(9)},
        (POINTS, SEEN),
    )
    start = {"pose": HERE, "offset": np.zeros((9, 1))}
    options = {"manifold": MANIFOLD, "fixed": {"offset": True}}
    sol = lmjax.least_squares(blocks, start, **options)
    held = fit(fixed={"size": True}, bounds=None)
    dense = lmjax.least_squares(
        lambda p: residual({"pose": p, "size": 1.5}), HERE, manifold=SPACE
    )
    np.testing.assert_allclose(sol.cost, dense.cost, rtol=1e-9)
    assert float(held.cost) > float(dense.cost)
    back = SPACE.local(dense.params, sol.params["pose"])
    np.testing.assert_allclose(back, np.zeros(6), atol=1e-6)


REFUSED = {
    "something else": (
        lambda: lmjax.least_squares(residual, START, manifold={"pose": 3}),
        "manifold.*'pose'.*such as SE3",
    ),
    "a step of derivatives": (
        lambda: fit(derivative=lmjax.OneStep()),
        "derivative: expected Implicit",
    ),
    "derivatives of steps": (
        lambda: fit(derivative=lmjax.Unrolled(2)),
        "derivative: expected Implicit",
    ),
    "linear parameters": (
        lambda: fit(linear={"size": True}),
        "linear: expected none together",
    ),
    "bounds of a pose": (
        lambda: fit(bounds=({"pose": 0.2}, None)),
        "bounds: expected none on a leaf with a manifold, got one on pose",
    ),
    "traced bounds of a pose": (
        lambda: jax.jit(lambda b: fit(bounds=({"pose": b}, None)))(0.2),
        "bounds: expected none",
    ),
    "bounds of poses in blocks": (
        lambda: lmjax.least_squares(
            lmjax.ResidualBlocks(
                lambda p, y: p["d"] - y, {"d": np.arange(3)}, (TARGETS,)
            ),
            ALL_EAST,
            manifold={"d": Direction()},
            bounds=(-0.5, 0.5),
        ),
        "bounds: expected none",
    ),
    "no pytree": (
        lambda: lmjax.least_squares(lambda p: p, jnp.ones(2), manifold=Plain()),
        "derived from equinox.Module",
    ),
    "another shape": (
        lambda: lmjax.least_squares(lambda p: p, jnp.ones(4), manifold=SPACE),
        "last axis of 7",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_bounds_beside_a_pose_hold():
    sol = fit(bounds=({"size": 0.1}, {"size": 1.2}))
    np.testing.assert_allclose(sol.params["size"], 1.2)
    assert sol.param_status["size"] == lmjax.ParamStatus.AT_UPPER
