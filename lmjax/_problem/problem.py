"""From pytrees to arrays: one flat residual ``(n,) -> (m,)`` and its conditions.

Everything the user wrote as pytrees (parameters, bounds, which parameters are fixed,
the residual) is flattened here, once; the solver behind it sees arrays only.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._jax.closures import hoisted
from lmjax._jax.constant_indices import traced_shapes
from lmjax._jax.paths import check_params, common_dtype
from lmjax._jax.types import Params
from lmjax._linalg import arrowhead
from lmjax._linalg.arrowhead import Arrow, ArrowLinearization
from lmjax._linalg.linearization import (
    PRECISION,
    DenseLinearization,
    MatrixFreeLinearization,
)
from lmjax._linalg.projection import eliminate_in_turns
from lmjax._problem.bounds import Constraints, constraints_of
from lmjax._problem.charts import charts_of
from lmjax._problem.terms import Term
from lmjax._problem.user_jacobian import jacobian_of

# What JAX raises for a function that has a first derivative and no second one, such as
# a callback with a derivative rule of its own.
NOT_TWICE_DIFFERENTIABLE = (TypeError, ValueError, NotImplementedError)


class Problem(eqx.Module):
    """A least-squares problem in flat arrays: a pytree, so that it vmaps.

    Attributes:
        residual_fn: ``(n,) -> (m,)``; what the user's function closed over are leaves.
            With a likelihood it returns predictions, which `LikelihoodTerm` compares
            with data.
        user_jac: ``(n,) -> (m, n)``, or None where autodiff works J out.
        jacobian: Name of the way J is computed: "fwd", "rev", "user" or "projected"
            (forward mode of a residual whose linear parameters are solved out).
        conditions: Bounds and fixed parameters.
        term: Robust loss or likelihood, or None for plain least squares.
        m: Number of residuals.
        linear: Which parameters the residual is affine in, to be solved out (see
            `lmjax._problem.separable`), or None.
        arrow: Pattern of J where the parameters belong to curves, else None.
    """

    residual_fn: Callable
    user_jac: Callable | None
    jacobian: str = eqx.field(static=True)
    constraints: Constraints
    term: Term | None
    m: int = eqx.field(static=True)
    arrow: Arrow | None = eqx.field(static=True)
    linear: tuple[bool, ...] | None = eqx.field(static=True)

    def jac_fn(self, p: Float[Array, " n"]) -> Float[Array, "m n"]:
        """Return the Jacobian of the residual."""
        if self.user_jac is not None:
            return self.user_jac(p)
        jacobian = jax.jacrev if self.jacobian == "rev" else jax.jacfwd
        fn, v = self.along(p)
        return jacobian(fn)(v)

    def along(self, p: Float[Array, " a"]) -> tuple[Callable, Float[Array, " n"]]:
        """Return the residual as a function that is differentiated, and where.

        That of the parameters, or on a manifold of a step from ``p``.
        """
        charts = self.constraints.charts
        if charts is None:
            return self.residual_fn, p
        zero = jnp.zeros((charts.size,), p.dtype)
        return lambda v: self.residual_fn(charts.shifted(p, v)), zero

    def linearize(
        self, p: Float[Array, " n"], r: Float[Array, " m"], matrix_free: bool
    ) -> DenseLinearization | MatrixFreeLinearization | ArrowLinearization:
        """Return the linear model of the cost at ``p``, whose residual is ``r``."""
        row = None
        if self.term is not None:
            r, row = self.term.gauss_newton_rows(r)
        if matrix_free:
            fn, v = self.along(p)
            rows, unit = jnp.ones_like(r) if row is None else row, jnp.ones_like(v)
            return MatrixFreeLinearization(r, v, rows, unit, fn)
        if self.arrow is not None:
            return arrowhead.linearize(self.arrow, self.residual_fn, p, r, row)
        columns = self.jac_fn(p).T
        return DenseLinearization(r, columns if row is None else row[None] * columns)

    def cost_and_linearization(
        self, p: Float[Array, " n"]
    ) -> tuple[Float[Array, ""], Float[Array, " m"], Any]:
        """Return the cost at ``p``, the residual, and the linear model with J."""
        r = self.residual_fn(p)
        return jnp.sum(self.half_terms(r)), r, self.linearize(p, r, False)

    def largest(
        self, p: Float[Array, " n"], v: Float[Array, " n"], matrix_free: bool
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the largest entries of the residual at ``p`` and of ``J v``."""
        residual, effect = self.sizes(p, v, matrix_free)
        return jnp.max(jnp.abs(residual)), jnp.max(jnp.abs(effect))

    def sizes(
        self, p: Float[Array, " n"], v: Float[Array, " n"], matrix_free: bool
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Return the residual at ``p`` and ``J v``."""
        linearization = self.linearize(p, self.residual_fn(p), matrix_free)
        return linearization.residual, linearization.mv(v)

    @staticmethod
    def eliminate(columns: Float[Array, "n m"], r: Float[Array, " m"]) -> tuple:
        """Return weights of a basis of J, the rest of r, and its coefficients.

        As `lmjax._linalg.projection.eliminate` does, as a short program.
        """
        basis, rest, change = eliminate_in_turns(jnp.vstack([columns, r]).T)
        return basis.weights, rest, change

    def second_derivative(
        self, p: Float[Array, " n"], direction: Float[Array, " n"]
    ) -> Float[Array, " m"]:
        """Return ``d^2 r(p + s direction) / ds^2`` at s = 0, weighted as J is."""
        jac, start = self.user_jac, p
        if jac is not None:
            along = lambda p: jnp.dot(jac(p), direction, precision=PRECISION)
        else:
            fn, p = self.along(p)
            along = lambda p: jax.jvp(fn, (p,), (direction,))[1]
        bend = jax.jvp(along, (p,), (direction,))[1]
        if self.term is None:
            return bend
        return self.term.gauss_newton_rows(self.residual_fn(start))[1] * bend

    @property
    def has_second_derivatives(self) -> bool:
        """Whether second derivatives of the residual are cheap enough to be used."""
        return self.jacobian not in ("rev", "projected")

    def half_terms(self, r: Float[Array, " m"]) -> Float[Array, " m"]:
        """Return what each residual adds to the cost."""
        if self.term is None:
            return 0.5 * (r * r)
        return self.term.half_terms(r)

    def reduction_terms(
        self, r: Float[Array, " m"], r_new: Float[Array, " m"]
    ) -> Float[Array, " m"]:
        """Return how much each residual's share of the cost falls from r to r_new.

        Subtracted before they are summed: the difference of two large sums would lose
        every digit in float32 near convergence.
        """
        if self.term is None:
            return 0.5 * ((r - r_new) * (r + r_new))
        return self.term.reduction_terms(r, r_new)


def build(
    residual_fn: Callable,
    params0: Params,
    *,
    bounds: tuple[Any, Any] | None,
    fixed: Any,
    term: Term | None,
    jac: Callable | str | None,
    whiten: Callable | None = None,
    linear: tuple[bool, ...] | None = None,
    arrow: Arrow | None = None,
    manifold: Any = None,
) -> tuple[Problem, Float[Array, " n"], Callable, Callable]:
    """Flatten a problem.

    ``whiten`` maps raw residual rows to those of ``residual_fn``; a user's Jacobian
    needs it. ``arrow`` is the pattern of J if there is one, for flat ``params0``;
    ``manifold`` is a list with one or None for each leaf.

    Returns:
        The problem, the flat start, and the functions that restore the pytree of the
        parameters and of the residual.
    """
    dtype = check_params(params0)
    p0, unravel = ravel_pytree(params0)
    out = traced_shapes(residual_fn, params0=params0)
    unravel_residual = _check_residual(out)
    # Float64 data with a float32 start are fitted in float64. Python numbers follow the
    # data, as everywhere in jax. All leaves get this dtype: a leaf left narrower (or
    # weak) would round parameters that the loop takes for exact.
    dtype = common_dtype(
        *jax.tree.leaves(params0), *(leaf.dtype for leaf in jax.tree.leaves(out))
    )
    params0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params0)
    axes = sharded.axes_of((params0, out, bounds, fixed, term))
    params0 = sharded.vary(params0, axes)
    p0, unravel = ravel_pytree(params0)

    def flat_residual(p):
        return _ravel(residual_fn(unravel(p)), dtype)

    m = sum(leaf.size for leaf in jax.tree.leaves(out))
    charts = None
    if manifold is not None:
        charts = charts_of(jax.tree.leaves(params0), manifold)
    constraints = constraints_of(bounds, fixed, charts, params0, dtype)
    n = constraints.size(p0)
    user_jac, jacobian = jacobian_of(jac, unravel, whiten, n, m, dtype)
    problem = Problem(
        hoisted(flat_residual, p0),
        None if user_jac is None else hoisted(user_jac, p0),
        jacobian,
        constraints,
        None if term is None else term.prepared(m, dtype),
        m,
        arrow,
        linear,
    )
    return problem, p0, unravel, unravel_residual


def _ravel(tree, dtype):
    leaves = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def _check_residual(out):
    leaves, structure = jax.tree.flatten(out)
    if sum(leaf.size for leaf in leaves) == 0:
        raise ValueError("residual_fn: expected at least one residual, got none")
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                "residual_fn: expected real residuals, got "
                f"{leaf.dtype} (return real and imaginary parts as separate residuals)"
            )
    shapes = [leaf.shape for leaf in leaves]
    sizes = [leaf.size for leaf in leaves]

    def unravel(r):
        parts, start = [], 0
        for shape, size in zip(shapes, sizes, strict=True):
            parts.append(r[start : start + size].reshape(shape))
            start += size
        return jax.tree.unflatten(structure, parts)

    return unravel
