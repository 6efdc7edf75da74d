"""Files of bundle adjustment and pose graphs: what is read, and what is refused."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lmjax.io import _bal
from lmjax.io._bal import BalFile, parse_bal, write_bal
from lmjax.io._g2o import G2oFile, parse_g2o, write_g2o
from lmjax.io._geometry import semidefinite, with_unit_quaternions

DATA = Path(__file__).parent / "data"
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}

# Line 1 has the counts, 2 to 4 the observations, 5 to 22 cameras, 23 to 28 points.
BAL = ["2 2 3", "0 0 1.5 -2", "1 0 3 4", "1 1 5e0 6", *map(str, range(24))]
# Lines 1 to 3 are poses, 4 and 5 edges.
SE2 = [
    "VERTEX_SE2 10 0 0 0",
    "VERTEX_SE2 11 1 0 0.5",
    "VERTEX_SE2 12 1 1 1",
    "EDGE_SE2 10 11 1 0 0.5 4 1 2 9 3 16",
    "EDGE_SE2 11 12 1 0 0.5 1 0 0 1 0 1",
]
UPPER = "1 0 0 0 0 0 1 0 0 0 0 1 0 0 0 1 0 0 1 0 1"
SE3 = [
    "VERTEX_SE3:QUAT 0 0 0 0 0 0 0 1",
    "VERTEX_SE3:QUAT 1 1 2 3 0 0 0.6 0.8",
    f"EDGE_SE3:QUAT 0 1 1 2 3 0 0 0.6 0.8 {UPPER}",
]
HUGE = 8646911284551352321  # an id of GTSAM: the letter x in the upper bits


@pytest.fixture
def write(tmp_path):
    """Return a function that writes lines to a file and returns its path."""

    def save(lines, name="in.txt"):
        path = tmp_path / name
        path.write_bytes(COMPRESS[path.suffix.replace(".txt", "")](text(lines)))
        return path

    return save


def text(lines):
    return "".join(f"{line}\n" for line in lines).encode()


def with_line(lines, number, *new):
    """Return lines, of which one is replaced by any number of others."""
    return [*lines[: number - 1], *new, *lines[number:]]


def same(a, b):
    for field, one, other in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=field)
        assert np.asarray(one).dtype == np.asarray(other).dtype, field


def test_bal_fields(write):
    bal = parse_bal(write(BAL))
    same(
        bal,
        BalFile(
            np.array([0, 1, 1], np.int32),
            np.array([0, 0, 1], np.int32),
            np.array([[1.5, -2.0], [3.0, 4.0], [5.0, 6.0]]),
            np.arange(18.0).reshape(2, 9),
            np.arange(18.0, 24.0).reshape(2, 3),
        ),
    )


def test_published_bal_file():
    bal = parse_bal(DATA / "dubrovnik-3-7-pre.txt")
    assert [len(field) for field in bal] == [19, 19, 19, 3, 7]
    assert (bal.camera_of[-1], bal.point_of[-1]) == (2, 6)
    np.testing.assert_array_equal(bal.pixels[0], [-385.99, 387.12])
    intrinsics = [1.4300319432711681e3, -7.5572758535864072e-08, 3.2377569465570913e-14]
    np.testing.assert_array_equal(bal.cameras[0, 6:], intrinsics)
    np.testing.assert_array_equal(bal.points[-1, 2], -5.2070299568846060e1)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("seed", range(3))
def test_bal_round_trip_is_exact(tmp_path, suffix, seed, monkeypatch):
    monkeypatch.setattr(_bal, "CHUNK", 7)  # so that a small file has many
    rng = np.random.default_rng(seed)
    bal = BalFile(
        rng.integers(0, 4, 50).astype(np.int32),
        rng.integers(0, 6, 50).astype(np.int32),
        rng.normal(size=(50, 2)) * 10.0 ** rng.uniform(-300, 300, (50, 2)),
        rng.normal(size=(4, 9)),
        rng.normal(size=(6, 3)),
    )
    write_bal(tmp_path / f"out.txt{suffix}", bal)
    same(parse_bal(tmp_path / f"out.txt{suffix}"), bal)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_are_those_with_a_suffix(write, suffix):
    same(parse_bal(write(BAL, f"a.txt{suffix}")), parse_bal(write(BAL)))
    same(parse_g2o(write(SE2, f"b.txt{suffix}")), parse_g2o(write(SE2)))


def test_layout_does_not_matter(write, tmp_path):
    loose = ["", BAL[0], " ", *(f"\t{line} " for line in BAL[1:4])]
    same(
        parse_bal(write([*loose, " ".join(BAL[4:20]), "", " ".join(BAL[20:])])),
        parse_bal(write(BAL)),
    )
    (tmp_path / "windows.txt").write_bytes(
        b"\xef\xbb\xbf" + text(BAL).replace(b"\n", b"\r\n")
    )
    same(parse_bal(tmp_path / "windows.txt"), parse_bal(write(BAL)))


def test_duplicates_and_unseen_cameras_are_left_to_the_solver(write):
    bal = parse_bal(write(with_line(BAL, 4, "1 0 3 4")))
    np.testing.assert_array_equal(bal.point_of, [0, 0, 0])


WRONG_BAL = {
    "empty": ([], 1, "got an empty file"),
    "blank": (["", " "], 1, "got an empty file"),
    "header of two": (with_line(BAL, 1, "2 2"), 1, "got '2 2'"),
    "header of four": (with_line(BAL, 1, "2 2 3 4"), 1, "three counts"),
    "header of words": (with_line(BAL, 1, "two 2 3"), 1, "got 'two 2 3'"),
    "header with a fraction": (with_line(BAL, 1, "2 2 3.5"), 1, "three counts"),
    "header with a sign": (with_line(BAL, 1, "2 -2 3"), 1, "three counts"),
    "header with nothing": (with_line(BAL, 1, "2 0 3"), 1, "three counts"),
    "header beyond int32": (with_line(BAL, 1, "2 9999999999 3"), 1, "to 2147483647"),
    "long header": (with_line(BAL, 1, "9" * 9999), 1, "9..."),
    "no header": (BAL[1:], 1, "got '0 0 1.5 -2'"),
    "three values": (
        with_line(BAL, 3, "1 0 3"),
        3,
        "4 values, 'camera point x y', got 3$",
    ),
    "one value": (with_line(BAL, 3, "1"), 3, "got 1$"),
    "five values": (with_line(BAL, 3, "1 0 3 4 5"), 3, "got 5$"),
    "after blank lines": (with_line(BAL, 3, "", "", "1 0"), 5, "got 2$"),
    "text": (with_line(BAL, 3, "1 0 x 4"), 3, "a finite number, got 'x'"),
    "two numbers in one": (with_line(BAL, 3, "1 0 3 4-5"), 3, "got '4-5'"),
    "underscore": (with_line(BAL, 3, "1 0 3_0 4"), 3, "got '3_0'"),
    "comment": (with_line(BAL, 3, "# 0 3 4"), 3, "got '#'"),
    "nan": (with_line(BAL, 3, "1 0 nan 4"), 3, "got 'nan'"),
    "overflow": (with_line(BAL, 3, "1 0 1e999 4"), 3, "got '1e999'"),
    "camera too large": (with_line(BAL, 3, "2 0 3 4"), 3, "from 0 to 1, got 2"),
    "camera negative": (with_line(BAL, 3, "-1 0 3 4"), 3, "of a camera, .* got -1"),
    "point too large": (with_line(BAL, 4, "1 2 3 4"), 4, "of a point, .* got 2"),
    "point with a fraction": (with_line(BAL, 4, "1 0.5 3 4"), 4, "got 0.5"),
    "observations missing": (BAL[:3], 3, "3 lines .* got 2 until the end"),
    "fewer than counted": (with_line(BAL, 1, "2 2 4"), 5, "got 1$"),
    "more than counted": (with_line(BAL, 1, "2 2 2"), 25, "24 numbers .* got more"),
    "a camera too many": (with_line(BAL, 1, "1 2 3"), 3, "from 0 to 0, got 1"),
    "a camera too few": (with_line(BAL, 1, "3 2 3"), 28, "33 numbers .* got 24"),
    "cut off": (BAL[:-1], 27, "24 numbers .* got 23 until the end"),
    "one number more": ([*BAL, "", "24"], 30, "24 numbers .* got more"),
    "text in a camera": (with_line(BAL, 9, "1.2.3"), 9, "got '1.2.3'"),
    "infinite point": (with_line(BAL, 25, "-inf"), 25, "got '-inf'"),
}


@pytest.mark.parametrize("name", WRONG_BAL)
def test_wrong_bal_files(write, name):
    lines, line, message = WRONG_BAL[name]
    path = write(lines)
    with pytest.raises(ValueError, match=f":{line}: expected .*{message}") as caught:
        parse_bal(path)
    assert str(caught.value).startswith(f"{path}:{line}:")
    assert type(caught.value) is ValueError


def test_wrong_line_beyond_the_first_chunk(write, monkeypatch):
    monkeypatch.setattr(_bal, "CHUNK", 2)
    with pytest.raises(ValueError, match=":4: .* got 'x'"):
        parse_bal(write(with_line(BAL, 4, "1 1 x 6")))
    with pytest.raises(ValueError, match=":28: .* got 'x'"):
        parse_bal(write(with_line(BAL, 28, "x")))
    with pytest.raises(ValueError, match=":29: .* got more"):
        parse_bal(write([*BAL, "24"]))


@pytest.mark.parametrize("parse", [parse_bal, parse_g2o])
@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_broken_compressed_files(tmp_path, parse, suffix):
    path = tmp_path / f"in.txt{suffix}"
    whole = COMPRESS[suffix](text(["1 2 3"] * 9))
    for broken in whole[:-4], text(BAL), whole[:20] + b"\xff\x00" * 9 + whole[38:]:
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r":\d+: expected a complete compressed"):
            parse(path)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("parse", [parse_bal, parse_g2o])
def test_missing_and_empty_files(tmp_path, parse, suffix):
    with pytest.raises(FileNotFoundError):
        parse(tmp_path / f"none.txt{suffix}")
    (tmp_path / f"empty.txt{suffix}").write_bytes(COMPRESS[suffix](b""))
    with pytest.raises(ValueError, match=r":1: expected .*, got an empty file"):
        parse(tmp_path / f"empty.txt{suffix}")


@pytest.mark.parametrize("parse", [parse_bal, parse_g2o])
def test_binary_files(tmp_path, parse):
    (tmp_path / "in.txt").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r":\d: expected"):
        parse(tmp_path / "in.txt")


def test_g2o_fields_in_2d(write):
    graph = parse_g2o(write(["# a graph", "", *SE2, "FIX 10 12  # both"]))
    assert graph.dimension == 2
    np.testing.assert_array_equal(graph.ids, [10, 11, 12])
    np.testing.assert_array_equal(graph.poses, [[0, 0, 0], [1, 0, 0.5], [1, 1, 1]])
    np.testing.assert_array_equal(graph.fixed, [True, False, True])
    np.testing.assert_array_equal(graph.i, [0, 1])
    np.testing.assert_array_equal(graph.j, [1, 2])
    np.testing.assert_array_equal(graph.measurements, [[1, 0, 0.5]] * 2)
    np.testing.assert_array_equal(
        graph.information, [[[4, 1, 2], [1, 9, 3], [2, 3, 16]], np.eye(3)]
    )
    assert not graph.made.any()
    assert graph.ids.dtype == np.int64
    assert graph.i.dtype == graph.j.dtype == np.int32


def test_g2o_fields_in_3d(write):
    triangle = 10.0 * np.eye(6)[np.triu_indices(6)] + np.arange(21) / 21
    values = " ".join(map(str, triangle.tolist()))
    graph = parse_g2o(write([*SE3[:2], f"EDGE_SE3:QUAT 1 0 1 2 3 1 2 3 4 {values}"]))
    assert graph.dimension == 3
    np.testing.assert_array_equal(graph.poses[1], [1, 2, 3, 0.8, 0, 0, 0.6])
    q = np.array([4, 1, 2, 3]) / 30**0.5
    np.testing.assert_allclose(graph.measurements, [[1, 2, 3, *q]], rtol=1e-15)
    information = graph.information[0]
    np.testing.assert_array_equal(information, information.T)
    np.testing.assert_array_equal(information[0, 1:] * 21, np.arange(1, 6))
    assert information[5, 5] == 10 + 20 / 21


@pytest.mark.parametrize(("name", "d"), [("intel", 2), ("parking-garage", 3)])
@pytest.mark.parametrize("suffix", COMPRESS)
def test_published_graphs_and_their_round_trip(tmp_path, name, d, suffix):
    graph = parse_g2o(DATA / f"{name}-30.g2o")
    assert (graph.dimension, len(graph.ids), len(graph.i)) == (d, 30, 29)
    if d == 3:
        lengths = np.linalg.norm(graph.measurements[:, 3:], axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-15)
    graph.fixed[:2] = True
    write_g2o(tmp_path / f"out.g2o{suffix}", graph)
    same(parse_g2o(tmp_path / f"out.g2o{suffix}"), graph)


def test_unit_quaternions_stay_as_they_are():
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(20000, 7)) * 10.0 ** rng.uniform(-5, 5, (20000, 1))
    once = with_unit_quaternions(poses)
    np.testing.assert_array_equal(with_unit_quaternions(once), once)


def test_large_ids_are_exact(write):
    edge = f"EDGE_SE2 {HUGE} {HUGE + 1} 1 0 0 1 0 0 1 0 1"
    np.testing.assert_array_equal(parse_g2o(write([edge])).ids, [HUGE, HUGE + 1])


def as_matrices(poses):
    """Return poses as matrices of 4 by 4, by SciPy."""
    matrices = np.tile(np.eye(4), (len(poses), 1, 1))
    if poses.shape[1] == 3:
        turned = Rotation.from_rotvec(poses[:, [2]] * [0, 0, 1])
        matrices[:, :2, 3] = poses[:, :2]
    else:
        turned = Rotation.from_quat(poses[:, 3:], scalar_first=True)
        matrices[:, :3, 3] = poses[:, :3]
    matrices[:, :3, :3] = turned.as_matrix()
    return matrices


@pytest.mark.parametrize("name", ["intel", "parking-garage"])
@pytest.mark.parametrize("known", [(), (0,), (13,), (29, 4)])
def test_missing_poses_are_made_from_edges(write, name, known):
    lines = (DATA / f"{name}-30.g2o").read_text().splitlines()
    kept = [lines[k] for k in known] + lines[30:]
    graph = parse_g2o(write(kept))
    whole = parse_g2o(DATA / f"{name}-30.g2o")
    np.testing.assert_array_equal(graph.ids[: len(known)], known)
    np.testing.assert_array_equal(graph.made, np.arange(30) >= len(known))
    np.testing.assert_array_equal(graph.poses[~graph.made], whole.poses[list(known)])
    # the edges are a chain: walks from two known poses disagree where they meet
    poses, steps = as_matrices(graph.poses), as_matrices(graph.measurements)
    error = np.abs(poses[graph.i] @ steps - poses[graph.j]).max((1, 2))
    assert np.sum(error > 1e-12) == (len(known) == 2)
    if not known:
        np.testing.assert_array_equal(poses[0], np.eye(4))


def test_made_poses_follow_a_shortest_path(write):
    step = "0 1 0 0 1 0 1"
    edges = [f"EDGE_SE2 {i} {i + 1} 1 0 {step}" for i in range(4)]
    edges += [f"EDGE_SE2 4 0 7 0 {step}", f"EDGE_SE2 8 9 5 0 {step}"]
    graph = parse_g2o(write(["VERTEX_SE2 1 100 0 0", *edges, "FIX 8"]))
    np.testing.assert_array_equal(graph.ids, [1, 0, 2, 3, 4, 8, 9])
    # 4 is reached by way of 0 in two edges; 8 and 9 are another component
    np.testing.assert_array_equal(graph.poses[:, 0], [100, 99, 101, 102, 92, 0, 5])
    np.testing.assert_array_equal(graph.made, [False, *[True] * 6])
    np.testing.assert_array_equal(graph.ids[graph.fixed], [8])


def test_made_poses_are_written(write, tmp_path):
    graph = parse_g2o(write(SE3[2:]))
    write_g2o(tmp_path / "out.g2o", graph)
    same(parse_g2o(tmp_path / "out.g2o"), graph._replace(made=np.zeros(2, bool)))


def test_a_graph_may_have_no_edges(write):
    graph = parse_g2o(write(SE3[:2]))
    assert graph.measurements.shape == (0, 7)
    assert graph.information.shape == (0, 6, 6)
    assert graph.i.shape == (0,)


LONG = "EDGE_SE2 10 11 1 0 0.5 "
TAGS = "VERTEX_SE2, VERTEX_SE3:QUAT, EDGE_SE2, EDGE_SE3:QUAT, FIX"
WRONG_G2O = {
    "comments only": (["# nothing", ""], 1, "got an empty file"),
    "fixed poses only": (["FIX 1"], 1, "got nothing but FIX"),
    "landmark": ([*SE2, "VERTEX_XY 1 2 3"], 6, rf"\({TAGS}\), got 'VERTEX_XY'"),
    "edge to a landmark": (["#", "EDGE_SE2_XY 1 2"], 2, "got 'EDGE_SE2_XY'"),
    "parameters": (["PARAMS_SE3OFFSET 0 0", *SE3], 1, "got 'PARAMS_SE3OFFSET'"),
    "no tag": ([*SE2, "1 2 3"], 6, "a tag that is read .* got '1'"),
    "short vertex": (with_line(SE2, 2, "VERTEX_SE2 11 1 0"), 2, "got 3$"),
    "long vertex": (with_line(SE2, 2, "VERTEX_SE2 11 1 0 0 0"), 2, "got 5$"),
    "bare vertex": (
        with_line(SE2, 2, "VERTEX_SE2"),
        2,
        "4 values, 'id x y theta', got 0$",
    ),
    "2d pose in 3d": (with_line(SE3, 2, "VERTEX_SE3:QUAT 1 0 0 0"), 2, "qx qy qz qw'"),
    "text in a vertex": (with_line(SE2, 2, "VERTEX_SE2 11 1 a 0"), 2, "got 'a'"),
    "nan in a vertex": (with_line(SE2, 2, "VERTEX_SE2 11 1 nan 0"), 2, "got 'nan'"),
    "id negative": (with_line(SE2, 2, "VERTEX_SE2 -1 1 0 0"), 2, "an id.* got '-1'"),
    "id with a fraction": (with_line(SE2, 2, "VERTEX_SE2 1.5 1 0 0"), 2, "got '1.5'"),
    "id beyond int64": (
        with_line(SE2, 2, f"VERTEX_SE2 {2**63} 1 0 0"),
        2,
        f"to {2**63 - 1}, got '{2**63}'",
    ),
    "id twice": (["#", *SE2, SE2[1]], 7, "another pose, got 11, which line 3 has"),
    "zero quaternion": (
        with_line(SE3, 2, "VERTEX_SE3:QUAT 1 1 2 3 0 0 0 0"),
        2,
        "a quaternion of length 1, got 0 0 0 0",
    ),
    "huge quaternion": (
        with_line(SE3, 2, "VERTEX_SE3:QUAT 1 1 2 3 0 0 1e200 0"),
        2,
        "a quaternion of length 1",
    ),
    "zero quaternion of an edge": (
        with_line(SE3, 3, f"EDGE_SE3:QUAT 0 1 1 2 3 0 0 0 0 {UPPER}"),
        3,
        "a quaternion of length 1",
    ),
    "no information": (with_line(SE2, 4, LONG), 4, "and 6 of information, got 5$"),
    "short information": (with_line(SE2, 4, LONG + "1 0 0 1 0"), 4, "got 10$"),
    "full information": (
        with_line(SE2, 4, LONG + "1 0 0 0 1 0 0 0 1"),
        4,
        "got 14$",
    ),
    "short information in 3d": (
        with_line(SE3, 3, SE3[2][:-2]),
        3,
        "and 21 of information",
    ),
    "text in information": (with_line(SE2, 4, LONG + "1 0 0 1 0 ,"), 4, "got ','"),
    "infinite information": (with_line(SE2, 4, LONG + "1 0 0 inf 0 1"), 4, "'inf'"),
    "negative": (with_line(SE2, 5, LONG + "1 0 0 -1e-9 0 1"), 5, "not negative"),
    "edge to itself": (
        with_line(SE2, 5, "EDGE_SE2 12 12 1 0 0 1 0 0 1 0 1"),
        5,
        "an edge from pose 12 to itself",
    ),
    "edge with a negative id": (
        with_line(SE2, 5, "EDGE_SE2 12 -2 1 0 0 1 0 0 1 0 1"),
        5,
        "got '-2'",
    ),
    "edge in 3d": ([*SE2, SE3[2]], 6, "a graph in 2D only, got EDGE_SE3:QUAT"),
    "vertex in 2d": ([SE3[0], "FIX 0", SE2[1]], 3, "a graph in 3D only"),
    "fix nothing": ([*SE2, "FIX"], 6, "'FIX id ...', got no id"),
    "fix an unknown pose": ([*SE2, "FIX 10 13"], 6, "id of a pose, got 13"),
    "fix text": ([*SE2, "FIX ten"], 6, "an id.* got 'ten'"),
    "fix with an underscore": ([*SE2, "FIX 1_0"], 6, "an id.* got '1_0'"),
}


@pytest.mark.parametrize("name", WRONG_G2O)
def test_wrong_g2o_files(write, name):
    lines, line, message = WRONG_G2O[name]
    path = write(lines)
    with pytest.raises(ValueError, match=f":{line}: expected .*{message}") as caught:
        parse_g2o(path)
    assert str(caught.value).startswith(f"{path}:{line}:")
    assert type(caught.value) is ValueError


def test_semidefinite_up_to_the_digits_of_files():
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(500, 3, 6)) * 10.0 ** rng.uniform(-4, 4, (500, 1, 6))
    singular = factors.transpose(0, 2, 1) @ factors
    printed = np.vectorize(lambda value: float(f"{value:.6g}"))(singular)
    assert semidefinite(printed).all()
    diagonal = np.diagonal(singular, axis1=1, axis2=2)
    assert not semidefinite(singular - 1e-4 * diagonal[:, :, None] * np.eye(6)).any()
    assert semidefinite(np.zeros((1, 6, 6))).all()


def bal_with(**fields):
    return BalFile(
        *np.zeros((2, 1), int),
        np.ones((1, 2)),
        np.ones((1, 9)),
        np.ones((1, 3)),
    )._replace(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("camera_of", np.array([1])),
        ("point_of", np.array([-1])),
        ("point_of", np.array([0.5])),
        ("camera_of", np.zeros(2, int)),
        ("pixels", np.array([[np.nan, 0.0]])),
        ("pixels", np.ones((1, 3))),
        ("cameras", np.ones((1, 6))),
        ("points", np.ones((0, 3))),
    ],
)
def test_bal_that_could_not_be_read_is_not_written(tmp_path, field, value):
    write_bal(tmp_path / "good.txt", bal_with())
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        write_bal(tmp_path / "out.txt", bal_with(**{field: value}))
    assert not (tmp_path / "out.txt").exists()


def graph_with(**fields):
    poses = np.array([[0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0.0]])
    ends, information = np.array([[0], [1]]), np.eye(6)[None]
    no = np.zeros(2, bool)
    graph = G2oFile(3, np.arange(2), poses, no, *ends, poses[1:], information, no)
    return graph._replace(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimension", 4),
        ("ids", np.array([3, 3])),
        ("ids", np.array([-1, 3])),
        ("poses", np.zeros((2, 7))),
        ("poses", np.zeros((2, 3))),
        ("fixed", np.zeros(3, bool)),
        ("i", np.array([2])),
        ("i", np.array([1])),
        ("measurements", np.full((1, 7), np.inf)),
        ("information", -np.eye(6)[None]),
        ("information", np.triu(np.ones((1, 6, 6)))),
    ],
)
def test_graph_that_could_not_be_read_is_not_written(tmp_path, field, value):
    write_g2o(tmp_path / "good.g2o", graph_with())
    with pytest.raises(ValueError, match=f"^{field}.*: expected"):
        write_g2o(tmp_path / "out.g2o", graph_with(**{field: value}))
    assert not (tmp_path / "out.g2o").exists()
