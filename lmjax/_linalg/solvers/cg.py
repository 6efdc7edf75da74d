"""Conjugate gradients by products with J and J^T only."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._errors.checks import check_above
from lmjax._jax import sharded
from lmjax._jax.types import Scalar


class CG(eqx.Module):
    """Matrix-free conjugate gradients: no J and no n x n matrix in memory.

    The columns are already scaled, which is Jacobi preconditioning. An inexact step is
    enough far from the solution, and the outer loop repairs what is left: a tighter
    ``tol`` buys fewer outer steps with more products.

    Args:
        tol: Stop when the residual of the normal equations has shrunk by this factor.
        max_steps: Limit on products per step; None means ``2 n``.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.CG(tol=1e-3))

    References:
        Hestenes and Stiefel (1952), J. Res. NBS 49, 409-436, in the least-squares form
        (CGLS) that never forms ``J^T J``.
    """

    tol: float | Scalar = 1e-2
    max_steps: int | None = eqx.field(default=None, static=True)
    matrix_free: ClassVar[bool] = True

    def __check_init__(self):
        check_above("tol", self.tol, 0.0, inclusive=True)
        steps = self.max_steps
        if steps is not None and (type(steps) is not int or steps < 1):
            raise ValueError(f"max_steps: expected None or an int >= 1, got {steps!r}")

    def __call__(self, linearization, damping: Scalar) -> Float[Array, " n"]:
        """Return an approximate damped least-squares step."""
        mv, rmv = linearization.operators()
        s0 = -rmv(linearization.residual)
        limit = 2 * s0.size if self.max_steps is None else self.max_steps
        target = (self.tol**2 * jnp.sum(s0**2)).astype(s0.dtype)
        # below this J^T u is rounding; going on would add it up
        floor = jnp.finfo(s0.dtype).eps ** 2 * s0.size

        def unfinished(carry):
            _, u, _, _, gamma, k = carry
            return (gamma > jnp.maximum(target, floor * jnp.sum(u**2))) & (k < limit)

        def body(carry):
            x, u, s, d, gamma, k = carry
            w = mv(d)
            alpha = gamma / (jnp.sum(w**2) + damping * jnp.sum(d**2))
            x, u = x + alpha * d, u - alpha * w
            s = rmv(u) - damping * x
            gamma_new = jnp.sum(s**2)
            return x, u, s, s + (gamma_new / gamma) * d, gamma_new, k + 1

        start = (
            jnp.zeros_like(s0),
            -linearization.residual,
            s0,
            s0,
            jnp.sum(s0**2),
            0,
        )
        return sharded.while_loop(unfinished, body, start)[0]
