"""Variable projection: the answers of the whole problem, in fewer steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import lmjax
from benchmarks import nist
from lmjax._linalg import projection
from lmjax._problem import separable
from lmjax._problem.problem import build
from tests.tolerances import assert_close

T = np.linspace(0.0, 5.0, 30)
Y = 2.0 * np.exp(-0.8 * T) + 0.5 + 0.02 * np.random.default_rng(0).normal(size=T.size)
START = {"a": 1.0, "c": 0.0, "k": 1.0}
LINEAR = {"a": True, "c": True}


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


def two(p, t):
    """Two exponentials, parameters a1, k1, a2, k2, offset."""
    return p[0] * jnp.exp(-p[1] * t) + p[2] * jnp.exp(-p[3] * t) + p[4]


LINEAR_TWO = np.array([True, False, True, False, True])


def both(y=Y, model=decay, x=T, start=START, linear=LINEAR, **options):
    """Return the fit of the whole problem and the separated one."""
    whole = lmjax.curve_fit(model, x, y, start, **options)
    return whole, lmjax.curve_fit(model, x, y, start, linear=linear, **options)


# The linear algebra


@pytest.mark.parametrize("k", [1, 3, 12])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_elimination_equals_lstsq(rng, k, dtype):
    a = rng.normal(size=(40, k)).astype(dtype)
    x, other = rng.normal(size=(2, 40)).astype(dtype)
    basis, rest, c = projection.eliminate(list(jnp.asarray(a.T)), jnp.asarray(x))
    expected = np.linalg.lstsq(a.astype(float), x.astype(float))[0]
    assert_close(c, expected.astype(dtype))
    assert_close(rest, x - a @ expected.astype(dtype))
    q = np.linalg.qr(a.astype(float))[0]
    assert_close(basis.outside(jnp.asarray(other)), other - q @ (q.T @ other))
    assert not basis.dropped.any()


@pytest.mark.parametrize("k", [4, 12])
def test_dependent_columns_are_left_out(rng, k):
    a = rng.normal(size=(40, k))
    a[:, 2] = a[:, 0] - 3.0 * a[:, 1]
    a[:, 3] = 0.0
    x = rng.normal(size=40)
    basis, rest, c = projection.eliminate(list(jnp.asarray(a.T)), jnp.asarray(x))
    expected = np.linalg.lstsq(a, x)[0]
    np.testing.assert_allclose(rest, x - a @ expected, atol=1e-12)
    np.testing.assert_allclose(x - a @ c, rest, atol=1e-12)
    assert np.flatnonzero(basis.dropped).tolist() == [2]
    assert np.flatnonzero(np.asarray(c) == 0.0).tolist() == [2, 3]
    least = projection.least_norm(jnp.asarray(a), jnp.asarray(x))
    scale = np.where(np.arange(k) == 3, 1.0, np.linalg.norm(a, axis=0))
    expected = np.linalg.lstsq(a / scale, x, rcond=1e-12)[0] / scale
    np.testing.assert_allclose(least, expected, atol=1e-12)


def test_jacobian_is_kaufmans_and_its_gradient_is_exact():
    """Against Golub and Pereyra's: autodiff through the whole projection."""
    p0 = jnp.array([1.0, 0.6, 1.0, 2.0, 0.0])
    problem, flat, *_ = build(
        lambda p: two(p, T) - Y,
        p0,
        bounds=None,
        fixed=None,
        term=None,
        jac=None,
        linear=tuple(LINEAR_TWO.tolist()),
    )
    _, reduced = separable.separate(problem, flat)
    q = flat[~LINEAR_TWO]

    def columns(q):
        return jnp.stack([jnp.exp(-q[0] * T), jnp.exp(-q[1] * T), jnp.ones(30)], 1)

    def projected(q):
        a = columns(q)
        return a @ jnp.linalg.solve(a.T @ a, a.T @ Y) - Y

    @quick.jit
    def both_ways(q):
        cost = lambda q: 0.5 * jnp.sum(projected(q) ** 2)
        oracle = projected(q), jax.jacfwd(projected)(q), jax.grad(cost)(q)
        backward = jax.jacrev(reduced.residual_fn)(q)
        return oracle, (reduced.residual_fn(q), reduced.jac_fn(q), backward)

    (r_whole, whole, slope), (r, jac, backward) = both_ways(q)
    basis = np.linalg.qr(columns(q))[0]
    kaufman = whole - basis @ (basis.T @ whole)
    assert np.linalg.norm(whole - kaufman) > 0.1 * np.linalg.norm(whole)
    np.testing.assert_allclose(r, r_whole, atol=1e-12)
    np.testing.assert_allclose(jac, kaufman, atol=1e-11)
    np.testing.assert_allclose(jac.T @ r, slope, atol=1e-11)
    np.testing.assert_allclose(backward, jac, atol=1e-12)


