"""Results: status codes, errors on request, batches, reports and the history."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tolerances import assert_close

import lmjax
from lmjax import ParamStatus, Status

T = np.linspace(0.0, 4.0, 25)
Y = 3.0 * np.exp(-0.8 * T) + 0.5 + 0.05 * np.sin(9.0 * T)
BATCH = np.stack([Y, 2.0 * Y, np.full_like(Y, np.nan)])
START = {"amplitude": 2.0, "rate": 1.0, "offset": 0.1}


def decay(p, t):
    return p["amplitude"] * jnp.exp(-p["rate"] * t) + p["offset"]


def residual(p, t, y):
    return decay(p, t) - y


def solve(y=Y, start=START, **options):
    return lmjax.least_squares(residual, start, (T, y), **options)


def curve_fit(y=Y, **options):
    return lmjax.curve_fit(decay, T, y, START, **options)


class Stretched(eqx.Module):
    """A model that holds an array beside its parameters."""

    k: jax.Array

    def __call__(self, p, t):
        return decay(p, self.k * t)


@pytest.mark.parametrize(
    "model",
    [
        Stretched(jnp.array(0.5)),
        jax.tree_util.Partial(lambda p, t, k=1.0: decay(p, k * t), k=0.5),
    ],
    ids=["Module", "Partial"],
)
def test_predictions_know_what_the_model_holds(model):
    # one iteration: what is compared needs no minimum
    brief = lmjax.LevenbergMarquardt(max_steps=1, linear_solver=lmjax.QR())
    one = lambda y: lmjax.curve_fit(model, T, y, START, solver=brief)
    fit = one(Y)
    np.testing.assert_allclose(fit.predict(T) - Y, fit.residual, atol=1e-13)
    second = jax.tree.map(lambda leaf: leaf[1], quick.jit(jax.vmap(one))(BATCH[:2]))
    np.testing.assert_allclose(
        second.predict(T) - BATCH[1], second.residual, atol=1e-13
    )


@pytest.fixture(scope="module")
def single():
    return solve()


@pytest.fixture(scope="module")
def batch():
    return jax.vmap(solve)(BATCH)


@pytest.fixture(scope="module")
def fit():
    return curve_fit()


@pytest.fixture(scope="module")
def fits():
    return jax.jit(jax.vmap(curve_fit))(BATCH)


# ---- status


def test_sign_of_the_status_tells_success():
    good = {"FTOL", "XTOL", "GTOL"}
    assert {s.name for s in Status if s > 0} == good
    assert {s.name for s in Status if s.success} == good
    assert [s.name for s in Status if s == 0] == ["RUNNING"]


def test_codes_are_stable():
    # they are saved in files: never renumber
    codes = {s.name: int(s) for s in Status}
    assert (
        codes.items()
        >= {
            "FTOL": 1,
            "XTOL": 2,
            "GTOL": 3,
            "RUNNING": 0,
            "MAX_STEPS": -1,
            "NONFINITE_START": -2,
            "STALLED": -3,
            "SINGULAR": -4,
            "INFEASIBLE": -5,
            "NOT_AFFINE": -6,
            "OUT_OF_RANGE": -7,
        }.items()
    )


@pytest.mark.parametrize("status", Status, ids=lambda s: s.name)
def test_every_status_says_what_happened_and_what_to_do(status):
    happened, _, do = status.advice.partition(". ")
    assert happened
    assert status >= 0 or do.endswith(".")


def test_every_failure_gives_its_own_advice():
    failures = [status for status in Status if status < 0]
    assert len({status.advice for status in failures}) == len(failures)


def test_only_free_parameters_have_an_error_bar():
    names = {s.name for s in ParamStatus if s.has_error}
    assert names == {"FREE", "UNMOVED"}


def test_every_special_parameter_has_a_remark():
    remarks = [s.remark for s in ParamStatus]
    assert remarks.count("") == 1
    assert ParamStatus.FREE.remark == ""
    assert len(set(remarks)) == len(remarks)


# ---- raise_if_failed


def test_success_is_returned_by_raise_if_failed(single):
    assert single.raise_if_failed() is single


def test_failure_raises_with_name_and_advice():
    sol = solve(solver=lmjax.LevenbergMarquardt(max_steps=1))
    with pytest.raises(lmjax.FitError, match=r"MAX_STEPS: .*Raise max_steps"):
        sol.raise_if_failed()


def test_failures_in_a_batch_are_counted(batch):
    with pytest.raises(lmjax.FitError, match=r"NONFINITE_START: .*1 of 3 fits"):
        batch.raise_if_failed()


def test_batch_of_successes_is_returned(batch):
    good = jax.tree.map(lambda leaf: leaf[:2], batch)
    assert good.raise_if_failed() is good


# ---- batches


@pytest.mark.parametrize("jitted", [False, True], ids=["vmap", "jit of vmap"])
def test_whole_solution_passes_through_vmap(jitted, batch, single):
    got = jax.jit(jax.vmap(solve))(BATCH) if jitted else batch
    assert isinstance(got, lmjax.Solution)
    assert got.linear_solver == single.linear_solver
    first = jax.tree.map(lambda leaf: leaf[0], got)
    assert_close(first.params, single.params)
    assert_close(first.normal_matrix, single.normal_matrix)
    np.testing.assert_array_equal(got.success, [True, True, False])


def test_whole_solution_passes_through_jit(single):
    got = jax.jit(solve)(Y)
    assert isinstance(got, lmjax.Solution)
    assert_close(got.params, single.params)
    assert_close(got.residual, single.residual)


def test_statistics_of_a_batch_equal_those_of_its_fits(fits, fit):
    assert isinstance(fits, lmjax.CurveFit)
    for name in ("stderr", "covariance", "correlation", "reduced_chi2", "aic", "bic"):
        first = jax.tree.map(lambda leaf: leaf[0], getattr(fits, name))
        assert_close(first, getattr(fit, name))


def test_nested_vmap_stacks_both_axes(single):
    data = np.stack([BATCH[:2], 3.0 * BATCH[:2]])
    cost = quick.jit(jax.vmap(jax.vmap(lambda y: solve(y).cost)))(data)
    base = float(single.cost)
    # the model is linear in two parameters, so the cost scales with the data squared
    assert_close(cost, base * np.array([[1.0, 4.0], [9.0, 36.0]]))


def test_failed_fit_has_no_error_bars(fits):
    errors = np.stack(jax.tree.leaves(fits.stderr))
    assert np.isfinite(errors[:, :2]).all()
    assert not np.isfinite(errors[:, 2]).any()


# ---- reports


@pytest.mark.parametrize("source", ["single", "fit", "batch", "fits"])
def test_report_names_every_parameter(source, request):
    text = request.getfixturevalue(source).report()
    for name in START:
        assert name in text


@pytest.mark.parametrize("source", ["single", "fit"])
def test_report_shows_value_and_outcome(source, request):
    sol = request.getfixturevalue(source)
    text = sol.report()
    shown = float(line_of(text, "rate").split()[1])
    np.testing.assert_allclose(shown, sol.params["rate"], rtol=1e-6)
    assert Status(int(sol.status)).name in text
    assert "converged" in text


def test_report_of_a_curve_fit_shows_errors_and_statistics(fit):
    text = fit.report()
    words = line_of(text, "rate").split()
    error = float(words[words.index("+/-") + 1])
    np.testing.assert_allclose(error, fit.stderr["rate"], rtol=0.01)
    assert f"{float(fit.reduced_chi2):.4g}"[:5] in text
    assert "Correlations" in text


def test_report_of_a_batch_counts_outcomes(batch):
    text = batch.report()
    assert "3 fits" in text
    assert "NONFINITE_START" in text


def test_report_of_a_failed_fit_gives_advice():
    text = solve(solver=lmjax.LevenbergMarquardt(max_steps=1)).report()
    assert "failed" in text
    assert Status.MAX_STEPS.advice in text


def idle_residual(p, t, y):
    return residual(p, t, y) + 0.0 * p["idle"]


def line_of(text, name):
    """Return the one line of a report that starts with ``name``."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    return line


