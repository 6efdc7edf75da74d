"""Linear solvers for problems of many small blocks, beside `Schur`."""

from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from lmjax._errors.checks import check_above
from lmjax._jax.types import Scalar
from lmjax._linalg.blocks import conjugate, sparse
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.blocks.structure import absent


class BlockCG(eqx.Module):
    """Conjugate gradients on all unknowns of `ResidualBlocks`, J block by block.

    Preconditioned by the diagonal blocks of ``J^T J``. It needs the least memory, and
    many products where the graph is long; it works on every device and for any pattern.

    Args:
        tol: Stop when a turn changes the quadratic model by less than ``tol / k`` of
            it after k turns. A loose step is enough; the loop repairs what is left.
        max_steps: Limit on products per step.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.BlockCG())

    References:
        Nash and Sofer (1990), Oper. Res. Lett. 9, 219-221, for the test.
    """

    tol: float | Scalar = 0.1
    max_steps: int = eqx.field(default=500, static=True)
    matrix_free: ClassVar[bool] = False

    def __check_init__(self):
        check_above("tol", self.tol, 0.0)

    def __call__(
        self, linearization: BlockLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return an approximate damped least-squares step."""
        model = linearization
        grad = model.grad
        structure = model.structure
        added = damping + absent(structure.squares(model.columns))
        product = lambda v: model.rmv(model.mv(v)) + added * v
        precondition = conjugate.block_jacobi(
            structure, model.columns, [None] * len(model.columns), added
        )
        return conjugate.inexact(product, precondition, -grad, self.tol, self.max_steps)


class SparseCholesky(eqx.Module):
    """Sparse Cholesky factorisation of ``J^T J`` of `ResidualBlocks`, block by block.

    The default for pose graphs and other problems without a leaf that `Schur` could
    eliminate. The order of elimination is worked out once (SuperLU's minimum degree,
    through SciPy), the numbers by machine code. On devices other than CPUs, under
    `jax.vmap`, and where the rows are traced, a dense factorisation or `BlockCG` takes
    its place.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.SparseCholesky())

    References:
        Davis (2006), Direct Methods for Sparse Linear Systems, chapter 4.
    """

    matrix_free: ClassVar[bool] = False

    def __call__(
        self, linearization: BlockLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step."""
        return factored(self, linearization, damping).solve(-linearization.grad)

    def factor(self, model: BlockLinearization, damping: Scalar) -> Any:
        """Return the factor of the damped normal matrix."""
        return sparse.factor_normal(model, damping)

    def substitute(
        self,
        model: BlockLinearization,
        damping: Scalar,
        factors: Any,
        rhs: Float[Array, " n"],
    ) -> Float[Array, " n"]:
        """Return the solution for a right-hand side."""
        return sparse.solve(model, damping, factors, rhs, BlockCG())


class Factored(eqx.Module):
    """The damped normal matrix of blocks, ready to be solved with many times.

    Attributes:
        linear_solver: The linear solver.
        model: The linear model; its residual is of no account.
        damping: What is added to the diagonal.
        factors: What the solver made of both; None if it has no factorisation.
    """

    linear_solver: Any
    model: BlockLinearization
    damping: Scalar
    factors: Any

    def solve(self, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the solution for a right-hand side."""
        solver, model = self.linear_solver, self.model
        if not hasattr(solver, "substitute"):
            return solver(model.with_gradient(-rhs), self.damping)
        return solver.substitute(model, self.damping, self.factors, rhs)


def factored(
    linear_solver: Any, model: BlockLinearization, damping: Scalar
) -> Factored:
    """Return the damped normal matrix of blocks, factored if the solver can."""
    factors = None
    if hasattr(linear_solver, "factor"):
        factors = linear_solver.factor(model, damping)
    return Factored(linear_solver, model, damping, factors)
