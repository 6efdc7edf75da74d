"""`least_squares` and `leastsq` of lmjax.scipy against SciPy's, called side by side."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import aslinearoperator

import lmjax.scipy

T = np.linspace(0.0, 4.0, 30)
START = [1.0, 1.0, 0.2]


def residual(p, y):
    return p[0] * jnp.exp(-p[1] * T) + p[2] - y


def jacobian(p, y):
    e = jnp.exp(-p[1] * T)
    return jnp.stack([e, -p[0] * T * e, jnp.ones_like(T)], axis=1)


def in_numpy(fn):
    return lambda *args: np.asarray(fn(*args))


def both(**options):
    """Return the results of both libraries for the same request."""
    exact = {"jac": jacobian} if "jac" not in options else {}
    got = lmjax.scipy.least_squares(residual, START, **exact, **options)
    options["jac"] = in_numpy(options.get("jac", jacobian))
    return got, scipy.optimize.least_squares(in_numpy(residual), START, **options)


def rosenbrock(x):
    return jnp.array([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])


def cubic(z):
    t = 1.0 + z
    rows = 3 * (t ** (1 / 3) - 1), t ** (-2 / 3), -2 / 3 * t ** (-5 / 3)
    return (jnp if isinstance(z, jnp.ndarray) else np).stack(rows)


@pytest.fixture
def y(rng):
    y = 2.0 * np.exp(-1.3 * T) + 0.5 + 0.05 * rng.normal(size=T.size)
    y[[3, 20]] += 2.0
    return y


LOSSES = ["linear", "huber", "soft_l1", "cauchy", "arctan", cubic]


@pytest.mark.parametrize("loss", LOSSES)
def test_result_at_one_point_is_that_of_scipy(y, loss):
    got, expected = both(args=(y,), loss=loss, f_scale=0.3, max_nfev=1)
    assert set(got) == set(expected) | {"advice"}
    for name in ("x", "cost", "fun", "grad", "optimality", "active_mask"):
        wanted = expected[name]
        np.testing.assert_allclose(got[name], wanted, rtol=1e-11, atol=1e-13)
    # rows of outliers are scaled by the square root of rounding
    np.testing.assert_allclose(got.jac, expected.jac, rtol=1e-11, atol=2e-8)
    for name in ("nfev", "njev", "status", "message", "success"):
        assert got[name] == expected[name]


@pytest.mark.parametrize("loss", LOSSES)
def test_minimum_is_that_of_scipy(y, loss):
    tight = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-12}
    got, expected = both(args=(y,), loss=loss, f_scale=0.1, **tight)
    assert got.success
    assert got.cost <= expected.cost * (1.0 + 1e-12)
    np.testing.assert_allclose(got.x, expected.x, rtol=1e-6)
    np.testing.assert_allclose(got.fun, np.asarray(residual(got.x, y)), atol=1e-14)


@pytest.mark.parametrize("method", ["trf", "dogbox", "lm"])
def test_optimality_is_that_of_the_method(y, method):
    bounds = (-np.inf, np.inf)
    if method != "lm":
        bounds = ([0.0, -np.inf, 0.1], [1.5, 3.0, 0.3])
    limit = {} if method == "lm" else {"max_nfev": 1}
    got, expected = both(args=(y,), method=method, bounds=bounds, **limit)
    if method == "lm":
        assert got.optimality == np.abs(got.grad).max() < 1e-6
        assert got.njev > 1
        assert lmjax.scipy.least_squares(rosenbrock, [0, 0], method="lm").njev is None
    else:
        np.testing.assert_allclose(got.optimality, expected.optimality, rtol=1e-9)


def test_bounds_are_met_and_named(y):
    bounds = ([0.0, 0.0, 0.75], [1.8, 9.0, 9.0])
    options = {"args": (y,), "bounds": bounds}
    got = lmjax.scipy.least_squares(residual, [1.0, 1.0, 0.8], **options)
    expected = scipy.optimize.least_squares(
        in_numpy(residual), [1.0, 1.0, 0.8], xtol=1e-14, ftol=1e-14, **options
    )
    assert got.active_mask.tolist() == expected.active_mask.tolist()
    assert -1 in got.active_mask
    np.testing.assert_allclose(got.x, expected.x, rtol=1e-6)
    assert got.optimality < 1e-6


def test_codes_say_which_tolerance_is_met(y):
    fit = lambda **options: lmjax.scipy.least_squares(
        residual, START, args=(y,), **options
    )
    off = {"ftol": None, "xtol": None, "gtol": None}
    for name, code in (("gtol", 1), ("ftol", 2), ("xtol", 3)):
        got = fit(**off | {name: 1e-6})
        assert got.status == code
        assert got.message == f"`{name}` termination condition is satisfied."
    # a gradient as large as this is met by whatever ended the fit
    assert fit(gtol=1e-3).status == 1
    # with "lm" it is the cosine between the residual and a column of J
    got = fit(gtol=1e-3, method="lm")
    cosines = got.grad / (np.linalg.norm(got.jac, axis=0) * np.linalg.norm(got.fun))
    assert got.status == 1
    assert np.abs(cosines).max() < 1e-3 < got.optimality
    # and one that rounding does not reach by nothing
    scaled = lambda p, y: 1e9 * residual(p, y)
    got = lmjax.scipy.least_squares(scaled, START, args=(y,), **off | {"gtol": 1e-8})
    assert not got.success
    assert "gtol" in got.message


def test_limit_counts_evaluations(y):
    for limit in (1, 2, 5):
        got = lmjax.scipy.least_squares(residual, START, args=(y,), max_nfev=limit)
        assert got.nfev == limit
        assert got.status == 0
        assert not got.success


def test_result_of_a_failure_keeps_the_advice():
    got = lmjax.scipy.least_squares(lambda x: jnp.exp(x) + 1.0, 5.0, max_nfev=1000)
    assert not got.success
    assert got.status == -1
    assert got.message == got.advice


def test_callbacks_hear_of_each_iterate_and_may_stop(capsys):
    seen = []
    got = lmjax.scipy.least_squares(
        rosenbrock, [-1.2, 1.0], callback=lambda x: seen.append(x)
    )
    assert len(seen) == got.njev - 1
    np.testing.assert_array_equal(seen[-1], got.x)

    def third(intermediate_result: OptimizeResult):
        results.append(intermediate_result)
        if intermediate_result.nit == 3:
            raise StopIteration

    results = []
    got = lmjax.scipy.least_squares(rosenbrock, [-1.2, 1.0], callback=third)
    assert [result.nit for result in results] == [1, 2, 3]
    np.testing.assert_array_equal(got.x, seen[2])
    np.testing.assert_allclose(results[-1].fun, rosenbrock(seen[2]))
    assert results[-1].cost == pytest.approx(got.cost, rel=1e-12)
    assert (got.status, got.success, got.njev) == (-2, False, 4)
    assert got.nfev == results[-1].nfev
    lmjax.scipy.least_squares(rosenbrock, [-1.2, 1.0], callback=third, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "3"]
    assert "callback" in lines[5]
    with pytest.warns(UserWarning, match="not supported with `lm`"):
        lmjax.scipy.least_squares(rosenbrock, [0, 0], method="lm", callback=third)


def test_verbose_prints_what_scipy_prints(capsys):
    def last_lines(fit, fn):
        fit(fn, [-1.2, 1.0], verbose=2, max_nfev=3)
        return capsys.readouterr().out.splitlines()

    got = last_lines(lmjax.scipy.least_squares, rosenbrock)
    expected = last_lines(scipy.optimize.least_squares, in_numpy(rosenbrock))
    assert got[-2] == expected[-2]
    # initial cost
    assert got[-1].split(",")[:2] == expected[-1].split(",")[:2]
    assert got[0].split() == expected[0].split()[:-1]
    assert got[1].split() == expected[1].split()[:3]


class Model:
    degree = 2


def test_arguments_that_are_no_numbers_work():
    def fun(p, x, how, model, *, reverse=False):
        out = jnp.zeros(x.size)
        for power in range(model.degree):
            out = out + p[power] * x**power
        if how == "shifted":
            out = out - 1.0
        return out[::-1] if reverse else out - x

    options = {"args": (T, "shifted", Model()), "kwargs": {"reverse": False}}
    got = lmjax.scipy.least_squares(fun, [0.3, 0.3], **options)
    np.testing.assert_allclose(got.x, [1.0, 1.0], rtol=1e-9)
    for wrong in ({"args": (T,)}, {"kwargs": {"unknown": 3}}):
        with pytest.raises(TypeError):
            lmjax.scipy.least_squares(fun, [0.3, 0.3], **wrong)


TWO = lambda x: jnp.stack([x[0] - 1.0, x[1]])
BAD = {
    "method": {"method": "newton"},
    "jac": {"jac": "4-point"},
    "no jac": {"jac": None},
    "tr_solver": {"tr_solver": "qr"},
    "loss": {"loss": "hinge"},
    "lm with loss": {"method": "lm", "loss": "huber"},
    "lm with bounds": {"method": "lm", "bounds": (0, 9)},
    "verbose": {"verbose": 3},
    "max_nfev": {"max_nfev": 0},
    "x_scale": {"x_scale": "auto"},
    "negative x_scale": {"x_scale": -1.0},
    "shape of x_scale": {"x_scale": [1.0, 2.0, 3.0]},
    "three bounds": {"bounds": (0, 1, 2)},
    "crossed bounds": {"bounds": (9, 0)},
    "equal bounds": {"bounds": (1, [1, 9])},
    "shape of bounds": {"bounds": ([0.0], 9)},
    "start outside": {"bounds": (5, 9)},
    "no tolerance": {"ftol": None, "xtol": None, "gtol": None},
    "lm with a tolerance of 0": {"method": "lm", "ftol": None},
    "shape of loss": {"loss": lambda z: np.ones((4, z.size))},
    "shape of jac": {"jac": lambda x: np.ones((3, 2))},
    "complex start": {"x0": [1.0, 1j]},
    "start of two dimensions": {"x0": [[1.0, 1.0]]},
    "fun of two dimensions": {"fun": lambda x: x[:, None] * x},
    "infinite residuals": {"fun": lambda x: x + np.inf},
    "lm with m < n": {"fun": lambda x: x[:1], "method": "lm"},
    "unknown": {"options": {}},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_requests_raise_what_scipy_raises(options):
    with pytest.raises((ValueError, TypeError, RuntimeError)) as expected:
        scipy.optimize.least_squares(
            **{"fun": in_numpy(TWO), "x0": [1.0, 1.0]} | options
        )
    with pytest.raises(expected.type) as got:
        lmjax.scipy.least_squares(**{"fun": TWO, "x0": [1.0, 1.0]} | options)
    assert type(got.value) is expected.type
    assert len(str(got.value)) > 20


@pytest.mark.parametrize(
    ("fun", "what"),
    [
        (lambda x: x + jnp.array([0.0, jnp.nan]), r"Residuals .* nan at \[1\]"),
        (lambda x: jnp.sqrt(x), r"Derivatives .* inf at \[1, 1\]"),
        (lambda x: x * 1e200, "Squares"),
    ],
    ids=["residuals", "derivatives", "squares"],
)
def test_what_is_not_finite_at_the_start_is_named(fun, what):
    with pytest.raises(ValueError, match=what):
        lmjax.scipy.least_squares(fun, [1.0, 0.0])


def test_what_is_sparse_is_refused_by_name():
    sparse = lambda x: scipy.sparse.csr_array(np.eye(2))

    def filled(x):
        matrix = scipy.sparse.lil_array((2, 2))
        matrix[0, 0] = x[0]
        return matrix

    operator = lambda x: aslinearoperator(np.eye(2))
    for jac in (sparse, filled, operator):
        with pytest.raises(ValueError, match=r"jac or Dfun: .*(sparse|Operator)"):
            lmjax.scipy.least_squares(TWO, [1.0, 1.0], jac)
    with pytest.raises(ValueError, match="jac_sparsity.*leave it out"):
        lmjax.scipy.least_squares(TWO, [1.0, 1.0], jac_sparsity=np.eye(2))


def test_keywords_of_difference_quotients_have_no_effect(y):
    tuned = {"diff_step": 0.1, "x_scale": [1.0, 2.0, 3.0], "tr_solver": "lsmr"}
    tuned |= {"workers": 2, "tr_options": {"regularize": False}, "jac": "cs"}
    fit = lmjax.scipy.least_squares
    plain = fit(residual, START, args=(y,))
    got = fit(residual, START, args=(y,), **tuned)
    np.testing.assert_array_equal(got.x, plain.x)


def test_tolerances_below_rounding_warn():
    with pytest.warns(UserWarning, match="`xtol` below the machine epsilon"):
        lmjax.scipy.least_squares(TWO, [3.0, 1.0], xtol=1e-20)


@pytest.mark.parametrize("transposed", [False, True])
def test_leastsq_returns_what_scipy_returns(y, transposed):
    dfun = (lambda p, y: jacobian(p, y).T) if transposed else jacobian
    options = {"args": y, "full_output": True, "col_deriv": transposed, "ftol": 1e-13}
    x, cov_x, info, message, ier = lmjax.scipy.leastsq(
        residual, START, Dfun=dfun, **options
    )
    expected = scipy.optimize.leastsq(
        in_numpy(residual), START, Dfun=in_numpy(dfun), **options
    )
    np.testing.assert_allclose(x, expected[0], rtol=1e-6)
    np.testing.assert_allclose(cov_x, expected[1], rtol=1e-4)
    assert set(info) == set(expected[2]) | {"advice"}
    assert ier in (1, 2, 3)
    assert message.startswith(("Both actual", "The relative error"))
    short = lmjax.scipy.leastsq(residual, START, (y,))
    assert len(short) == 2
    np.testing.assert_allclose(short[0], x, rtol=1e-8)


def test_leastsq_has_no_covariance_without_full_rank():
    redundant = lambda p: (p[0] + p[1]) * T - T
    for fit in (scipy.optimize.leastsq, lmjax.scipy.leastsq):
        assert fit(lambda p: p[0] * T - T, [0.5, 2.0], full_output=True)[1] is None
    assert lmjax.scipy.leastsq(redundant, [0.2, 0.3], full_output=True)[1] is None


LEASTSQ_BAD = {
    "m < n": {"func": lambda x: x[:1]},
    "shape of Dfun": {"Dfun": lambda x: np.ones((3, 2))},
    "col_deriv": {"Dfun": lambda x: np.ones((3, 2)), "col_deriv": True},
    "factor": {"factor": -1},
    "diag": {"diag": [1.0, -1.0]},
    "ftol": {"ftol": -1.0},
    "unknown": {"max_nfev": 5},
}


@pytest.mark.parametrize("options", LEASTSQ_BAD.values(), ids=LEASTSQ_BAD)
def test_leastsq_raises_what_scipy_raises(options):
    given = {"func": lambda x: x * 2.0 - 1.0, "x0": [1.0, 1.0]} | options
    with pytest.raises(TypeError):
        scipy.optimize.leastsq(**given)
    with pytest.raises(TypeError):
        lmjax.scipy.leastsq(**given)


def test_leastsq_warns_when_it_fails(y):
    for fit, fn in (
        (scipy.optimize.leastsq, in_numpy(residual)),
        (lmjax.scipy.leastsq, residual),
    ):
        with pytest.warns(RuntimeWarning, match="has reached maxfev = 2"):
            _, ier = fit(fn, START, (y,), maxfev=2)
        assert ier == 5
