"""The damped step by elimination: of each curve's own parameters, or of a leaf."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._errors.checks import check_above, check_choice, check_flag
from lmjax._jax.types import Scalar
from lmjax._linalg.arrowhead import ArrowLinearization, ArrowMatrix
from lmjax._linalg.blocks import elimination, elimination_in_xla
from lmjax._linalg.blocks.linearization import BlockLinearization
from lmjax._linalg.linearization import PRECISION, UNROLL_UP_TO
from lmjax._linalg.solvers.blocks import factored
from lmjax._linalg.solvers.dense import solve_positive, solve_written_out


class Schur(eqx.Module):
    """Elimination of parameters that do not meet in any residual.

    In `global_fit` these are each curve's own parameters; with `ResidualBlocks` they
    are the rows of one leaf, such as the points of a bundle adjustment. With V and W
    the blocks of ``J^T J`` of such a row, and U that of the others, the others solve
    ``(U - sum W^T V^-1 W) y = b - sum W^T V^-1 a``, and each row follows with
    ``V^-1 (a - W y)``. It squares the condition number, as `Cholesky` does.

    The reduced matrix is formed and factored, or where it is large multiplied with only
    (conjugate gradients, preconditioned by its diagonal blocks). On a CPU machine code
    forms it; on other devices and under `jax.vmap` one dense product does.

    Args:
        eliminate: Name of the leaf of ``params0`` to eliminate. None takes the one with
            most unknowns of which no block uses two rows.
        dense: Whether to factor the reduced matrix. None does up to 4,000 unknowns.
        tol: For conjugate gradients: stop when a turn changes the quadratic model by
            less than ``tol / k`` of it after k turns.
        max_steps: Limit on products with the reduced matrix per step.
        store: "float32" holds J in half the memory of float64 parameters; residual,
            gradient and the linear system stay in float64. None holds it as it is.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> line = lambda p, x: p["offset"] + p["slope"] * x
        >>> y = jnp.array([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.Schur())
        >>> start = {"offset": 0.0, "slope": 1.0}
        >>> fit = lmjax.global_fit(
        ...     line, jnp.arange(3.0), y, start, shared={"slope": True}, solver=solver
        ... )
        >>> print(f"{fit.params['slope']:.3f}")
        2.000

    References:
        Triggs, McLauchlan, Hartley, Fitzgibbon (1999), "Bundle adjustment: a modern
        synthesis", section 6.1; Agarwal, Snavely, Seitz, Szeliski (2010), "Bundle
        adjustment in the large", ECCV, for conjugate gradients.
    """

    eliminate: str | None = eqx.field(default=None, static=True)
    dense: bool | None = eqx.field(default=None, static=True)
    tol: float | Scalar = 0.1
    max_steps: int = eqx.field(default=500, static=True)
    store: str | None = eqx.field(default=None, static=True)
    matrix_free: ClassVar[bool] = False

    def __check_init__(self):
        if not isinstance(self.eliminate, str | None):
            raise TypeError(
                f"eliminate: expected the name of a leaf, got {self.eliminate!r}"
            )
        if self.dense is not None:
            check_flag("dense", self.dense)
        check_above("tol", self.tol, 0.0)
        if self.store is not None:
            check_choice("store", self.store, ("float32",))
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ValueError(f"max_steps: expected an int >= 1, got {self.max_steps!r}")

    def __call__(
        self, linearization: ArrowLinearization | BlockLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step."""
        if isinstance(linearization, BlockLinearization):
            return factored(self, linearization, damping).solve(-linearization.grad)
        grad = linearization.grad
        matrix = linearization.matrix.plus_diagonal(jnp.full_like(grad, damping))
        return -solve_arrow(matrix, grad)

    def factor(self, model: BlockLinearization, damping: Scalar) -> Any:
        """Return factors of the damped normal matrix; None if it is not factored."""
        if not elimination.has_factor(model.structure):
            return None
        return elimination.factor(model.wide, damping)

    def substitute(
        self,
        model: BlockLinearization,
        damping: Scalar,
        factors: Any,
        rhs: Float[Array, " n"],
    ) -> Float[Array, " n"]:
        """Return the solution for a right-hand side."""
        by_products = lambda model, damping, rhs: elimination_in_xla.solve_by_products(
            model, damping, rhs, self.tol, self.max_steps
        )
        if factors is None:
            return by_products(model.wide, damping, rhs)
        return elimination.solve(model.wide, damping, factors, rhs, by_products)


def solve_arrow(matrix: ArrowMatrix, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solve a positive definite system; rows of zeros count as absent, NaN if not."""
    arrow = matrix.arrow
    absent = (matrix.diagonal() == 0.0).astype(rhs.dtype)
    matrix = matrix.plus_diagonal(absent)
    own_rhs, shared_rhs = arrow.split(rhs)
    solved = solve_blocks(
        matrix.own, jnp.concatenate([matrix.cross, own_rhs[:, None]], axis=1)
    )
    dots = jnp.einsum("iag,ibg->ab", matrix.cross, solved, precision=PRECISION)
    reduced = matrix.shared - dots[:, :-1]
    shared = solve_positive(reduced, shared_rhs - dots[:, -1])
    follow = jnp.einsum("iag,a->ig", solved[:, :-1], shared, precision=PRECISION)
    return arrow.join(solved[:, -1] - follow, shared)


def solve_blocks(
    own: Float[Array, "k k g"], rhs: Float[Array, "k q g"]
) -> Float[Array, "k q g"]:
    """Solve the system of each curve for several right-hand sides."""
    if len(own) > UNROLL_UP_TO:
        return jax.vmap(solve_positive, in_axes=-1, out_axes=-1)(own, rhs)
    return jnp.stack(solve_written_out(own[:, :, None], rhs)[0])
