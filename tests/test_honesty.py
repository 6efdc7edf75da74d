"""The judge of `benchmarks.honesty` on points whose verdict is known by hand."""

import jax
import numpy as np
import pytest

from benchmarks.honesty import corners, curves, judge, models, textbook
from benchmarks.honesty.evaluate import Evaluator
from benchmarks.honesty.judge import Point, Reference
from benchmarks.honesty.problems import Problem, Starts, curve, draw, near

EPS = float(np.finfo(float).eps)


def known(p, model, slopes, y, x):
    """Return a point of a curve; ``slopes(p, x)`` lists the columns of J."""
    p = np.asarray(p, float)
    return Point(p, model(p, x) - y, np.column_stack(slopes(p, x)))


def line(p, x, y):
    return known(
        p,
        lambda p, x: p[0] + p[1] * x,
        lambda p, x: [np.ones_like(x), x],
        y,
        x,
    )


def decay(p, x, y):
    return known(
        p,
        lambda p, x: p[0] * np.exp(-x / p[1]) + p[2],
        lambda p, x: [
            np.exp(-x / p[1]),
            p[0] * x / p[1] ** 2 * np.exp(-x / p[1]),
            np.ones_like(x),
        ],
        y,
        x,
    )


def peak(p, x, y):
    def bell(p, x):
        return np.exp(-0.5 * (x - p[1]) ** 2)

    return known(
        p,
        lambda p, x: p[0] * bell(p, x) + p[2],
        lambda p, x: [bell(p, x), p[0] * (x - p[1]) * bell(p, x), np.ones_like(x)],
        y,
        x,
    )


def verdict(point, start, best, claims=True, eps=EPS, bend=0.0):
    """Judge a point; ``bend`` is what the second derivatives add to its Hessian."""
    reference = Reference(best, best.cost)
    hessian = point.jac.T @ point.jac + bend
    return judge.judge(claims, point, start, reference, eps, lambda: hessian)


def bend_of_decay(point, x):
    """Return the sum of residuals times second derivatives of `decay`."""
    amplitude, tau, _ = point.p
    fall = np.exp(-x / tau)
    mixed = point.r @ (x / tau**2 * fall)
    twice = point.r @ (amplitude * (x**2 / tau**4 - 2 * x / tau**3) * fall)
    return np.array([[0, mixed, 0], [mixed, twice, 0], [0, 0, 0]])


X = np.array([0.0, 1, 2, 3, 4])
Y = np.array([1.0, 0, 3, 2, 4])  # its line is 0.4 + 0.8 x, its cost 1.8


@pytest.fixture(scope="module")
def decays():
    """Return x, y and the minimum of a decay with deterministic deviations."""
    x = np.linspace(0, 10, 21)
    exact = np.array([10.0, 3, 2])
    point = decay(exact, x, 0 * x)
    wiggle = 0.1 * np.cos(7 * x)
    across = np.linalg.qr(point.jac)[0]
    y = point.r + wiggle - across @ (across.T @ wiggle)  # so `exact` is the minimum
    return x, y, decay(exact, x, y)


def test_promise_is_the_share_of_the_residual_in_the_columns():
    ones = np.ones((2, 1))
    assert judge.promise(np.array([1.0, 1]), ones) == pytest.approx(1)
    assert judge.promise(np.array([1.0, -1]), ones) == pytest.approx(0)
    assert judge.promise(np.array([1.0, 0]), ones) == pytest.approx(0.5)


def test_promise_does_not_depend_on_units():
    jac = np.array([[1.0, 2], [0, 1], [1, 1]])
    r = np.array([1.0, 2, -1])
    units = np.array([1e-150, 1e150])
    assert judge.promise(1e200 * r, jac * units) == pytest.approx(judge.promise(r, jac))


def test_relevant_is_a_twentieth_of_a_standard_error():
    assert judge.relevant((10, 2)) == pytest.approx(0.0025 * 2 / 8)


def test_blur_adds_up_the_terms_of_the_residual():
    # residual 3 + 2 * 5 - 12 = 1, made of 3, 10 and 12
    point = Point(np.array([3.0, 2]), np.array([1.0]), np.array([[1.0, 5]]))
    assert judge.blur(point) == pytest.approx([25])


