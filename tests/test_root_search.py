"""Roots inside a bracket against SciPy's Brent and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from lmjax._uncertainty import root_search

INF = float("inf")
# f rises from zero; guess, wall
CASES = {
    "straight line": (lambda u: 0.7 * u, 3.0, INF),
    "slower and slower": (lambda u: jnp.log1p(u), 1.0, INF),
    "faster and faster": (lambda u: jnp.expm1(u), 30.0, INF),
    "guess far too short": (lambda u: 1e-4 * u, 1.0, INF),
    "guess far too long": (lambda u: u, 1e15, INF),
    "levels off above the goal": (lambda u: 2.2 * jnp.tanh(u), 0.3, INF),
    "not monotone": (lambda u: u + 0.4 * jnp.sin(5.0 * u), 1.0, INF),
    "overflows beyond": (lambda u: jnp.where(u < 2.1, u, jnp.inf), 8.0, INF),
    "wall behind the root": (lambda u: u, 1.0, 2.5),
    "wall before the root": (lambda u: u, 1.0, 1.5),
    "levels off below the goal": (lambda u: 1.9 * jnp.tanh(u), 1.0, INF),
    "ends before the goal": (lambda u: jnp.where(u < 1.4, u, jnp.nan), 1.0, INF),
    "jumps over the goal": (lambda u: jnp.where(u < 1.4, u, u + 3.0), 1.0, INF),
}
GOAL = 2.0


def search(f, guess, upper_limit):
    """Return the last bracket and how many looks it took."""
    settings = {"goal": GOAL, "tolerance": 1e-10, "guess": jnp.asarray(guess)}
    upper_limit = jnp.asarray(upper_limit)

    def one_look(bracket):
        min_width = 1e-10 * bracket.u
        seen = f(bracket.u)
        return root_search.update(
            bracket, seen, min_width=min_width, upper_limit=upper_limit, **settings
        )

    going = lambda bracket: bracket.outcome == root_search.SEARCHING
    begin = root_search.begin(settings["guess"], upper_limit)
    return jax.jit(lambda: jax.lax.while_loop(going, one_look, begin))()


@pytest.mark.parametrize("name", list(CASES)[:9])
def test_root_is_that_of_brent(name):
    f, guess, upper_limit = CASES[name]
    bracket = search(f, guess, upper_limit)
    end = 2.09 if name == "overflows beyond" else min(upper_limit, 1e7)
    expected = scipy.optimize.brentq(lambda u: float(f(u)) - GOAL, 0.0, end)
    assert bracket.outcome == root_search.FOUND
    np.testing.assert_allclose(bracket.u, expected, rtol=1e-8)
    assert bracket.rounds <= 30


@pytest.mark.parametrize(
    ("name", "outcome", "end"),
    [
        ("wall before the root", root_search.BLOCKED, 1.5),
        ("ends before the goal", root_search.EDGE, 1.4),
        ("jumps over the goal", root_search.FOUND, 1.4),
    ],
)
def test_what_stands_in_the_way_is_said(name, outcome, end):
    bracket = search(*CASES[name])
    assert bracket.outcome == outcome
    np.testing.assert_allclose(bracket.u, end, rtol=1e-9)


def test_a_root_that_is_not_there_is_given_up():
    bracket = search(*CASES["levels off below the goal"])
    assert bracket.outcome == root_search.NOWHERE
    assert bracket.u >= root_search.FARTHEST


def test_no_room_needs_no_look():
    bracket = root_search.begin(jnp.asarray(1.0), jnp.asarray(0.0))
    assert bracket.outcome == root_search.BLOCKED
    assert bracket.rounds == 0
