"""What `success` promises, on kinds of fits that have broken the promise.

Right values are SciPy's in float64, from the truth and with tolerances of 1e-15.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.optimize

import lmjax
from lmjax import ParamStatus, Status
from lmjax._solver import stopping

X = np.linspace(0.0, 50.0, 101)
DTYPES = ["float64", "float32"]


def decay(p, x):
    return p[0] * jnp.exp(-x / p[1]) + p[2]


def two_exponentials(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2] * jnp.exp(-p[3] * t)


def best(model, x, y, truth):
    """The least cost near the truth."""
    residual = lambda p: np.asarray(model(p, x)) - y
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.least_squares(residual, truth, **tight).cost


def cost64(model, x, y, p):
    """The cost in float64, one per fit."""
    with np.errstate(all="ignore"):
        f = jax.vmap(lambda p: model(p, x))(jnp.asarray(p, "float64"))
        return 0.5 * np.sum((np.asarray(f) - y) ** 2, axis=-1)


def promised(model, x, y, p):
    """The relative reduction that the undamped model promises, by a QR of J."""
    p = jnp.asarray(p, "float64")
    r = np.asarray(model(p, x)) - y
    jac = np.asarray(jax.jacfwd(model)(p, x))
    q = np.linalg.qr(jac / np.linalg.norm(jac, axis=0))[0]
    return np.sum((q.T @ r) ** 2) / np.sum(r**2)


@pytest.fixture(scope="module")
def decays():
    """Sixty clean decays and their least costs."""
    rng = np.random.default_rng(0)
    low, high = (200.0, 2.0, 0.0), (1500.0, 30.0, 60.0)
    truth = rng.uniform(low, high, (60, 3))
    y = np.stack([np.asarray(decay(p, X)) for p in truth])
    y += 8.0 * rng.normal(size=y.shape)
    costs = [best(decay, X, *pair) for pair in zip(y, truth, strict=True)]
    return y, np.array(costs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["batch", "single"])
def test_decays_from_ones_are_all_found(decays, dtype, way):
    y, least = decays
    one = lambda y, start: lmjax.curve_fit(decay, jnp.asarray(X, dtype), y, start)
    part = lambda y, start: (lambda f: (f.params, f.success))(one(y, start))
    many = jax.vmap(part, (0, None))
    if way == "single":
        many = lambda y, start: jax.lax.map(lambda y: part(y, start), y)
    for start in ((1.0, 1.0, 0.0), (1.0, 10.0, 0.0)):
        given = jnp.asarray(y, dtype), jnp.asarray(start, dtype)
        params, success = quick.jit(many)(*given)
        assert np.all(success)
        found = cost64(decay, X, y, params)
        assert np.all(found < least * (1 + (1e-8 if dtype == "float64" else 1e-5)))


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", DTYPES)
def test_wild_exponentials_never_succeed_above_the_zero_model(dtype):
    t = np.linspace(0.0, 4.0, 40)
    truth = np.array([2.0, 0.5, 1.0, 2.0])
    rng = np.random.default_rng(5)
    y = np.asarray(two_exponentials(truth, t)) + 0.02 * rng.normal(size=40)
    starts = np.concatenate(
        [
            10.0 * rng.normal(size=(1500, 4)),
            rng.normal(size=(1500, 4)) * (1.0, 10.0, 1.0, 10.0),
        ]
    )
    given = jnp.asarray(t, dtype), jnp.asarray(y, dtype)
    one = lambda start: lmjax.curve_fit(two_exponentials, *given, start)
    fits = quick.jit(jax.vmap(one))(jnp.asarray(starts, dtype))
    success = np.asarray(fits.success)
    cost = cost64(two_exponentials, t, y, fits.params)
    assert success.sum() > 1000
    # not one above the cost of no curve at all, whatever overflows on the way
    assert not np.any(success & ~(cost <= 0.5 * np.sum(y**2)))
    if dtype == "float64":
        # and what is claimed is a minimum of the linear model, or no more than that
        # misses by a twentieth of an error
        limit = stopping.RELEVANT**2 * 4 / 36
        for p in np.asarray(fits.params)[success][:200]:
            assert promised(two_exponentials, t, y, p) < limit
    # nor does a hopeless one take the steps of a thousand
    assert int(fits.num_steps.max()) <= 2000


@pytest.mark.parametrize("way", ["batch", "single"])
def test_parameters_that_run_away_are_named(way):
    # counts that fall by a constant each time: the best decay is a straight line
    x = jnp.linspace(0.0, 10.0, 30)
    y = 100.0 - 5.0 * x - 0.05 * x**2 + jnp.sin(9.0 * x)
    one = lambda start: lmjax.curve_fit(decay, x, y, start)
    start = jnp.array([1.0, 1.0, 0.0])
    fit = one(start)
    if way == "batch":
        fit = jax.tree.map(
            lambda leaf: leaf[1], quick.jit(jax.vmap(one))(jnp.stack([start] * 2))
        )
    assert int(fit.status) == Status.RUNAWAY
    advice = Status.RUNAWAY.advice
    assert all(word in advice for word in ("bounds", "guess", "linear="))
    bounds = (jnp.array([0.0, 0.1, 0.0]), jnp.array([1e4, 1e3, 1e4]))
    assert lmjax.curve_fit(decay, x, y, start, bounds=bounds).success


def test_gradient_of_a_runaway_is_that_of_a_failed_fit():
    x = jnp.linspace(0.0, 10.0, 30)
    y = 100.0 - 5.0 * x - 0.05 * x**2 + jnp.sin(9.0 * x)
    start = jnp.array([1.0, 1.0, 0.0])
    slope = jax.grad(lambda y: lmjax.curve_fit(decay, x, y, start).params[1])(y)
    assert not np.any(slope)


@pytest.mark.parametrize("way", ["batch", "single"])
def test_a_plateau_is_no_success(way):
    # the time constant ends so short that the curve is flat at every point but one
    curve = lambda p, x: p[0] * (1 - jnp.exp(-x / p[1])) + p[2]
    rng = np.random.default_rng(0)
    y = curve(jnp.array([5.0, 8.0, 1.0]), X) + 0.05 * rng.normal(size=X.size)
    one = lambda start: lmjax.curve_fit(curve, X, y, start)
    start = jnp.array([-11.84, 0.734, 41.02])
    fit = one(start)
    if way == "batch":
        fit = jax.tree.map(
            lambda leaf: leaf[1], quick.jit(jax.vmap(one))(jnp.stack([start] * 2))
        )
    assert int(fit.status) == Status.PLATEAU
    assert int(fit.param_status[1]) == ParamStatus.UNDETERMINED
    assert "guess" in Status.PLATEAU.advice


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_is_found_from_one(dtype):
    rng = np.random.default_rng(1)
    top = 12 if dtype == "float32" else 20
    for power in range(3, top + 1):
        y = 10.0**power * (1 + 0.01 * rng.normal(size=20))
        data = jnp.zeros(20, dtype), jnp.asarray(y, dtype)
        fit = lmjax.curve_fit(lambda p, x: p + 0 * x, *data, jnp.asarray(1.0, dtype))
        assert fit.success, power
        rtol = 1e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(fit.params, y.mean(), rtol=rtol)


def peak(p, x):
    return p[0] * jnp.exp(-0.5 * ((x - p[1]) / p[2]) ** 2) + p[3]


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tall_peak_is_found_from_one(dtype):
    x, rng = np.linspace(-5.0, 5.0, 60), np.random.default_rng(2)
    truth = np.array([3.0, 0.5, 1.2, 1.0])
    shape = np.asarray(peak(truth, x)) + 0.01 * rng.normal(size=60)
    right = scipy.optimize.curve_fit(
        lambda x, *p: peak(np.array(p), x), x, shape, truth
    )
    start, data = jnp.asarray([1.0, 0.0, 1.0, 1.0], dtype), jnp.asarray(x, dtype)
    for power in range(0, 13 if dtype == "float32" else 17, 2):
        units = np.array([10.0**power, 1.0, 1.0, 10.0**power])
        fit = lmjax.curve_fit(peak, data, jnp.asarray(units[0] * shape, dtype), start)
        assert fit.success, power
        rtol = 1e-4 if dtype == "float32" else 1e-6
        np.testing.assert_allclose(fit.params, right[0] * units, rtol=rtol)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("way", ["batch", "single"])
def test_a_line_over_timestamps_is_found(way):
    t0 = 1.6e9
    x, rng = t0 + jnp.arange(5.0), np.random.default_rng(3)
    y = 2.0 + 3.0 * (x - t0) + 0.1 * rng.normal(size=5)
    slope, level = np.polyfit(np.asarray(x) - t0, y, 1)
    one = lambda start: lmjax.curve_fit(lambda p, x: p[0] + p[1] * x, x, y, start)
    for start in ((-t0, 0.0), (1.0, 1.0), (0.0, 0.0)):
        fit = one(jnp.array(start))
        if way == "batch":
            fits = quick.jit(jax.vmap(one))(jnp.stack([jnp.array(start)] * 3))
            fit = jax.tree.map(lambda leaf: leaf[2], fits)
        assert fit.success
        np.testing.assert_allclose(fit.params[1], slope, rtol=1e-6)
        np.testing.assert_allclose(fit.params[0] + fit.params[1] * t0, level, rtol=1e-5)


@pytest.mark.parametrize("way", ["batch", "single"])
def test_a_parabola_over_timestamps_is_found_from_wild_starts(way, rng):
    # far out the residual is less than the rounding of the three effects, and even at
    # the minimum that rounding moves the cost by 1e-4 of itself
    x = 1.7e9 + np.linspace(0.0, 3600.0, 60)
    u = x - np.mean(x)
    y = 2.0 + 1e-3 * u + 1e-7 * u**2 + 0.1 * rng.normal(size=60)
    least = 0.5 * np.sum((y - np.polyval(np.polyfit(u, y, 2), u)) ** 2)
    starts = rng.normal(size=(40, 3)) * 10.0 ** rng.uniform(-3, 3, (40, 3))
    model = lambda p, x: p[0] + p[1] * x + p[2] * x**2
    fit = lambda start: lmjax.curve_fit(model, x, y, start)
    run = jax.vmap(fit) if way == "batch" else lambda p: jax.lax.map(fit, p)
    found = quick.jit(run)(starts)
    success = np.asarray(found.success)
    # all of them on the processors tried; a GPU loses one, and says so
    assert success.sum() >= 36
    np.testing.assert_allclose(found.cost[success], least, rtol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [2.0, -30.0])
def test_a_minimum_where_j_vanishes_is_found(start, dtype):
    sol = lmjax.least_squares(lambda z: z**2 + 5.0, jnp.asarray(start, dtype))
    assert sol.success
    assert abs(float(sol.params)) < (1e-2 if dtype == "float32" else 1e-7)
    assert int(sol.num_steps) < 100


def test_a_large_residual_ends_without_a_zigzag():
    # H is nearly twice J^T J across the valley, so undamped steps overshoot by half
    r = lambda p: jnp.array([p[0], 1.0 + p[1] + 0.49 * p[0] ** 2, 1.0 - p[1]])
    sol = lmjax.least_squares(r, jnp.array([1.0, 1.0]))
    exact = scipy.optimize.least_squares(
        lambda p: np.asarray(r(p)), [0.1, 0.1], gtol=1e-15
    )
    assert sol.success
    assert float(sol.cost) <= exact.cost * (1 + 1e-12)
    assert int(sol.num_steps) < 300


def test_small_data_in_float32_are_out_of_range_whatever_the_start():
    rng = np.random.default_rng(4)
    y = jnp.asarray(1e-20 * (1 + 0.01 * rng.normal(size=20)), "float32")
    fit = lambda start: lmjax.curve_fit(
        lambda p, x: p + 0 * x, jnp.zeros(20, "float32"), y, jnp.float32(start)
    )
    for start in (1.0, 1e-10, 1e-20):
        assert int(fit(start).status) == Status.OUT_OF_RANGE
    # while a root at zero is one, from wherever it is approached
    root = lmjax.least_squares(lambda p: 3.0 * p, jnp.ones(2, "float32"))
    assert root.success
    # and no data at all, which an amplitude of zero explains
    x, start = jnp.linspace(0.0, 10.0, 40, dtype="float32"), (0.575, 2.21, -0.875)
    start = jnp.asarray(start, "float32")
    assert lmjax.curve_fit(decay, x, jnp.zeros_like(x), start).success


def test_constant_data_leave_the_rate_undetermined():
    y = jnp.full(50, 3.0)
    fit = lmjax.curve_fit(decay, jnp.linspace(0.0, 10.0, 50), y, jnp.array([1.0, 5, 1]))
    assert fit.success
    assert int(fit.param_status[1]) == ParamStatus.UNDETERMINED
    assert int(fit.rank) == 2 < int(fit.num_free)
    assert np.isnan(fit.stderr[1])
    assert "not determined by the data" in fit.report()


def melting(p, t):
    """Two states with straight base lines, seen below the transition only."""
    k = jnp.exp(p[4] * (1 / p[5] - 1 / t) * 1e3)
    low, high = p[0] + p[1] * (t - 300) / 10, p[2] + p[3] * (t - 300) / 10
    return (low + high * k) / (1 + k)


def test_errors_have_the_same_bits_in_every_batch_and_none_is_lost():
    t, rng = jnp.linspace(290.0, 330.0, 41), np.random.default_rng(6)
    count = 1500
    truth = np.stack(
        [
            rng.normal(1.0, 0.1, count),
            rng.normal(0.0, 0.05, count),
            rng.normal(3.0, 0.3, count),
            rng.normal(0.0, 0.05, count),
            rng.normal(40.0, 8.0, count),
            rng.uniform(300.0, 420.0, count),
        ],
        axis=1,
    )
    y = jax.vmap(lambda p: melting(p, t))(truth) + 0.01 * rng.normal(size=(count, 41))
    start = jnp.array([1.0, 0.0, 3.0, 0.0, 40.0, 325.0])
    part = lambda fit: (fit.params, fit.stderr, fit.rank, fit.param_status, fit.status)
    many = jax.jit(jax.vmap(lambda y: part(lmjax.curve_fit(melting, t, y, start))))
    whole = jax.tree.map(np.asarray, many(y))
    for rows in (slice(0, 40), slice(700, 740)):
        for a, b in zip(many(y[rows]), whole, strict=True):
            np.testing.assert_array_equal(a, b[rows])
    _, stderr, rank, kind, status = whole
    success = status > 0
    assert success.sum() > 500
    # NaN where the report says why, and nowhere else
    undetermined = kind == ParamStatus.UNDETERMINED
    np.testing.assert_array_equal(np.isnan(stderr)[success], undetermined[success])
    assert not np.any(undetermined[success & (rank == 6)])