def test_converged_line_is_right():
    best = line((0.4, 0.8), X, Y)
    assert best.cost == pytest.approx(1.8)
    assert verdict(best, line((5, 5), X, Y), best).kind == "right"
    assert verdict(best, line((5, 5), X, Y), best, claims=False).kind == "unsure"


def test_line_off_its_minimum_is_refuted():
    best, off = line((0.4, 0.8), X, Y), line((0.9, 0.8), X, Y)
    found = verdict(off, line((5, 5), X, Y), best)
    # 5 points raised by 1/2: the cost is 1.8 + 5/8, and a step removes the 5/8
    assert (found.kind, found.reason) == ("false", "promise")
    assert found.promise == pytest.approx(0.625 / 2.425)
    assert verdict(off, best, best, claims=False).kind == "failed"


def test_same_minimum_but_not_converged_is_short():
    best = line((0.4, 0.8), X, Y)
    near_by = line((0.45, 0.8), X, Y)  # costs 0.35 % more; a twentieth of an error 0.17
    found = verdict(near_by, best, best)
    assert (found.kind, found.reason) == ("right", "short")


@pytest.mark.parametrize("far", [1e3, 1e5, 1e6])
def test_decay_whose_parameters_run_away_is_refuted(decays, far):
    x, y, best = decays
    point = _straight(x, y, far)
    start, bend = decay((1.0, 1, 0), x, y), bend_of_decay(point, x)
    found = verdict(point, start, best, bend=bend)
    assert (found.kind, found.reason) == ("false", "promise")


def test_decay_that_ran_away_beyond_all_digits_is_false(decays):
    x, y, best = decays
    found = verdict(_straight(x, y, 1e9), decay((1.0, 1, 0), x, y), best)
    assert (found.kind, found.reason) == ("false", "ran away")


def _straight(x, y, tau):
    """Return the decay of huge amplitude, offset and time that is the best line."""
    intercept, slope = np.linalg.lstsq(
        np.column_stack([np.ones_like(x), x]), y, rcond=None
    )[0]
    return decay((-slope * tau, tau, intercept + slope * tau), x, y)


def test_rounding_where_parameters_ran_away_excuses_nothing(decays):
    x, y, best = decays
    point = _straight(x, y, 1e8)
    assert np.sum((1.2e-7 * judge.blur(point)) ** 2) > 2 * point.cost
    assert verdict(point, decay((1.0, 1, 0), x, y), best, eps=1.2e-7).kind == "false"


def test_peak_that_left_its_data_is_a_plateau():
    x = np.linspace(0, 10, 41)
    y = peak((3.0, 5, 1), x, 0 * x).r + 0.05 * np.cos(9 * x)
    best, start = peak((3.0, 5, 1), x, y), peak((1.0, 3, 0), x, y)
    gone = peak((3.0, 60, np.mean(y)), x, y)
    assert verdict(gone, start, best)[:2] == ("plateau", "lost")
    assert verdict(gone, gone, best)[:2] == ("plateau", "idle")


def square(z):
    return Point(np.array([z]), np.array([z**2 + 5]), np.array([[2 * z]]))


@pytest.mark.parametrize(("z", "reason"), [(1e-6, ""), (0.1, "short")])
def test_hessian_judges_where_the_jacobian_vanishes(z, reason):
    bend = 2 * (z**2 + 5)
    found = verdict(square(z), square(2.0), square(0.0), bend=bend)
    assert (found.kind, found.reason) == ("right", reason)
    assert found.promise == pytest.approx(1)


@pytest.mark.parametrize(
    ("hessian", "scale", "stops"),
    [
        (np.diag([4.0, 4]), (1, 1), True),
        (np.diag([4.0, -4]), (1, 1), False),  # a saddle
        (np.diag([1e-9, 4]), (1, 1), False),  # the decrement is relevant
        (np.diag([4.0, 4]), (1e-9, 1), False),  # the step is not small
    ],
)
def test_newton_has_converged_where_nothing_is_left(hessian, scale, stops):
    # a gradient of (1e-6, 0) at a residual of 1
    jac = np.array([[1.0, 0], [0, 0], [0, 1]])
    point = Point(np.ones(2), np.array([1e-6, 1, 0]), jac)
    assert judge.newton_converged(point, hessian, np.array(scale)) is stops


