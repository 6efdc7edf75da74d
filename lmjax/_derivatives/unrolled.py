"""Derivatives of the steps themselves: of all of them, or of one more at the end.

An attached step is the Gauss-Newton step with the damping that the loop chose, or none,

    p - (J^T J + lam diag(scale^2))^-1 J^T r,

differentiated by p and by everything that r depends on. Lambda, the scale and the
decisions of the loop are numbers here: they change by jumps.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._derivatives import curvature
from lmjax._derivatives.implicit import Implicit, detach_unless
from lmjax._engines import dispatch
from lmjax._linalg.linearization import MatrixFreeLinearization
from lmjax._linalg.symmetric import pseudo_inverse, solve_by_products, solve_dense
from lmjax._problem.problem import Problem
from lmjax._solver import loop, range_check, stopping
from lmjax._solver.outcome import Outcome, outcome_of
from lmjax._solver.settings import LevenbergMarquardt, as_int
from lmjax._solver.single_fit import SingleFit
from lmjax._solver.status import Status


class Unrolled(eqx.Module):
    """Run a given number of steps and differentiate every one of them.

    For few steps from a start that matters: the derivative by ``params0`` is that of
    the last iterate, where `Implicit` has zero by rule. The fit takes ``num_steps``
    steps at most, whatever the solver's ``max_steps``.

    Time: two to three times a fit of that many steps; memory: proportional to
    ``num_steps``, each with its J. As a derivative of the *minimum* it converges
    linearly, at the rate ``rho`` of Gauss-Newton (see `DerivativeCheck`), and there
    `Implicit` is both exact and cheaper. Batches run as one loop, without the batch
    engine.

    Args:
        num_steps: Steps to run, at least 1.

    Raises:
        ValueError: If ``num_steps`` is not a positive int.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> def cost(start):
        ...     residual = lambda p: jnp.exp(p) - 2.0
        ...     few = lmjax.Unrolled(num_steps=2)
        ...     return lmjax.least_squares(residual, start, derivative=few).cost
        >>> print(bool(jax.grad(cost)(2.0) > 0.0))
        True
    """

    num_steps: int = eqx.field(static=True, converter=as_int)

    def __check_init__(self):
        if type(self.num_steps) is not int or self.num_steps < 1:
            raise ValueError(f"num_steps: expected an int >= 1, got {self.num_steps!r}")

    def solve(
        self, problem: Problem, p0: Float[Array, " n"], solver: LevenbergMarquardt
    ) -> Outcome:
        """Run the steps with derivatives attached."""
        linear_solver = solver.choose_linear_solver(problem.m, p0.size)
        given = (problem, p0, solver, linear_solver)
        problem_now, p0_now, solver, linear_solver = detach(given)
        solver = dataclasses.replace(solver, max_steps=self.num_steps)
        fit = SingleFit(problem_now, linear_solver, p0_now)
        state = loop.init(fit, p0_now, solver)
        started = state.status != Status.NONFINITE_START
        problem, p0 = detach_unless(started, (problem, p0))
        attached = curvature.without_user_jacobian(problem, p0.size)

        def one(carry, _):
            state, p = carry
            running = stopping.unfinished(state.status)
            new = loop.step(state, fit, solver)
            new = jax.tree.map(lambda a, b: jnp.where(running, a, b), new, state)
            new = jax.lax.stop_gradient(new)
            lam, scale = loop.metric(state)
            moved = _attached_step(attached, p, lam, scale, state.point.free)
            moved = jnp.where(new.num_accepted > state.num_accepted, moved, p)
            return (new, _with_value(moved, new.point.p)), None

        p = _with_value(problem.constraints.project(p0), state.point.p)
        # one turn more for a look at what the last step left
        (state, p), _ = jax.lax.scan(one, (state, p), None, length=self.num_steps + 1)
        outcome = outcome_of(state, problem_now, solver)
        status = range_check.status(problem_now, p0_now, outcome, solver)
        again = curvature.recompute_outputs(attached, p, outcome)
        return outcome._replace(p=p, status=status, **again)

    def report(self, problem: Problem, outcome: Outcome) -> None:
        """Return None: there is nothing to check."""


class OneStep(eqx.Module):
    """Differentiate one more Gauss-Newton step at the solution.

    The cheapest choice: one ``J^T J`` and one solve, no second derivatives of the
    residual, memory of one step. The relative error is that of
    ``Implicit(hessian="gauss_newton")``, up to ``rho`` (see `DerivativeCheck`). The
    step is undamped, and of least norm where ``J^T J`` is singular. Higher derivatives
    are those of the step, not of the solution. Start values have derivative zero, and
    so has a fit that failed.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> def mean(y):
        ...     residual = lambda p: p - y
        ...     start, rule = jnp.array(0.0), lmjax.OneStep()
        ...     return lmjax.least_squares(residual, start, derivative=rule).params
        >>> print(jax.grad(mean)(jnp.array([1.0, 2.0, 3.0, 6.0])))
        [0.25 0.25 0.25 0.25]
    """

    def solve(
        self, problem: Problem, p0: Float[Array, " n"], solver: LevenbergMarquardt
    ) -> Outcome:
        """Run one fit and attach a step."""
        outcome = detach(dispatch.solve(*detach((problem, p0, solver))))
        ok = outcome.status > 0
        problem, p0 = detach_unless(ok, (problem, p0))
        attached = curvature.without_user_jacobian(problem, p0.size)
        held = attached.constraints.pinned_values(outcome.p, p0)
        p = jnp.where(outcome.free, outcome.p, _with_value(held, outcome.p))
        # the last lambda may still be 1e-3, which would be the error of the derivative
        undamped = jnp.zeros_like(outcome.damping)
        step = _attached_step(attached, p, undamped, outcome.norms, outcome.free)
        p = jnp.where(ok, _with_value(step, outcome.p), outcome.p)
        again = curvature.recompute_outputs(attached, p, outcome)
        return outcome._replace(p=p, **detach_unless(ok, again))

    def report(self, problem: Problem, outcome: Outcome) -> None:
        """Return None: there is nothing to check."""


def detach(tree: Any) -> Any:
    """Return a pytree whose arrays are constants."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def _with_value(x: Array, value: Array) -> Array:
    """Return ``value`` with the derivatives of ``x``."""
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))


