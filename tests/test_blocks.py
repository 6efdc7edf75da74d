"""`ResidualBlocks`: what is solved, what is refused, and what a solution says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax.manifolds import SE2

RNG = np.random.default_rng(3)
CAMERAS, POINTS = 5, 30
VIEWS = [a.ravel() for a in np.meshgrid(range(CAMERAS), range(POINTS))]


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def project(camera, point):
    """A camera that looks along z, its rotation small: angle y, place, focal length."""
    c, s = jnp.cos(camera[0]), jnp.sin(camera[0])
    x, y, z = point
    turned = jnp.stack([c * x + s * z, y, c * z - s * x]) + camera[1:4]
    return camera[4] * turned[:2] / turned[2]


def reprojection(p, pixel):
    return project(p["cameras"], p["points"]) - pixel


def scene(noise=0.3):
    """Cameras on an arc, points in a box: the truth, and what the cameras see."""
    angles = np.linspace(-0.4, 0.4, CAMERAS)
    places = np.stack([0.5 * angles, 0 * angles, 6.0 + angles**2], axis=1)
    cameras = np.column_stack([angles, places, np.full(CAMERAS, 300.0)])
    points = RNG.uniform(-1.0, 1.0, (POINTS, 3))
    seen = jax.vmap(project)(cameras[VIEWS[0]], points[VIEWS[1]])
    pixels = np.asarray(seen) + noise * RNG.normal(size=seen.shape)
    start = {
        "cameras": cameras + 0.01 * RNG.normal(size=cameras.shape),
        "points": points + 0.05 * RNG.normal(size=points.shape),
    }
    return pixels, start


PIXELS, START = None, None
HELD = np.zeros((CAMERAS, 5), bool)
HELD[0], HELD[1, 1], HELD[:, 4] = True, True, True
FIXED = {"cameras": HELD}


@pytest.fixture(scope="module", autouse=True)
def _scene():
    global PIXELS, START
    with jax.enable_x64(True):
        PIXELS, START = scene()


def views(pixels=None, rows=VIEWS, **options):
    pixels = PIXELS if pixels is None else pixels
    at = {"cameras": rows[0], "points": rows[1]}
    return lmjax.ResidualBlocks(reprojection, at, (pixels,), **options)


def whole(p):
    """The same residual for a dense fit."""
    seen = jax.vmap(project)(p["cameras"][VIEWS[0]], p["points"][VIEWS[1]])
    return seen - PIXELS


def test_a_scene_is_that_of_a_dense_fit():
    sol = lmjax.least_squares(views(), START, fixed=FIXED)
    dense = lmjax.least_squares(whole, START, fixed=FIXED)
    assert sol.success
    np.testing.assert_allclose(sol.cost, dense.cost, rtol=1e-9)
    np.testing.assert_allclose(sol.params["points"], dense.params["points"], atol=1e-5)
    assert sol.residual.shape == PIXELS.shape
    np.testing.assert_allclose(sol.residual, whole(sol.params), atol=1e-12)
    held = np.asarray(sol.params["cameras"])[HELD]
    np.testing.assert_array_equal(held, START["cameras"][HELD])
    text = sol.report()
    for part in ("eliminated points", "used Schur", "150 blocks of 2", "FTOL"):
        assert part in text


def test_the_world_may_float():
    sol = lmjax.least_squares(views(), START)
    assert sol.success
    found = lmjax.block_covariance(views(), sol, {"points": [2]})
    # this camera turns about one axis only: three moves, a turn, and the size
    assert found.open_directions == 5
    assert np.all(np.linalg.eigvalsh(found.blocks["points"][0]) > 0.0)


def test_covariance_is_that_of_the_whole_jacobian():
    sol = lmjax.least_squares(views(), START, fixed=FIXED)
    rows = {"cameras": [0, 4], "points": [7]}
    found = lmjax.block_covariance(views(), sol, rows)
    assert found.open_directions == 0
    jac = jax.jacfwd(whole)(sol.params)
    size = PIXELS.size
    jac = np.hstack([np.asarray(jac[k]).reshape(size, -1) for k in sorted(jac)])
    free = ~np.concatenate([HELD.ravel(), np.zeros(3 * POINTS, bool)])
    inverse = np.zeros((free.size, free.size))
    inverse[np.ix_(free, free)] = np.linalg.inv(jac[:, free].T @ jac[:, free])
    inverse *= 2.0 * float(sol.cost) / (size - free.sum())
    for name, k, start in (("cameras", 0, 0), ("cameras", 1, 20), ("points", 0, 46)):
        block = np.asarray(found.blocks[name][k])
        at = slice(start, start + len(block))
        np.testing.assert_allclose(block, inverse[at, at], rtol=1e-8, atol=1e-18)


def test_outliers_are_bounded_by_a_loss_of_whole_blocks():
    pixels = PIXELS.copy()
    pixels[::17] += 40.0
    sol = lmjax.least_squares(
        views(pixels, loss="cauchy", loss_scale=1.0), START, fixed=FIXED
    )
    assert sol.success
    z = np.sum(np.asarray(sol.residual) ** 2, axis=1)
    np.testing.assert_allclose(sol.cost, 0.5 * np.sum(np.log1p(z)), rtol=1e-12)
    good = lmjax.least_squares(views(), START, fixed=FIXED)
    error = np.abs(sol.params["points"] - good.params["points"])
    assert np.median(error) < 0.01


def test_masked_blocks_may_hold_nan():
    pixels, mask = PIXELS.copy(), np.ones(len(PIXELS), bool)
    mask[::11] = False
    pixels[~mask] = np.nan
    sol = lmjax.least_squares(views(pixels, mask=mask), START, fixed=FIXED)
    kept = [v[mask] for v in VIEWS]
    other = lmjax.least_squares(views(PIXELS[mask], kept), START, fixed=FIXED)
    np.testing.assert_allclose(sol.cost, other.cost, rtol=1e-10)
    assert np.all(np.asarray(sol.residual)[~mask] == 0.0)


@pytest.mark.slow
def test_sigma_scales_each_residual():
    sigma = RNG.uniform(0.5, 2.0, PIXELS.shape)
    sol = lmjax.least_squares(views(sigma=sigma), START, fixed=FIXED)
    residual = np.asarray(whole(sol.params)) / sigma
    np.testing.assert_allclose(sol.cost, 0.5 * np.sum(residual**2), rtol=1e-10)
    alike = lmjax.least_squares(views(sigma=np.full(len(PIXELS), 2.0)), START)
    plain = lmjax.least_squares(views(), START)
    np.testing.assert_allclose(4.0 * alike.cost, plain.cost, rtol=1e-8)


def test_bounds_hold():
    lower = {"points": START["points"] - 0.01}
    upper = {"points": START["points"] + 0.01}
    sol = lmjax.least_squares(views(), START, bounds=(lower, upper), fixed=FIXED)
    points = np.asarray(sol.params["points"])
    assert np.all(points >= lower["points"])
    assert np.all(points <= upper["points"])
    dense = lmjax.least_squares(whole, START, bounds=(lower, upper), fixed=FIXED)
    np.testing.assert_allclose(sol.cost, dense.cost, rtol=1e-5)


def test_hypergradients_are_exact():
    tight = lmjax.LevenbergMarquardt(ftol=1e-15)

    def goal(weights):
        fn = lambda p, pixel, w: w * reprojection(p, pixel)
        at = {"cameras": VIEWS[0], "points": VIEWS[1]}
        blocks = lmjax.ResidualBlocks(fn, at, (PIXELS, weights), loss="cauchy")
        sol = lmjax.least_squares(blocks, START, fixed=FIXED, solver=tight)
        return jnp.sum(sol.params["points"] ** 2)

    weights, step = jnp.ones(len(PIXELS)), 1e-4
    gradient = jax.grad(goal)(weights)
    for k in (0, 31, 149):
        ahead = goal(weights.at[k].add(step))
        behind = goal(weights.at[k].add(-step))
        difference = (ahead - behind) / (2 * step)
        assert abs(gradient[k] - difference) < 1e-6 * jnp.max(jnp.abs(gradient))
    along = jnp.asarray(RNG.normal(size=weights.shape))
    forward = jax.jvp(goal, (weights,), (along,))[1]
    np.testing.assert_allclose(forward, jnp.vdot(gradient, along), rtol=1e-7)


@pytest.mark.slow
def test_hypergradients_in_float32_come_close():
    def goal(weights, dtype):
        cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)
        fn = lambda p, pixel, w: w * reprojection(p, pixel)
        at = {"cameras": VIEWS[0], "points": VIEWS[1]}
        blocks = lmjax.ResidualBlocks(fn, at, (cast(PIXELS), weights))
        sol = lmjax.least_squares(blocks, cast(START), fixed=FIXED)
        return jnp.sum(sol.params["points"] ** 2)

    single, double = (
        jax.grad(goal)(jnp.ones(len(PIXELS), dtype), dtype)
        for dtype in (jnp.float32, jnp.float64)
    )
    assert single.dtype == jnp.float32
    error = np.linalg.norm(np.asarray(single) - np.asarray(double)) / np.linalg.norm(
        double
    )
    assert error < 1e-2


def test_a_batch_is_each_fit_alone():
    shifts = 0.1 * RNG.normal(size=(3, *PIXELS.shape))
    fit = lambda pixels: lmjax.least_squares(views(pixels), START, fixed=FIXED).cost
    batch = jax.jit(jax.vmap(fit))(PIXELS + shifts)
    for cost, shift in zip(batch, shifts, strict=True):
        np.testing.assert_allclose(cost, fit(PIXELS + shift), rtol=1e-8)


def test_float32_comes_close():
    single = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
    sol = lmjax.least_squares(views(single(PIXELS)), single(START), fixed=FIXED)
    double = lmjax.least_squares(views(), START, fixed=FIXED)
    assert sol.cost.dtype == jnp.float32
    assert sol.success
    np.testing.assert_allclose(sol.cost, double.cost, rtol=1e-4)


def test_what_no_block_sees_stays_where_it_is():
    lonely = jax.tree.map(lambda x: np.vstack([x, x[:1]]), START)
    sol = lmjax.least_squares(views(), lonely)
    assert sol.success
    for name in ("cameras", "points"):
        np.testing.assert_array_equal(sol.params[name][-1], lonely[name][-1])
    assert np.all(sol.param_status["points"][-1] == lmjax.ParamStatus.IDLE)
    assert "1 no effect" in sol.report()


@pytest.mark.slow
def test_a_point_seen_once_fits_its_ray():
    start = {**START, "points": np.vstack([START["points"], [[0.1, 0.2, 0.3]]])}
    rows = [np.append(v, last) for v, last in zip(VIEWS, (0, POINTS), strict=True)]
    pixels = np.vstack([PIXELS, [[12.0, -7.0]]])
    sol = lmjax.least_squares(views(pixels, rows), start, fixed=FIXED)
    plain = lmjax.least_squares(views(), START, fixed=FIXED)
    assert sol.success
    np.testing.assert_allclose(sol.cost, plain.cost, rtol=1e-7)
    assert np.all(np.isfinite(sol.params["points"]))


@pytest.mark.slow
def test_observations_given_twice_count_twice():
    rows = [np.concatenate([v, v]) for v in VIEWS]
    twice = lmjax.least_squares(views(np.vstack([PIXELS] * 2), rows), START)
    once = lmjax.least_squares(views(), START)
    np.testing.assert_allclose(twice.cost, 2.0 * once.cost, rtol=1e-8)


def odometry(p, measured):
    first, second = p["poses"]
    return SE2().log(SE2().between(measured, SE2().between(first, second)))


def loop_of_poses(count=12):
    """Poses around a circle, each measured from the one before, and the loop closed."""
    turn = 2.0 * np.pi / count
    true = np.array(
        [[np.sin(turn * k), 1 - np.cos(turn * k), turn * k] for k in range(count)]
    )
    ends = np.stack([np.arange(count), (np.arange(count) + 1) % count], axis=1)
    measured = jax.vmap(SE2().between)(true[ends[:, 0]], true[ends[:, 1]])
    start = true + 0.2 * RNG.normal(size=true.shape)
    start[0] = true[0]
    return true, ends, np.asarray(measured), start


def test_poses_close_their_loop():
    true, ends, measured, start = loop_of_poses()
    blocks = lmjax.ResidualBlocks(odometry, {"poses": ends}, (measured,))
    first = np.arange(len(true))[:, None] == 0
    sol = lmjax.least_squares(
        blocks, {"poses": start}, manifold={"poses": SE2()}, fixed={"poses": first}
    )
    assert sol.success
    assert sol.summary.method == "SparseCholesky"
    apart = jax.vmap(SE2().local)(true, sol.params["poses"])
    assert np.max(np.abs(apart)) < 1e-6


def test_parts_of_a_graph_that_do_not_meet_are_solved_both():
    true, ends, measured, start = loop_of_poses()
    blocks = lmjax.ResidualBlocks(
        odometry, {"poses": np.vstack([ends, ends + 12])}, (np.vstack([measured] * 2),)
    )
    both = {"poses": np.vstack([start, start + [5.0, 0.0, 0.0]])}
    sol = lmjax.least_squares(blocks, both, manifold={"poses": SE2()})
    assert sol.success
    assert sol.cost < 1e-12


@pytest.mark.slow
def test_history_and_a_solver_of_ones_own_choice():
    solver = lmjax.LevenbergMarquardt(
        linear_solver=lmjax.BlockCG(), record_history=True, max_steps=50
    )
    sol = lmjax.least_squares(views(), START, fixed=FIXED, solver=solver)
    assert sol.history.params["points"].shape == (50, POINTS, 3)
    costs = np.asarray(sol.history.cost)[np.asarray(sol.history.accepted)]
    assert np.all(np.diff(costs) < 1e-9 * costs[0])
    assert "asked for BlockCG, used BlockCG" in sol.report()


def two_of_one(p, pixel):
    return jnp.sum(p["cameras"][0] - p["cameras"][1])


REFUSED = {
    "a row too many": (
        lambda: lmjax.least_squares(
            views(rows=[VIEWS[0], np.where(VIEWS[1] == 3, POINTS, VIEWS[1])]), START
        ),
        "points'].*from 0 to 29, got 30 in block 15",
    ),
    "a row below zero": (
        lambda: lmjax.least_squares(views(rows=[VIEWS[0] - 1, VIEWS[1]]), START),
        "cameras'].*got -1 in block 0",
    ),
    "a leaf that is not there": (
        lambda: lmjax.least_squares(
            lmjax.ResidualBlocks(reprojection, {"camera": VIEWS[0]}), START
        ),
        "no parameter is called 'camera'",
    ),
    "rows of unequal number": (
        lambda: views(rows=[VIEWS[0][:-1], VIEWS[1]]),
        "at\\['points'\\]: expected a first axis of 149",
    ),
    "data of another number": (
        lambda: views(PIXELS[:-1]),
        "args\\[0\\]: expected a first axis of 150",
    ),
    "no rows": (lambda: lmjax.ResidualBlocks(reprojection, {}), "at: expected rows"),
    "a loss that is not there": (lambda: views(loss="huge"), "loss: expected one of"),
    "a sigma that does not fit": (
        lambda: lmjax.least_squares(views(sigma=np.ones(7)), START),
        "sigma: expected a shape",
    ),
    "a linear solver for matrices": (
        lambda: lmjax.least_squares(
            views(), START, solver=lmjax.LevenbergMarquardt(linear_solver=lmjax.QR())
        ),
        "expected linear_solver=Schur",
    ),
    "a leaf that cannot be eliminated": (
        lambda: lmjax.least_squares(
            [
                views(),
                lmjax.ResidualBlocks(two_of_one, {"cameras": [[0, 1]]}, (PIXELS[:1],)),
            ],
            START,
            solver=lmjax.LevenbergMarquardt(linear_solver=lmjax.Schur("cameras")),
        ),
        "two of its rows; possible are points",
    ),
    "arguments beside the blocks": (
        lambda: lmjax.least_squares(views(), START, (PIXELS,)),
        "args: expected none with ResidualBlocks",
    ),
    "a loss beside the blocks": (
        lambda: lmjax.least_squares(views(), START, loss="huber"),
        "loss: expected none with ResidualBlocks",
    ),
    "derivatives of steps": (
        lambda: lmjax.least_squares(views(), START, derivative=lmjax.OneStep()),
        "expected Implicit",
    ),
    "no element of the manifold": (
        lambda: lmjax.least_squares(views(), START, manifold={"cameras": SE2()}),
        "last axis of 3",
    ),
    "a function for J": (
        lambda: lmjax.least_squares(
            views(), START, solver=lmjax.LevenbergMarquardt(jac=jax.jacfwd(whole))
        ),
        "solver: expected jac='fwd', 'rev' or None",
    ),
    "a sparse solver for one matrix": (
        lambda: lmjax.least_squares(
            whole,
            START,
            solver=lmjax.LevenbergMarquardt(linear_solver=lmjax.SparseCholesky()),
        ),
        "got SparseCholesky, which is for lmjax.ResidualBlocks",
    ),
    "a solver of blocks for one matrix": (
        lambda: lmjax.least_squares(
            whole, START, solver=lmjax.LevenbergMarquardt(linear_solver=lmjax.BlockCG())
        ),
        "got BlockCG, which is for lmjax.ResidualBlocks",
    ),
    "a solver of blocks for curves": (
        lambda: lmjax.global_fit(
            lambda p, x: p["a"] + p["b"] * x,
            jnp.arange(3.0),
            jnp.ones((2, 3)),
            {"a": 0.0, "b": 0.0},
            shared={"b": True},
            solver=lmjax.LevenbergMarquardt(linear_solver=lmjax.BlockCG()),
        ),
        "expected linear_solver=Schur",
    ),
    "complex residuals": (
        lambda: lmjax.least_squares(
            lmjax.ResidualBlocks(
                lambda p: jax.lax.complex(p["x"], p["x"]), {"x": np.arange(5)}
            ),
            {"x": np.ones(5)},
        ),
        "fn: expected real residuals, got complex128",
    ),
    "rows of no leaf": (
        lambda: lmjax.block_covariance(
            views(), lmjax.least_squares(views(), START), {"lines": [0]}
        ),
        "rows: expected names among cameras, points",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_rows_are_integers():
    with pytest.raises(TypeError, match="at\\['cameras'\\]: expected integers"):
        views(rows=[1.0 * VIEWS[0], VIEWS[1]])


def test_a_start_that_is_not_finite_says_so():
    bad = {
        **START,
        "points": np.where(np.arange(POINTS)[:, None] == 2, np.nan, START["points"]),
    }
    sol = lmjax.least_squares(views(), bad)
    assert sol.status == lmjax.Status.NONFINITE_START
    assert "points[2, 0]" in sol.report()


def test_columns_in_float32_reach_the_same_minimum():
    held = lmjax.LevenbergMarquardt(linear_solver=lmjax.Schur(store="float32"))
    sol = lmjax.least_squares(views(), START, fixed=FIXED, solver=held)
    double = lmjax.least_squares(views(), START, fixed=FIXED)
    assert sol.success
    assert sol.cost.dtype == jnp.float64
    np.testing.assert_allclose(sol.cost, double.cost, rtol=1e-9)
    points = double.params["points"]
    np.testing.assert_allclose(sol.params["points"], points, atol=1e-5)


@pytest.mark.slow
def test_geodesic_steps_reach_the_minimum():
    solver = lmjax.LevenbergMarquardt(geodesic=True)
    sol = lmjax.least_squares(views(), START, fixed=FIXED, solver=solver)
    plain = lmjax.least_squares(views(), START, fixed=FIXED)
    assert sol.success
    np.testing.assert_allclose(sol.cost, plain.cost, rtol=1e-8)


def test_leaves_by_name():
    sol = lmjax.least_squares(views(), START)
    found = sol.to_dict()
    assert found["points"].shape == (POINTS, 3)
    assert found["cost"] < found["initial_cost"]
    with pytest.raises(TypeError, match="make no table"):
        sol.to_pandas()


@pytest.mark.slow
def test_a_fit_that_creeps_is_no_success():
    # a camera that starts inside the scene; the fit falls slowly without end
    inside = jax.tree.map(np.copy, START)
    inside["cameras"][0, 3] = 0.0
    solver = lmjax.LevenbergMarquardt(max_steps=3000)
    sol = lmjax.least_squares(views(), inside, solver=solver)
    again = lmjax.least_squares(views(), sol.params, solver=solver)
    assert not sol.success or again.cost > (1.0 - 1e-6) * sol.cost


def prior(**options):
    """Blocks that see points alone, of which the elimination leaves nothing."""
    return lmjax.ResidualBlocks(
        lambda p, x: 0.5 * (p["points"] - x),
        {"points": np.arange(POINTS)},
        (START["points"] + 0.01,),
        **options,
    )


@pytest.mark.one_of(3)
@pytest.mark.parametrize(
    "linear_solver",
    [
        None,
        lmjax.Schur(eliminate="points", dense=True),
        lmjax.Schur(eliminate="points", dense=False),
        lmjax.SparseCholesky(),
        lmjax.BlockCG(),
    ],
    ids=repr,
)
def test_blocks_may_see_nothing_but_what_is_eliminated(linear_solver):
    solver = lmjax.LevenbergMarquardt(linear_solver=linear_solver, ftol=1e-12)
    every = [views(), prior()]
    sol = lmjax.least_squares(every, START, fixed=FIXED, solver=solver)
    both = lambda p: (whole(p), 0.5 * (p["points"] - START["points"] - 0.01))
    dense = lmjax.least_squares(both, START, fixed=FIXED)
    assert bool(sol.success)
    np.testing.assert_allclose(sol.cost, dense.cost, rtol=1e-9)


def test_a_batch_of_such_blocks():
    starts = jnp.stack([START["points"] + 0.01, START["points"] - 0.02])

    def one(x):
        given = lmjax.ResidualBlocks(prior().fn, prior().at, (x,))
        return lmjax.least_squares([views(), given], START, fixed=FIXED).cost

    np.testing.assert_allclose(
        jax.vmap(one)(starts), [one(x) for x in starts], rtol=1e-7
    )


def test_a_start_in_float32_does_not_narrow_the_data():
    narrow = jax.tree.map(np.float32, START)
    with jax.numpy_dtype_promotion("standard"):  # the residual mixes both itself
        sol = lmjax.least_squares(views(), narrow, fixed=FIXED)
    assert sol.cost.dtype == sol.params["points"].dtype == np.float64
    wide = lmjax.least_squares(views(), START, fixed=FIXED)
    # the cameras that are held keep their rounded start: the cost is close, not equal
    np.testing.assert_allclose(sol.cost, wide.cost, rtol=1e-4)


@pytest.mark.parametrize("jac", ["fwd", "rev"])
def test_the_mode_of_j_may_be_chosen(jac):
    solver = lmjax.LevenbergMarquardt(jac=jac)
    sol = lmjax.least_squares(views(), START, fixed=FIXED, solver=solver)
    wanted = lmjax.least_squares(views(), START, fixed=FIXED)
    np.testing.assert_allclose(sol.cost, wanted.cost, rtol=1e-12)


def test_the_mode_of_j_is_the_one_that_was_chosen():
    @jax.custom_vjp
    def forward_fails(x):
        return 2.0 * x

    forward_fails.defvjp(lambda x: (2.0 * x, None), lambda _, g: (2.0 * g,))
    blocks = lmjax.ResidualBlocks(
        lambda p, y: forward_fails(p["x"]) - y, {"x": np.arange(4)}, (np.ones((4, 1)),)
    )
    start = {"x": np.zeros((4, 1))}
    for jac in ("rev", None):  # None sees that forward mode is not possible
        solver = lmjax.LevenbergMarquardt(jac=jac)
        sol = lmjax.least_squares(blocks, start, solver=solver)
        np.testing.assert_allclose(sol.params["x"], 0.5)
    with pytest.raises(TypeError, match="forward-mode"):
        lmjax.least_squares(blocks, start, solver=lmjax.LevenbergMarquardt(jac="fwd"))


def test_a_table_of_solutions_has_their_outcome():
    sol = lmjax.least_squares(views(), START, fixed=FIXED)
    lines = lmjax.table({"scene": sol}).splitlines()
    assert lines[0].split() == ["fit", "status", "steps", "cost"]
    assert lines[1].split()[0] == "scene"


def means(y, mask=None):
    """Means of rows of y, whose covariance is known: s^2 over the number of values."""
    at = {"x": np.repeat(np.arange(len(y)), len(y[0]))}
    return lmjax.ResidualBlocks(lambda p, y: p["x"] - y, at, (y.ravel(),), mask=mask)


THREE = np.arange(12.0).reshape(3, 4) ** 1.5


@pytest.mark.parametrize("held", [1, 2])
def test_covariance_beside_rows_that_are_fixed(held):
    fixed = {"x": np.arange(3) < held}
    sol = lmjax.least_squares(means(THREE), {"x": np.zeros(3)}, fixed=fixed)
    found = lmjax.block_covariance(means(THREE), sol, {"x": [0, 1, 2]})
    assert found.open_directions == 0
    assert found.dof == 12 - (3 - held)
    variance = 2 * sol.cost / found.dof / 4
    expected = np.where(fixed["x"], 0.0, variance)
    np.testing.assert_allclose(found.blocks["x"].ravel(), expected, atol=1e-12)


def test_covariance_beside_a_row_that_no_block_sees():
    blocks = means(THREE[:2])
    sol = lmjax.least_squares(blocks, {"x": np.zeros(3)})
    found = lmjax.block_covariance(blocks, sol, {"x": [0, 1]})
    assert (found.open_directions, found.dof) == (0, 6)
    np.testing.assert_allclose(found.blocks["x"].ravel(), sol.cost / 12)


def test_covariance_counts_blocks_in_use_only():
    mask = np.arange(12) != 5
    sol = lmjax.least_squares(means(THREE, mask), {"x": np.zeros(3)})
    found = lmjax.block_covariance(means(THREE, mask), sol, {"x": [0, 1]})
    assert found.dof == 11 - 3
    expected = 2 * sol.cost / 8 / np.array([4.0, 3.0])
    np.testing.assert_allclose(found.blocks["x"].ravel(), expected)


def test_covariance_of_a_row_at_its_bound_is_zero():
    bounds = ({"x": np.array([10.0, -99, -99])}, {"x": np.full(3, 99.0)})
    sol = lmjax.least_squares(means(THREE), {"x": np.zeros(3)}, bounds=bounds)
    dense = lmjax.least_squares(
        lambda p: p["x"][:, None] - THREE, {"x": jnp.zeros(3)}, bounds=bounds
    )
    found = lmjax.block_covariance(means(THREE), sol, {"x": [0, 1, 2]})
    expected = np.diagonal(dense.covariance)
    assert expected[0] == 0.0
    np.testing.assert_allclose(found.blocks["x"].ravel(), expected, rtol=1e-8)


def test_a_function_may_capture_what_is_mapped_or_differentiated():
    y = np.arange(5.0)

    def third(w):
        blocks = lmjax.ResidualBlocks(
            lambda p, y: p["x"] * w - y, {"x": np.arange(5)}, (y,)
        )
        return lmjax.least_squares(blocks, {"x": np.ones(5)}).params["x"][3]

    w = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.vmap(third)(w), 3.0 / w)
    np.testing.assert_allclose(jax.vmap(jax.grad(third))(w), -3.0 / w**2, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(third))(2.0), -0.75, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_small_integers_inside_a_residual(dtype):
    blocks = lmjax.ResidualBlocks(
        lambda p, y: p["x"] - y - p["x"].astype(dtype).astype(y.dtype) * 0.0,
        {"x": np.arange(5)},
        (np.arange(5.0),),
    )
    sol = lmjax.least_squares(blocks, {"x": np.ones(5)})
    np.testing.assert_allclose(sol.params["x"], np.arange(5.0), atol=1e-12)
