"""What minimising `ResidualBlocks` returns: `BlockSolution`."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax._jax import paths
from lmjax._solver import block_report
from lmjax._solver.solution import Solution


class BlockSummary(NamedTuple):
    """The shape of a problem, for the report.

    Attributes:
        leaves: Name, rows and unknowns per row of each leaf.
        groups: Number of blocks and residuals per block of each group.
        asked: Linear solver that was asked for, None for the default.
        eliminated: Name of the leaf that was eliminated, or None.
        reduced: Unknowns of the reduced system, 0 without one.
        method: How the linear system was solved.
    """

    leaves: tuple[tuple[str, int, int], ...]
    groups: tuple[tuple[int, int], ...]
    asked: str | None
    eliminated: str | None
    reduced: int
    method: str


class BlockSolution(Solution):
    """A `Solution` of `least_squares` with `ResidualBlocks`.

    There is no normal matrix, and a report does not list the parameters one by one. A
    fit has converged if its last step changed the cost by less than ``ftol`` of it,
    and the linear model predicts no more for a step without damping. Directions that
    the residuals leave open, such as where a reconstruction stands, do not count.

    Attributes:
        initial_cost: Cost at the start.
        summary: The shape of the problem.
    """

    initial_cost: Float[Array, "*batch"]
    summary: BlockSummary = eqx.field(static=True)

    def to_dict(self) -> dict[str, Array]:
        """Return the parameters by leaf, and what is known of the fit, by names."""
        names, leaves = paths.leaf_names(self.params), jax.tree.leaves(self.params)
        found = dict(zip(names, leaves, strict=True))
        for name in ("status", "initial_cost", "cost", "num_steps"):
            found[name] = jnp.asarray(getattr(self, name))
        return found

    def to_pandas(self) -> Any:
        """Refuse: leaves have different numbers of rows."""
        raise TypeError(
            "BlockSolution: leaves of different length make no table; pandas.DataFrame("
            "sol.params[name]) is one of a leaf"
        )

    def report(self) -> str:
        """Return what was solved, how, and what came of it."""
        if np.ndim(self.status):
            return super().report()
        return block_report.text(self)
