"""Pose graphs in the text format of g2o, in 2D and in 3D.

A line begins with a tag, which says what its numbers are:

    VERTEX_SE2 id x y theta
    EDGE_SE2 i j dx dy dtheta, then the upper triangle of the information (3 by 3)
    VERTEX_SE3:QUAT id x y z qx qy qz qw
    EDGE_SE3:QUAT i j x y z qx qy qz qw, then the same of 6 by 6, translation first
    FIX id ...

An edge measures the pose j as seen from the pose i. What follows a ``#`` is a comment.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from lmjax.io._geometry import (
    directed,
    quaternion_first,
    quaternion_last,
    with_unit_quaternions,
)
from lmjax.io._spanning import span
from lmjax.io._text import (
    Cells,
    Lines,
    Name,
    open_text,
    problem,
    read_lines,
    shown,
    table,
)

VERTEX = {2: "VERTEX_SE2", 3: "VERTEX_SE3:QUAT"}
EDGE = {2: "EDGE_SE2", 3: "EDGE_SE3:QUAT"}
FIX = "FIX"
DIMENSION = {tag: d for tags in (VERTEX, EDGE) for d, tag in tags.items()}
POSE = {2: "x y theta", 3: "x y z qx qy qz qw"}
FREEDOM = {2: 3, 3: 6}
MOST = 2**63 - 1  # ids are int64; some programs put letters into the upper bits


class G2oFile(NamedTuple):
    """What a file of a pose graph holds.

    Attributes:
        dimension: 2 or 3.
        ids: What the file calls each pose, (n,) in int64.
        poses: x, y and angle, (n, 3), or translation and unit quaternion w, x, y, z,
            (n, 7).
        fixed: Whether the file fixes the pose, (n,).
        i: The pose where an edge starts, as a row of ``poses``, (m,) in int32.
        j: The pose that is seen from there, (m,) in int32.
        measurements: The pose of j as seen from i, like ``poses``, (m, 3) or (m, 7).
        information: The inverse covariance of each measurement, translation before
            rotation, (m, 3, 3) or (m, 6, 6).
        made: Whether the file has no line for a pose, so that it was made by composing
            measurements, (n,).
    """

    dimension: int
    ids: np.ndarray
    poses: np.ndarray
    fixed: np.ndarray
    i: np.ndarray
    j: np.ndarray
    measurements: np.ndarray
    information: np.ndarray
    made: np.ndarray


def parse_g2o(path: Name) -> G2oFile:
    """Return what a g2o file holds.

    Poses come in the order of their lines. Those that only edges name follow in the
    order of the edges. They are made by walking the edges breadth first from the known
    poses, or from an identity where an edge leads to no known pose.

    Args:
        path: The file; decompressed if its name ends in ``.bz2`` or ``.gz``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line has a tag that is not read, or is wrong. Names the line.
    """
    lines = read_lines(path, "#")
    cells = [line.split() for line in lines.texts]
    dimension, rows = _rows_by_tag(lines, cells)
    vertices, edges = rows[VERTEX[dimension]], rows[EDGE[dimension]]
    index, known = _vertices(lines, vertices, cells, dimension)
    ends, measurements, information = _edges(lines, edges, cells, dimension)
    for end in ends:
        index.setdefault(end, len(index))
    n = len(index)
    i, j = np.array([index[end] for end in ends], np.int32).reshape(-1, 2).T.copy()
    poses = known if n == len(known) else span(known, i, j, measurements, n)
    return G2oFile(
        dimension,
        np.fromiter(index, np.int64, n),
        with_unit_quaternions(poses),
        _fixed(lines, rows[FIX], cells, index),
        i,
        j,
        measurements,
        information,
        np.arange(n) >= len(known),
    )


def write_g2o(path: Name, graph: G2oFile) -> None:
    """Write a g2o file, from which ``parse_g2o`` reads exactly the same numbers.

    All poses are written, those that were made, too. The file that is read back has
    therefore none that was made.

    Args:
        path: The file; compressed if its name ends in ``.bz2`` or ``.gz``.
        graph: What to write.

    Raises:
        ValueError: If the arrays do not fit together, or a number is not finite.
    """
    _check(graph)
    vertex, edge = VERTEX[graph.dimension], EDGE[graph.dimension]
    row, column = np.triu_indices(FREEDOM[graph.dimension])
    triangles = graph.information[:, row, column]
    measured = np.column_stack([quaternion_last(graph.measurements), triangles])
    poses = quaternion_last(graph.poses).tolist()
    starts, stops = graph.ids[graph.i].tolist(), graph.ids[graph.j].tolist()
    with open_text(path, "wt") as file:
        for name, pose in zip(graph.ids.tolist(), poses, strict=True):
            file.write(f"{vertex} {name} {_text(pose)}\n")
        file.writelines(f"{FIX} {name}\n" for name in graph.ids[graph.fixed].tolist())
        for start, stop, numbers in zip(starts, stops, measured.tolist(), strict=True):
            file.write(f"{edge} {start} {stop} {_text(numbers)}\n")


def _rows_by_tag(lines: Lines, cells: Cells) -> tuple[int, dict[str, list[int]]]:
    """Return the dimension, and which rows have each tag."""
    read = ", ".join([*DIMENSION, FIX])
    rows: dict[str, list[int]] = {tag: [] for tag in [*DIMENSION, FIX]}
    dimension = 0
    for row, (tag, *_) in enumerate(cells):
        if tag not in rows:
            raise lines.error(row, f"a tag that is read ({read})", shown(tag))
        rows[tag].append(row)
        dimension = dimension or DIMENSION.get(tag, 0)
        if DIMENSION.get(tag, dimension) != dimension:
            raise lines.error(row, f"tags of a graph in {dimension}D only", tag)
    if not dimension:
        got = f"nothing but {FIX}" if cells else "an empty file"
        raise problem(lines.path, 1, "poses or edges of a graph", got)
    return dimension, rows


def _vertices(
    lines: Lines, rows: Sequence[int], cells: Cells, dimension: int
) -> tuple[dict[int, int], np.ndarray]:
    """Return which pose has which id, and the poses of the lines of vertices."""
    width, expected = len(POSE[dimension].split()), f"'id {POSE[dimension]}'"
    ids, numbers = _split(lines, rows, cells, 1, width, expected)
    index: dict[int, int] = {}
    for k, name in enumerate(ids):
        if index.setdefault(name, k) != k:
            first = lines.at[rows[index[name]]]
            got = f"{name}, which line {first} has"
            raise lines.error(rows[k], "the id of another pose", got)
    return index, _poses(lines, rows, numbers)


def _edges(
    lines: Lines, rows: Sequence[int], cells: Cells, dimension: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the ids of both ends of each edge, the measurements and the information.

    The ids of edge k are numbers 2 k and 2 k + 1 of the list.
    """
    width, d = len(POSE[dimension].split()), FREEDOM[dimension]
    triangle = d * (d + 1) // 2
    expected = f"'i j {POSE[dimension]}' and {triangle} of information"
    ends, numbers = _split(lines, rows, cells, 2, width + triangle, expected)
    for row, start, stop in zip(rows, ends[::2], ends[1::2], strict=True):
        if start == stop:
            got = f"an edge from pose {start} to itself"
            raise lines.error(row, "an edge between two poses", got)
    information = np.zeros((len(rows), d, d))
    i, j = np.triu_indices(d)
    information[:, i, j] = information[:, j, i] = numbers[:, width:]
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    if bad := np.flatnonzero((diagonal < 0.0).any(axis=1)).tolist():
        expected = "information with a diagonal that is not negative"
        raise lines.error(rows[bad[0]], expected, "a matrix with one that is")
    return ends, _poses(lines, rows, numbers[:, :width]), information


