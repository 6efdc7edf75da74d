r"""Derivatives of a solution by the implicit function theorem.

At a minimum the gradient of the cost vanishes, ``g(p, t) = 0``, whatever ``t`` the
problem depends on: data, weights, constants, bounds, the scale of a loss. Hence

    dp/dt = -H^-1 dg/dt,    H = dg/dp = J^T J + sum_i r_i d^2 r_i / dp^2.

Parameters held at a bound or fixed follow what holds them, ``dp_A = db_A``, and the
others answer to that as well: ``dp_F = -H_FF^-1 (dg_F/dt dt + H_FA db_A)``. The rule is
a ``custom_jvp`` whose only solve is one that autodiff can pass, so both modes, their
mixtures and every order follow. The robust loss or likelihood is part of the cost,
so H has its second derivative too.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from lmjax._derivatives import curvature as second_order
from lmjax._derivatives.check import check
from lmjax._derivatives.curvature import Curvature
from lmjax._engines import dispatch
from lmjax._errors.checks import check_choice, check_flag
from lmjax._jax import sharded
from lmjax._jax.types import Flag
from lmjax._problem.problem import Problem
from lmjax._solver.outcome import Outcome
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.solution import DerivativeCheck

HESSIANS = ("full", "gauss_newton")
FAILED = ("zero", "nan")


class Implicit(eqx.Module):
    """Exact derivatives of a converged fit, the default.

    With ``g`` the gradient of the cost at the solution, ``dp = -H^-1 dg`` with the full
    Hessian ``H = J^T J + sum_i r_i d^2 r_i/dp^2``. Forward and reverse mode, any order,
    under ``jit`` and ``vmap``, for parameters, cost, residual, normal matrix and all
    statistics. Memory does not depend on the number of steps. Time: n Hessian products
    and one n x n factorisation per fit, up to 128 parameters; conjugate gradients
    beyond. The error is that of the solution, ``O(|H^-1 g|)``.

    The start has derivative zero: another start within the same basin ends at the same
    minimum. Parameters at a bound follow the bound, fixed ones follow their start
    value; a bound that holds with a gradient of exactly zero counts as not holding.
    Where the loss has a corner (`losses.huber` at its scale), the side is autodiff's
    choice. Derivatives of the residual come from autodiff even if a ``jac`` was given;
    it must allow reverse mode, which ``lax.while_loop`` does not.

    A singular Hessian gets the derivative of least norm, in units of the columns of J:
    what the data do not determine does not move. ``check`` tells where that happened.

    Args:
        hessian: "full", or "gauss_newton" to leave out the second derivatives of the
            residual: one J in place of n Hessian products, with a relative error of up
            to ``rho`` (see `DerivativeCheck`), 54 % on NIST's ENSO. It is exact for
            models that are linear in their parameters.
        failed: Derivative of a fit that did not converge: "zero", or "nan" to notice.
            Other fits of a batch are not touched; but a sum over the batch is NaN then.
        polish: Take the derivative at ``p - H^-1 g``, one Newton step on: its error is
            then quadratic in what is left of the gradient, for one more Hessian. For
            loose tolerances and float32.
        check: Return a `DerivativeCheck` in ``Solution.derivative_check``.

    Raises:
        ValueError: If a choice is not one of the words above.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> def mean(y):
        ...     return lmjax.least_squares(lambda p: p - y, jnp.array(0.0)).params
        >>> print(jax.grad(mean)(jnp.array([1.0, 2.0, 3.0, 6.0])))
        [0.25 0.25 0.25 0.25]
    """

    hessian: str = eqx.field(default="full", static=True)
    failed: str = eqx.field(default="zero", static=True)
    polish: bool = eqx.field(default=False, static=True)
    check: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        for name, words in (("hessian", HESSIANS), ("failed", FAILED)):
            check_choice(name, getattr(self, name), words)
        check_flag("polish", self.polish)
        check_flag("check", self.check)

    def solve(
        self, problem: Problem, p0: Float[Array, " n"], solver: LevenbergMarquardt
    ) -> Outcome:
        """Run one fit whose outcome has derivatives."""
        arrays, rest = eqx.partition((problem, p0, solver), eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        rebuild = lambda leaves: eqx.combine(
            jax.tree.unflatten(structure, leaves), rest
        )

        def rule(primals, tangents, outcome):
            return self._tangent(rebuild, primals[0], tangents[0], outcome)

        run = lambda leaves: dispatch.solve(*rebuild(leaves))
        return sharded.custom_jvp(run, rule, leaves)

    def report(self, problem: Problem, outcome: Outcome) -> DerivativeCheck | None:
        """Return the check of a fit, if it was asked for."""
        return check(problem, outcome) if self.check else None

    def _tangent(
        self, rebuild: Callable, leaves: list, tangents: list, outcome: Outcome
    ) -> Outcome:
        """Return the tangent of the outcome along the tangents of its inputs."""
        ok = outcome.status > 0
        # A failed fit passes nothing on, in either direction and at any order.
        leaves = detach_unless(ok, leaves)
        live = [i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]
        values = [leaves[i] for i in live]
        dots = [_silence_unless(ok, tangents[i], self.failed) for i in live]

        def problem_of(values) -> tuple[Problem, Array]:
            every = list(leaves)
            for i, value in zip(live, values, strict=True):
                every[i] = value
            problem, p0, _ = rebuild(every)
            n = problem.constraints.size(p0)
            return second_order.without_user_jacobian(problem, n), p0

        problem, _ = problem_of(values)
        p = detach_unless(ok, outcome.p)
        engine = rebuild(leaves)[2].engine
        curvature = second_order.at(problem, p, outcome, self.hessian, engine)
        if self.polish:
            step = jax.lax.stop_gradient(curvature.newton_step())
            p = problem.constraints.shifted(p, step)
            curvature = second_order.at(problem, p, outcome, self.hessian, engine)
        step_dot = _parameters(problem_of, values, dots, curvature, outcome.free)
        p_dot = step_dot
        if problem.constraints.charts is not None:
            shifted = lambda v: problem.constraints.shifted(p, v)
            p_dot = jax.jvp(shifted, (jnp.zeros_like(step_dot),), (step_dot,))[1]

        def follow(p, values):
            return second_order.recompute_outputs(problem_of(values)[0], p, outcome)

        _, followed = jax.jvp(follow, (p, values), (p_dot, dots))
        tangent = jax.tree.map(sharded.zero_tangent, outcome)
        moved = {"p": p_dot, **followed}
        moved = jax.tree.map(lambda t: _silence_unless(ok, t, self.failed), moved)
        return tangent._replace(**moved)


def _parameters(problem_of, values, dots, curvature: Curvature, free) -> Array:
    """Return the tangent of the parameters, on manifolds of a step from them."""
    held_dot = jnp.zeros_like(curvature.norms)
    constraints = problem_of(values)[0].constraints
    if constraints.box is not None or constraints.fixed is not None:

        def held(values):
            problem, p0 = problem_of(values)
            return problem.constraints.pinned_values(curvature.p, p0)

        _, held_dot = jax.jvp(held, (values,), (dots,))
        held_dot = jnp.where(free, 0.0, held_dot)

    def gradient(v, values):
        return second_order.gradient(problem_of(values)[0], curvature.p, v)

    start = problem_of(values)[0].along(curvature.p)[1]
    _, change = jax.jvp(gradient, (start, values), (held_dot, dots))
    return held_dot - curvature.solve(jnp.where(free, change, 0.0))


def detach_unless(ok: Flag, tree: Any) -> Any:
    """Return a pytree, its arrays as constants where the fit failed."""

    def detach(x):
        if not eqx.is_inexact_array(x):
            return x
        return jnp.where(ok, x, jax.lax.stop_gradient(x))

    return jax.tree.map(detach, tree)


def _silence_unless(ok: Flag, tangent: Any, failed: str) -> Any:
    """Return a tangent, zero or NaN where the fit failed: linear in the tangent."""
    if tangent.dtype == jax.dtypes.float0:
        return tangent
    zero = jnp.zeros_like(tangent)
    if failed == "zero":
        return jnp.where(ok, tangent, zero)
    # on both sides: the transpose runs through them in the other order
    factor = jnp.where(ok, 1.0, jnp.nan).astype(tangent.dtype)
    return jnp.where(ok, tangent * factor, zero) * factor
