"""Bundle adjustment and pose graphs from files: solved, and written back."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from scipy.spatial.transform import Rotation

import lmjax
import lmjax.io
from lmjax.manifolds import SE2, SE3

DATA = Path(__file__).parent / "data"
BAL = DATA / "dubrovnik-3-7-pre.txt"
GRAPHS = ("intel-30", "parking-garage-30")
STARTS = ("file", "spanning_tree", "chordal")
UPPER = {2: "1 0 0 1 0 1", 3: "1 0 0 0 0 0 1 0 0 0 0 1 0 0 0 1 0 0 1 0 1"}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def solve(problem, **keywords):
    return lmjax.least_squares(
        problem.blocks,
        problem.params,
        manifold=problem.manifold,
        fixed=problem.fixed,
        **keywords,
    )


def cost_at(problem, params):
    """Return half the sum of squares, block by block."""
    blocks = problem.blocks
    rows = {name: leaf[blocks.at[name]] for name, leaf in params.items()}
    with jax.enable_x64(True):
        residual = jax.vmap(blocks.fn)(rows, *blocks.args)
    return 0.5 * float(jnp.sum(residual**2))


def numpy_camera(camera, point):
    """Project by SciPy, as the page of the data sets says."""
    seen = Rotation.from_rotvec(camera[:3]).apply(point) + camera[3:6]
    p = -seen[:2] / seen[2]
    squared = p @ p
    return camera[6] * (1 + camera[7] * squared + camera[8] * squared**2) * p


def test_projection_is_that_of_the_page():
    rng = np.random.default_rng(0)
    for size in (0.0, 1e-12, 1e-3, 0.5, 3.1, 7.0):
        turn = rng.normal(size=3)
        turn *= size / np.linalg.norm(turn)
        camera = np.array([*turn, 0.1, 0.2, -9.0, 500.0, 1e-2, 1e-3])
        point = rng.normal(size=3)
        np.testing.assert_allclose(
            lmjax.io.project(camera, point), numpy_camera(camera, point), rtol=1e-13
        )


def test_projection_is_smooth_at_rotation_zero():
    camera = jnp.array([0.0, 0, 0, 0.1, 0.2, -4.0, 500.0, 1e-2, 1e-3])
    point = jnp.array([0.4, 0.2, 0.1])
    of_first = quick.jit(jax.jacfwd(lmjax.io.project))
    second = quick.jit(jax.hessian(lmjax.io.project))(camera, point)
    for k in range(3):
        step = jnp.zeros(9).at[k].set(1e-4)
        change = of_first(camera + step, point) - of_first(camera - step, point)
        np.testing.assert_allclose(second[:, :, k], change / 2e-4, atol=1e-5)
        value = lmjax.io.project(camera + step, point)
        value -= lmjax.io.project(camera - step, point)
        np.testing.assert_allclose(
            of_first(camera, point)[:, k], value / 2e-4, rtol=1e-6
        )


def test_bundle_starts_at_the_cost_of_the_file_and_is_solved():
    bundle = lmjax.io.read_bal(BAL)
    assert bundle.params["cameras"].dtype == np.float64
    sol = solve(bundle)
    # of shared/data/bal/index.json, in exact arithmetic of the file
    np.testing.assert_allclose(sol.initial_cost, 2764.219984, rtol=1e-9)
    assert sol.success
    assert sol.cost < 1e-12  # 38 residuals, 48 parameters
    assert sol.residual.shape == (19, 2)


def test_bundle_is_written_and_read_again(tmp_path):
    bundle = lmjax.io.read_bal(BAL)
    sol = solve(bundle)
    bundle.write(tmp_path / "solved.txt.bz2", sol.params)
    again = lmjax.io.read_bal(tmp_path / "solved.txt.bz2")
    for name in ("cameras", "points"):
        np.testing.assert_array_equal(again.params[name], sol.params[name])
    np.testing.assert_array_equal(again.file.pixels, bundle.file.pixels)
    assert cost_at(again, again.params) < 1e-12


def test_bundle_of_another_shape_is_not_written(tmp_path):
    bundle = lmjax.io.read_bal(BAL)
    with pytest.raises(
        ValueError, match=r"params\['points'\]: expected shape \(7, 3\)"
    ):
        bundle.write(tmp_path / "out.txt", bundle.params | {"points": np.ones((3, 3))})


def test_losses_reach_the_blocks():
    plain, robust = lmjax.io.read_bal(BAL), lmjax.io.read_bal(BAL, loss="huber")
    assert solve(robust).initial_cost < 0.5 * solve(plain).initial_cost
    robust = lmjax.io.read_g2o(DATA / "intel-30.g2o", loss="cauchy", loss_scale=0.1)
    assert robust.blocks.loss_scale == 0.1
    assert solve(robust).success


def ring(n, dimension, noise, seed=0):
    """Return true poses, and edges around a ring and to the one after the next."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        angle = 2 * np.pi / n * np.arange(n)
        heading = angle + np.pi / 2
        flat = np.stack([np.cos(angle), np.sin(angle)], axis=1) * n / 6
        if dimension == 2:
            group, poses = SE2(), np.column_stack([flat, heading])
        else:
            turn = Rotation.from_rotvec(heading[:, None] * [0, 0, 1])
            turn *= Rotation.from_rotvec(rng.normal(size=(n, 3)))
            q = turn.as_quat(scalar_first=True)
            group, poses = SE3(), np.column_stack([flat, rng.normal(size=n), q])
        i = np.concatenate([np.arange(n), np.arange(n)])
        j = np.concatenate([np.arange(1, n + 1), np.arange(2, n + 2)]) % n
        steps = noise * rng.normal(size=(2 * n, group.tangent_size))
        true = jax.vmap(group.between)(poses[i], poses[j])
        measured = jax.vmap(group.retract)(true, steps)
    return poses, i, j, np.asarray(measured)