# Reference problems: name, linear parameters, which start

REFERENCE = {
    "Lanczos2": ([0, 2, 4], 0),
    "Lanczos3": ([0, 2, 4], 1),
    "Gauss1": ([0, 2, 5], 0),
    "MGH17": ([0, 1, 2], 0),  # Osborne's first problem, from afar
    "ENSO": ([0, 1, 2, 4, 5, 7, 8], 0),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "MGH17" else pytest.mark.slow)
        for name in REFERENCE
    ],
)
def test_certified_values_in_fewer_steps(name):
    problem = next(p for p in nist.load() if p.name == name)
    marked, start = REFERENCE[name]
    linear = np.isin(np.arange(problem.params.size), marked)
    start = jnp.asarray(problem.starts[start])
    whole, fit = both(problem.y, problem.model, problem.x, start, linear)
    assert fit.success
    assert nist.digits(fit.params, problem.params) > 8.5
    assert nist.digits(fit.stderr, problem.stderr) > 8.0
    assert fit.num_steps < whole.num_steps


# The same answer as without


def covariance():
    gap = np.abs(T[:, None] - T[None, :])
    return 4e-4 * np.exp(-gap)


def jitted(linear):
    """Return one compiled fit for whatever differs in numbers only."""

    def fit(case):
        bounds = None, {"k": case["most"]}
        return lmjax.curve_fit(
            decay,
            T,
            Y,
            START | {"c": case["c"]},
            sigma=case["sigma"],
            mask=case["mask"],
            bounds=bounds,
            fixed=case["fixed"],
            linear=linear,
        )

    return quick.jit(fit)


@pytest.fixture(scope="module")
def numbers():
    return jitted(None), jitted(LINEAR)


NONE = {
    "c": 0.0,
    "sigma": np.ones(30),
    "mask": np.ones(30, bool),
    "most": np.inf,
    "fixed": {"a": False, "c": False, "k": False},
}
CASES = {
    "plain": {},
    "sigma": {"sigma": 0.02 + 0.01 * T},
    "mask": {"mask": np.arange(30) % 5 != 0},
    "bound": {"most": 0.5},
    "fixed rate": {"fixed": {"a": False, "c": False, "k": True}},
    "fixed offset": {"fixed": {"a": False, "c": True, "k": False}, "c": 0.3},
    "linear ones fixed": {"fixed": {"a": True, "c": True, "k": False}, "c": 0.3},
}


@pytest.mark.parametrize("name", CASES)
def test_result_is_that_of_the_whole_problem(numbers, name):
    whole, fit = (fit(NONE | CASES[name]) for fit in numbers)
    assert_same_fit(fit, whole)
    assert fit.report().count("+/-") == whole.report().count("+/-")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"sigma": covariance()}, {"sigma": 0.02, "absolute_sigma": True}],
    ids=["covariance", "absolute"],
)
def test_result_is_that_of_the_whole_problem_with_other_sigmas(options):
    whole, fit = both(**options)
    assert_same_fit(fit, whole)


@pytest.mark.slow
def test_omitted_points():
    whole, fit = both(np.where(np.arange(30) == 7, np.nan, Y), nan_policy="omit")
    assert_same_fit(fit, whole)


def assert_same_fit(fit, whole):
    assert fit.success
    for part in ("params", "cost", "residual", "normal_matrix", "covariance"):
        assert_close(getattr(fit, part), getattr(whole, part), atol=1e-8)
    for part in ("stderr", "reduced_chi2", "bic"):
        assert_close(getattr(fit, part), getattr(whole, part))
    for part in ("rank", "dof", "num_free", "num_points"):
        assert getattr(fit, part) == getattr(whole, part)
    free = lambda fit: np.asarray(fit.flat_status) % lmjax.ParamStatus.UNMOVED
    np.testing.assert_array_equal(free(fit), free(whole))


