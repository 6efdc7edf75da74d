"""What a global fit returns: `GlobalFit`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lmjax._fit.curve_result import DataFit
from lmjax._jax.arrays import arrays_of, is_list
from lmjax._jax.types import Params
from lmjax._problem.ragged import pad_ragged
from lmjax._solver import report as reports
from lmjax._statistics.block_covariance import CovarianceBlocks


class GlobalFit(DataFit):
    """Outcome of `global_fit`: a `Solution` of the joint problem, with statistics.

    Leaves of ``params`` that are not shared have a leading axis of curves, and so has
    ``residual``. A curve without data counts as fixed. ``normal_matrix`` is None: see
    ``covariance``. Everything but ``predict`` and ``report`` works on a batch (leading
    axes) as well.

    Attributes:
        covariance: The `CovarianceBlocks`; rows and columns of parameters that are
            fixed, at a bound or without effect are zero.
        rank: Rank of the Jacobian over the free parameters. Below ``num_free`` the data
            leave some combination of them open, and the parameters that take part in
            it are UNDETERMINED.
        shared: Which leaves of ``params`` all curves share, in flat order.
        per_curve: Which leaves of x differed per curve, in flat order.
    """

    covariance: CovarianceBlocks
    rank: Int[Array, "*batch"]
    shared: tuple[bool, ...] = eqx.field(static=True)
    per_curve: tuple[bool, ...] = eqx.field(static=True)

    @property
    def stderr(self) -> Params:
        """Standard errors, a pytree like ``params``; NaN where there is none."""
        diagonal = lambda block: jnp.diagonal(block, axis1=-2, axis2=-1)
        blocks, batch = self.covariance, self.cost.ndim
        own, shared = diagonal(blocks.own), diagonal(blocks.shared)
        parts, at = [], {True: 0, False: 0}
        for flag, leaf in zip(self.shared, self._leaves(), strict=True):
            source, lead = (shared, batch) if flag else (own, batch + 1)
            size = leaf[(0,) * lead].size
            part = source[..., at[flag] : at[flag] + size]
            at[flag] += size
            parts.append(part.reshape(*leaf.shape[:batch], -1))
        return self._errors(jnp.concatenate(parts, axis=-1))

    def leaf_axes(self) -> tuple[int, ...]:
        """Return per leaf how many leading axes count fits and curves."""
        return tuple(self.cost.ndim + (not flag) for flag in self.shared)

    def _leaves(self):
        return jax.tree.leaves(self.varied())

    def predict(self, x: Any) -> Array:
        """Return the fitted curves at ``x``, curves on the first axis.

        Leaves of x that differed per curve in the fit do so here, on their first axis,
        or as a list of arrays, padded to the longest.

        Raises:
            ValueError: If x is not like that of the fit.
        """
        ragged = lambda leaf: pad_ragged(leaf)[0] if is_list(leaf) else leaf
        x = arrays_of("x", jax.tree.map(ragged, x, is_leaf=is_list))
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        if len(shapes) != len(self.per_curve):
            raise ValueError(
                f"x: expected {len(self.per_curve)} arrays, as in the fit, got "
                f"{len(shapes)}"
            )
        curves = self.residual.shape[0]
        for flag, shape in zip(self.per_curve, shapes, strict=True):
            if flag and shape[:1] != (curves,):
                raise ValueError(
                    f"x: expected the points of each of the {curves} curves on the "
                    f"first axis, as in the fit, got shape {shape}"
                )
        leaves, structure = jax.tree.flatten(self.varied())
        in_axes = jax.tree.unflatten(
            structure, [None if flag else 0 for flag in self.shared]
        )
        x_axes = jax.tree.unflatten(
            jax.tree.structure(x), [0 if flag else None for flag in self.per_curve]
        )
        params = jax.tree.unflatten(structure, leaves)
        return jax.vmap(self.evaluate, in_axes=(in_axes, x_axes))(params, x)

    def report(self) -> str:
        """Return a table: shared parameters, a summary of own ones, how it went."""
        return reports.global_fit(self)
