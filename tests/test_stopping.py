"""When a fit is done: each rule by a table of cases worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lmjax import Status
from lmjax._solver import stopping
from lmjax._solver.stopping import (
    CANDIDATE_ACCEPTED,
    CANDIDATE_REFUSED,
    MEASURE_CURVATURE,
    NEEDS_FINAL_CHECK,
)

EPS = 2.0**-52


def numbers(*values):
    return [jnp.asarray(x, jnp.float64) for x in values]


def test_a_relevant_reduction_is_a_twentieth_of_a_standard_error():
    # of a mean of 20 values: its standard error by SciPy
    y = np.random.default_rng(0).normal(size=20)
    cost = lambda p: 0.5 * np.sum((y - p) ** 2)
    best, least = y.mean(), cost(y.mean())
    off = best + stopping.RELEVANT * scipy.stats.sem(y)
    got = stopping.relevant_reduction(jnp.asarray(least), 20, 1)
    assert float(got) == pytest.approx(0.5 * 2 * (cost(off) - least))


def test_one_parameter_alone_promises_the_square_of_its_cosine():
    grad, norms = jnp.array([3.0, -4.0, 9.0]), jnp.array([1.0, 2.0, 0.0])
    best = stopping.best_coordinate_reduction
    assert float(best(grad, norms, None)) == 4.5
    assert float(best(grad, norms, jnp.array([False, True, True]))) == 2.0
    assert float(best(grad, norms, jnp.array([False, False, True]))) == 0.0


@pytest.mark.parametrize(
    ("predicted", "lam", "coordinate", "promise"),
    [
        (1.0, 0.0, 0.5, 1.0),
        (1.0, 9.0, 0.5, 10.0),  # a short step by a large lambda proves nothing
        (1.0, 0.0, 3.0, 3.0),  # nor does one by the memory of a column
        (0.1, 0.0, 0.15, 0.1),  # but for what rounding explains
    ],
)
def test_what_damping_hides_is_promised(predicted, lam, coordinate, promise):
    given = numbers(predicted, lam, coordinate, 0.1)
    assert float(stopping.predicted_undamped(*given)) == promise


@pytest.mark.parametrize(
    ("actual", "promise", "candidate"),
    [
        (1e-9, 1e-9, True),  # both within ftol
        (2e-6, 1e-9, False),
        (1e-9, 2e-6, False),
        (-1.0, 1e-9, True),
        (np.nan, 1e-9, False),
    ],
)
def test_a_step_that_achieves_and_promises_nothing_is_a_candidate(
    actual, promise, candidate
):
    given = numbers(actual, promise, 1.0, 0.0, 0.0, 1e-6)
    assert bool(stopping.achieved_nothing(*given)) is candidate


def test_rounding_widens_what_counts_as_nothing():
    given = numbers(1e-3, 1e-4, 1.0, 1e-3, 1e-4, 0.0)
    assert bool(stopping.achieved_nothing(*given))


@pytest.mark.parametrize(
    ("predicted", "lam", "hidden", "candidate"),
    [
        (0.5, 0.0, True, True),  # nothing relevant
        (2.0, 0.0, True, False),
        (0.9, 0.5, True, False),  # 0.9 * 1.5 is
        (2.0, 1.0, True, True),  # even along the gradient
        (0.5, 0.0, False, False),
    ],
)
def test_a_refusal_that_rounding_explains_is_a_candidate(
    predicted, lam, hidden, candidate
):
    predicted, lam, relevant = numbers(predicted, lam, 1.0)
    got = stopping.refused_at_floor(predicted, lam, jnp.asarray(hidden), relevant)
    assert bool(got) is candidate


@pytest.mark.parametrize(
    ("lam", "lam_new", "stuck"),
    [(1.0, 2.0, False), (1.0, 1.0, True), (1e31, 4e31, True)],
)
def test_a_fit_is_stuck_where_no_proposal_differs(lam, lam_new, stuck):
    assert bool(stopping.stuck(*numbers(lam, lam_new))) is stuck


# F = (z^2 + 5)^2 / 2, F' = 2 z (z^2 + 5), F'' = 10 at 0: Newton promises F'^2 / 20
def test_newton_sees_the_curvature_that_the_linear_model_leaves_out():
    slope = lambda z: 2 * z * (z**2 + 5)
    z, dz = 1e-3, -1e-5
    before, after = slope(z) * dz, slope(z + dz) * dz
    got = stopping.newton_decrement(*numbers(before, after / before))
    assert float(got) == pytest.approx(slope(z) ** 2 / 20, rel=1e-4)
    assert np.isinf(stopping.newton_decrement(*numbers(-1.0, 1.5)))


@pytest.mark.parametrize(
    ("cost_rounding", "cancels", "expected"),
    [(0.0, False, 1e-6), (0.5, False, 5.0), (0.5, True, 1e-6)],
)
def test_rounding_excuses_a_promise_unless_it_is_that_of_a_runaway(
    cost_rounding, cancels, expected
):
    cost, cost_rounding, ftol = numbers(1.0, cost_rounding, 1e-6)
    got = stopping.negligible_reduction(cost, cost_rounding, jnp.asarray(cancels), ftol)
    assert float(got) == expected


LOOKS = {
    "minimum": ({}, Status.FTOL, Status.FTOL),
    "more than ftol, not relevant": ({"promise": 0.5}, Status.RUNNING, Status.FTOL),
    "relevant": ({"promise": 2.0}, Status.RUNNING, Status.STALLED),
    "relevant, and lambda at its end": (
        {"promise": 2.0, "exhausted": True},
        Status.STALLED,
        Status.STALLED,
    ),
    "relevant, independent columns": (
        {"promise": 2.0, "pivot": 0.5},
        Status.RUNNING,
        MEASURE_CURVATURE,
    ),
    "relevant and taken, independent columns": (
        {"promise": 2.0, "pivot": 0.5, "accepted": True},
        Status.RUNNING,
        Status.RUNNING,
    ),
    "a step that rounding explains": (
        {"resolved": False},
        Status.RUNNING,
        Status.ILL_CONDITIONED,
    ),
    "not to be believed": (
        {"believed": False},
        Status.ILL_CONDITIONED,
        Status.ILL_CONDITIONED,
    ),
    "not to be believed, but a relevant gain": (
        {"believed": False, "accepted": True, "gained": True},
        Status.RUNNING,
        Status.RUNNING,
    ),
    "not to be believed, zero": (
        {"believed": False, "zero": True},
        Status.FTOL,
        Status.FTOL,
    ),
}


@pytest.mark.parametrize(("given", "accepted", "refused"), LOOKS.values(), ids=LOOKS)
def test_what_follows_from_a_look_at_the_undamped_model(given, accepted, refused):
    usual = {
        "promise": 1e-3,
        "strict": 1e-2,
        "relevant": 1.0,
        "resolved": True,
        "believed": True,
        "zero": False,
        "accepted": False,
        "gained": False,
        "pivot": 1e-5,
        "exhausted": False,
    }
    arguments = [jnp.asarray(x) for x in (usual | given).values()]
    for state, expected in (
        (CANDIDATE_ACCEPTED, accepted),
        (CANDIDATE_REFUSED, refused),
    ):
        got = stopping.status_after_undamped(jnp.asarray(state), *arguments, False)
        assert int(got) == expected
        # where the normal equations see no way on, J itself has the last word
        got = stopping.status_after_undamped(jnp.asarray(state), *arguments, True)
        failed = expected in (Status.STALLED, Status.ILL_CONDITIONED)
        assert int(got) == (NEEDS_FINAL_CHECK if failed else expected)


@pytest.mark.parametrize(
    ("status", "lost", "cancels", "zero", "expected"),
    [
        (Status.FTOL, False, False, False, Status.FTOL),
        (Status.FTOL, True, False, False, Status.PLATEAU),
        (Status.GTOL, True, False, True, Status.GTOL),
        (Status.FTOL, False, True, False, Status.FTOL),
        (Status.STALLED, False, True, False, Status.RUNAWAY),
        (Status.MAX_STEPS, False, True, False, Status.RUNAWAY),
        (Status.ILL_CONDITIONED, False, True, False, Status.RUNAWAY),
        (Status.STALLED, True, True, False, Status.PLATEAU),
        (Status.STALLED, True, False, True, Status.STALLED),
        (Status.NONFINITE_START, False, True, False, Status.NONFINITE_START),
    ],
)
def test_the_status_names_what_became_of_the_parameters(
    status, lost, cancels, zero, expected
):
    flags = map(jnp.asarray, (lost, cancels, zero))
    assert int(stopping.explained(jnp.asarray(int(status)), *flags)) == expected


def test_the_first_case_that_holds_decides():
    got = stopping.first_of(
        (jnp.array([False, True, False]), Status.GTOL),
        (jnp.array([True, True, False]), Status.FTOL),
    )
    assert got.tolist() == [Status.FTOL, Status.GTOL, Status.RUNNING]