def test_start_of_linear_parameters_plays_no_part(numbers):
    fit, other = (numbers[1](NONE | {"c": c}) for c in (0.0, 1e3))
    assert abs(int(other.num_steps) - int(fit.num_steps)) <= 1  # the last may round
    assert_close(other.params, fit.params)


@pytest.mark.slow
def test_many_linear_parameters():
    """A frequency and twelve amplitudes, beyond what is written out."""
    x = np.linspace(0.0, 6.0, 80)
    harmonics = np.arange(1.0, 7.0)

    def model(p, x):
        angle = p["frequency"] * x[:, None] * harmonics[None, :]
        return jnp.sin(angle) @ p["sine"] + jnp.cos(angle) @ p["cosine"]

    rng = np.random.default_rng(3)
    truth = {
        "frequency": 1.3,
        "sine": jnp.asarray(rng.normal(size=6)),
        "cosine": jnp.asarray(rng.normal(size=6)),
    }
    y = model(truth, x) + 0.01 * rng.normal(size=80)
    start = {"frequency": 1.25, "sine": jnp.zeros(6), "cosine": jnp.zeros(6)}
    linear = {"sine": True, "cosine": True}
    whole = lmjax.curve_fit(model, x, y, truth)
    fit = lmjax.curve_fit(model, x, y, start, linear=linear)
    assert_close(fit.params, whole.params)
    assert_close(fit.stderr, whole.stderr)