def _attached_step(problem: Problem, p, lam, scale, free) -> Float[Array, " n"]:
    """Return where the damped Gauss-Newton step from ``p`` leads."""
    dense = p.size <= curvature.DENSE_UP_TO and problem.arrow is None
    free = jnp.ones_like(p, bool) if free is None else free
    linearization = problem.linearize(p, problem.residual_fn(p), not dense)
    grad = jnp.where(free, linearization.rmv(linearization.residual), 0.0)
    damping = lam * jnp.where(free, scale, 0.0) ** 2
    if not isinstance(linearization, MatrixFreeLinearization):
        eye = jnp.eye(p.size, dtype=p.dtype)
        matrix = linearization.normal_matrix() + damping[:, None] * eye
        matrix = jnp.where(free[:, None] & free[None, :], matrix, eye)
        inverse = pseudo_inverse(*detach((matrix, damping, jnp.zeros_like(lam))))
        dp = -solve_dense(matrix, inverse.matrix, grad)
    else:
        mv, rmv = linearization.operators()
        squares = jnp.where(scale > 0.0, scale**2, 1.0)

        def product(v):
            inside = jnp.where(free, v, 0.0)
            return jnp.where(free, rmv(mv(inside)) + damping * inside, v)

        dp = -solve_by_products(product, lambda: lambda v: v / squares, grad)
    return problem.constraints.project(p + dp)


Derivative = Implicit | Unrolled | OneStep
