"""The one table of tolerances, by dtype."""

import jax
import numpy as np

# For parameters and costs of fits that converged, and for linear algebra on
# well-conditioned problems: some digits above the rounding of the dtype.
TOL = {np.dtype("float64"): 1e-8, np.dtype("float32"): 2e-4}


def assert_close(got, expected, factor=1.0, atol=None):
    """Compare two pytrees of numbers within the tolerance of the dtype of ``got``."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a = np.asarray(a)
        tol = factor * TOL[a.dtype]
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol if atol is None else atol)