def lines_of(i, j, measured, first=0):
    """Return edges as lines of a g2o file, without lines for the poses."""
    flat = measured.shape[1] == 3
    order = [0, 1, 2] if flat else [0, 1, 2, 4, 5, 6, 3]
    tag, upper = ("EDGE_SE2", UPPER[2]) if flat else ("EDGE_SE3:QUAT", UPPER[3])
    return [
        " ".join([tag, *map(repr, [a + first, b + first, *m[order].tolist()]), upper])
        for a, b, m in zip(i.tolist(), j.tolist(), measured, strict=True)
    ]


def save(path, *parts):
    path.write_text("\n".join(line for lines in parts for line in lines))
    return path


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("start", STARTS)
def test_published_graphs_are_solved_from_each_start(name, start):
    graph = lmjax.io.read_g2o(DATA / f"{name}.g2o", start=start)
    np.testing.assert_array_equal(graph.fixed["poses"], np.arange(30)[:, None] == 0)
    sol = solve(graph)
    assert sol.success
    assert sol.cost < 1e-12  # a chain: every measurement can be met
    np.testing.assert_array_equal(sol.params["poses"][0], graph.file.poses[0])
    if start != "file":
        # composing measurements, or solving for them, is the answer for a chain
        assert sol.initial_cost < 1e-12
        at_file = cost_at(graph, {"poses": graph.file.poses})
        assert sol.initial_cost <= at_file


@pytest.mark.parametrize("dimension", [2, 3])
def test_chordal_start_is_near_the_minimum(tmp_path, dimension):
    _, *edges = ring(24, dimension, 0.05)
    path = save(tmp_path / "ring.g2o", lines_of(*edges))
    found = {}
    for start in STARTS:
        sol = solve(lmjax.io.read_g2o(path, start=start))
        assert sol.success
        found[start] = float(sol.initial_cost), float(sol.cost)
    ends = [end for _, end in found.values()]
    np.testing.assert_allclose(ends, ends[0], rtol=1e-6)
    assert found["chordal"][0] < 2.0 * ends[0]
    assert found["chordal"][0] < 0.5 * found["file"][0]
    # without lines of poses, the reader makes them in the same way
    np.testing.assert_allclose(found["file"][0], found["spanning_tree"][0], rtol=1e-9)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("start", STARTS)
def test_good_measurements_are_met_by_every_start(tmp_path, dimension, start):
    poses, *edges = ring(12, dimension, 0.0)
    path = save(tmp_path / "ring.g2o", lines_of(*edges))
    graph = lmjax.io.read_g2o(path, start=start)
    assert cost_at(graph, graph.params) < 1e-20
    # the first pose is the identity, so the others are as seen from there
    group = graph.manifold["poses"]
    seen = jax.vmap(lambda x: group.between(poses[0], x))(poses)
    wrong = jax.vmap(group.local)(jnp.asarray(graph.params["poses"]), seen)
    np.testing.assert_allclose(wrong, 0.0, atol=1e-9)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_fixed_poses_do_not_move_by_a_bit(tmp_path, start, dimension):
    _, *edges = ring(12, dimension, 0.05)
    pose = {2: "VERTEX_SE2 {} {} 1 0.3", 3: "VERTEX_SE3:QUAT {} {} 1 0 0 0.6 0 0.8"}
    poses = [pose[dimension].format(k, k / 3) for k in (7, 2)]
    path = save(tmp_path / "ring.g2o", poses, ["FIX 2 7"], lines_of(*edges))
    graph = lmjax.io.read_g2o(path, start=start)
    held = graph.fixed["poses"][:, 0]
    np.testing.assert_array_equal(graph.file.ids[held], [7, 2])
    sol = solve(graph)
    np.testing.assert_array_equal(sol.params["poses"][:2], graph.file.poses[:2])
    assert not np.array_equal(sol.params["poses"][2:], graph.params["poses"][2:])
    assert sol.success