NOWHERE = dict.fromkeys(START, np.inf)
NOTHING = dict.fromkeys(START, False)
# everything given, for one compiled fit to serve all
REMARKS = {
    "fixed": ({"fixed": NOTHING | {"rate": True}}, "rate", ParamStatus.FIXED),
    "lower": ({"lower": {"rate": 0.95}}, "rate", ParamStatus.AT_LOWER),
    "upper": ({"upper": {"offset": 0.3}}, "offset", ParamStatus.AT_UPPER),
}


@pytest.mark.parametrize("door", [solve, curve_fit], ids=["solution", "curve-fit"])
@pytest.mark.parametrize("case", REMARKS)
def test_report_remarks_on_parameters_that_are_held(case, door):
    held, name, status = REMARKS[case]
    lower = {key: -limit for key, limit in NOWHERE.items()} | held.get("lower", {})
    upper = NOWHERE | held.get("upper", {})
    fixed = held.get("fixed", NOTHING)
    text = door(bounds=(lower, upper), fixed=fixed).report()
    assert status.remark in line_of(text, name)
    assert status.remark not in line_of(text, "amplitude")


def test_report_remarks_on_idle_parameters():
    start = START | {"idle": 7.0}
    sol = lmjax.least_squares(idle_residual, start, (T, Y))
    assert float(sol.params["idle"]) == 7.0
    assert ParamStatus.IDLE.remark in line_of(sol.report(), "idle")


