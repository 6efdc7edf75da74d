"""A start for pose graphs from two linear problems: rotations, then translations.

A measurement Z of pose j as seen from pose i says Rj = Ri Rz for rotations. As
matrices of any numbers, without the constraint that they are rotations, all of them
that fit the measurements best come from one linear least-squares problem: the chordal
relaxation of Martinec and Pajdla (2007), "Robust rotation and translation estimation
in multiview reconstruction", CVPR; for pose graphs Carlone, Tron, Daniilidis and
Dellaert (2015), "Initialization techniques for 3D SLAM", ICRA. The rotations nearest to
these matrices are then held, and with them translations are linear as well.
"""

import numpy as np
from scipy.sparse import csc_array, csr_array
from scipy.sparse.linalg import splu
from scipy.spatial.transform import Rotation

# Share of the largest information that every measurement has at least. Without, a graph
# that only edges without information hold together would be singular.
LEAST = 1e-9


def chordal(
    poses: np.ndarray,
    held: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    measurements: np.ndarray,
    information: np.ndarray,
) -> np.ndarray:
    """Return poses from linear problems.

    Args:
        poses: x, y and angle, (n, 3), or translation and unit quaternion, (n, 7). Only
            those that are held matter.
        held: Which poses stay, (n,); one at least of each part of the graph.
        i: Where each edge starts, (m,).
        j: Where each edge ends, (m,).
        measurements: The pose of ``j`` as seen from ``i``, (m, 3) or (m, 7).
        information: Inverse covariances of steps, translation first, (m, d, d).

    Returns:
        The poses, (n, 3) or (n, 7).
    """
    t, turns = _parts(poses)
    steps, turned = _parts(measurements)
    d = t.shape[1]
    identity = np.broadcast_to(np.eye(d), turned.shape)
    # rotations: |Rz^T Ri^T - Rj^T|, whose columns are independent of one another
    certain = np.trace(information[:, d:, d:], axis1=1, axis2=2)
    weight = np.sqrt(np.maximum(certain, LEAST * certain.max() or 1.0))[:, None, None]
    back = turned.transpose(0, 2, 1)
    loose = _solve(
        i,
        j,
        weight * back,
        -weight * identity,
        np.zeros_like(turned),
        turns.transpose(0, 2, 1),
        held,
    )
    turns = np.where(held[:, None, None], turns, _nearest(loose).transpose(0, 2, 1))
    # translations: |root (Ri^T (tj - ti) - tz)|
    root = _roots(information[:, :d, :d])
    seen = root @ turns[i].transpose(0, 2, 1)
    target = root @ steps[:, :, None]
    t = _solve(i, j, -seen, seen, target, t[:, :, None], held)[:, :, 0]
    return np.where(held[:, None], poses, _joined(t, turns))


def _parts(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return translations (n, d) and rotation matrices (n, d, d)."""
    if poses.shape[1] == 7:
        turned = Rotation.from_quat(poses[:, 3:], scalar_first=True)
        return poses[:, :3], turned.as_matrix()
    c, s = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    return poses[:, :2], np.stack([c, -s, s, c], axis=1).reshape(-1, 2, 2)


def _joined(t: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return poses of translations and rotation matrices."""
    if t.shape[1] == 3:
        turned = Rotation.from_matrix(turns).as_quat(scalar_first=True)
    else:
        turned = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])[:, None]
    return np.concatenate([t, turned], axis=1)


def _nearest(matrices: np.ndarray) -> np.ndarray:
    """Return the rotations nearest to matrices in the sum of squares, (n, d, d)."""
    left, _, right = np.linalg.svd(matrices)
    # the determinant is 1, not -1: turn the direction that matters least
    left[:, :, -1] *= np.linalg.det(left @ right)[:, None]
    return left @ right


def _roots(information: np.ndarray) -> np.ndarray:
    """Return matrices whose squares are the information, none of them singular."""
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, LEAST * values.max() or 1.0)
    return np.sqrt(values)[:, :, None] * vectors.transpose(0, 2, 1)


def _solve(
    i: np.ndarray,
    j: np.ndarray,
    of_i: np.ndarray,
    of_j: np.ndarray,
    target: np.ndarray,
    known: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """Minimise the sum of ``|of_i x[i] + of_j x[j] - target|^2`` over x.

    Args:
        i: First row of x of each term, (m,).
        j: Second one, (m,).
        of_i: Factors of the first, (m, d, d).
        of_j: Factors of the second, (m, d, d).
        target: What terms should be, (m, d, c).
        known: x, (n, d, c), where it is held.
        held: Which rows of x are held, (n,).

    Returns:
        x, (n, d, c).
    """
    (n, d, c), m = known.shape, len(i)
    rows = np.broadcast_to(np.arange(m * d).reshape(m, d, 1), (m, d, d))
    columns = [
        np.broadcast_to((at[:, None] * d + np.arange(d))[:, None, :], (m, d, d))
        for at in (i.astype(np.int64), j.astype(np.int64))
    ]
    values = np.concatenate([of_i.ravel(), of_j.ravel()])
    places = np.tile(rows.ravel(), 2), np.concatenate([x.ravel() for x in columns])
    matrix = csc_array(csr_array((values, places), shape=(m * d, n * d)))
    still = np.repeat(held, d)
    x = known.reshape(n * d, c).copy()
    if held.all():
        return x.reshape(known.shape)
    free = matrix[:, ~still]
    rest = target.reshape(m * d, c) - matrix[:, still] @ x[still]
    # symmetric and positive definite: pivots on the diagonal, few entries filled in
    factor = splu(
        csc_array(free.T @ free),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    x[~still] = factor.solve(free.T @ rest)
    return x.reshape(known.shape)