SOLVERS = {
    "QR": {},
    "SVD": {"linear_solver": lmjax.SVD()},
    "CG": {"linear_solver": lmjax.CG()},
    "reverse": {"jac": "rev"},
    "own": {"jac": jax.jacfwd(decay)},
    "history": {"record_history": True, "max_steps": 30},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_every_way_to_run_ends_at_the_same_minimum(name):
    solver = lmjax.LevenbergMarquardt(**SOLVERS[name])
    fit = lmjax.curve_fit(decay, T, Y, START, linear=LINEAR, solver=solver)
    reference = lmjax.curve_fit(decay, T, Y, START)
    assert fit.success
    assert_close(fit.params, reference.params)
    if name == "history":
        last = int(fit.num_steps) - 1
        rows = jax.tree.map(lambda x: x[last], fit.history.params)
        assert_close(rows, reference.params, factor=100)
    if name == "own":
        assert fit.jacobian == "user"


@pytest.mark.slow
def test_pytree_residual_of_least_squares():
    residual = lambda p, y: {"early": decay(p, T)[:10] - y[:10], "late": p["c"] - 0.5}
    whole = lmjax.least_squares(residual, START, (Y,))
    sol = lmjax.least_squares(residual, START, (Y,), linear=LINEAR)
    assert_close(sol.params, whole.params)
    assert_close(sol.residual, whole.residual, atol=1e-10)


def test_float32():
    single = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
    fit = lmjax.curve_fit(decay, single(T), single(Y), single(START), linear=LINEAR)
    assert fit.success
    assert fit.cost.dtype == jnp.float32
    reference = lmjax.curve_fit(decay, T, Y, START)
    assert_close(fit.params, single(reference.params))
    assert_close(fit.stderr, single(reference.stderr), factor=10)


@pytest.mark.slow
def test_a_module_names_its_linear_fields():
    start = lmjax.models.Exponential(amplitude=1.0, rate=1.0, offset=0.0)
    linear = {"amplitude": True, "offset": True}
    fit = lmjax.curve_fit(start, T, Y, linear=linear)
    reference = lmjax.curve_fit(decay, T, Y, START)
    assert_close(fit.params.rate, reference.params["k"])


# All linear, or not independent


def test_all_linear_is_solved_without_a_step():
    line = lambda p, t: (p[0] + p[1] * t) * p[2]
    held = np.array([False, False, True])

    @quick.jit
    def fit_one(y, factor):
        start = jnp.stack([jnp.zeros(()), jnp.zeros(()), factor])
        linear = np.array([True, True, False])
        return lmjax.curve_fit(line, T, y, start, linear=linear, fixed=held)

    (slope, constant), cov = np.polyfit(T, Y, 1, cov=True)
    fit = fit_one(Y, 1.0)
    assert fit.success
    assert fit.num_steps == 0
    np.testing.assert_allclose(fit.params, [constant, slope, 1.0], rtol=1e-12)
    np.testing.assert_allclose(fit.covariance[1::-1, 1::-1], cov, rtol=1e-10)
    assert fit_one(np.nan * Y, 1.0).status == lmjax.Status.NONFINITE_START
    assert fit_one(Y, 0.0).status == lmjax.Status.SINGULAR


def test_nothing_but_linear_parameters():
    line = lambda p, t: p[0] + p[1] * t
    fit_one = lambda y: lmjax.curve_fit(line, T, y, jnp.zeros(2), linear=True)
    fits = jax.vmap(fit_one)(jnp.stack([Y, 2.0 * Y, np.nan * Y]))
    expected = np.polyfit(T, np.stack([Y, 2.0 * Y], 1), 1)[::-1].T
    np.testing.assert_allclose(fits.params[:2], expected, rtol=1e-12)
    assert fits.num_steps.tolist() == [0, 0, 0]
    nonfinite = lmjax.Status.NONFINITE_START
    assert fits.success.tolist() == [True, True, False]
    assert fits.status[2] == nonfinite


@pytest.mark.slow
def test_equal_rates_get_amplitudes_of_least_norm():
    start = jnp.array([1.0, 0.8, 1.0, 0.8, 0.0])
    fit_one = lambda y: lmjax.curve_fit(
        two, T, y, start, linear=LINEAR_TWO, fixed=~LINEAR_TWO & (np.arange(5) < 4)
    )
    fits = quick.jit(jax.vmap(fit_one))(jnp.stack([Y, 2.0 * Y]))
    one = np.exp(-0.8 * T)
    columns = np.stack([one, one, np.ones(30)], axis=1)
    for row, scale in enumerate((1.0, 2.0)):
        expected = np.linalg.lstsq(columns, scale * Y, rcond=1e-9)[0]
        np.testing.assert_allclose(fits.params[row], _pairs(expected), rtol=1e-9)
    assert fits.rank.tolist() == [2, 2]
    assert fits.num_free.tolist() == [3, 3]
    assert np.isfinite(fits.stderr[:, LINEAR_TWO]).all()


def _pairs(c):
    return c[0], 0.8, c[1], 0.8, c[2]


@pytest.mark.slow
def test_equal_starting_rates_part():
    """The basic solution breaks the tie that holds the whole problem fast."""
    start = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    fit = lmjax.curve_fit(two, T, CURVES[0], start, linear=LINEAR_TWO)
    expected = lmjax.curve_fit(two, T, CURVES[0], TRUTH[0])
    assert fit.success
    np.testing.assert_allclose(fit.cost, expected.cost, rtol=1e-9)


# Derivatives


def test_derivatives_are_those_of_the_whole_problem():
    def fit(y, linear=None):
        fit = lmjax.curve_fit(decay, T, y, START, linear=linear)
        parts = [*jax.tree.leaves(fit.params), fit.cost, *jax.tree.leaves(fit.stderr)]
        return jnp.stack(parts)

    y = jnp.asarray(Y)
    whole = quick.jit(jax.jacrev(fit))(y)
    separated = lambda y: fit(y, LINEAR)
    assert_close(quick.jit(jax.jacrev(separated))(y), whole)
    direction = jnp.cos(jnp.arange(30.0))
    forward = quick.jit(lambda y: jax.jvp(separated, (y,), (direction,))[1])(y)
    assert_close(forward, whole @ direction)


@pytest.mark.slow
def test_second_derivative_and_one_step():
    y, direction = jnp.asarray(Y), jnp.cos(jnp.arange(30.0))

    def rate(s, linear, **options):
        y_s = y + s * direction
        return lmjax.curve_fit(decay, T, y_s, START, linear=linear, **options).params[
            "k"
        ]

    twice = jax.grad(jax.grad(rate))
    assert_close(twice(0.0, LINEAR), twice(0.0, None), factor=100)
    step = {"derivative": lmjax.OneStep()}
    got, expected = (
        jax.grad(lambda s, linear=linear: rate(s, linear, **step))(0.0)
        for linear in (LINEAR, None)
    )
    assert_close(got, expected, factor=100)


@pytest.mark.slow
def test_fixed_linear_parameter_passes_its_derivative_on():
    def rate(c, linear):
        start = START | {"c": c}
        fit = lmjax.curve_fit(decay, T, Y, start, linear=linear, fixed={"c": True})
        return fit.params["k"]

    got, expected = (jax.grad(rate)(0.4, linear) for linear in (LINEAR, None))
    assert abs(expected) > 0.1
    assert_close(got, expected, factor=10)


# Batches

RNG = np.random.default_rng(7)
COUNT = 400
LOW, HIGH = [0.5, 0.3, 0.5, 2.5, -0.5], [2.0, 0.8, 2.0, 6.0, 0.5]
TRUTH = jnp.asarray(RNG.uniform(LOW, HIGH, (COUNT, 5)))
CURVES = jax.vmap(two, (0, None))(TRUTH, T) + 0.005 * RNG.normal(size=(COUNT, T.size))


@pytest.fixture(scope="module")
def fits():
    """One compiled batch for the whole problem and one for the separated."""

    def batch(linear, jit):
        solver = lmjax.LevenbergMarquardt(max_steps=300)

        def fit_one(y, start):
            fit = lmjax.curve_fit(two, T, y, start, linear=linear, solver=solver)
            parts = "params", "stderr", "cost", "status", "num_steps", "in_batch"
            return {name: getattr(fit, name) for name in parts}

        return jit(jax.vmap(fit_one))

    return batch(None, quick.jit), batch(LINEAR_TWO, jax.jit)


@pytest.mark.slow
def test_batch_finds_the_same_minima_in_fewer_steps(fits):
    start = TRUTH * RNG.uniform(0.7, 1.4, TRUTH.shape)
    whole, got = (fit(CURVES, start) for fit in fits)
    assert got["in_batch"].all()
    assert (got["status"] > 0).all()
    np.testing.assert_allclose(got["cost"], whole["cost"], rtol=1e-10)
    np.testing.assert_allclose(got["params"], whole["params"], rtol=1e-5)
    np.testing.assert_allclose(got["stderr"], whole["stderr"], rtol=1e-5)
    assert got["num_steps"].mean() < 0.85 * whole["num_steps"].mean()


@pytest.mark.slow
def test_starts_that_defeat_the_whole_problem(fits):
    best = fits[0](CURVES, TRUTH)["cost"]
    rates = TRUTH * 3.0 ** RNG.uniform(-1.0, 1.0, TRUTH.shape)
    start = jnp.where(LINEAR_TWO, jnp.array([100.0, 0.0, -50.0, 0.0, 30.0]), rates)
    whole, got = (fit(CURVES, start) for fit in fits)
    found = lambda fit: np.mean((fit["status"] > 0) & (fit["cost"] < best * (1 + 1e-6)))
    assert found(got) >= max(0.99, found(whole))
    assert 2.0 * got["num_steps"].mean() < whole["num_steps"].mean()


def test_poisoned_fit_changes_no_other_by_one_bit(fits):
    _, fit = fits
    clean = fit(CURVES, TRUTH)
    for poison in (np.nan, np.inf, 1e300):
        dirty = fit(CURVES.at[5].set(poison), TRUTH)
        others = np.arange(COUNT) != 5
        for a, b in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
            np.testing.assert_array_equal(np.asarray(a)[others], np.asarray(b)[others])
        assert dirty["status"][5] < 0
        assert np.isfinite(dirty["params"][5]).all()


def test_batch_equals_a_loop(fits):
    got = fits[1](CURVES, TRUTH)
    for row in (0, 17, 399):
        alone = lmjax.curve_fit(two, T, CURVES[row], TRUTH[row], linear=LINEAR_TWO)
        assert not alone.in_batch
        np.testing.assert_allclose(got["cost"][row], alone.cost, rtol=1e-10)
        np.testing.assert_allclose(got["params"][row], alone.params, rtol=1e-6)


@pytest.mark.slow
def test_everything_may_differ_per_fit():
    count = 6
    rng = np.random.default_rng(2)
    y = jnp.asarray(Y + 0.02 * rng.normal(size=(count, 30)))
    own = {
        "fixed": np.arange(count) % 2 == 0,
        "c": rng.uniform(0.3, 0.6, count),
        "upper": rng.uniform(0.7, 1.0, count),
        "mask": rng.uniform(size=(count, 30)) < 0.8,
        "sigma": rng.uniform(0.01, 0.03, (count, 30)),
    }

    def fit(y, own, linear=LINEAR):
        return lmjax.curve_fit(
            decay,
            T,
            y,
            START | {"c": own["c"]},
            fixed={"c": own["fixed"]},
            bounds=(None, {"k": own["upper"]}),
            mask=own["mask"],
            sigma=own["sigma"],
            linear=linear,
        )

    got = jax.vmap(fit)(y, own)
    whole = jax.vmap(lambda y, own: fit(y, own, None))(y, own)
    assert got.in_batch.all()
    np.testing.assert_array_equal(got.params["c"][::2], own["c"][::2])
    for name in START:
        np.testing.assert_allclose(got.params[name], whole.params[name], rtol=1e-6)
        np.testing.assert_allclose(got.stderr[name], whole.stderr[name], rtol=1e-5)


# Requests that make no sense


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"linear": {"k": True}}, ValueError, r"linear: .*affine.*: k$"),
        ({"linear": True}, ValueError, r"linear: .*affine.*: a, c, k$"),
        ({"linear": {"b": True}}, ValueError, r"linear: no parameter is called 'b'"),
        ({"linear": {"a": 1}}, TypeError, r"linear: expected booleans"),
        ({"bounds": ({"a": 0.0}, {"k": 9.0})}, ValueError, r"bounds: .* on a$"),
        ({"bounds": (0.0, None)}, ValueError, r"bounds: .* on a$"),
        ({"loss": "huber"}, ValueError, r"loss: expected None"),
        ({"derivative": lmjax.Unrolled(2)}, ValueError, r"derivative: "),
        (
            {"solver": lmjax.LevenbergMarquardt(geodesic=True)},
            ValueError,
            r"solver: .*geodesic",
        ),
    ],
    ids=lambda value: None,
)
def test_bad_requests_are_named(options, error, message):
    with pytest.raises(error, match=message):
        lmjax.curve_fit(decay, T, Y, START, **{"linear": LINEAR} | options)


