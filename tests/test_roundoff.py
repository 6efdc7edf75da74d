"""What rounding hides: each rule by a table of cases worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lmjax._solver import roundoff

EPS = 2.0**-52


def numbers(*values):
    return [jnp.asarray(x, "float64") for x in values]


def number(x, dtype="float64"):
    return jnp.asarray(x, dtype)


@pytest.mark.parametrize(
    ("effects", "cost", "dtype", "expected"),
    [
        (0.0, 0.5, "float64", EPS),  # |r| = 1
        (9.0, 8.0, "float64", 5 * EPS),  # |J p| = 3, |r| = 4
        (9.0, 8.0, "float32", 5 * 2.0**-23),
        (0.0, 0.0, "float64", 0.0),
        (np.inf, 1.0, "float64", 0.0),  # where nothing is known, nothing is hidden
        (np.nan, 1.0, "float64", 0.0),
    ],
)
def test_residual_is_rounded_like_its_parameters_and_itself(
    effects, cost, dtype, expected
):
    got = roundoff.residual_rounding(number(effects, dtype), number(cost, dtype))
    assert float(got) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("rounding", "cost", "expected"),
    [
        (0.1, 2.0, 0.4),  # 2 * 0.1 * |r| with |r| = 2
        (0.1, 0.0, 0.0),
    ],
)
def test_cost_is_rounded_by_the_residual_along_itself(rounding, cost, expected):
    got = roundoff.cost_rounding(number(rounding), number(cost))
    assert float(got) == pytest.approx(expected)


def test_model_sees_the_rounding_in_its_own_directions():
    assert float(roundoff.model_rounding(number(0.1), 3, 30)) == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("predicted", "actual", "hidden"),
    [(1.0, 1.0, True), (1.0, -1.0, True), (1.5, 1.0, False), (0.0, np.nan, False)],
)
def test_both_reductions_must_be_small_to_be_hidden(predicted, actual, hidden):
    got = roundoff.below_rounding(number(predicted), number(actual), number(1.0))
    assert bool(got) is hidden


@pytest.mark.parametrize(
    ("predicted", "actual", "noise", "gain"),
    [
        (2.0, 1.0, 0.0, 0.5),
        (2.0, -1.0, 0.0, -0.5),
        (1e-9, -1e-9, 1.0, 1.0),  # what rounding hides counts as foreseen
    ],
)
def test_gain_is_a_ratio_that_rounding_draws_to_one(predicted, actual, noise, gain):
    got = roundoff.gain_ratio(number(predicted), number(actual), number(noise))
    assert float(got) == pytest.approx(gain, rel=1e-6)


# r = p from 1: F = p^2 / 2, slope p dp, and an undamped step of -1 predicts 1/2
@pytest.mark.parametrize(
    ("dp", "predicted", "gain"),
    [
        (-1.0, 0.5, 1.0),  # onto the minimum
        (-2.0, 0.5, 0.0),  # as far on the other side
        (-3.0, 0.5, -3.0),  # beyond: (4 - 1) / 2 more
        (-0.5, 0.375, 1.0),  # a damped step foresees 0.5 - 0.125
    ],
)
def test_gain_by_gradients_is_that_of_the_cost(dp, predicted, gain):
    slope, after = 1.0 * dp, (1.0 + dp) * dp
    ratio = number(after / slope)
    got = roundoff.gain_by_gradients(number(predicted), number(slope), ratio)
    exact = (0.5 - 0.5 * (1 + dp) ** 2) / predicted
    assert exact == gain
    assert float(got) == pytest.approx(gain)


def test_gain_by_gradients_survives_a_prediction_that_underflows():
    got = roundoff.gain_by_gradients(number(0.0), number(-0.0), number(0.25))
    assert float(got) == 1.25


@pytest.mark.parametrize(
    ("p", "p0", "columns", "cancel"),
    [
        # 1e4 and -1e4 with equal columns, from 1 and 1
        ((1e4, -1e4 + 1), (1.0, 1.0), ((1, 1), (1, 1)), True),
        # large from the start
        ((1e4, -1e4 + 1), (1e4, -1e5), ((1, 1), (1, 1)), True),
        # on their way to zero, as in Powell's singular function
        ((1e-9, -1e-9), (3.0, -1.0), ((1, 1), (1, 1)), False),
        # one of them with a start whose effect would be enormous now
        ((1e4, -1e4, 1e-9), (1.0, 1.0, 1.0), ((1, 1), (1, 1), (1e9, 0)), True),
        # far out, and each on its own
        ((1e4, -1e4), (1.0, 1.0), ((1, 0), (0, 1)), False),
        # a line over times that start at 1000
        ((-1000.0, 1.0), (1.0, 1.0), ((1, 1), (1000, 1001)), True),
    ],
)
def test_effects_cancel_in_their_sum(p, p0, columns, cancel):
    p, p0, columns = map(np.asarray, (p, p0, columns))
    norms = np.linalg.norm(columns, axis=1)
    effects = map(jnp.sum, roundoff.squared_effects(*map(jnp.asarray, (norms, p, p0))))
    effect = number(np.sum((p @ columns) ** 2))
    assert bool(roundoff.effects_cancel(effect, *effects)) is cancel


@pytest.mark.parametrize(
    ("size", "cancels", "zero"),
    [
        (9 * EPS, False, True),
        (11 * EPS, False, False),
        (9 * EPS, True, False),
        (0.0, True, True),
    ],
)
def test_residual_of_a_few_roundings_is_zero_unless_effects_cancel(size, cancels, zero):
    got = roundoff.is_zero(number(0.5 * size**2), number(EPS), jnp.asarray(cancels))
    assert bool(got) is zero


@pytest.mark.parametrize(
    ("norm", "p", "p0", "scale", "lost"),
    [
        (1e-20, 10.0, 1.0, 1.0, True),
        (1e-20, 10.0, 1.0, 1e-20, True),  # whatever the scale has forgotten
        (0.0, 10.0, 1.0, 0.0, True),
        (0.0, 10.0, 10.0, 0.0, False),  # never had an effect: idle
        (1e-20, 1e10, 1.0, 1.0, False),  # its whole effect is there
        (1e-20, 1.0, 1e10, 1.0, False),  # that of the start would be
        (1.0, 1e-20, 0.0, 1.0, False),  # a position of zero
        (1e-20, 1e-20, 0.0, 1.0, True),  # a size of zero
    ],
)
def test_parameter_has_lost_what_is_below_rounding(norm, p, p0, scale, lost):
    given = [jnp.asarray([x]) for x in (norm, p, p0, scale)]
    got = roundoff.without_effect(*given, number(1e-15))
    assert bool(got[0]) is lost


@pytest.mark.parametrize(
    ("pivots", "norms", "free", "expected"),
    [
        ((0.75, 0.5), (1, 1), None, 0.25),
        ((0.75, np.nan), (1, 1), None, -np.inf),  # no factorisation
        ((0.75, 0.25), (1, 0), None, 0.5),  # a column of zeros has no pivot
        ((0.75, 0.25), (1, 1), (True, False), 0.5),
    ],
)
def test_least_pivot_is_that_of_the_columns_in_play(pivots, norms, free, expected):
    free = None if free is None else jnp.asarray(free)
    lam, pivots, norms = numbers(0.25, pivots, norms)
    got = roundoff.least_pivot(pivots, lam, norms, free, False)
    assert float(got) == expected


def test_rounding_of_products_grows_by_the_pivots_before():
    lam, pivots, norms = numbers(0.0, (1.0, 1e-6, 1e-3), (1, 1, 1))
    assert float(roundoff.least_pivot(pivots, lam, norms, None, False)) == 1e-6
    got = roundoff.least_pivot(pivots, lam, norms, None, True)
    assert float(got) == pytest.approx(1e-9)


@pytest.mark.parametrize(
    ("pivot", "cancels", "hidden", "by_qr", "by_normal_equations"),
    [
        (0.5, False, False, True, True),
        (0.5, False, True, True, True),
        (0.5, True, False, True, True),
        (0.5, True, True, False, False),  # rounding of effects that cancel
        (1e-14, False, False, True, False),  # below 100 n eps
        (1e-14, True, False, True, False),
        (1e-30, False, False, True, False),  # two names for one parameter
        (1e-30, True, False, False, False),  # a runaway
    ],
)
def test_a_promise_is_trusted_where_the_factorisation_resolves_it(
    pivot, cancels, hidden, by_qr, by_normal_equations
):
    given = [jnp.asarray(x) for x in (pivot, cancels, hidden)]
    assert bool(roundoff.trusted(*given, 3, False)) is by_qr
    assert bool(roundoff.trusted(*given, 3, True)) is by_normal_equations


@pytest.mark.parametrize(
    ("lam", "pivot", "by_qr", "by_normal_equations"),
    [
        (1e-4, 0.1, True, True),  # 10 * 9 * 1e-4 < 0.1
        (1e-2, 0.1, False, False),
        (1e-20, 1e-15, True, False),
        (0.0, 1e-30, False, False),
    ],
)
def test_damping_had_no_say_where_it_is_far_below_the_pivots(
    lam, pivot, by_qr, by_normal_equations
):
    lam, pivot = numbers(lam, pivot)
    assert bool(roundoff.undamped(lam, pivot, 3, False)) is by_qr
    assert bool(roundoff.undamped(lam, pivot, 3, True)) is by_normal_equations


@pytest.mark.parametrize(
    ("size", "by_qr", "by_normal_equations"),
    [(1.9e6, True, True), (2.3e6, True, False), (4e14, True, False), (5e14, False, 0)],
)
def test_rounding_explains_long_steps(size, by_qr, by_normal_equations):
    # eps * 4.5e14 = 0.1 of |r| = 1; eps * 2.1e6^2 = 0.1 of a relevant 0.01
    given = numbers(size, 0.5, 0.01)
    assert bool(roundoff.step_resolved(*given, False)) is by_qr
    assert bool(roundoff.step_resolved(*given, True)) is bool(by_normal_equations)
