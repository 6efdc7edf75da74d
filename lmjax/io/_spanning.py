"""Poses that a file of a pose graph leaves out, made from its edges.

An edge from i to j measures Z = Xi^-1 Xj. So Xj = Xi Z, and Xi = Xj Z^-1. In 2D a pose
is (x, y, angle), in 3D a translation and a unit quaternion (w, x, y, z).

Poses are tuples of Python numbers here: the tree is walked pose by pose, and for three
or seven numbers NumPy takes ten times as long.
"""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

Pose = tuple[float, ...]
IDENTITY = {3: (0.0, 0.0, 0.0), 7: (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)}


def span(
    known: np.ndarray, i: np.ndarray, j: np.ndarray, measurements: np.ndarray, n: int
) -> np.ndarray:
    """Return all poses: the known ones, and those made by composing edges.

    The edges are walked breadth first from all known poses, so that a made pose is as
    few edges as possible away from one that is known. A component of the graph without
    known poses starts with the identity at the first of its poses.

    Args:
        known: The poses that come first, (k, 3) or (k, 7).
        i: Where each edge starts, (m,).
        j: Where each edge ends, (m,).
        measurements: The pose of ``j`` as seen from ``i``, (m, 3) or (m, 7).
        n: How many poses there are, known or not.

    Returns:
        The poses, (n, 3) or (n, 7).
    """
    width = measurements.shape[1]
    flat = width == 3
    compose, inverse = (compose_2d, inverse_2d) if flat else (compose_3d, inverse_3d)
    steps = list(map(tuple, measurements.tolist()))
    neighbours: list[list[tuple[int, int, bool]]] = [[] for _ in range(n)]
    for edge, (start, end) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        neighbours[start].append((end, edge, True))
        neighbours[end].append((start, edge, False))
    poses: dict[int, Pose] = dict(enumerate(map(tuple, known.tolist())))
    queue = deque(poses)
    for first in range(n):
        if first not in poses:
            poses[first] = IDENTITY[width]
            queue.append(first)
        while queue:
            at = queue.popleft()
            for to, edge, ahead in neighbours[at]:
                if to not in poses:
                    step = steps[edge] if ahead else inverse(steps[edge])
                    poses[to] = compose(poses[at], step)
                    queue.append(to)
    return np.array([poses[row] for row in range(n)])


def compose_2d(a: Sequence[float], b: Sequence[float]) -> Pose:
    """Return the pose that is ``b`` as seen from ``a``."""
    x, y, angle = a
    c, s = math.cos(angle), math.sin(angle)
    turned = math.remainder(angle + b[2], 2 * math.pi)
    return x + c * b[0] - s * b[1], y + s * b[0] + c * b[1], turned


def inverse_2d(a: Sequence[float]) -> Pose:
    """Return the pose that undoes ``a``."""
    x, y, angle = a
    c, s = math.cos(angle), math.sin(angle)
    return -c * x - s * y, s * x - c * y, -angle


def compose_3d(a: Sequence[float], b: Sequence[float]) -> Pose:
    """Return the pose that is ``b`` as seen from ``a``; its quaternion has length 1."""
    w, x, y, z = a[3:]
    bw, bx, by, bz = b[3:]
    q = (
        w * bw - x * bx - y * by - z * bz,
        w * bx + x * bw + y * bz - z * by,
        w * by - x * bz + y * bw + z * bx,
        w * bz + x * by - y * bx + z * bw,
    )
    length = math.hypot(*q)  # rounding adds up along a chain
    moved = _rotate(a[3:], b[:3])
    return (
        *(start + step for start, step in zip(a[:3], moved, strict=True)),
        *(part / length for part in q),
    )


def inverse_3d(a: Sequence[float]) -> Pose:
    """Return the pose that undoes ``a``."""
    w, x, y, z = a[3:]
    back = (w, -x, -y, -z)
    return *(-part for part in _rotate(back, a[:3])), *back


def _rotate(q: Sequence[float], v: Sequence[float]) -> Pose:
    """Return v + 2 u x (u x v + w v), where q = (w, u) has length 1."""
    w, x, y, z = q
    a, b, c = v
    ta, tb, tc = y * c - z * b + w * a, z * a - x * c + w * b, x * b - y * a + w * c
    return (
        a + 2 * (y * tc - z * tb),
        b + 2 * (z * ta - x * tc),
        c + 2 * (x * tb - y * ta),
    )