def test_marks_must_be_known_before_compilation():
    fit = lambda flag: lmjax.curve_fit(decay, T, Y, START, linear={"a": flag}).cost
    with pytest.raises(TypeError, match=r"linear: .*known before compilation"):
        jax.jit(fit)(True)


WRONG = {
    "square": lambda p, t: p["a"] ** 2 * jnp.exp(-p["k"] * t) + p["c"],
    "product": lambda p, t: p["a"] * p["c"] * jnp.exp(-p["k"] * t),
    "size": lambda p, t: jnp.abs(p["a"]) * jnp.exp(-p["k"] * t) - p["c"],
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("square", np.float64),
        pytest.param("product", np.float32, marks=pytest.mark.slow),
        pytest.param("size", np.float32, marks=pytest.mark.slow),
    ],
)
def test_wrong_mark_is_a_status_under_jit(name, dtype):
    t, y = T.astype(dtype), Y.astype(dtype)
    start = {name: jnp.asarray(value, dtype) for name, value in START.items()}
    start["a"] = -start["a"]

    def fit(y):
        return lmjax.curve_fit(WRONG[name], t, y, start, linear=LINEAR).status

    found = quick.jit(jax.vmap(fit))(jnp.stack([y, y]))
    assert (found == lmjax.Status.NOT_AFFINE).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("small", [0.03, 1e-5])