def freudenstein_roth(p):
    a, b = p
    r = [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b]
    slopes = [10 * b - 3 * b**2 - 2, 3 * b**2 + 2 * b - 14]
    return Point(np.array(p), np.array(r), np.array([[1, slopes[0]], [1, slopes[1]]]))


@pytest.mark.parametrize("eps", [EPS, 1.2e-7])
@pytest.mark.parametrize(("off", "kind"), [(1e-7, "local"), (1e-2, "false")])
def test_as_many_residuals_as_parameters_have_local_minima(off, kind, eps):
    # there r = (t, -t) and both slopes in b are equal: 6 b^2 - 8 b - 12 = 0
    b = (2 - 22**0.5) / 3
    a = (42 - ((5 - b) * b - 2) * b - ((b + 1) * b - 14) * b) / 2
    point = freudenstein_roth((a, b + off))
    bend = np.diag([0, point.r @ np.array([10 - 6 * (b + off), 6 * (b + off) + 2])])
    start, best = freudenstein_roth((0.5, -2.0)), freudenstein_roth((5.0, 4.0))
    found = verdict(point, start, best, eps=eps, bend=bend)
    assert found.kind == kind
    assert found.promise == pytest.approx(1)


def test_other_minimum_is_local():
    # (z^2 - 1)^2 + (z - 1)^2 / 10 has a second minimum near -0.94 besides 1
    def point(z):
        small = np.sqrt(0.1)
        r = np.array([z**2 - 1, small * (z - 1)])
        return Point(np.array([z]), r, np.array([[2 * z], [small]]))

    z = -1.0
    for _ in range(50):  # Newton on the gradient
        gradient = 2 * z * (z**2 - 1) + 0.1 * (z - 1)
        z -= gradient / (6 * z**2 - 2 + 0.1)
    assert verdict(point(z), point(-3.0), point(1.0)).kind == "local"
    off = verdict(point(-0.5), point(-3.0), point(1.0), bend=2 * (0.5**2 - 1))
    assert off.kind == "false"


def test_success_without_a_finite_cost_is_false():
    best = line((0.4, 0.8), X, Y)
    found = verdict(line((np.nan, 1), X, Y), best, best)
    assert (found.kind, found.reason) == ("false", "not finite")


def test_starts_can_be_drawn_again():
    data = (np.zeros((3, 5)), np.zeros((3, 5)))
    rule = Starts(np.array([[7.0, 7]]), near(1.0))
    problem = Problem("p", "f", curve(models.line), data, np.ones((3, 2)), rule)
    first, again = draw(problem, 8), draw(problem, 8)
    assert np.array_equal(first.starts, again.starts)
    assert first.starts[0].tolist() == [7, 7]
    assert first.sets.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert np.array_equal(draw(problem, 4).starts, first.starts[:4])


def test_given_starts_meet_every_data_set():
    given = Starts(np.array([[1.0, 1], [2, 2]]))
    problem = Problem("p", "f", curve(models.line), (), np.ones((2, 2)), given)
    drawn = draw(problem, 4)
    assert drawn.starts[:, 0].tolist() == [1, 2, 1, 2]
    assert drawn.sets.tolist() == [0, 0, 1, 1]


def test_problems_are_many_and_their_references_as_published():
    with jax.numpy_dtype_promotion("standard"):
        problems = curves.problems() + corners.problems() + textbook.problems()
        published = [p for p in problems if p.family == "nist"]
        costs = [
            Evaluator(p, np.float64).cost(p.truth[0], 0) / p.known for p in published
        ]
    names = [p.name for p in problems]
    assert len(set(names)) == len(names) >= 40
    np.testing.assert_allclose(costs, 1, rtol=1e-6)
