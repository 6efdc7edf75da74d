r"""One proposal: solve the damped linear problem, try the step, measure both.

Nothing here decides: `lmjax._loop` judges what a proposal achieves against what it
promised, ``predicted = -(g . dp) - ||J dp||^2 / 2``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._linearize import Linearization, sums
from lmjax._problem import Problem
from lmjax._types import Flag, Scalar


class Point(NamedTuple):
    """Everything known at one set of parameters.

    Attributes:
        p: Parameters.
        r: Residual, before any loss.
        linearization: (Robust) linear model, unscaled.
        cost: Half the sum of squares or of losses.
        grad: Gradient of the cost.
        norms: Norms of the columns of the linearization.
        free: Flags of the parameters that may move, or None for all.
        optimality: Largest cosine between the residual and a free column.
    """

    p: Float[Array, " n"]
    r: Float[Array, " m"]
    linearization: Linearization
    cost: Scalar
    grad: Float[Array, " n"]
    norms: Float[Array, " n"]
    free: Bool[Array, " n"] | None
    optimality: Scalar


class Proposal(NamedTuple):
    """A trial point and what is known about it before it is linearised.

    Attributes:
        p: Trial parameters, inside the bounds.
        r: Residual there.
        cost: Cost there.
        predicted: Reduction that the linear model promises.
        actual: Reduction achieved.
        noise: Reductions below this cannot be told from rounding.
        blur: What rounding does to the norm of the residual.
        gain: ``actual / predicted``, both raised by ``noise``.
        step_size: Norm of the step in units of ``scale``.
        size: Norm of the current parameters in units of ``scale``.
        fits: Whether the second-order correction, if any, was small enough.
    """

    p: Float[Array, " n"]
    r: Float[Array, " m"]
    cost: Scalar
    predicted: Scalar
    actual: Scalar
    noise: Scalar
    blur: Scalar
    gain: Scalar
    step_size: Scalar
    size: Scalar
    fits: Flag


def evaluate(problem: Problem, p, r, cost, linear_solver) -> Point:
    """Linearise at ``p``, whose residual and cost are known."""
    matrix_free = getattr(linear_solver, "matrix_free", False)
    linearization = problem.linearize(p, r, matrix_free)
    grad, norms, size = linearization.moments()
    free = problem.free(p, grad)
    # |J_j . r| / (|J_j| |r|): dimensionless; an idle column or a zero residual counts
    # as 0.
    size = norms * size
    usable = size > 0.0 if free is None else (size > 0.0) & free
    cosines = jnp.where(usable, jnp.abs(grad) / jnp.where(usable, size, 1.0), 0.0)
    return Point(p, r, linearization, cost, grad, norms, free, jnp.max(cosines))


def isfinite(point: Point) -> Flag:
    """Return whether the linearization is finite: all of J enters these two."""
    return jnp.all(jnp.isfinite(point.grad)) & jnp.all(jnp.isfinite(point.norms))


def propose(
    point: Point,
    lam: Scalar,
    scale: Float[Array, " n"],
    problem: Problem,
    linear_solver: Callable,
    geodesic: bool,
) -> Proposal:
    """Solve the damped linear problem and evaluate the residual at the trial point."""
    factor = unit(point, scale)
    scaled = point.linearization.rescale(factor)
    q = linear_solver(scaled, lam)
    dp = factor * q
    fits = jnp.array(True)
    if geodesic:
        bend = _second_derivative(problem, point.p, dp)
        correction = linear_solver(scaled.with_residual(bend), lam)
        # Transtrum and Sethna (2012), equation 15: refuse steps whose two orders
        # disagree
        fits = 2.0 * jnp.linalg.norm(correction) <= 0.75 * jnp.linalg.norm(q)
        dp = dp + 0.5 * factor * correction
    trial = problem.project(point.p + dp)
    if problem.box is not None:
        trial = _slide(point, lam, factor, point.p + dp, trial, problem, linear_solver)
    dp = trial - point.p
    r = problem.residual_fn(trial)

    bend_down, cost, actual = sums(
        -0.5 * point.linearization.mv(dp) ** 2,
        problem.half_terms(r),
        problem.reduction_terms(point.r, r),
    )
    slope, step_size, size, blur = sums(
        -point.grad * dp,
        (scale * dp) ** 2,
        (scale * point.p) ** 2,
        point.norms * jnp.abs(point.p),
    )
    predicted = slope + bend_down
    # Rounding moves the residual by at least what rounding of p does, eps |J| |p|.
    # Changes of cost below `noise` neither condemn nor acquit a step: the gain tends
    # to 1.
    blur = jnp.finfo(scale.dtype).eps * blur
    noise = noise_of(blur, point.cost)
    return Proposal(
        p=trial,
        r=r,
        cost=cost,
        predicted=predicted,
        actual=actual,
        noise=noise,
        blur=blur,
        gain=(actual + noise) / (predicted + noise),
        step_size=jnp.sqrt(step_size),
        size=jnp.sqrt(size),
        fits=fits,
    )


def _slide(point: Point, lam, factor, aimed, projected, problem, linear_solver):
    """Return the trial point once more, the parameters that hit a bound held there.

    Projection alone keeps what the others did in response to a step that was cut short.
    """
    hit = (aimed != projected) & (factor > 0.0)

    def solve_again():
        cut = jnp.where(hit, projected - point.p, 0.0)
        shifted = point.linearization.residual + point.linearization.mv(cut)
        rest = jnp.where(hit, 0.0, factor)
        model = point.linearization.with_residual(shifted).rescale(rest)
        return problem.project(point.p + cut + rest * linear_solver(model, lam))

    return jax.lax.cond(jnp.any(hit), solve_again, lambda: projected)


def unit(point: Point, scale) -> Float[Array, " n"]:
    """Return the factor from scaled to actual steps, 0 where none is allowed."""
    factor = 1.0 / jnp.where(scale > 0.0, scale, 1.0)
    return factor if point.free is None else jnp.where(point.free, factor, 0.0)


def noise_of(blur: Scalar, cost: Scalar) -> Scalar:
    """Return the change of cost that a residual blurred by rounding may feign.

    The factor 2 covers the model's own rounding.
    """
    noise = 2.0 * blur * jnp.sqrt(2.0 * cost)
    return jnp.where(jnp.isfinite(noise), noise, 0.0)


def _second_derivative(problem: Problem, p, dp):
    """Return ``d^2 r(p + s dp) / ds^2`` at s = 0."""
    velocity = lambda s: jax.jvp(problem.residual_fn, (p + s * dp,), (dp,))[1]
    zero = jnp.zeros((), p.dtype)
    return jax.jvp(velocity, (zero,), (jnp.ones_like(zero),))[1]
