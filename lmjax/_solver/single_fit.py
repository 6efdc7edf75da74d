"""One fit as the loop sees it: the residual at every trial, J where it is accepted."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._jax.types import Flag, Scalar
from lmjax._linalg import arrowhead
from lmjax._linalg.linearization import sums
from lmjax._linalg.solvers import Cholesky, solve_with_pivots
from lmjax._problem.bounds import Constraints
from lmjax._problem.problem import NOT_TWICE_DIFFERENTIABLE, Problem
from lmjax._solver.point import Point, free_part, point_at


class SingleFit(NamedTuple):
    """One fit: the residual at every trial point, the Jacobian only at accepted ones.

    `lmjax._engines.block.FitBlock` is the other way to run the same loop.
    """

    problem: Problem
    linear_solver: Callable
    p0: Float[Array, " n"]

    @property
    def constraints(self) -> Constraints:
        """Bounds and fixed parameters."""
        return self.problem.constraints

    @property
    def m(self) -> int:
        """Number of residuals."""
        return self.problem.m

    @property
    def squares_condition(self) -> bool:
        """Whether steps come from the normal equations."""
        return isinstance(self.linear_solver, Cholesky)

    @property
    def matrix_free(self) -> bool:
        """Whether J is never formed."""
        return getattr(self.linear_solver, "matrix_free", False)

    def evaluate(self, p: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return the residual at ``p``."""
        return self.problem.residual_fn(p)

    def start(self, p: Float[Array, " n"]) -> Point:
        """Return the first point.

        In a branch like that of a step, for XLA to compile J once. It is always taken,
        which the compiler does not know.
        """
        r = self.evaluate(p)
        cost = jnp.sum(self.problem.half_terms(r))
        linearize = lambda: self.linearize_at(p, r, cost)
        if self.matrix_free:
            return linearize()
        nothing = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(linearize)
        )
        return sharded.choose(0.0 * cost != 1.0, linearize, lambda: nothing)

    def solve(self, linearization, lam) -> tuple[Float[Array, " n"], Array]:
        """Return the damped step and the pivots behind it."""
        return solve_with_pivots(self.linear_solver, linearization, lam)

    def compare(self, point: Point, dp, r) -> tuple[Scalar, ...]:
        """Return the cost at ``r``, how far it fell, ``|J dp|^2`` and ``|J p|^2``."""
        return sums(
            self.problem.half_terms(r),
            self.problem.reduction_terms(point.r, r),
            point.linearization.mv(dp) ** 2,
            point.linearization.mv(free_part(point, self.constraints)) ** 2,
        )

    def effect(self, point: Point) -> Scalar:
        """Return ``|J p|^2`` over the free parameters."""
        return jnp.sum(point.linearization.mv(free_part(point, self.constraints)) ** 2)

    def curvatures(self, point: Point) -> Float[Array, " n"] | None:
        """Return ``|r| |d^2 r / dp_j^2|`` per parameter, None where it is not known."""
        problem, p = self.problem, point.p
        if self.matrix_free or not problem.has_second_derivatives:
            return None
        bend = lambda direction: problem.second_derivative(p, direction)
        try:
            if problem.arrow is not None:
                return arrowhead.curvatures(problem.arrow, bend, point.linearization)
            bends = jax.vmap(bend)(jnp.eye(point.norms.size, dtype=p.dtype))
        except NOT_TWICE_DIFFERENTIABLE:
            return None
        size = jnp.linalg.norm(point.linearization.residual)
        return size * jnp.sqrt(jnp.sum(bends**2, axis=1))

    def linearize_at(self, p: Float[Array, " n"], r: Float[Array, " m"], cost) -> Point:
        """Linearise at ``p``, whose residual and cost are known."""
        linearization = self.problem.linearize(p, r, self.matrix_free)
        return point_at(self.constraints, p, r, linearization, cost)

    def linearize_if(self, accept: Flag, p, evaluated, cost, old: Point) -> Point:
        """Linearise only what was accepted; a rejected step costs no Jacobian."""
        linearize = lambda: self.linearize_at(p, evaluated, cost)
        return sharded.choose(accept, linearize, lambda: old)

    def select(self, first: Flag, a: Point, b: Point) -> Point:
        """Return one of two points: a branch costs no kernel, a selection several."""
        return sharded.choose(first, lambda: a, lambda: b)

    def second_derivative(self, point: Point, dp) -> Float[Array, " m"]:
        """Return ``d^2 r(p + s dp) / ds^2`` at s = 0, weighted as J is."""
        return self.problem.second_derivative(point.p, dp)

    def cost_rounding(self, cost: Scalar) -> Scalar:
        """Return the rounding of a difference of costs: `compare` has none."""
        return jnp.zeros_like(cost)


class BlockFit(SingleFit):
    """A fit of many small blocks, whose J is never a matrix.

    Such problems often leave some directions open (where the world stands, how large it
    is), and linear solvers may stop early. An undamped step proves nothing then.
    """

    def compare(self, point: Point, dp, r) -> tuple[Scalar, ...]:
        """Return the cost at ``r``, how far it fell, ``|J dp|^2`` and infinity.

        Infinity in place of ``|J p|^2``: where a world stands is no runaway.
        """
        cost = jnp.sum(self.problem.half_terms(r))
        actual = jnp.sum(self.problem.reduction_terms(point.r, r))
        bend = jnp.sum(point.linearization.mv(dp) ** 2)
        return cost, actual, bend, jnp.full_like(cost, jnp.inf)

    def effect(self, point: Point) -> Scalar:
        """Return infinity: no effects cancel."""
        return jnp.full_like(point.cost, jnp.inf)

    def curvatures(self, point: Point) -> None:
        """Return None: the columns of J are scale enough."""


def fit_of(problem: Problem, linear_solver: Callable, p0: Array) -> SingleFit:
    """Return one fit as the loop sees it."""
    kind = BlockFit if problem.jacobian == "blocks" else SingleFit
    return kind(problem, linear_solver, p0)
