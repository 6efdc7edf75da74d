r"""One proposal: solve the damped linear problem, try the step, measure both.

Nothing here decides: `lmjax._loop` judges what a proposal achieves against what it
promised, ``predicted = -(g . dp) - ||J dp||^2 / 2``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._arrow import ArrowLinearization
from lmjax._bounds import Conditions
from lmjax._linearize import Linearization, sums
from lmjax._problem import Problem
from lmjax._types import Flag, Scalar


class Point(NamedTuple):
    """Everything known at one set of parameters.

    Attributes:
        p: Parameters.
        r: Residual (prediction, with a likelihood); None where only sums are kept.
        linearization: Linear model of the cost, unscaled; one of `lmjax._linearize`.
        cost: Half the sum of squares, of losses or of deviances.
        grad: Gradient of the cost.
        norms: Norms of the columns of the linearization.
        free: Flags of the parameters that may move, or None for all.
        optimality: Largest cosine between the residual and a free column.
    """

    p: Float[Array, "n *f"]
    r: Any
    linearization: Any
    cost: Float[Array, "*f"]
    grad: Float[Array, "n *f"]
    norms: Float[Array, "n *f"]
    free: Bool[Array, "n *f"] | None
    optimality: Float[Array, "*f"]


class Proposal(NamedTuple):
    """A trial point and what is known about it before it is linearised.

    Attributes:
        p: Trial parameters, inside the bounds.
        visit: What evaluating there left behind, for ``settle``.
        cost: Cost there.
        predicted: Reduction that the linear model promises.
        actual: Reduction achieved.
        noise: Reductions below this cannot be told from rounding.
        jitter: Reduction that rounding of the residual feigns to the linear model,
            which sees it through the n of m directions that J spans.
        hidden: Whether rounding hides what the step achieved.
        gain: ``actual / predicted``, both raised by ``noise``; 1 where that is hidden.
        step_size: Norm of the step in units of ``scale``.
        size: Norm of the current parameters in units of ``scale``.
        fits: Whether the second-order correction, if any, was small enough.
    """

    p: Float[Array, "n *f"]
    visit: Any
    cost: Float[Array, "*f"]
    predicted: Float[Array, "*f"]
    actual: Float[Array, "*f"]
    noise: Float[Array, "*f"]
    jitter: Float[Array, "*f"]
    hidden: Bool[Array, "*f"]
    gain: Float[Array, "*f"]
    step_size: Float[Array, "*f"]
    size: Float[Array, "*f"]
    fits: Bool[Array, "*f"]


class OneFit(NamedTuple):
    """A single problem as the loop sees it: residual first, Jacobian when it pays.

    `lmjax._block.Lanes` is the other way to run the same loop.
    """

    problem: Problem
    linear_solver: Callable

    @property
    def conditions(self) -> Conditions:
        """Bounds and fixed parameters."""
        return self.problem.conditions

    @property
    def m(self) -> int:
        """Number of residuals."""
        return self.problem.m

    @property
    def matrix_free(self) -> bool:
        """Whether J is never formed."""
        return getattr(self.linear_solver, "matrix_free", False)

    def visit(self, p: Float[Array, " n"]) -> Float[Array, " m"]:
        """Return the residual at ``p``."""
        return self.problem.residual_fn(p)

    def start(self, p: Float[Array, " n"]) -> Point:
        """Return the first point.

        In a branch like that of a step, for XLA to compile J once. It is always taken,
        which the compiler does not know.
        """
        r = self.visit(p)
        cost = jnp.sum(self.problem.half_terms(r))
        settle = lambda: self.settle(p, r, cost)
        if self.matrix_free:
            return settle()
        nothing = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(settle)
        )
        return jax.lax.cond(0.0 * cost != 1.0, settle, lambda: nothing)

    def compare(self, point: Point, dp, r) -> tuple[Scalar, ...]:
        """Return the cost at ``r``, how far it fell, and ``|J dp|^2``."""
        return sums(
            self.problem.half_terms(r),
            self.problem.reduction_terms(point.r, r),
            point.linearization.mv(dp) ** 2,
        )

    def settle(self, p: Float[Array, " n"], r: Float[Array, " m"], cost) -> Point:
        """Linearise at ``p``, whose residual and cost are known."""
        linearization = self.problem.linearize(p, r, self.matrix_free)
        return point_at(self.conditions, p, r, linearization, cost)

    def settle_if(self, accept: Flag, trial: Proposal, point: Point) -> Point:
        """Linearise only what was accepted; a rejected step costs no Jacobian."""
        return jax.lax.cond(
            accept,
            lambda: self.settle(trial.p, trial.visit, trial.cost),
            lambda: point,
        )

    def either(self, first: Flag, a: Point, b: Point) -> Point:
        """Return one of two points: a branch costs no kernel, a selection several."""
        return jax.lax.cond(first, lambda: a, lambda: b)

    def second_derivative(self, point: Point, dp) -> Float[Array, " m"]:
        """Return ``d^2 r(p + s dp) / ds^2`` at s = 0, weighted as J is."""
        residual_fn, p = self.problem.residual_fn, point.p
        velocity = lambda s: jax.jvp(residual_fn, (p + s * dp,), (dp,))[1]
        zero = jnp.zeros((), p.dtype)
        bend = jax.jvp(velocity, (zero,), (jnp.ones_like(zero),))[1]
        term = self.problem.term
        return bend if term is None else term.rows(point.r)[1] * bend

    def stage(self, fn: Callable) -> Any:
        """Return ``fn()``: XLA may fuse one fit as it likes."""
        return fn()

    def rounding(self, cost: Scalar) -> Scalar:
        """Return the rounding of a difference of costs: `compare` has none."""
        return jnp.zeros_like(cost)


def point_at(
    conditions: Conditions,
    p,
    r,
    linearization: Linearization | ArrowLinearization,
    cost,
) -> Point:
    """Return the point at ``p``, given its linear model."""
    grad, norms, size = linearization.moments()
    free = conditions.free(p, grad)
    # |J_j . r| / (|J_j| |r|): dimensionless; an idle column or a zero residual counts
    # as 0.
    size = norms * size
    usable = size > 0.0 if free is None else (size > 0.0) & free
    cosines = jnp.where(usable, jnp.abs(grad) / jnp.where(usable, size, 1.0), 0.0)
    return Point(p, r, linearization, cost, grad, norms, free, jnp.max(cosines, axis=0))


def single_gain(point: Point) -> Float[Array, "*f"]:
    """Return what the linear model promises for the best step in one free parameter."""
    usable = point.norms > 0.0
    usable = usable if point.free is None else usable & point.free
    slope = jnp.where(usable, point.grad / jnp.where(usable, point.norms, 1.0), 0.0)
    return 0.5 * jnp.max(slope**2, axis=0)


def isfinite(point: Point) -> Bool[Array, "*f"]:
    """Return whether the linearization is finite: all of J enters these two."""
    return jnp.all(jnp.isfinite(point.grad) & jnp.isfinite(point.norms), axis=0)


def propose(
    point: Point,
    lam: Float[Array, "*f"],
    scale: Float[Array, "n *f"],
    fit: Any,
    geodesic: bool,
) -> Proposal:
    """Solve the damped linear problem and evaluate the residual at the trial point."""
    conditions = fit.conditions
    factor = unit(point, scale)
    scaled = point.linearization.rescale(factor)
    q = fit.linear_solver(scaled, lam)
    if (got := jnp.shape(q)) != factor.shape:
        raise ValueError(
            f"linear_solver: expected a step of shape {factor.shape}, got {got}"
        )
    dp = factor * q
    fits = jnp.ones_like(lam, bool)
    if geodesic:
        bend = fit.second_derivative(point, dp)
        correction = fit.linear_solver(scaled.with_residual(bend), lam)
        # Transtrum and Sethna (2012), equation 15: refuse steps whose two orders
        # disagree
        fits = 2.0 * jnp.linalg.norm(correction) <= 0.75 * jnp.linalg.norm(q)
        dp = dp + 0.5 * factor * correction
    # in one stage, or a multiplication and this addition might be rounded once here and
    # twice there, depending on what else the compiler has in hand
    aimed = fit.stage(lambda: point.p + dp)
    trial = conditions.project(aimed)
    if conditions.box is not None:
        trial = _slide(point, lam, factor, aimed, trial, fit)
    dp = trial - point.p
    visit = fit.visit(trial)

    def measure():
        cost, actual, bend_squared = fit.compare(point, dp, visit)
        slope, step_size, size, blur = sums(
            -point.grad * dp,
            (scale * dp) ** 2,
            (scale * point.p) ** 2,
            (point.norms * point.p) ** 2,
        )
        predicted = slope - 0.5 * bend_squared
        # Rounding moves the residual by at least what rounding of p does, eps |J| |p|.
        # Changes of cost below `noise` neither condemn nor acquit a step: the gain
        # tends to 1, and lambda does not follow what the dice of rounding say.
        blur = jnp.finfo(scale.dtype).eps * jnp.sqrt(blur)
        noise = noise_of(blur, point.cost) + fit.rounding(point.cost)
        hidden = jnp.abs(predicted) + jnp.abs(actual) <= 2.0 * noise
        gain = (actual + noise) / (predicted + noise)
        return {
            "cost": cost,
            "predicted": predicted,
            "actual": actual,
            "noise": noise,
            "jitter": 2.0 * blur**2 * point.p.shape[0] / fit.m,
            "hidden": hidden,
            "gain": jnp.where(hidden, jnp.ones_like(gain), gain),
            "step_size": jnp.sqrt(step_size),
            "size": jnp.sqrt(size),
        }

    return Proposal(p=trial, visit=visit, fits=fits, **fit.stage(measure))


def _slide(point: Point, lam, factor, aimed, projected, fit):
    """Return the trial point once more, the parameters that hit a bound held there.

    Projection alone keeps what the others did in response to a step that was cut short.
    """
    hit = (aimed != projected) & (factor > 0.0)

    def solve_again():
        cut = jnp.where(hit, projected - point.p, 0.0)
        rest = jnp.where(hit, 0.0, factor)
        model = point.linearization.moved(cut).rescale(rest)
        again = point.p + cut + rest * fit.linear_solver(model, lam)
        return fit.conditions.project(again)

    # one fit or a block of them: the second solve is only for those that hit a bound
    again = jax.lax.cond(jnp.any(hit), solve_again, lambda: projected)
    return jnp.where(jnp.any(hit, axis=0), again, projected)


def unit(point: Point, scale) -> Float[Array, "n *f"]:
    """Return the factor from scaled to actual steps, 0 where none is allowed."""
    factor = 1.0 / jnp.where(scale > 0.0, scale, 1.0)
    return factor if point.free is None else jnp.where(point.free, factor, 0.0)


def noise_of(blur: Float[Array, "*f"], cost: Float[Array, "*f"]) -> Float[Array, "*f"]:
    """Return the change of cost that a residual blurred by rounding may feign.

    The factor 2 covers the model's own rounding.
    """
    noise = 2.0 * blur * jnp.sqrt(2.0 * cost)
    return jnp.where(jnp.isfinite(noise), noise, 0.0)
