"""The damped step of a global fit: own parameters eliminated, curve by curve."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax.types import Scalar
from lmjax._linalg.arrowhead import ArrowLinearization, ArrowMatrix
from lmjax._linalg.linearization import PRECISION, UNROLL_UP_TO
from lmjax._linalg.solvers.dense import solve_positive, solve_written_out


class Schur(eqx.Module):
    """Normal equations of a global fit by elimination of each curve's own parameters.

    With V and W the blocks of a curve and U that of the shared parameters, the shared
    step solves ``(U - sum W^T V^-1 W) y = b - sum W^T V^-1 a``, a system of their
    number, and each curve follows with ``V^-1 (a - W y)``: the work grows with the
    number of curves and nothing is larger than J itself. It squares the condition
    number, as `Cholesky` does.

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
        synthesis", section 6.1.
    """

    matrix_free: ClassVar[bool] = False

    def __call__(
        self, linearization: ArrowLinearization, damping: Scalar
    ) -> Float[Array, " n"]:
        """Return the damped least-squares step."""
        grad = linearization.grad
        matrix = linearization.matrix.plus_diagonal(jnp.full_like(grad, damping))
        return -solve_arrow(matrix, grad)


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
