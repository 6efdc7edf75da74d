"""Solvers for the damped linear problem of one step.

A linear solver is a callable ``solver(linearization, damping) -> dp`` that returns the
minimiser of ``||J dp + r||^2 + damping * ||dp||^2``. The linearization is already
scaled: its columns have at most unit norm, and columns of parameters that may not move
are zero. Its ``matrix_free`` attribute says which kind of linearization it wants.
"""

from lmjax._linear_solvers.cg import CG as CG
from lmjax._linear_solvers.dense import QR as QR
from lmjax._linear_solvers.dense import SVD as SVD
from lmjax._linear_solvers.dense import Cholesky as Cholesky
from lmjax._linear_solvers.dual import Dual as Dual
from lmjax._linear_solvers.schur import Schur as Schur