def test_report_remarks_on_parameters_that_never_moved(single):
    sol = solve(start={"amplitude": 1.0, "rate": 1.0, "offset": 0.0}, y=np.exp(-T))
    assert ParamStatus.UNMOVED.remark in line_of(sol.report(), "rate")


def test_report_tells_that_the_start_was_moved():
    moved = solve(bounds=({"rate": 1.5}, None)).report()
    kept = solve(bounds=({"rate": 0.1}, None)).report()
    assert "outside the bounds" in moved
    assert "outside the bounds" not in kept


def test_report_tells_that_data_do_not_determine_the_parameters():
    model = lambda p, t: (p["a"] + p["b"]) * t
    got = lmjax.curve_fit(model, T, 2.0 * T + 0.1 * np.sin(T), {"a": 1.0, "b": 0.5})
    assert int(got.rank) == 1
    assert re.search(r"only 1 combinations? of", got.report())


def test_report_tells_that_no_degrees_of_freedom_are_left():
    got = lmjax.curve_fit(decay, T[:3], Y[:3], START)
    assert int(got.dof) == 0
    assert "degrees of freedom" in got.report()
    known = lmjax.curve_fit(decay, T[:3], Y[:3], START, sigma=0.1, absolute_sigma=True)
    assert known.report().count("+/-") == 3
    assert "degrees of freedom" not in known.report()


def test_report_tells_that_there_are_fewer_points_than_parameters():
    words = r"fewer data points \(2\) than fitted parameters \(3\): "
    # converged is true, as the curve meets its points; the parameters say the rest
    got = lmjax.curve_fit(decay, T[:2], Y[:2], START)
    assert got.success
    assert (np.asarray(got.flat_status) == ParamStatus.UNDETERMINED).all()
    assert re.search(words + "errors cannot be given", got.report())
    known = {"sigma": 0.1, "absolute_sigma": True, "mask": np.arange(T.size) < 2}
    got = lmjax.curve_fit(decay, T, Y, START, **known)
    assert re.search(words + "not all parameters have errors", got.report())


def test_report_of_a_batch_counts_fits_with_fewer_points_than_parameters():
    masks = np.arange(T.size) < np.array([[2], [T.size]])
    fit_one = lambda mask: lmjax.curve_fit(decay, T, Y, START, mask=mask)
    got = jax.vmap(fit_one)(masks)
    expected = "fewer data points than parameters: 1, where errors cannot be given"
    assert expected in got.report()
    assert "fewer" not in got[1].report()


class Line(eqx.Module):
    """A model with an array that is no parameter."""

    slope: jax.Array
    shift: float
    weights: jax.Array
    order: jax.Array

    def __call__(self, x):
        scale = self.weights[0] * self.weights[1]
        return self.slope[0] * scale * x ** self.order.astype(float) + self.shift


MODULE = Line(jnp.array([1.0]), 0.0, jnp.array([1.0, 1.0]), jnp.array(1))
HELD = {"weights": True}


def fit_module(y):
    return lmjax.curve_fit(MODULE, T, y, fixed=HELD)


def test_report_of_a_module_names_its_fields():
    got = fit_module(2.0 * T + 1.0 + 0.1 * np.sin(5 * T))
    text = got.report()
    for name in ("slope[0]", "shift", "weights[0]", "weights[1]"):
        assert name in text
    assert "order" not in text


