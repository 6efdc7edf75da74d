"""Bad fits return a status and a finite answer; they never raise, also inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import lmjax
from lmjax import Status

T = jnp.linspace(0.0, 4.0, 20)
Y = 2.0 * jnp.exp(-T) + 0.1 * jnp.cos(5.0 * T)


def decay(p, t):
    return p[0] * jnp.exp(-p[1] * t)


START = jnp.array([1.0, 0.5])


def decay_residual(p, y):
    return decay(p, T) - y


@pytest.mark.parametrize("through_jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("residual_fn", "start", "status"),
    [
        pytest.param(lambda p: jnp.log(p), [-1.0], Status.NONFINITE_START, id="nan"),
        pytest.param(lambda p: jnp.exp(p), [1e3], Status.NONFINITE_START, id="inf"),
        # finite residual, infinite slope
        pytest.param(
            lambda p: jnp.sqrt(p) - 1, [0.0], Status.NONFINITE_START, id="bad-jacobian"
        ),
        pytest.param(lambda p: jnp.ones(3), [0.0], Status.SINGULAR, id="constant"),
        pytest.param(lambda p: p - 2.0, [2.0], Status.GTOL, id="zero-residual"),
    ],
)
def test_start_that_cannot_be_improved(residual_fn, start, status, through_jit):
    solve = lambda p: lmjax.least_squares(residual_fn, p)
    sol = (jax.jit(solve) if through_jit else solve)(jnp.array(start))
    assert sol.status == status
    assert sol.num_accepted == 0
    assert sol.params == jnp.array(start)


def test_trial_outside_the_domain_is_a_rejected_step():
    # From 3 the first steps aim below zero, where log is NaN.
    sol = lmjax.least_squares(lambda p: jnp.log(p) + 5.0, jnp.array([3.0]))
    assert sol.success
    np.testing.assert_allclose(sol.params, np.exp(-5.0), rtol=1e-10)


def test_overflow_on_the_way_is_survived():
    model = lambda p, t: p[0] * jnp.exp(jnp.exp(p[1] * t))
    t = jnp.linspace(0.0, 1.0, 15)
    y = model(jnp.array([0.5, 1.0]), t)
    fit = lmjax.curve_fit(model, t, y, jnp.array([5.0, 3.0]))
    assert bool(jnp.all(jnp.isfinite(fit.params)))
    np.testing.assert_allclose(fit.params, [0.5, 1.0], rtol=1e-6)


def test_fewer_residuals_than_parameters_takes_the_least_norm_step():
    rows = np.array([[1.0, 2.0, 2.0], [0.0, 1.0, -1.0]])
    target = np.array([9.0, 1.0])
    sol = lmjax.least_squares(lambda p: jnp.asarray(rows) @ p - target, jnp.zeros(3))
    assert sol.linear_solver == "SVD"
    assert float(sol.cost) < 1e-20
    # least norm in units of the column norms, from a start of zero
    norms = np.linalg.norm(rows, axis=0)
    expected = np.linalg.pinv(rows / norms) @ target / norms
    np.testing.assert_allclose(sol.params, expected, rtol=1e-6)


def test_redundant_parameters_fit_and_are_flagged():
    # only the product matters
    model = lambda p, t: p["a"] * p["b"] * t
    fit = lmjax.curve_fit(model, T, 3.0 * T, {"a": 1.0, "b": 1.0})
    assert fit.success
    np.testing.assert_allclose(fit.params["a"] * fit.params["b"], 3.0, rtol=1e-8)
    noisy = lmjax.curve_fit(model, T, 3.0 * T + 0.1 * Y, {"a": 1.0, "b": 1.0})
    assert noisy.rank == 1
    assert noisy.num_free == 2
    assert bool(jnp.all(jnp.isfinite(noisy.covariance)))
    # neither has an error, and each says so; a curve through them has
    assert all(np.isnan(e) for e in noisy.stderr.values())
    assert (np.asarray(noisy.flat_status) == lmjax.ParamStatus.UNDETERMINED).all()
    assert "determine only 1 combinations" in noisy.report()
    assert noisy.report().count("not determined by the data") == 2
    single = lmjax.curve_fit(lambda p, t: p * t, T, 3.0 * T + 0.1 * Y, 1.0)
    bands = [fit.confidence_band(T)[1] for fit in (noisy, single)]
    width = bands[1] - single.params * T
    # one degree of freedom less
    width = width * float(single.dof / noisy.dof) ** 0.5
    np.testing.assert_allclose(bands[0] - noisy.predict(T), width, rtol=0.02)


def test_parameter_without_effect_has_no_error_bar():
    fit = lmjax.curve_fit(lambda p, t: p["a"] * t, T, Y, {"a": 1.0, "idle": 7.0})
    assert fit.success
    assert float(fit.params["idle"]) == 7.0
    assert np.isnan(fit.stderr["idle"])
    assert np.isfinite(fit.stderr["a"])
    assert "no effect" in fit.report()


def test_out_of_steps_returns_the_best_so_far():
    solver = lmjax.LevenbergMarquardt(max_steps=1)
    sol = lmjax.least_squares(decay_residual, START, (Y,), solver=solver)
    assert sol.status == Status.MAX_STEPS
    assert sol.num_steps == 1
    start_cost = 0.5 * float(jnp.sum(decay_residual(START, Y) ** 2))
    assert float(sol.cost) < start_cost


def test_wrong_jacobian_is_not_called_convergence():
    flipped = lambda p, y: -jax.jacfwd(decay_residual)(p, y)
    solver = lmjax.LevenbergMarquardt(jac=flipped)
    sol = lmjax.least_squares(decay_residual, START, (Y,), solver=solver)
    assert sol.status == Status.STALLED
    np.testing.assert_array_equal(sol.params, START)


def test_step_residual_without_gradient_is_not_called_convergence():
    # Rounding to a grid: the slope that autodiff sees is zero almost everywhere.
    sol = lmjax.least_squares(lambda p: jnp.round(p) - 5.0, jnp.array([1.0]))
    assert sol.status == Status.SINGULAR


def test_diverging_gauss_newton_is_not_called_convergence():
    # puromycin, treated (Treloar 1974, in Bates and Watts 1988)
    c = jnp.repeat(jnp.array([0.02, 0.06, 0.11, 0.22, 0.56, 1.1]), 2)
    v = jnp.array([76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200.0])
    rate = lambda p, c: p["v"] * c / (p["k"] + c)
    solver = lmjax.LevenbergMarquardt(damping=lmjax.Fixed(0.0), max_steps=200)
    fit = lambda start: lmjax.curve_fit(rate, c, v, start, solver=solver)
    reached = lambda sol: abs(float(sol.params["v"]) - 212.7) < 0.1
    far = fit({"v": 100.0, "k": 0.5})
    assert reached(far) or not far.success
    # the same from where Gauss-Newton does find it
    near = fit({"v": 200.0, "k": 0.05})
    assert near.success
    assert reached(near)


def test_parameters_that_run_away_without_damping_are_not_called_convergence():
    # only p[0] + p[1] is determined; their rounding then hides the whole residual
    model = lambda p, t: (p[0] + p[1]) * jnp.exp(-p[2] * t)
    start = jnp.array([1.0, 0.5, 0.7])
    solver = lmjax.LevenbergMarquardt(damping=lmjax.Fixed(0.0), max_steps=200)
    fit = lmjax.curve_fit(model, T, Y, start, solver=solver)
    assert fit.optimality < 1e-6 or not fit.success
    # damping keeps them, and their sum and rate are those of one decay
    damped = lmjax.curve_fit(model, T, Y, start)
    alone = lmjax.curve_fit(decay, T, Y, START)
    assert damped.success
    assert alone.success
    total = jnp.array([damped.params[0] + damped.params[1], damped.params[2]])
    np.testing.assert_allclose(total, alone.params, rtol=1e-6)


LONG = np.linspace(0.0, 4.0, 40)


def two_decays(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2] * jnp.exp(-p[3] * t)


# From rates this wrong the columns of J shrink by 1e30 on the way. What lambda then
# does to them is not to be taken for convergence.
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "start",
    [(1.0, -6.0, 1.0, -9.0), (1.0, -8.0, 1.0, -19.0), (-0.84, 14.2, 0.34, -22.2)],
)
def test_column_that_shrank_is_not_called_convergence(start, dtype):
    y = 2.0 * np.exp(-LONG / 2) + np.exp(-2.0 * LONG)
    data = (jnp.asarray(LONG, dtype), jnp.asarray(y, dtype))
    fit = lmjax.curve_fit(two_decays, *data, jnp.asarray(start, dtype))
    rounding = (jnp.finfo(dtype).eps * np.linalg.norm(y)) ** 2
    assert not fit.success or float(fit.cost) < 1e3 * rounding
    # the same fit from a start that is no worse than rough
    rough = jnp.asarray([1.0, 0.4, 2.0, 3.0], dtype)
    found = lmjax.curve_fit(two_decays, *data, rough)
    assert found.success
    rtol = 1e-6 if dtype == jnp.float64 else 1e-2  # rates that nearly compensate
    np.testing.assert_allclose(found.params, [2.0, 0.5, 1.0, 2.0], rtol=rtol)


def test_peak_off_the_data_is_found_or_not_called_convergence():
    truth = jnp.array([2.0, 1.5, 0.4])
    peak = lambda p, t: p[0] * jnp.exp(-0.5 * ((t - p[1]) / p[2]) ** 2)
    rng = np.random.default_rng(1)
    y = peak(truth, LONG) + 0.02 * rng.normal(size=LONG.size)
    starts = 3.0 * rng.normal(size=(40, 3))
    solver = lmjax.LevenbergMarquardt(max_steps=300)

    @jax.jit
    @jax.vmap
    def fit_one(start):
        fit = lmjax.curve_fit(peak, LONG, y, start, solver=solver)
        return fit.success, fit.optimality

    success, optimality = fit_one(starts)
    assert int(jnp.sum(success)) >= 20
    assert float(jnp.max(jnp.where(success, optimality, 0.0))) < 1e-3


def test_one_bad_lane_changes_no_other_by_a_bit():
    rng = np.random.default_rng(3)
    data = np.asarray(Y) + 0.05 * rng.normal(size=(32, Y.size))
    spoiled = data.copy()
    spoiled[7] = np.nan
    fit = jax.jit(jax.vmap(lambda y: lmjax.least_squares(decay_residual, START, (y,))))
    clean, dirty = fit(data), fit(spoiled)
    others = np.arange(32) != 7
    np.testing.assert_array_equal(clean.params[others], dirty.params[others])
    np.testing.assert_array_equal(clean.num_steps[others], dirty.num_steps[others])
    assert dirty.status[7] == Status.NONFINITE_START
    np.testing.assert_array_equal(dirty.params[7], START)


def test_no_data_in_one_lane_is_reported():
    fit = lmjax.curve_fit(decay, T, Y, START, mask=np.zeros(T.size, bool))
    assert fit.status == Status.SINGULAR
    assert bool(jnp.all(jnp.isfinite(fit.params)))


def test_gain_is_one_where_the_model_is_exact():
    rows = jnp.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])
    solver = lmjax.LevenbergMarquardt(record_history=True, max_steps=3)
    sol = lmjax.least_squares(lambda p: rows @ p - 1.0, jnp.zeros(2), solver=solver)
    np.testing.assert_allclose(sol.history.gain[:3], 1.0, rtol=1e-9)


def decay_in_units(p, given):
    t, rate_unit = given
    return p[0] * jnp.exp(-(p[1] / rate_unit) * t)


def fit_in_units(data_unit, rate_unit, dtype=jnp.float32):
    """Fit the decay with amplitude and data, or rate, multiplied by a number."""
    data_unit, rate_unit = jnp.asarray(data_unit, dtype), jnp.asarray(rate_unit, dtype)
    x, y = (T.astype(dtype), rate_unit), Y.astype(dtype) * data_unit
    start = START.astype(dtype) * jnp.array([data_unit, rate_unit])
    fit = lmjax.curve_fit(decay_in_units, x, y, start)
    return fit, fit.params / jnp.array([data_unit, rate_unit])


@pytest.mark.parametrize("unit", [1e-15, 1e-8, 1e8, 1e15])
@pytest.mark.parametrize("which", ["data", "rate"])
def test_units_within_the_range_of_float32_do_not_matter(unit, which):
    usual, expected = fit_in_units(1.0, 1.0)
    units = (unit, 1.0) if which == "data" else (1.0, unit)
    fit, params = fit_in_units(*units)
    assert fit.success
    assert fit.num_steps <= usual.num_steps + 2  # units round
    np.testing.assert_allclose(params, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "units",
    [(1e-19, 1.0), (1e-25, 1.0), (1e20, 1.0), (1e30, 1.0), (1.0, 1e22), (1.0, 1e-22)],
)
def test_squares_beyond_the_range_of_float32_are_reported(units):
    fit, _ = fit_in_units(*units)
    assert fit.status == Status.OUT_OF_RANGE
    # what float32 cannot square, float64 can
    fit, params = fit_in_units(*units, jnp.float64)
    assert fit.success
    np.testing.assert_allclose(params, fit_in_units(1.0, 1.0)[1], rtol=1e-5)


def test_range_is_judged_lane_by_lane():
    units = jnp.asarray([1.0, 1e-25, 1e-8, 1e25], jnp.float32)
    fit = lambda unit: fit_in_units(unit, 1.0)[0]
    batch = jax.vmap(fit)(units)
    found = np.asarray(batch.status == Status.OUT_OF_RANGE)
    np.testing.assert_array_equal(found, [False, True, False, True])
    assert batch.success[jnp.array([0, 2])].all()
    usual = jax.vmap(fit)(jnp.asarray([1.0, 1.0, 1e-8, 1.0], jnp.float32))
    np.testing.assert_array_equal(batch.params[0], usual.params[0])
    np.testing.assert_array_equal(batch.params[2], usual.params[2])


def test_residual_that_vanishes_on_the_way_is_convergence():
    # Powell's singular function: zero, and so is J; the last squares underflow
    def powell(p):
        a, b, c, d = p
        pair = jnp.array([a + 10 * b, 5**0.5 * (c - d)])
        return jnp.append(pair, jnp.array([(b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2]))

    start = jnp.array([3.0, -1.0, 0.0, 1.0], jnp.float32)
    assert lmjax.least_squares(powell, start).success


def test_error_whose_square_vanishes_is_not_zero():
    fit, _ = fit_in_units(1.0, 1e-17)
    assert fit.success
    assert fit.stderr[0] > 0.0
    assert fit.stderr[1] != 0.0


def test_what_is_small_for_a_reason_is_in_range():
    # of the residual only zero is left, or a column is faint beside the model
    x = jnp.arange(1.0, 9.0, dtype=jnp.float32)
    model = lambda p, x: p[0] * x + jnp.exp(-p[1])
    start = jnp.array([1.0, 60.0], jnp.float32)
    assert lmjax.curve_fit(model, x, 2.0 * x, start).success
    fixed = jnp.array([False, True])
    assert lmjax.curve_fit(model, x, 2.0 * x, start, fixed=fixed).success
    y = 3e-13 * jnp.exp(-0.7 * x)
    fit = lmjax.curve_fit(decay, x, y, jnp.array([1e-13, 1.0], jnp.float32))
    assert fit.success
    assert lmjax.curve_fit(decay, x, y, fit.params).success


def test_impossible_counts_are_not_out_of_range():
    counts = jnp.arange(5.0, dtype=jnp.float32)
    start = jnp.array([-1.0, 0.1], jnp.float32)
    line = lambda p, x: p[0] + p[1] * x
    fit = lmjax.curve_fit(line, counts, counts, start, likelihood="poisson")
    assert fit.status == Status.NONFINITE_START


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("model", [decay, lambda p, t: p[0] + p[1] * t])
def test_a_fit_from_its_own_answer_converges_at_once(model, dtype):
    noise = 0.1 * np.random.default_rng(0).normal(size=(20, T.size))
    y = jnp.asarray(np.asarray(model(jnp.array([2.0, 1.0]), T)) + noise, dtype)
    fit = lambda y, p: lmjax.curve_fit(model, T.astype(dtype), y, p)
    first = quick.jit(jax.vmap(lambda y: fit(y, START.astype(dtype)).params))(y)
    for row, params in zip(y, first, strict=True):
        again = fit(row, params)
        assert again.success
        assert again.num_steps <= 2


def test_geodesic_step_that_promises_an_increase_is_no_minimum():
    # two decays in float32, stopped at seven times the cost of the true parameters
    x = np.linspace(0.0, 4.0, 30)
    rng = np.random.default_rng(261)
    truth = rng.uniform([0.5, 0.2, 0.5, 0.3, -0.1], [2.0, 1.0, 2.0, 1.4, 0.1])
    model = lambda p, x: p[0] * jnp.exp(-p[1] * x) + p[2] * jnp.exp(-p[3] * x) + p[4]
    y = np.asarray(model(truth, x)) + 1e-5 * rng.normal(size=30)
    start = truth * rng.uniform(0.5, 1.6, 5)
    solver = lmjax.LevenbergMarquardt(geodesic=True)

    def fit(dtype):
        data = (np.asarray(array, dtype) for array in (x, y, start))
        return lmjax.curve_fit(model, *data, solver=solver)

    best = 0.5 * float(np.sum((np.asarray(model(truth, x)) - y) ** 2))
    single, double = fit(np.float32), fit(np.float64)
    assert single.cost < 1.5 * best or not single.success
    assert double.success
    assert double.cost < best
