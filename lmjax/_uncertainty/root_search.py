"""A root of a function that rises from zero: secants kept inside a bracket.

Made for ``vmap``: one value of the function per round, every choice a ``where``. The
caller evaluates the function at ``Bracket.u`` and hands the value to `update`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmjax._jax.types import Scalar

# The first evaluation is half way to the guess: refits in a curved valley succeed more
# often in short steps. Each further one is at most four times as far as the last.
FIRST, GROWTH = 0.5, 4.0
# If the function is below its goal at so many times the first guess, there is no root.
FARTHEST = 1e5
# Fewer than ten rounds suffice unless the function jumps or is flat.
MAX_ROUNDS = 40

# What a search has come to; see `Bracket`.
SEARCHING, FOUND, EDGE, BLOCKED, NOWHERE, LOST = range(6)


class Bracket(NamedTuple):
    """What is known of the root ``u > 0`` of ``f(u) = goal``.

    Attributes:
        u: Where to evaluate next; the answer once the outcome is not SEARCHING.
        inside: Largest u below the root.
        outside: Smallest u beyond the root or where f is not finite; infinite if none
            is known.
        last: The evaluation before this one, u and f.
        rounds: Evaluations so far.
        outcome: SEARCHING, FOUND, EDGE (f ceases to be finite before it gets there),
            BLOCKED (the limit comes first), NOWHERE (it never gets there) or LOST.
    """

    u: Float[Array, "*b"]
    inside: Float[Array, "*b"]
    outside: Float[Array, "*b"]
    last: tuple[Float[Array, "*b"], Float[Array, "*b"]]
    rounds: Int[Array, "*b"]
    outcome: Int[Array, "*b"]


def begin(guess: Scalar, upper_limit: Scalar) -> Bracket:
    """Return the bracket before the first evaluation."""
    zero = jnp.zeros_like(guess)
    outcome = jnp.where(upper_limit > 0.0, SEARCHING, BLOCKED).astype(jnp.int32)
    u = jnp.minimum(FIRST * guess, upper_limit)
    rounds = jnp.zeros(guess.shape, jnp.int32)
    return Bracket(u, zero, zero + jnp.inf, (zero, zero), rounds, outcome)


def update(
    bracket: Bracket,
    f: Scalar,
    *,
    goal: Scalar,
    tolerance: Scalar,
    guess: Scalar,
    upper_limit: Scalar,
    min_width: Scalar,
) -> Bracket:
    """Return the bracket after seeing ``f`` at ``bracket.u``.

    Args:
        bracket: What was known.
        f: The function there; what is not finite lies beyond the root.
        goal: Value to reach.
        tolerance: How close to it is close enough.
        guess: What `begin` was given.
        upper_limit: Largest u allowed.
        min_width: Width below which a bracket holds nothing but rounding.
    """
    u = bracket.u
    beyond = ~(f < goal)
    inside = jnp.where(beyond, bracket.inside, u)
    outside = jnp.where(beyond, u, bracket.outside)
    thin = outside - inside <= min_width
    rounds = bracket.rounds + 1
    close = jnp.abs(f - goal) <= tolerance
    far = FARTHEST * guess
    outcome = jnp.select(
        [
            close,
            ~beyond & (u >= upper_limit),
            ~beyond & (u >= far),
            thin & jnp.isfinite(f) & jnp.isfinite(bracket.last[1]),
            thin,
            rounds >= MAX_ROUNDS,
        ],
        [FOUND, BLOCKED, NOWHERE, FOUND, EDGE, LOST],
        SEARCHING,
    ).astype(jnp.int32)
    onward = _next(bracket, f, goal, inside, outside, upper_limit)
    stay = jnp.where(thin & ~close, inside, u)
    return Bracket(
        jnp.where(outcome == SEARCHING, onward, stay),
        inside,
        outside,
        (u, f),
        rounds,
        outcome,
    )


def _next(bracket: Bracket, f, goal, inside, outside, upper_limit) -> Scalar:
    """Return where to evaluate next: a secant, if it leads anywhere."""
    u, (u_old, f_old) = bracket.u, bracket.last
    slope = (f - f_old) / (u - u_old)
    secant = u + (goal - f) / slope
    # Secants to a function that levels off take ever shorter steps: from the fourth
    # round on the least factor goes up.
    patience = jnp.maximum(bracket.rounds - 2, 0).astype(u.dtype)
    least = jnp.minimum(1.0 + 0.05 * patience**2, GROWTH)
    rising = slope > 0.0  # NaN compares false
    ahead = jnp.clip(jnp.where(rising, secant, jnp.inf), least * u, GROWTH * u)
    between = rising & (secant > inside) & (secant < outside)
    # A bracket that spans orders of magnitude is cut at its geometric mean. If no point
    # inside is known yet, the guess was far too large: shrink it ever faster.
    middle = jnp.where(
        outside > GROWTH * inside,
        jnp.sqrt(inside) * jnp.sqrt(outside),
        0.5 * (inside + outside),
    )
    closer = outside * 2.0 ** -(bracket.rounds + 1).astype(u.dtype)
    within = jnp.where(between, secant, jnp.where(inside > 0.0, middle, closer))
    return jnp.where(jnp.isfinite(outside), within, jnp.minimum(ahead, upper_limit))
