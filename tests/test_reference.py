"""Problems with answers that others computed: NIST StRD and Moré-Garbow-Hillstrom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from benchmarks import mgh, nist
from benchmarks.accuracy import run_units

PROBLEMS = nist.load()
RUNS = [
    pytest.param(problem, start, id=f"{problem.name}-{number}")
    for problem in PROBLEMS
    for number, start in enumerate(problem.starts, 1)
]
BY_NAME = {problem.name: problem for problem in mgh.PROBLEMS}


@pytest.mark.parametrize(("problem", "start"), RUNS)
def test_nist_float64(problem, start):
    fit = lmjax.curve_fit(problem.model, problem.x, problem.y, jnp.asarray(start))
    assert fit.success
    assert nist.digits(fit.params, problem.params) >= 8.5
    assert nist.digits(fit.stderr, problem.stderr) >= 7.5
    assert float(fit.chi2) == pytest.approx(problem.rss, rel=1e-9)
    assert float(jnp.sqrt(fit.reduced_chi2)) == pytest.approx(
        problem.residual_sd, rel=1e-9
    )


# float32 cannot follow MGH10's valley from the far start, nor MGH17's ridge of two
# equal rates; both must then be reported as failures, never as successes.
OUT_OF_REACH = {"MGH10-1", "MGH17-1"}
# On every run; `python -m benchmarks.accuracy --float32` has them all.
IN_SINGLE = ("BoxBOD", "ENSO", "Lanczos3", "MGH10", "MGH17", "Misra1a", "Rat43")


@pytest.mark.parametrize(
    ("problem", "start"),
    [
        pytest.param(
            *run.values,
            id=run.id,
            marks=[] if run.values[0].name in IN_SINGLE else pytest.mark.slow,
        )
        for run in RUNS
    ],
)
def test_nist_float32(problem, start, request):
    x, y, start = (jnp.asarray(a, jnp.float32) for a in (problem.x, problem.y, start))
    fit = lmjax.curve_fit(problem.model, x, y, start)
    assert fit.params.dtype == jnp.float32
    excess = nist.excess(problem, fit.params)
    if problem.name.startswith("Lanczos"):
        # The noise of these data lies near the rounding of float32, so a tenth of an
        # error is below it: what is left must be explained by rounding of the data.
        more = excess * start.size * problem.residual_sd**2  # sum of squares
        rms = np.sqrt(max(more, 0.0) / problem.y.size)
        assert rms <= 8 * np.finfo(np.float32).eps * np.max(np.abs(problem.y))
        return
    within_a_tenth_of_an_error = excess <= 0.01
    assert within_a_tenth_of_an_error or not fit.success
    reachable = request.node.callspec.id not in OUT_OF_REACH
    assert within_a_tenth_of_an_error == reachable


MGH_RUNS = [
    pytest.param(problem, factor, id=f"{problem.name}-x{factor}")
    for problem in mgh.PROBLEMS
    for factor in (1, 10, 100)
]
# The start lies where the gradient is exactly zero; nothing can move from there.
FLAT_START = "Gulf-x100"


@pytest.mark.parametrize(("problem", "factor"), MGH_RUNS)
def test_more_garbow_hillstrom(problem, factor, request):
    start = jnp.asarray(problem.scaled(factor))
    # the formulas mix integers and floats as the paper prints them
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        sol = lmjax.least_squares(problem.residual, start)
    found = mgh.which_minimum(problem, 2 * float(sol.cost))
    if request.node.callspec.id == FLAT_START:
        assert sol.status == lmjax.Status.SINGULAR
    else:
        assert found is not None


@pytest.mark.parametrize("solver", [lmjax.Cholesky(), lmjax.SVD(), lmjax.CG(1e-8)])
@pytest.mark.parametrize("name", ["Misra1a", "Chwirut2", "Gauss1"])
def test_nist_with_other_linear_solvers(name, solver):
    problem = next(p for p in PROBLEMS if p.name == name)
    fit = lmjax.curve_fit(
        problem.model,
        problem.x,
        problem.y,
        jnp.asarray(problem.starts[1]),
        solver=lmjax.LevenbergMarquardt(linear_solver=solver),
    )
    assert nist.digits(fit.params, problem.params) >= 7
    assert nist.digits(fit.stderr, problem.stderr) >= 5


# In some units Misra1c and Misra1d end with a step that rounding refuses, Lanczos2 and
# Lanczos3 with one that rounding hides. `python -m benchmarks.accuracy` has them all.
IN_UNITS = ("BoxBOD", "Lanczos2", "Lanczos3", "Misra1c", "Misra1d", "Rat43")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(p.name, marks=[] if p.name in IN_UNITS else pytest.mark.slow)
        for p in PROBLEMS
    ],
)
def test_units_change_nothing(name):
    problem = next(p for p in PROBLEMS if p.name == name)
    outcome = run_units(problem)
    assert outcome["same_steps"]
    # each step of MGH09 leaves 0.4 of the error, so it ends ten times further off
    assert outcome["worst_difference"] < (1e-10 if name == "MGH09" else 1e-11)


@pytest.mark.parametrize("name", ["Rosenbrock", "Helical valley", "Wood", "Osborne 1"])
def test_geodesic_acceleration_finds_the_minimum(name):
    problem = BY_NAME[name]
    solver = lmjax.LevenbergMarquardt(geodesic=True)
    start = jnp.asarray(problem.start)
    sol = lmjax.least_squares(problem.residual, start, solver=solver)
    assert mgh.which_minimum(problem, 2 * float(sol.cost)) == 0


def test_default_settings_reach_a_mean_of_ten_digits():
    digits = [
        nist.digits(
            lmjax.curve_fit(p.model, p.x, p.y, jnp.asarray(start)).params, p.params
        )
        for p in PROBLEMS
        for start in p.starts
    ]
    assert np.mean(digits) >= 10
