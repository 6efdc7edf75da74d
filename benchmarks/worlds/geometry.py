"""Rotations of the peers, in NumPy alone."""

import numpy as np

# Our camera looks along -z with y up, theirs along z with y down.
FLIP = np.diag([1.0, -1.0, -1.0])


def matrix(w):
    """Return the matrix of a rotation vector."""
    angle = np.linalg.norm(w)
    k = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    if angle < 1e-12:
        return np.eye(3) + k
    s, c = np.sin(angle) / angle, (1 - np.cos(angle)) / angle**2
    return np.eye(3) + s * k + c * k @ k


def vector(turn):
    """Return the rotation vector of a matrix, by its quaternion."""
    w = np.sqrt(max(0.0, 1 + np.trace(turn))) / 2
    axis = np.array(
        [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
    )
    if w < 1e-3:  # near half a turn: the axis is the eigenvector of 1
        values, axes = np.linalg.eigh(turn + turn.T)
        axis = axes[:, -1] * (1 if axes[:, -1] @ axis >= 0 else -1)
        return axis * np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))
    sine = np.linalg.norm(axis) / 4 / w
    angle = 2 * np.arctan2(sine, w)
    return axis / 2 if sine < 1e-12 else axis / np.linalg.norm(axis) * angle