def test_report_of_a_batch_of_modules_names_its_fields():
    ys = np.outer([1.0, 2.0], 2.0 * T + 1.0)
    text = quick.jit(jax.vmap(fit_module))(ys).report()
    assert "2 fits" in text
    for name in ("slope", "shift"):
        assert name in text
    assert "order" not in text


def test_report_of_a_batch_without_success_does_not_fail(batch):
    failed = jax.tree.map(lambda leaf: leaf[2:], batch)
    assert "NONFINITE_START" in failed.report()


def test_report_of_a_lone_number():
    sol = lmjax.least_squares(lambda p: jnp.stack([p - 1.0, p - 4.0]), 0.0)
    assert "2.5" in sol.report()


# ---- history: a start far away, so that some steps are refused

FAR = {"amplitude": 40.0, "rate": 6.0, "offset": -5.0}
ROWS = 60
# a bold first lambda, so that the first proposals are refused whatever the rule is
RECORDING = lmjax.LevenbergMarquardt(
    record_history=True, max_steps=ROWS, damping=lmjax.Nielsen(initial=1e-6)
)


@pytest.fixture(scope="module")
def recorded():
    return solve(start=FAR, solver=RECORDING)


def test_history_is_absent_unless_asked_for(single):
    assert single.history is None


def test_history_counts_the_steps(recorded):
    accepted = np.asarray(recorded.history.accepted)
    assert accepted.sum() == int(recorded.num_accepted)
    assert 0 < int(recorded.num_accepted) < int(recorded.num_steps) < ROWS


def test_history_ends_with_nan(recorded):
    history, steps = recorded.history, int(recorded.num_steps)
    floats = [history.cost, history.damping, history.gain]
    for rows in floats + jax.tree.leaves(history.params):
        assert rows.shape == (ROWS,)
        assert np.isfinite(rows[:steps]).all()
        assert np.isnan(rows[steps:]).all()
    assert not np.asarray(history.accepted)[steps:].any()


def test_history_holds_the_cost_of_its_parameters(recorded):
    steps, p = int(recorded.num_steps), recorded.history.params
    a, k, c = (np.asarray(p[n])[:steps, None] for n in ("amplitude", "rate", "offset"))
    cost = 0.5 * np.sum((a * np.exp(-k * T) + c - Y) ** 2, axis=1)
    np.testing.assert_allclose(recorded.history.cost[:steps], cost, rtol=1e-9)


def test_cost_falls_over_accepted_steps(recorded):
    history = recorded.history
    cost = np.asarray(history.cost)[np.asarray(history.accepted)]
    # the last steps may only shuffle the rounding
    assert (np.diff(cost) <= 1e-14 * cost[:-1]).all()
    start = 0.5 * np.sum(np.square(residual(FAR, T, Y)))
    assert cost[-1] < 1e-3 * start


def test_rows_of_too_little_gain_are_refused(recorded):
    steps = int(recorded.num_steps)
    gain = np.asarray(recorded.history.gain)[:steps]
    accepted = np.asarray(recorded.history.accepted)[:steps]
    assert (gain[accepted] > 1e-4).all()
    # later than the first step taken, which may also be refused for its length
    later = np.cumsum(accepted) > 0
    assert (gain[later & ~accepted] <= 1e-4).sum() >= 2


def test_last_accepted_row_is_the_solution(recorded):
    history = recorded.history
    last = np.flatnonzero(history.accepted)[-1]
    row = jax.tree.map(lambda rows: rows[last], history.params)
    for name in START:
        assert float(row[name]) == float(recorded.params[name])
    assert float(history.cost[last]) == float(recorded.cost)


def test_first_row_is_damped_as_asked(recorded):
    assert float(recorded.history.damping[0]) == RECORDING.damping.initial


def test_history_of_a_batch_has_rows_per_fit(recorded):
    fit = lambda y: solve(y, start=FAR, solver=RECORDING)
    got = quick.jit(jax.vmap(fit))(BATCH)
    assert got.history.cost.shape == (3, ROWS)
    assert got.history.params["rate"].shape == (3, ROWS)
    first = int(recorded.num_steps)
    # rounding differs between one fit and a batch: compare the early steps
    np.testing.assert_allclose(
        got.history.cost[0, :10], recorded.history.cost[:10], rtol=1e-8
    )
    assert np.isnan(got.history.cost[0, first + 5 :]).all()
    assert np.isnan(got.history.cost[2]).all()
    assert not np.asarray(got.history.accepted[2]).any()
