"""Pose graphs from a g2o file, ready for `least_squares`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lmjax._errors.warn import warn
from lmjax._problem.residual_blocks import ResidualBlocks
from lmjax.io._chordal import chordal
from lmjax.io._g2o import G2oFile, parse_g2o, write_g2o
from lmjax.io._geometry import semidefinite
from lmjax.io._spanning import span
from lmjax.io._text import Name
from lmjax.manifolds import SE2, SE3

STARTS = ("file", "spanning_tree", "chordal")


class PoseGraph(eqx.Module):
    """Poses and measurements between them, ready for `lmjax.least_squares`.

    Attributes:
        params: The start: ``{"poses": (n, 3)}`` of x, y and angle, or ``(n, 7)`` of
            translation and unit quaternion w, x, y, z. NumPy arrays in float64.
        blocks: The edges, one block per edge. Twice their cost is chi squared.
        manifold: ``{"poses": SE2()}`` or ``{"poses": SE3()}``.
        fixed: ``{"poses": (n, 1)}``: the poses that are held.
        file: What the file holds, as NumPy arrays: ``ids`` of the poses, ``i``, ``j``,
            ``measurements`` and ``information`` of the edges, and more.
    """

    params: dict[str, np.ndarray]
    blocks: ResidualBlocks
    manifold: Any
    fixed: Any
    file: G2oFile

    def write(self, path: Name, params: dict[str, Any]) -> None:
        """Write a g2o file with these poses, and the same edges and FIX lines.

        Args:
            path: The file; compressed if its name ends in ``.bz2`` or ``.gz``.
            params: Poses, as in ``params`` of a solution.

        Raises:
            ValueError: If shapes do not fit the file, or a number is not finite.
        """
        write_g2o(path, self.file._replace(poses=np.asarray(params["poses"], float)))


def read_g2o(
    path: Name,
    *,
    start: str = "file",
    loss: str | Callable | None = None,
    loss_scale: Any = 1.0,
) -> PoseGraph:
    """Return the pose graph problem of a g2o file, in 2D or 3D.

    The residual of an edge with measurement Z from pose i to pose j is
    ``root @ log(Z^-1 (Xi^-1 Xj))`` with the full logarithm of SE(2) or SE(3), as in
    GTSAM, and ``root^T root`` the information of the edge. Twice the cost is then chi
    squared. g2o and Ceres leave translations as they are, so their values differ.

    The poses of FIX lines are held. Where a connected part of the graph has none, its
    first pose is held, pose 0 for most files: measurements between poses do not tell
    where all of them stand. Numbers are read in float64, and used in the precision that
    JAX is set to: write ``jax.config.update("jax_enable_x64", True)`` first.

    Args:
        path: The file; decompressed if its name ends in ``.bz2`` or ``.gz``.
        start: Where poses start. ``"file"``: where the file says. ``"spanning_tree"``:
            measurements composed breadth first from the poses that are held.
            ``"chordal"``: rotations from a linear problem that forgets that they are
            rotations, then translations from another one. It is near the minimum where
            measurements are good, whatever the file says.
        loss: Robust loss of an edge, as in `ResidualBlocks`.
        loss_scale: Norm of a residual, in standard deviations, at which it starts to
            count less.

    Returns:
        A `PoseGraph`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ``start`` is none of these, the file has no edges, or a line is
            wrong; names the line.

    Warns:
        UserWarning: If the graph falls into several parts.

    Example:
        >>> import pathlib, tempfile, lmjax.io
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "three.g2o"
        >>> same = "1 0 0 1 0 1"  # upper triangle of the information
        >>> _ = path.write_text(f'''
        ... EDGE_SE2 0 1 1 0 1.57 {same}
        ... EDGE_SE2 1 2 1 0 1.57 {same}
        ... EDGE_SE2 0 2 1.1 1 3.14 {same}
        ... ''')
        >>> graph = lmjax.io.read_g2o(path, start="chordal")
        >>> sol = lmjax.least_squares(
        ...     graph.blocks, graph.params, manifold=graph.manifold, fixed=graph.fixed
        ... )
        >>> sol.params["poses"].shape, bool(sol.success)
        ((3, 3), True)
        >>> graph.write(path, sol.params)

    References:
        Grisetti, Kuemmerle, Stachniss, Burgard (2010), "A tutorial on graph-based
        SLAM", IEEE ITS Magazine 2(4), (1) to (3), for the problem; Carlone, Tron,
        Daniilidis, Dellaert (2015), "Initialization techniques for 3D SLAM", ICRA,
        chordal relaxation, for the start.
    """
    if start not in STARTS:
        raise ValueError(f"start: expected one of {', '.join(STARTS)}, got {start!r}")
    file = parse_g2o(path)
    if not len(file.i):
        raise ValueError(f"{path}: expected at least one edge, got none")
    held = _held(file)
    _warn_of_indefinite(path, file)
    blocks = ResidualBlocks(
        _edge_2d if file.dimension == 2 else _edge_3d,
        {"poses": np.stack([file.i, file.j], axis=1)},
        (file.measurements, _roots(file.information)),
        loss=loss,
        loss_scale=loss_scale,
    )
    manifold = SE2() if file.dimension == 2 else SE3()
    return PoseGraph(
        {"poses": _start(file, held, start)},
        blocks,
        {"poses": manifold},
        {"poses": held[:, None]},
        file,
    )


def _warn_of_indefinite(path: Any, file: G2oFile) -> None:
    """Warn of information that is none: a benchmark or two have such matrices."""
    count = int(np.sum(~semidefinite(file.information)))
    if count:
        warn(
            f"{path}: {count} of {len(file.i)} edges have information that is not "
            "positive semidefinite. Of these the parts below zero are left out, so "
            "that chi2 is not what other programs print."
        )


def _edge_2d(p, measured, root):
    i, j = p["poses"]
    pose = SE2()
    return root @ pose.log(pose.between(measured, pose.between(i, j)))


def _edge_3d(p, measured, root):
    i, j = p["poses"]
    pose = SE3()
    return root @ pose.log(pose.between(measured, pose.between(i, j)))


def _roots(information: np.ndarray) -> np.ndarray:
    """Return symmetric roots of information matrices, (m, d, d).

    Matrices with few digits have eigenvalues slightly below zero, on which a Cholesky
    factorisation fails.
    """
    values, vectors = np.linalg.eigh(information)
    scaled = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    return scaled @ vectors.transpose(0, 2, 1)


def _held(file: G2oFile) -> np.ndarray:
    """Return which poses are held, (n,): one at least of each part of the graph."""
    n = len(file.ids)
    graph = coo_array((np.ones(len(file.i)), (file.i, file.j)), shape=(n, n))
    count, part_of = connected_components(graph, directed=False)
    held = file.fixed.copy()
    for part in np.setdiff1d(np.arange(count), part_of[held]).tolist():
        held[np.argmax(part_of == part)] = True
    if count > 1:
        warn(
            f"The graph falls into {count} parts that no edge connects. One pose of "
            "each part is held at least; how the parts stand to each other comes from "
            "the start."
        )
    return held


def _start(file: G2oFile, held: np.ndarray, start: str) -> np.ndarray:
    """Return the poses to start from; those that are held stay as the file has them."""
    if start == "file":
        return file.poses
    if start == "chordal":
        edges = file.i, file.j, file.measurements, file.information
        return chordal(file.poses, held, *edges)
    # `span` wants the known poses first
    order = np.argsort(~held, kind="stable")
    place = np.argsort(order).astype(np.int32)
    known = file.poses[held]
    made = span(known, place[file.i], place[file.j], file.measurements, len(held))
    return made[place]