def _split(
    lines: Lines,
    rows: Sequence[int],
    cells: Cells,
    ids: int,
    width: int,
    expected: str,
) -> tuple[list[int], np.ndarray]:
    """Return the ids and the numbers, (lines, width), of the lines of one tag."""
    values = [cells[row][1:] for row in rows]
    numbers = table(lines, rows, values, ids + width, expected)
    return _ids(lines, rows, [cell[:ids] for cell in values]), numbers[:, ids:]


def _ids(lines: Lines, rows: Sequence[int], cells: Cells) -> list[int]:
    """Return the ids in some lines, one after the other."""
    # Not by way of floats: those beyond 2**53 would lose their last digits.
    for row, of_line in zip(rows, cells, strict=True):
        for cell in of_line:
            if not (cell.isdecimal() and len(cell) < 20 and int(cell) <= MOST):
                expected = f"an id, an integer from 0 to {MOST}"
                raise lines.error(row, expected, shown(cell))
    return list(map(int, chain.from_iterable(cells)))


def _poses(lines: Lines, rows: Sequence[int], numbers: np.ndarray) -> np.ndarray:
    """Return poses in our order, with quaternions of length 1."""
    poses = quaternion_first(numbers)
    if bad := np.flatnonzero(~directed(poses)).tolist():
        got = " ".join(f"{part:g}" for part in numbers[bad[0], 3:])
        raise lines.error(rows[bad[0]], "a quaternion of length 1", got)
    return with_unit_quaternions(poses)


def _fixed(
    lines: Lines, rows: Sequence[int], cells: Cells, index: dict[int, int]
) -> np.ndarray:
    """Return whether each pose is fixed, (n,)."""
    fixed = np.zeros(len(index), bool)
    for row in rows:
        if len(cells[row]) < 2:
            raise lines.error(row, f"'{FIX} id ...'", "no id")
        for name in _ids(lines, [row], [cells[row][1:]]):
            if name not in index:
                got = f"{name}, which no pose and no edge has"
                raise lines.error(row, "the id of a pose", got)
            fixed[index[name]] = True
    return fixed


def _text(numbers: Sequence[float]) -> str:
    return " ".join(map(repr, numbers))


def _check(graph: G2oFile) -> None:
    """Raise unless ``parse_g2o`` could return this."""
    if graph.dimension not in VERTEX:
        raise ValueError(f"dimension: expected 2 or 3, got {graph.dimension}")
    n, m, d = len(graph.ids), len(graph.i), FREEDOM[graph.dimension]
    width = len(POSE[graph.dimension].split())
    shapes = {
        "ids": (n,),
        "poses": (n, width),
        "fixed": (n,),
        "i": (m,),
        "j": (m,),
        "measurements": (m, width),
        "information": (m, d, d),
    }
    for name, shape in shapes.items():
        array = getattr(graph, name)
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers")
    if not n or np.min(graph.ids) < 0 or len(np.unique(graph.ids)) < n:
        raise ValueError("ids: expected integers from 0, each once")
    ends = np.stack([graph.i, graph.j])
    if m and (ends.min() < 0 or ends.max() >= n or (ends[0] == ends[1]).any()):
        raise ValueError(f"i, j: expected two different integers from 0 to {n - 1}")
    for name in "poses", "measurements":
        if not directed(getattr(graph, name)).all():
            raise ValueError(f"{name}: expected quaternions of length 1")
    transposed = graph.information.transpose(0, 2, 1)
    if not np.array_equal(graph.information, transposed):
        raise ValueError("information: expected symmetric matrices")
    if (np.diagonal(graph.information, axis1=1, axis2=2) < 0.0).any():
        raise ValueError("information: expected diagonals that are not negative")