@pytest.mark.parametrize("start", STARTS)
def test_parts_of_a_graph_are_held_each(tmp_path, start):
    _, *edges = ring(8, 2, 0.05)
    parts = lines_of(*edges), lines_of(*edges, first=50)
    path = save(tmp_path / "two.g2o", *parts, ["FIX 53"])
    with pytest.warns(UserWarning, match="The graph falls into 2 parts"):
        graph = lmjax.io.read_g2o(path, start=start)
    np.testing.assert_array_equal(graph.file.ids[graph.fixed["poses"][:, 0]], [0, 53])
    sol = solve(graph)
    assert sol.success
    halves = jnp.sum(sol.residual**2, axis=1).reshape(2, -1).sum(1)
    np.testing.assert_allclose(halves[0], halves[1], rtol=1e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_solved_graph_is_written_and_read_again(tmp_path, name):
    graph = lmjax.io.read_g2o(DATA / f"{name}.g2o")
    sol = solve(graph)
    graph.write(tmp_path / "solved.g2o.gz", sol.params)
    again = lmjax.io.read_g2o(tmp_path / "solved.g2o.gz")
    np.testing.assert_array_equal(again.params["poses"], sol.params["poses"])
    np.testing.assert_array_equal(again.file.information, graph.file.information)
    assert cost_at(again, again.params) < 1e-12


def test_singular_information_has_a_root(tmp_path):
    # six digits of a singular matrix: its smallest eigenvalue is below zero
    vector = np.array([1.0, 2.0, 3.0]) / 7.0
    matrix = np.vectorize(lambda x: float(f"{x:.6g}"))(np.outer(vector, vector))
    assert np.linalg.eigvalsh(matrix)[0] < 0.0
    upper = " ".join(map(str, matrix[np.triu_indices(3)].tolist()))
    path = save(tmp_path / "one.g2o", [f"EDGE_SE2 0 1 1 0 0.5 {upper}"])
    for start in STARTS:
        graph = lmjax.io.read_g2o(path, start=start)
        (root,) = graph.blocks.args[1]
        np.testing.assert_allclose(root.T @ root, matrix, atol=1e-6)
        assert np.isfinite(graph.params["poses"]).all()


def test_no_information_about_rotations_still_gives_a_start(tmp_path):
    upper = "1 0 0 1 0 0"
    lines = [f"EDGE_SE2 {k} {k + 1} 1 0 0.5 {upper}" for k in range(3)]
    graph = lmjax.io.read_g2o(save(tmp_path / "bare.g2o", lines), start="chordal")
    assert cost_at(graph, graph.params) < 1e-12


def test_graphs_without_edges_and_unknown_starts_are_refused(tmp_path):
    path = save(tmp_path / "poses.g2o", ["VERTEX_SE2 0 1 2 3"])
    with pytest.raises(ValueError, match=r"poses.g2o: expected at least one edge"):
        lmjax.io.read_g2o(path)
    with pytest.raises(ValueError, match="start: expected one of file, .* got 'odom'"):
        lmjax.io.read_g2o(DATA / "intel-30.g2o", start="odom")


@pytest.mark.parametrize("dimension", [2, 3])
def test_graphs_in_float32(tmp_path, dimension):
    _, *edges = ring(24, dimension, 0.05)
    path = save(tmp_path / "ring.g2o", lines_of(*edges))
    double = solve(lmjax.io.read_g2o(path))
    with jax.enable_x64(False):
        graph = lmjax.io.read_g2o(path)
        sol = solve(graph)
        assert sol.params["poses"].dtype == jnp.float32
        graph.write(tmp_path / "single.g2o", sol.params)
    np.testing.assert_allclose(sol.cost, double.cost, rtol=1e-4)
    again = lmjax.io.read_g2o(tmp_path / "single.g2o")
    np.testing.assert_allclose(again.params["poses"], sol.params["poses"], atol=1e-6)


def test_bundle_in_float32():
    with jax.enable_x64(False):
        bundle = lmjax.io.read_bal(BAL)
        sol = solve(bundle)
        assert sol.params["points"].dtype == jnp.float32
        np.testing.assert_allclose(sol.initial_cost, 2764.22, rtol=1e-4)
        assert sol.cost < 1e-2


def test_information_below_zero_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "indefinite.g2o"
    path.write_text(
        "VERTEX_SE2 0 0 0 0\nVERTEX_SE2 1 1 0 0\nEDGE_SE2 0 1 1.5 0 0 1 2 0 1 0 1\n"
    )
    with pytest.warns(UserWarning, match="1 of 1 edges have information"):
        graph = lmjax.io.read_g2o(path)
    root = np.asarray(graph.blocks.args[1][0])
    # the matrix [[1, 2], [2, 1]] has the eigenvalues 3 and -1
    np.testing.assert_allclose(root.T @ root, [[1.5, 1.5, 0], [1.5, 1.5, 0], [0, 0, 1]])