def test_start_near_zero_does_not_hide_a_wrong_mark(dtype, small):
    """The rate enters almost linearly there, but not where the fit ends."""
    t, y = T.astype(dtype), (20.0 * np.exp(-0.9 * T)).astype(dtype)
    start = {"a": jnp.asarray(15.0, dtype), "k": jnp.asarray(small, dtype)}
    model = lambda p, t: p["a"] * jnp.exp(-p["k"] * t)
    fit = quick.jit(lambda y: lmjax.curve_fit(model, t, y, start, linear={"k": True}))
    assert int(fit(y).status) == lmjax.Status.NOT_AFFINE


@pytest.mark.slow
def test_large_constant_is_no_reason_to_doubt_the_marks():
    """Rounding of a large fixed term in float32 looks like a curve in a small one."""
    model = lambda p, t: p["level"] + decay(p, t)
    single = lambda x: jnp.asarray(x, jnp.float32)
    start = jax.tree.map(single, START | {"level": 3e4})
    fit = lmjax.curve_fit(
        model, single(T), single(Y + 3e4), start, linear=LINEAR, fixed={"level": True}
    )
    assert fit.status != lmjax.Status.NOT_AFFINE


def test_new_data_and_starts_compile_nothing():
    traces = []

    def counted(p, t):
        traces.append(1)
        return decay(p, t)

    for scale in (1.0, 2.0):
        start = START | {"k": 0.7 * scale}
        lmjax.curve_fit(counted, T, scale * Y, start, linear=LINEAR)
        first = len(traces) if scale == 1.0 else first
    assert len(traces) == first
