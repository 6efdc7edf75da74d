"""What minimising a sum of squares returns: `ResidualFit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._jax.types import Params
from lmjax._linalg.normal_inverse import from_matrix
from lmjax._problem.charts import ChartLeaf
from lmjax._solver.solution import Solution
from lmjax._statistics.statistics import dof_of, has_error, is_free, scaled


class ResidualFit(Solution):
    """A `Solution` of `least_squares`, with errors of the parameters.

    They take residuals for independent and of the same variance, which is estimated
    from what is left: ``2 cost / dof``. Nothing is computed before it is asked for.

    With ``manifold=`` errors, covariance and degrees of freedom are those of a step
    from ``params``: of a pose, the six numbers that `SE3.retract` takes.

    Attributes:
        tangents: Where each leaf stands in a flat step; None without manifolds.
    """

    tangents: tuple[ChartLeaf, ...] | None = eqx.field(static=True)

    @property
    def step_status(self) -> Int[Array, "*batch n"]:
        """The `ParamStatus` of each number of a step; without manifolds of ``params``.

        Each number of an element has the status of the element.
        """
        if self.tangents is None:
            return self.flat_status
        parts = [leaf.repeated(self.flat_status) for leaf in self.tangents]
        return jnp.concatenate(parts, axis=-1)

    @property
    def num_residuals(self) -> int:
        """Residuals of one fit."""
        leaves = jax.tree.leaves(self.residual)
        return sum(int(np.prod(leaf.shape[self.cost.ndim :])) for leaf in leaves)

    @property
    def dof(self) -> Int[Array, "*batch"]:
        """Degrees of freedom: residuals less the parameters that are not fixed."""
        return dof_of(self.num_residuals, self.step_status)

    @property
    def covariance(self) -> Float[Array, "*batch n n"]:
        """Covariance of the parameters in ravel order, ``2 cost / dof (J^T J)^-1``.

        Zero in rows and columns of parameters that are fixed, at a bound or without
        effect. NaN where ``J^T J`` is too close to singular to be inverted, or where
        there is no ``normal_matrix``. If the residuals are in units of their standard
        deviations, the covariance is this divided by ``2 cost / dof``.

        References:
            Nocedal and Wright (2006), "Numerical Optimization", section 10.1.
        """
        size = self.step_status.shape
        if self.normal_matrix is None:
            return jnp.full((*size, size[-1]), jnp.nan, self.cost.dtype)
        return _covariance(self.normal_matrix, self.step_status, self.cost, self.dof)

    @property
    def stderr(self) -> Params:
        """Standard errors, a pytree like ``params``; NaN where there is none.

        With manifolds the last axis of such a leaf is as long as a step.

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> y = jnp.array([1.0, 2.0, 3.0, 4.0])
            >>> fit = lmjax.least_squares(lambda p: p["mean"] - y, {"mean": 0.0})
            >>> print(f"{fit.params['mean']:.3f} +- {fit.stderr['mean']:.3f}")
            2.500 +- 0.645
        """
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1)
        known = has_error(self.step_status) & (variance >= 0.0)
        flat = jnp.where(known, jnp.sqrt(jnp.where(known, variance, 0.0)), jnp.nan)
        if self.tangents is None:
            return self.unravel(flat)
        leaves, structure = jax.tree.flatten(self.params)
        parts = []
        for value, leaf in zip(leaves, self.tangents, strict=True):
            lead = value.shape if leaf.size == 1 else value.shape[:-1]
            last = () if leaf.size == 1 else (leaf.tangent_size,)
            parts.append(leaf.tangent_of(flat).reshape(*lead, *last))
        return jax.tree.unflatten(structure, parts)


@eqx.filter_jit
def _covariance(normal_matrix, flat_status, cost, dof):
    def one(normal_matrix, flat_status, cost, dof):
        squares = jnp.where(is_free(flat_status), jnp.diagonal(normal_matrix), 0.0)
        found = from_matrix(normal_matrix, squares)
        matrix = scaled(found.in_units(squares).matrix, cost, dof)
        return jnp.where(found.well_conditioned, matrix, jnp.nan)

    for _ in range(jnp.ndim(cost)):
        one = jax.vmap(one)
    return one(normal_matrix, flat_status, cost, dof)
