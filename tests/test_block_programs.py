"""Residual blocks as machine programs: what XLA computes, and when XLA is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax._engines.fused import engine
from lmjax._engines.fused.blocks import by_programs
from lmjax._fit.validate import resolve_manifold
from lmjax._jax import machine
from lmjax._problem import block_build
from lmjax.manifolds import SE2, SE3

pytestmark = pytest.mark.skipif(
    bool(machine.available()), reason=machine.available() or "there are programs"
)
RNG = np.random.default_rng(7)
POSES, EDGES = 12, 37


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def edges():
    """Pairs of different poses."""
    i = RNG.integers(0, POSES, EDGES)
    return np.stack([i, (i + RNG.integers(1, POSES, EDGES)) % POSES], axis=1)


def poses(pose, count):
    steps = RNG.normal(size=(count, pose.tangent_size))
    return np.asarray(jax.vmap(pose.exp)(steps))


def graph(pose):
    """A pose graph with a scale that all edges see, noise, and edges left out."""
    size = pose.tangent_size

    def residual(p, measured):
        i, j = p["poses"]
        return p["scale"] * pose.log(pose.between(measured, pose.between(i, j)))

    blocks = lmjax.ResidualBlocks(
        residual,
        {"poses": edges()},
        (poses(pose, EDGES),),
        sigma=RNG.uniform(0.5, 2.0, (EDGES, size)),
        mask=RNG.uniform(size=EDGES) > 0.2,
    )
    start = {"poses": poses(pose, POSES), "scale": 1.3}
    return blocks, start, {"poses": pose}


def problem_of(blocks, start, manifold, jac=None):
    prepared = block_build.prepare(
        [blocks], start, resolve_manifold(manifold, start, None), None, jac
    )
    return block_build.build(prepared, start, None, None)


@pytest.mark.parametrize("jac", ["fwd", "rev"])
@pytest.mark.parametrize("pose", [SE2(), SE3()], ids=["SE2", "SE3"])
def test_programs_compute_what_xla_does(pose, jac):
    def model(problem, p, step):
        r = problem.residual_fn(p)
        columns = problem.linearize(p, r, False).columns
        return r, *columns, problem.constraints.shifted(p, step)

    problem, p = problem_of(*graph(pose), jac)
    step = 0.3 * RNG.normal(size=problem.structure.size)
    both = jax.jit(
        lambda p: (model(problem, p, step), model(by_programs(problem), p, step))
    )
    assert both.lower(p).as_text().count("@lmjax_") == 3
    for expected, found in zip(*both(p), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def programs_in(residual):
    """Return how many functions of the blocks of a small fit are programs."""
    at = {"a": np.arange(EDGES) % 5}
    y = jnp.ones((EDGES, 2))

    def fit(y):
        blocks = lmjax.ResidualBlocks(residual, at, (y,))
        return lmjax.least_squares(blocks, {"a": jnp.ones((5, 2))}).cost

    made, on = set(), engine.Program.on

    def noted(program, *args):
        call = on(program, *args)  # raises where there is none
        if program.kernel.plan.name == "blocks":
            made.add(program.kernel.text([]))
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Program, "on", noted)
        jax.jit(fit).lower(y)
    return len(made)


def test_short_functions_are_programs():
    assert programs_in(lambda p, y: jnp.sin(p["a"]) - y) == 2


def test_long_functions_are_left_to_xla():
    wide = np.sin(np.arange(60.0 * 60.0)).reshape(60, 60)

    def residual(p, y):
        x = jnp.concatenate([p["a"]] * 30)
        for _ in range(6):
            x = jnp.tanh(wide @ x)
        return x[:2] - y

    assert programs_in(residual) == 0


def test_loops_are_left_to_xla():
    def residual(p, y):
        double = lambda x: (x[0] + 1, 2.0 * x[1])
        return jax.lax.while_loop(lambda x: x[0] < 3, double, (0, p["a"]))[1] - y

    assert programs_in(residual) == 0


def test_captured_tracers_are_left_to_xla():
    at, y = {"a": np.arange(EDGES) % 5}, RNG.normal(size=(EDGES, 2))

    @jax.jit
    def fit(scale):
        blocks = lmjax.ResidualBlocks(lambda p, y: scale * p["a"] - y, at, (y,))
        return lmjax.least_squares(blocks, {"a": np.ones((5, 2))}).params["a"]

    mean = np.stack([y[at["a"] == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(fit(2.0), mean / 2.0, rtol=1e-6)


def test_the_start_and_its_cost_are_those_of_the_problem():
    blocks, start, manifold = graph(SE3())
    held = {"poses": np.arange(POSES)[:, None] < 2, "scale": True}
    sol = lmjax.least_squares(blocks, start, manifold=manifold, fixed=held)
    problem, p = problem_of(blocks, start, manifold)
    cost = jnp.sum(problem.half_terms(problem.residual_fn(p)))
    np.testing.assert_allclose(sol.initial_cost, cost, rtol=1e-12)
    np.testing.assert_allclose(sol.params["poses"][:2], start["poses"][:2], rtol=1e-14)
    fits = jax.vmap(
        lambda x: (
            lmjax.least_squares(
                blocks, {**start, "poses": x}, manifold=manifold, fixed=held
            ).initial_cost
        )
    )(np.stack([start["poses"]] * 2))
    np.testing.assert_allclose(fits, cost, rtol=1e-12)
