"""Solvers for the damped linear problem of one step.

A linear solver is a callable ``solver(linearization, damping) -> dp`` that returns the
minimiser of ``||J dp + r||^2 + damping * ||dp||^2``. The linearization is already
scaled: its columns have at most unit norm, and columns of parameters that may not move
are zero. Its ``matrix_free`` attribute says which kind of linearization it wants.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax.types import Scalar
from lmjax._linalg.solvers.blocks import BlockCG as BlockCG
from lmjax._linalg.solvers.blocks import SparseCholesky as SparseCholesky
from lmjax._linalg.solvers.cg import CG as CG
from lmjax._linalg.solvers.dense import QR as QR
from lmjax._linalg.solvers.dense import SVD as SVD
from lmjax._linalg.solvers.dense import Cholesky as Cholesky
from lmjax._linalg.solvers.dual import Dual as Dual
from lmjax._linalg.solvers.schur import Schur as Schur


def solve_with_pivots(
    linear_solver: Callable, linearization, damping: Scalar
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return the step and the pivots of the damped normal matrix.

    They tell how near to singular it is. Zeros stand for pivots that are not known, of
    solvers without a factorisation of the whole matrix and of the user's own.
    """
    if isinstance(linear_solver, QR | Cholesky | SVD):
        return linear_solver.solve(linearization, damping)
    step = linear_solver(linearization, damping)
    return step, jnp.zeros_like(step)
