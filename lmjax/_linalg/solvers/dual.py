"""The damped step from a system of the size of the residual, for m < n."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax.types import Scalar
from lmjax._linalg.linearization import PRECISION, DenseLinearization
from lmjax._linalg.solvers.dense import solve_positive


class Dual(eqx.Module):
    """Solve ``(J J^T + damping I) w = r`` and step along ``-J^T w``.

    The same step as from ``J^T J + damping I``, since
    ``(J^T J + damping I) J^T = J^T (J J^T + damping I)``, by a system of m instead of n
    equations: the default with fewer residuals than parameters and more than 1,000 of
    those, such as a network. J (m x n) is held, nothing is n x n. It squares the
    condition number; rows of J that depend on each other are told apart to rounding
    only.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.Dual())
    """

    matrix_free: ClassVar[bool] = False

    def __call__(
        self, linearization: DenseLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step of least norm."""
        jac, r = linearization.jac, linearization.residual
        matrix = jnp.dot(jac, jac.T, precision=PRECISION)
        # rounding of the products: keeps dependent rows from failing the factorisation
        ridge = r.size * jnp.finfo(r.dtype).eps * jnp.max(jnp.diagonal(matrix))
        matrix = matrix + (damping + ridge) * jnp.eye(r.size, dtype=r.dtype)
        return -jnp.dot(solve_positive(matrix, r), jac, precision=PRECISION)
