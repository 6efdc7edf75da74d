"""Bounds: against SciPy, against closed forms, and as prefix pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.optimize
from tolerances import TOL, assert_close

import lmjax
from lmjax import ParamStatus, Status

INF = np.inf
T = np.linspace(0.0, 4.0, 25)
Y = 3.0 * np.exp(-0.8 * T) + 0.5 + 0.05 * np.sin(9.0 * T)
START = np.array([2.0, 1.0, 0.1])


def decay(p, t, y):
    return p[0] * jnp.exp(-p[1] * t) + p[2] - y


def decay_numpy(p):
    return p[0] * np.exp(-p[1] * T) + p[2] - Y


def rosenbrock(p):
    return jnp.stack([10.0 * (p[1] - p[0] ** 2), 1.0 - p[0]])


def rosenbrock_numpy(p):
    return np.array([10.0 * (p[1] - p[0] ** 2), 1.0 - p[0]])


def fit(bounds, start=START, **options):
    return lmjax.least_squares(decay, start, (T, Y), bounds=bounds, **options)


def scipy_fit(fn, start, lower, upper):
    tol = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    return scipy.optimize.least_squares(
        fn, start, bounds=(lower, upper), method="trf", jac="3-point", **tol
    )


CASES = {
    "inactive": ([0.0, 0.0, -9.0], [9.0, 9.0, 9.0]),
    "one-lower": ([-INF, 0.95, -INF], [INF, INF, INF]),
    "one-upper": ([-INF, -INF, -INF], [INF, INF, 0.3]),
    "one-of-each": ([-INF, 0.95, -INF], [INF, INF, 0.3]),
    "all-active": ([0.0, 0.95, 0.0], [2.5, INF, 0.3]),
}


@pytest.mark.parametrize("case", CASES)
def test_bounded_fit_agrees_with_scipy(case):
    lower, upper = map(np.array, CASES[case])
    expected = scipy_fit(decay_numpy, np.clip(START, lower + 0.01, upper), lower, upper)
    sol = fit((lower, upper))
    assert bool(sol.success)
    # trf stays strictly inside, and differentiates by differences
    np.testing.assert_allclose(sol.cost, expected.cost, rtol=1e-7)
    np.testing.assert_allclose(sol.params, expected.x, rtol=1e-5)


@pytest.mark.parametrize(
    ("lower", "upper", "start"),
    [
        ([-3.0, -3.0], [3.0, 3.0], [-1.2, 1.0]),
        ([-2.0, -2.0], [0.5, 2.0], [-1.2, 1.0]),
        ([-2.0, 1.5], [2.0, 3.0], [-1.2, 2.0]),
        ([1.5, -2.0], [3.0, 3.0], [2.0, 1.0]),
    ],
    ids=["inactive", "upper-x", "lower-y", "lower-x"],
)
def test_bounded_rosenbrock_agrees_with_scipy(lower, upper, start):
    lower, upper, start = map(np.array, (lower, upper, start))
    expected = scipy_fit(rosenbrock_numpy, start, lower, upper)
    sol = lmjax.least_squares(rosenbrock, start, bounds=(lower, upper))
    assert bool(sol.success)
    # trf stays strictly inside; a cost of zero needs an absolute tolerance
    np.testing.assert_allclose(sol.params, expected.x, rtol=1e-5)
    np.testing.assert_allclose(sol.cost, expected.cost, rtol=1e-5, atol=1e-15)


def test_nonnegative_linear_fit_agrees_with_nnls(rng):
    matrix, rhs = rng.normal(size=(12, 5)), rng.normal(size=12)
    expected, _ = scipy.optimize.nnls(matrix, rhs)
    assert 0 < np.sum(expected == 0.0) < 5
    start = np.ones(5)
    fn = lambda p, a, b: a @ p - b
    sol = lmjax.least_squares(fn, start, (matrix, rhs), bounds=(0.0, None))
    assert_close(sol.params, expected)
    np.testing.assert_array_equal(sol.params == 0.0, expected == 0.0)


def test_float32_bounded_fit_agrees_with_scipy():
    lower, upper = map(np.array, CASES["one-of-each"])
    expected = scipy_fit(decay_numpy, START.clip(lower + 0.01, upper), lower, upper).x
    start, t, y = (a.astype("float32") for a in (START, T, Y))
    sol = lmjax.least_squares(decay, start, (t, y), bounds=(lower, upper))
    assert sol.params.dtype == "float32"
    np.testing.assert_allclose(sol.params, expected, rtol=TOL[np.dtype("float32")])


@pytest.mark.parametrize(
    "bounds",
    [(None, None), (-100.0, 100.0), (np.full(3, -INF), np.full(3, INF))],
    ids=["none", "wide", "infinite"],
)
def test_inactive_bounds_change_nothing(bounds):
    free, bounded = fit(None), fit(bounds)
    assert_close(bounded.params, free.params)
    np.testing.assert_array_equal(bounded.param_status, free.param_status)


def test_active_parameters_sit_exactly_on_their_bound():
    sol = fit(tuple(map(np.array, CASES["one-of-each"])))
    assert float(sol.params[1]) == 0.95
    assert float(sol.params[2]) == 0.3
    np.testing.assert_array_equal(
        sol.param_status, [ParamStatus.FREE, ParamStatus.AT_LOWER, ParamStatus.AT_UPPER]
    )


@pytest.mark.parametrize("start", [0.0, 2.0], ids=["lower", "upper"])
def test_start_on_a_bound_is_left_where_descent_points_inside(start):
    sol = lmjax.least_squares(lambda p: p - 0.7, jnp.array([start]), bounds=(0.0, 2.0))
    assert_close(sol.params, np.array([0.7]))


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, -0.7), (2.0, 2.7)], ids=["lower", "upper"]
)
def test_start_on_a_bound_is_kept_where_descent_points_outside(start, end):
    sol = lmjax.least_squares(lambda p: p - end, jnp.array([start]), bounds=(0.0, 2.0))
    assert sol.params[0] == start
    assert bool(sol.success)


@pytest.mark.parametrize(
    ("start", "moved"),
    [(-5.0, True), (9.0, True), (0.0, False), (1.0, False)],
    ids=["below", "above", "on", "inside"],
)
def test_start_outside_is_moved_inside_and_flagged(start, moved):
    sol = lmjax.least_squares(lambda p: p - 0.7, jnp.array([start]), bounds=(0.0, 2.0))
    assert bool(sol.start_projected) is moved
    assert_close(sol.params, np.array([0.7]))


def test_no_proposal_leaves_the_bounds():
    lower, upper = map(np.array, CASES["one-of-each"])
    solver = lmjax.LevenbergMarquardt(record_history=True, max_steps=40)
    sol = fit((lower, upper), solver=solver)
    tried = np.asarray(sol.history.params)[: int(sol.num_steps)]
    assert ((tried >= lower) & (tried <= upper)).all()


def test_equal_bounds_hold_a_parameter():
    rate = 1.3
    lower, upper = np.array([-INF, rate, -INF]), np.array([INF, rate, INF])
    columns = np.stack([np.exp(-rate * T), np.ones_like(T)], axis=1)
    a, c = np.linalg.lstsq(columns, Y, rcond=None)[0]
    assert_close(fit((lower, upper)).params, np.array([a, rate, c]))


def test_bounds_may_differ_per_fit():
    upper = np.outer([0.2, 0.3, 5.0], [9.0, 9.0, 1.0])
    params = quick.jit(jax.vmap(lambda u: fit((None, u)).params))(upper)
    assert_close(params, np.stack([fit((None, u)).params for u in upper]))
    assert_close(params[:2, 2], upper[:2, 2])


def test_new_bounds_do_not_retrace():
    traces = []

    def traced(p, t, y):
        traces.append(1)
        return decay(p, t, y)

    for upper in (0.2, 0.3):
        bounds = (-9.0, np.array([9.0, 9.0, upper]))
        sol = lmjax.least_squares(traced, START, (T, Y), bounds=bounds)
        assert float(sol.params[2]) == upper
        once = once if upper == 0.3 else len(traces)
    assert len(traces) == once


# ---- crossed bounds


def named(p, t, y):
    return decay((p["a"], p["k"], p["c"][0]), t, y)


NAMED = {"a": 2.0, "k": 1.0, "c": np.array([0.1])}


def test_crossed_bounds_raise_and_name_the_parameter():
    bounds = ({"k": 3.0}, {"k": 2.0})
    with pytest.raises(ValueError, match=r"bounds.*\bk\b.*3 > 2"):
        lmjax.least_squares(named, NAMED, (T, Y), bounds=bounds)


def test_crossed_bounds_of_an_array_element_are_named():
    with pytest.raises(ValueError, match=r"bounds.*\[1\].*2 > 1"):
        fit((np.array([0.0, 2.0, 0.0]), np.array([1.0, 1.0, 1.0])))


def test_crossed_bounds_give_a_status_under_jit():
    sol = quick.jit(lambda low: fit((low, 1.0)))(2.0)
    assert int(sol.status) == Status.INFEASIBLE
    assert not bool(sol.success)


def test_crossed_bounds_of_one_fit_leave_the_others_alone():
    lower = np.array([0.0, 20.0, -INF])
    status = quick.jit(jax.vmap(lambda low: fit((low, 10.0)).status))(lower)
    np.testing.assert_array_equal(status > 0, [True, False, True])
    assert status[1] == Status.INFEASIBLE


def test_bound_of_nan_gives_a_status_under_jit():
    sol = quick.jit(lambda low: fit((low, 1.0)))(np.nan)
    assert int(sol.status) == Status.INFEASIBLE


# ---- prefix pytrees


@pytest.mark.parametrize(
    "bounds",
    [
        ({"k": 0.95}, {"c": 0.3}),
        ({"a": -INF, "k": 0.95, "c": None}, {"a": None, "k": INF, "c": [0.3]}),
        ({"k": 0.95, "c": -1.0}, {"c": np.array([0.3])}),
    ],
    ids=["partial", "full", "mixed"],
)
def test_prefix_bounds_spread_over_the_parameters(bounds):
    lower, upper = map(np.array, CASES["one-of-each"])
    expected = np.asarray(fit((lower, upper)).params)
    sol = lmjax.least_squares(named, NAMED, (T, Y), bounds=bounds)
    got = np.stack([sol.params["a"], sol.params["k"], sol.params["c"][0]])
    assert_close(got, expected)


def test_one_number_bounds_every_parameter():
    sol = fit((0.4, 1.1))
    assert ((sol.params >= 0.4) & (sol.params <= 1.1)).all()
    assert float(sol.params[0]) == 1.1


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (({"rate": 0.0}, None), r"bounds\[0\].*'rate'.*a, c, k"),
        ((None, {"rate": 0.0}), r"bounds\[1\].*'rate'"),
        ((0.0, 1.0, 2.0), r"bounds.*\(lower, upper\).*length 3"),
        (0.0, r"bounds.*\(lower, upper\)"),
        (([0.0, 1.0], None), r"bounds\[0\].*prefix"),
        (({"c": np.zeros(2)}, None), r"bounds\[0\]\['c'\].*\(1,\).*\(2,\)"),
        (({"k": {"deep": 0.0}}, None), r"bounds\[0\]\['k'\].*dict"),
    ],
    ids=["lower", "upper", "triple", "number", "list", "shape", "too-deep"],
)
def test_wrong_bounds_are_named(bounds, message):
    with pytest.raises(ValueError, match=message):
        lmjax.least_squares(named, NAMED, (T, Y), bounds=bounds)
