"""Quaternions in the order of files and in ours, and information matrices."""

import numpy as np

# Quaternions with few digits are off by less. A length beyond is an error of the file.
SHORTEST, LONGEST = 1e-6, 1e6
# A quaternion so near to length 1 is left alone: files that we wrote are read exactly.
UNIT = 16 * np.finfo(float).eps
# Correlations that are printed with six digits are off by about 1e-6 each. So is the
# smallest eigenvalue of a singular matrix, times its size.
ROUNDING = 1e-5


def quaternion_first(poses: np.ndarray) -> np.ndarray:
    """Return poses x y z qx qy qz qw as x y z qw qx qy qz, (n, 7); 2D is left alone."""
    return poses[:, [0, 1, 2, 6, 3, 4, 5]] if poses.shape[1] == 7 else poses


def quaternion_last(poses: np.ndarray) -> np.ndarray:
    """Return poses x y z qw qx qy qz as x y z qx qy qz qw, (n, 7); 2D is left alone."""
    return poses[:, [0, 1, 2, 4, 5, 6, 3]] if poses.shape[1] == 7 else poses


def directed(poses: np.ndarray) -> np.ndarray:
    """Return whether the quaternion of each pose has a direction, (n,)."""
    if poses.shape[1] != 7:
        return np.ones(len(poses), bool)
    largest = np.abs(poses[:, 3:]).max(1)
    return (largest > SHORTEST) & (largest < LONGEST)


def with_unit_quaternions(poses: np.ndarray) -> np.ndarray:
    """Return poses with quaternions of length 1, (n, 7); 2D is left alone."""
    if poses.shape[1] != 7:
        return poses
    squared = np.sum(poses[:, 3:] ** 2, axis=1, keepdims=True)
    length = np.where(np.abs(squared - 1) < UNIT, 1.0, np.sqrt(squared))
    return np.concatenate([poses[:, :3], poses[:, 3:] / length], axis=1)


def semidefinite(matrices: np.ndarray) -> np.ndarray:
    """Return whether symmetric matrices are positive semidefinite up to rounding.

    Rows and columns are scaled to a diagonal of ones first: translations and rotations
    have different units, and so different sizes.

    Args:
        matrices: (m, d, d), finite.

    Returns:
        An array of shape (m,).
    """
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    with np.errstate(over="ignore"):  # inf is refused below
        correlation = matrices / scale[:, :, None] / scale[:, None, :]
    # What has no information at all has none in common with others either.
    empty = (diagonal == 0)[:, :, None] & (matrices != 0)
    # No correlation is larger than 1, and eigvalsh fails on infinities.
    bounded = (np.abs(correlation) <= 2).all((1, 2)) & (diagonal >= 0).all(1)
    good = bounded & ~empty.any((1, 2))
    good[good] = np.linalg.eigvalsh(correlation[good])[:, 0] >= -ROUNDING
    return good
