"""How one residual or prediction enters the cost.

A term turns what the model returns for a point into its share of the cost, and into a
row of the linear model with the gradient and a positive curvature of that share.
`lmjax._problem.problem` without a term is plain least squares.
"""

from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._errors.advice import calling
from lmjax._jax.closures import hoisted
from lmjax.likelihoods import Likelihood


class LossTerm(eqx.Module):
    """A robust loss of the residual: ``c^2 rho((r/c)^2) / 2`` per point.

    Attributes:
        rho: The loss, see `lmjax.losses`.
        scale: Residual size c at which ``rho`` starts to bend.
    """

    rho: Callable
    scale: Any

    def prepared(self, m: int, dtype) -> Self:
        """Return the term with all its numbers as leaves of one dtype."""
        z = jnp.zeros((m,), dtype)
        got = jax.eval_shape(calling(self.rho, "loss(z)"), z)
        if getattr(got, "shape", None) != z.shape:
            raise ValueError(
                f"loss: expected rho(z) like z, of shape {z.shape}, got {got}"
            )
        scale = jnp.asarray(self.scale, dtype)
        if scale.shape:
            raise ValueError(
                f"loss_scale: expected a number, got shape {scale.shape}; sigma= is "
                "for points of different noise"
            )
        return type(self)(hoisted(self.rho, z), scale)

    def half_terms(self, r: Float[Array, " m"]) -> Float[Array, " m"]:
        """Return the cost of each residual."""
        return 0.5 * self.scale**2 * self.rho((r / self.scale) ** 2)

    def reduction_terms(
        self, r: Float[Array, " m"], r_new: Float[Array, " m"]
    ) -> Float[Array, " m"]:
        """Return how much each share of the cost falls from r to r_new."""
        return self.half_terms(r) - self.half_terms(r_new)

    def gauss_newton_rows(
        self, r: Float[Array, " m"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Return ``(a r, b)`` so that ``a r`` and ``b J`` describe the robust cost.

        With ``a = sqrt(rho') / (1 - alpha)`` and ``b = sqrt(rho') (1 - alpha)``, where
        ``(1 - alpha)^2 = 1 + 2 z rho''/rho'``, the product ``(b J)^T (a r)`` is the
        exact gradient and ``(b J)^T (b J)`` the curvature along r. Where ``rho'' < 0``,
        as for every outlier of the losses in `lmjax.losses`, the correction would make
        the curvature vanish or turn negative, so ``alpha = 0`` there, as in Ceres'
        corrector.

        References:
            Triggs, McLauchlan, Hartley, Fitzgibbon (1999), "Bundle adjustment: a modern
            synthesis", section 4.3; Ceres Solver, ``corrector.cc``, for the clamp.
        """
        z = (r / self.scale) ** 2
        along = lambda fn: lambda u: jax.jvp(fn, (u,), (jnp.ones_like(u),))[1]
        slope, curvature = jax.jvp(along(self.rho), (z,), (jnp.ones_like(z),))
        slope = jnp.maximum(slope, 0.0)
        root = jnp.sqrt(slope)
        convex = (curvature > 0.0) & (slope > 0.0)
        ratio = jnp.where(convex, curvature / jnp.where(convex, slope, 1.0), 0.0)
        correction = jnp.sqrt(1.0 + 2.0 * z * ratio)
        return root / correction * r, root * correction


class LikelihoodTerm(eqx.Module):
    """Half the deviance of a prediction f: ``log L(best; y) - log L(f; y)`` per point.

    The model returns f itself, not f - y, or a small f would be lost in a large y.

    Attributes:
        likelihood: What noise the data have.
        y: The data.
        mask: Which points count, or None for all.
    """

    likelihood: Likelihood
    y: Float[Array, " m"]
    mask: Bool[Array, " m"] | None

    def prepared(self, m: int, dtype) -> Self:
        """Return the term with all its numbers as leaves of one dtype."""
        cast = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x
        return jax.tree.map(cast, self)

    def half_terms(self, f: Float[Array, " m"]) -> Float[Array, " m"]:
        """Return half the deviance of each point, 0 where masked."""
        y, f = self._counted(self.y), self._counted(f)
        best = self.likelihood.best(y)
        return self._or_zero(self.likelihood.log_ratio(f, best, y))

    def reduction_terms(
        self, f: Float[Array, " m"], f_new: Float[Array, " m"]
    ) -> Float[Array, " m"]:
        """Return how much each share of the cost falls from f to f_new."""
        y, f, f_new = self._counted(self.y), self._counted(f), self._counted(f_new)
        return self._or_zero(self.likelihood.log_ratio(f, f_new, y))

    def gauss_newton_rows(
        self, f: Float[Array, " m"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Return ``(l' / sqrt(i), sqrt(i))``, from slope l' and Fisher information i.

        As residual and as factor of the rows of J they give the exact gradient and
        Fisher's curvature ``J^T diag(i) J``: the steps are those of Fisher's scoring.
        """
        y, f = self._counted(self.y), self._counted(f)
        root = jnp.sqrt(self.likelihood.information(f))
        residual = self.likelihood.slope(f, y) / root
        return self._or_zero(residual), self._or_zero(root)

    def _counted(self, x):
        """Replace masked values by 1/2, which is harmless for any likelihood."""
        return x if self.mask is None else jnp.where(self.mask, x, 0.5)

    def _or_zero(self, x):
        return x if self.mask is None else jnp.where(self.mask, x, 0.0)


Term = LossTerm | LikelihoodTerm
