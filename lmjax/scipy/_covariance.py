"""What a Jacobian says about the errors of parameters."""

import numpy as np


def inverse(jac: np.ndarray) -> np.ndarray | None:
    """Return the inverse of ``J^T J``, or None if J has not full rank.

    Columns are scaled to unit length first, so the rank does not depend on units.
    """
    m, n = jac.shape
    norms = np.linalg.norm(jac, axis=0)
    if m < n or not np.all(np.isfinite(norms) & (norms > 0)):
        return None
    r = np.linalg.qr(jac / norms, mode="r")
    singular = np.linalg.svd(r, compute_uv=False)
    if not singular[-1] > np.finfo(float).eps * m * singular[0]:
        return None
    root = np.linalg.inv(r) / norms[:, None]
    return root @ root.T
