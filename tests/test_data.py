"""Data: sigma, masks and missing values against SciPy and against deleted points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.linalg
import scipy.optimize
from tolerances import TOL, assert_close

import lmjax
from lmjax import Status

M = 24
T = np.linspace(0.0, 4.0, M)
Y = 3.0 * np.exp(-0.8 * T) + 0.5 + 0.05 * np.random.default_rng(3).normal(size=M)
START = np.array([2.0, 1.0, 0.1])
SIGMA = 0.05 + 0.03 * T
# correlated noise: exponential kernel with variances SIGMA^2
COVARIANCE = np.exp(-np.abs(T[:, None] - T) / 0.5) * SIGMA[:, None] * SIGMA


def decay(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def decay_numpy(t, a, k, c):
    return a * np.exp(-k * t) + c


def jac_numpy(t, a, k, c):
    e = np.exp(-k * t)
    return np.stack([e, -a * t * e, np.ones_like(t)], axis=1)


def scipy_fit(t, y, sigma, absolute_sigma=False):
    if np.ndim(sigma) == 0 and sigma is not None:
        sigma = np.full(y.shape, sigma)
    tol = {"xtol": 1e-15, "ftol": 1e-15}
    return scipy.optimize.curve_fit(
        decay_numpy, t, y, START, sigma, absolute_sigma, jac=jac_numpy, **tol
    )


def fit(y=Y, x=T, **options):
    return lmjax.curve_fit(decay, x, y, START, **options)


# (what lmjax takes, what SciPy takes)
SIGMAS = {
    "none": (None, None),
    "number": (0.07, 0.07),
    "vector": (SIGMA, SIGMA),
    "list": (SIGMA.tolist(), SIGMA),
    "matrix": (COVARIANCE, COVARIANCE),
    "factor-lower": (scipy.linalg.cho_factor(COVARIANCE, lower=True), COVARIANCE),
    "factor-upper": (scipy.linalg.cho_factor(COVARIANCE, lower=False), COVARIANCE),
}


@pytest.mark.one_of(2)
@pytest.mark.parametrize("absolute_sigma", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("name", SIGMAS)
def test_weighted_fit_agrees_with_scipy(name, absolute_sigma):
    ours, theirs = SIGMAS[name]
    params, cov = scipy_fit(T, Y, theirs, absolute_sigma)
    got = fit(sigma=ours, absolute_sigma=absolute_sigma)
    assert bool(got.success)
    # SciPy stops at 7 to 8 digits
    np.testing.assert_allclose(got.params, params, rtol=1e-6)
    np.testing.assert_allclose(got.covariance, cov, rtol=1e-5)
    np.testing.assert_allclose(got.stderr, np.sqrt(np.diag(cov)), rtol=1e-5)


def test_residual_of_correlated_data_is_white():
    got = fit(sigma=COVARIANCE)
    r = decay_numpy(T, *np.asarray(got.params)) - Y
    assert_close(got.chi2, r @ np.linalg.solve(COVARIANCE, r))
    low = np.linalg.cholesky(COVARIANCE)
    assert_close(got.residual, scipy.linalg.solve_triangular(low, r, lower=True))


def test_residual_is_model_minus_data_over_sigma():
    got = fit(sigma=SIGMA)
    expected = (decay_numpy(T, *np.asarray(got.params)) - Y) / SIGMA
    assert_close(got.residual, expected)


def test_float32_weighted_fit_agrees_with_scipy():
    start, x, y, sigma = (a.astype("float32") for a in (START, T, Y, SIGMA))
    got = lmjax.curve_fit(decay, x, y, start, sigma=sigma)
    params, cov = scipy_fit(T, Y, SIGMA)
    assert got.covariance.dtype == "float32"
    tol = TOL[np.dtype("float32")]
    np.testing.assert_allclose(got.params, params, rtol=tol)
    # covariance of float32 normal equations: their condition number costs digits
    np.testing.assert_allclose(got.covariance, cov, rtol=20 * tol)


@pytest.mark.slow
def test_sigma_may_differ_per_fit():
    scales = np.array([1.0, 5.0])
    one = lambda s: fit(sigma=s * SIGMA, absolute_sigma=True).covariance
    covs = quick.jit(jax.vmap(one))
    cov = scipy_fit(T, Y, SIGMA, True)[1]
    expected = scales[:, None, None] ** 2 * cov
    np.testing.assert_allclose(covs(scales), expected, rtol=1e-5)  # SciPy's digits


# ---- masks

KEEP = np.ones(M, bool)
KEEP[[0, 5, 6, 17]] = False  # the first point too
SPOILS = {"finite": 99.0, "nan": np.nan, "inf": np.inf}


def spoiled(values, by):
    return np.where(KEEP, values, by)


def assert_same_fit(got, expected):
    """Compare what a mask must not change."""
    for name in ("params", "covariance", "cost", "stderr", "reduced_chi2", "aic"):
        assert_close(getattr(got, name), getattr(expected, name))
    assert int(got.dof) == int(expected.dof) == KEEP.sum() - 3
    assert int(got.num_points) == KEEP.sum()


@pytest.mark.parametrize("by", SPOILS.values(), ids=SPOILS.keys())
def test_mask_equals_deleting_the_points(by):
    got = fit(spoiled(Y, by), spoiled(T, by), mask=KEEP, sigma=SIGMA)
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=SIGMA[KEEP]))
    params, cov = scipy_fit(T[KEEP], Y[KEEP], SIGMA[KEEP])
    np.testing.assert_allclose(got.params, params, rtol=1e-6)  # SciPy's digits
    np.testing.assert_allclose(got.covariance, cov, rtol=1e-5)


@pytest.mark.parametrize("by", SPOILS.values(), ids=SPOILS.keys())
def test_mask_with_covariance_equals_deleting_rows_and_columns(by):
    got = fit(spoiled(Y, by), spoiled(T, by), mask=KEEP, sigma=COVARIANCE)
    both = np.ix_(KEEP, KEEP)
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=COVARIANCE[both]))


def test_mask_with_cholesky_factor_equals_deleting_rows_and_columns():
    factor = scipy.linalg.cho_factor(COVARIANCE)
    got = fit(mask=KEEP, sigma=factor)
    both = np.ix_(KEEP, KEEP)
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=COVARIANCE[both]))


@pytest.mark.parametrize("by", [0.0, -1.0, np.nan, np.inf], ids=str)
def test_sigma_of_masked_points_does_not_matter(by):
    got = fit(mask=KEEP, sigma=spoiled(SIGMA, by))
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=SIGMA[KEEP]))


def test_residual_of_masked_points_is_zero():
    residual = fit(spoiled(Y, np.nan), mask=KEEP).residual
    np.testing.assert_array_equal(residual[~KEEP], np.zeros(4))
    assert (residual[KEEP] != 0.0).all()


def test_mask_may_differ_per_fit():
    masks = np.stack([KEEP, np.roll(KEEP, 3)])
    got = quick.jit(jax.vmap(lambda mask: fit(mask=mask).params))(masks)
    expected = np.stack([scipy_fit(T[m], Y[m], None)[0] for m in masks])
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # SciPy's digits


def test_own_jacobian_at_masked_points_does_not_matter():
    jac = lambda p, t: jnp.where(KEEP[:, None], jax.jacfwd(decay)(p, t), jnp.nan)
    solver = lmjax.LevenbergMarquardt(jac=jac)
    got = fit(mask=KEEP, sigma=SIGMA, solver=solver)
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=SIGMA[KEEP]))


def test_model_that_mixes_points_sees_all_inputs():
    # an instrument's response is needed at masked points, too
    t = np.arange(64.0)
    irf = np.exp(-((t - 10.0) ** 2) / 8.0)
    signal = lambda p, x: lmjax.convolve(p[0] * jnp.exp(-x[0] / p[1]), x[1])
    truth = np.array([3.0, 8.0])
    y = signal(truth, (t, irf))
    mask = (t < 8.0) | (t > 12.0)
    got = lmjax.curve_fit(signal, (t, irf), y, np.array([1.0, 5.0]), mask=mask)
    np.testing.assert_allclose(got.params, truth, rtol=1e-9)


@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
def test_masked_coordinates_may_be_nan(axis):
    # several coordinates per point: x has more axes than y
    model = lambda p, x: p[0] * jnp.exp(-p[1] * x[0]) + p[2] * x[1]
    x = np.stack([T, np.cos(T)])
    model_of = {0: model, 1: lambda p, x: model(p, x.T)}
    place = lambda x: x if axis == 0 else x.T
    rate = lambda x, y: lmjax.curve_fit(model_of[axis], x, y, START, mask=KEEP).params
    slope = quick.jit(jax.jacrev(rate, argnums=(0, 1)))
    spoiled_x = np.where(KEEP, x, np.nan)
    got, expected = (slope(place(x), Y) for x in (spoiled_x, x))
    assert_close(got, expected)
    assert np.isfinite(got[0]).all()


# a / x + b is infinite at x = 0, a point that is masked
POLE_X = np.arange(8.0)
POLE_Y = np.array([1.0, 31.0, 17.0, 14.0, 8.0, 9.0, 3.0, 6.0])
POLE_START = {"a": 20.0, "b": 3.0}
POISSON = {"likelihood": "poisson"}
# one more reason for a transpose each
WITH_POLE = {
    "deviance": POISSON,
    "rev": {"solver": lmjax.LevenbergMarquardt(jac="rev")},
    "CG": {"solver": lmjax.LevenbergMarquardt(linear_solver=lmjax.CG(1e-12))},
    "sets": {},
}


def hyperbola(p, x):
    return p["a"] / x + p["b"]


def hyperbola_of_a_set(p, x):
    return {"only": hyperbola(p, x["only"])}


@pytest.fixture(scope="module")
def without_the_pole():
    """Return parameters of the other points, and the slope of ``a`` by their y."""

    def answer(y, options):
        fit = lmjax.curve_fit(hyperbola, POLE_X[1:], y, POLE_START, **options)
        return fit.params["a"], fit.params

    def both(y, options):
        (_, params), slope = quick.jit(
            jax.value_and_grad(lambda y: answer(y, options), has_aux=True)
        )(y)
        return params, slope

    plain = both(POLE_Y[1:], {})
    return {"deviance": both(POLE_Y[1:], POISSON)}, plain


@pytest.mark.one_of(2)
@pytest.mark.parametrize("choice", WITH_POLE)
def test_masked_point_outside_the_domain_spoils_no_derivative(choice, without_the_pole):
    mask = POLE_X > 0.0

    def answer(y):
        model, given = hyperbola, (POLE_X, y, mask)
        if choice == "sets":
            model, given = hyperbola_of_a_set, tuple({"only": v} for v in given)
        x, y, used = given
        options = WITH_POLE[choice]
        fit = lmjax.curve_fit(model, x, y, POLE_START, mask=used, **options)
        return fit.params["a"], fit.params

    (_, params), slope = quick.jit(jax.value_and_grad(answer, has_aux=True))(POLE_Y)
    of_counts, plain = without_the_pole
    expected, expected_slope = of_counts.get(choice, plain)
    assert_close(params, expected)
    assert_close(slope, np.concatenate([[0.0], expected_slope]))
    assert np.abs(slope).max() > 0.1


def test_arrays_of_another_byte_order_are_read_right():
    # twice: jax refuses them at first, and misreads them once it has compiled
    for _ in range(2):
        for order in ("<f8", ">f8", ">f4", ">i2"):
            y = np.round(100.0 * Y).astype(order)
            got = fit(y, T.astype(">f8"))
            assert_close(got.params, fit(np.round(100.0 * Y)).params)


def test_half_precision_is_refused():
    x = np.arange(4, dtype=np.float16)
    with pytest.raises(TypeError, match="x, y: expected float32.*float16"):
        lmjax.curve_fit(lambda p, x: p * x, x, x, 1.0)


def test_large_integers_are_not_cut_without_x64():
    counts = np.array([3_000_000_000, 2_000_000_000, 1_000_000_000])
    line = lambda p, x: p[0] + p[1] * x
    x = np.arange(3, dtype=np.float32)
    with jax.enable_x64(False):
        got = lmjax.curve_fit(line, x, counts, np.float32([1e9, 0.0]))
    np.testing.assert_allclose(got.params, [3e9, -1e9], rtol=1e-6)


def test_covariance_may_be_symmetric_to_rounding():
    values, vectors = np.linalg.eigh(COVARIANCE)
    rounded = (vectors * values) @ vectors.T
    assert (rounded != rounded.T).any()
    assert_close(fit(sigma=rounded).params, fit(sigma=COVARIANCE).params)


def test_nan_at_a_point_that_counts_is_not_hidden():
    x = T.copy()
    x[1] = np.nan
    assert fit(x=x, mask=KEEP).status == Status.NONFINITE_START


def test_omit_equals_deleting_the_points():
    got = fit(spoiled(Y, np.nan), sigma=SIGMA, nan_policy="omit")
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=SIGMA[KEEP]))


def test_omit_and_mask_combine():
    y, mask = Y.copy(), KEEP.copy()
    y[5] = np.nan
    mask[5] = True
    got = fit(y, mask=mask, sigma=SIGMA, nan_policy="omit")
    assert_same_fit(got, fit(Y[KEEP], T[KEEP], sigma=SIGMA[KEEP]))


@pytest.mark.parametrize("by", [np.nan, np.inf], ids=str)
def test_bad_data_end_the_fit_at_its_start(by):
    got = fit(spoiled(Y, by))
    assert int(got.status) == Status.NONFINITE_START
    assert not bool(got.success)
    np.testing.assert_array_equal(got.params, START)


def test_bad_data_of_one_fit_leave_the_others_alone():
    batch = quick.jit(jax.vmap(lambda y: fit(y).params))
    good, mixed = batch(np.stack([Y, Y])), batch(np.stack([Y, spoiled(Y, np.nan)]))
    np.testing.assert_array_equal(mixed[0], good[0])
    np.testing.assert_array_equal(mixed[1], START)


def test_everything_masked_is_no_success_with_errors():
    got = fit(mask=np.zeros(M, bool))
    assert int(got.num_points) == 0
    np.testing.assert_array_equal(got.params, START)
    assert not np.isfinite(np.asarray(got.stderr)).any()


# ---- shapes and types of the data

ROWS, COLUMNS = np.mgrid[0:6, 0:7].astype(float)


def spot(p, x):
    """A Gaussian spot on a background."""
    r2 = (x[0] - p["row"]) ** 2 + (x[1] - p["column"]) ** 2
    return p["height"] * jnp.exp(-r2 / 4.5) + p["background"]


SPOT = {"row": 2.6, "column": 3.3, "height": 200.0, "background": 20.0}
SPOT_START = {"row": 2.0, "column": 3.0, "height": 100.0, "background": 5.0}


def test_images_of_unsigned_bytes_are_observations():
    image = np.asarray(spot(SPOT, (ROWS, COLUMNS))).astype(np.uint8)
    got = lmjax.curve_fit(spot, (ROWS, COLUMNS), image, SPOT_START)
    expected, cov = scipy.optimize.curve_fit(
        lambda x, b, c, h, r: np.asarray(
            spot({"row": r, "column": c, "height": h, "background": b}, x)
        ),
        np.stack([ROWS.ravel(), COLUMNS.ravel()]),
        image.ravel().astype(float),
        [5.0, 3.0, 100.0, 2.0],
    )
    assert got.residual.shape == image.shape
    params = [got.params[name] for name in sorted(SPOT)]
    # SciPy differentiates by differences here
    np.testing.assert_allclose(params, expected, rtol=1e-5)
    np.testing.assert_allclose(got.covariance, cov, rtol=1e-3, atol=1e-6)


def test_sigma_of_an_image_broadcasts_and_is_no_covariance_if_it_is_square():
    x = (ROWS[:, :6], COLUMNS[:, :6])
    image = np.round(np.asarray(spot(SPOT, x)))
    fit = lambda sigma: lmjax.curve_fit(spot, x, image, SPOT_START, sigma=sigma)
    row = 1.0 + np.arange(6.0)
    of_row, of_rows = fit(row), fit(np.tile(row, (6, 1)))
    assert_close(of_row.params, of_rows.params)
    each = 1.0 + np.arange(36.0).reshape(6, 6)
    for got, sigma in ((of_row, row), (of_rows, row), (fit(each), each)):
        r = np.asarray(spot(got.params, x)) - image
        assert_close(got.chi2, np.sum((r / sigma) ** 2))


@pytest.mark.parametrize("kind", [list, tuple], ids=["list", "tuple"])
def test_lists_and_tuples_are_data(kind):
    got = lmjax.curve_fit(decay, T.tolist(), kind(Y.tolist()), START)
    assert_close(got.params, fit().params)


def test_integer_observations_are_converted():
    counts = np.round(100 * Y).astype(int)
    assert_close(fit(counts).params, fit(counts.astype(float)).params)


def test_x_may_be_any_pytree():
    model = lambda p, x: decay(p, x["time"]) + x["offset"]
    x = {"time": T, "offset": np.array(0.25)}
    got = lmjax.curve_fit(model, x, Y + 0.25, START)
    assert_close(got.params, fit().params)


BAD = {
    "sigma-zero": ({"sigma": 0.0}, ValueError, r"sigma: .*positive.*0"),
    "sigma-negative": ({"sigma": SIGMA - 0.06}, ValueError, "sigma: .*positive"),
    "sigma-variance": ({"sigma": -COVARIANCE}, ValueError, "sigma: .*positive"),
    "sigma-shape": ({"sigma": np.ones(3)}, ValueError, r"sigma: .*\(24,\).*\(3,\)"),
    "factor-shape": (
        {"sigma": (np.eye(3), True)},
        ValueError,
        r"sigma: .*\(24, 24\).*\(3, 3\)",
    ),
    "sigma-square": ({"sigma": np.eye(3)}, ValueError, r"sigma: .*\(24,\).*\(3, 3\)"),
    "sigma-asymmetric": (
        {"sigma": COVARIANCE + np.eye(M, k=1)},
        ValueError,
        "sigma: .*symmetric",
    ),
    "sigma-infinite": ({"sigma": np.inf}, ValueError, "sigma: .*finite"),
    "sigma-triple": (
        {"sigma": (1.0, 2.0, 3.0 * np.eye(M))},
        ValueError,
        r"sigma: .*pair \(factor, lower\)",
    ),
    "y-object": ({"y": Y.astype(object)}, TypeError, "y: expected numbers"),
    "y-masked": (
        {"y": np.ma.array(Y, mask=~KEEP)},
        TypeError,
        "y: .*masked one.*mask=~",
    ),
    "x-text": ({"x": T.astype(str)}, TypeError, "x: expected numbers"),
    "mask-shape": ({"mask": KEEP[:5]}, ValueError, r"mask: .*\(24,\).*\(5,\)"),
    "mask-shape-sigma": (
        {"mask": KEEP[:5], "sigma": SIGMA},
        ValueError,
        r"mask: .*\(24,\).*\(5,\)",
    ),
    "mask-dtype": ({"mask": np.ones(M)}, TypeError, r"mask: .*boolean.*float64"),
    "y-shape": ({"y": Y[:-1]}, ValueError, r"model: .*\(23,\).*\(24,\)"),
    "y-empty": ({"y": Y[:0], "x": T[:0]}, ValueError, "y: .*at least one"),
    "y-complex": ({"y": Y + 0j}, TypeError, "y: .*real.*complex128"),
    "nan-policy": ({"nan_policy": "drop"}, ValueError, "nan_policy: .*omit.*'drop'"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_data_are_named(name):
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        fit(**options)


@pytest.mark.parametrize(
    "sigma",
    [np.where(T < 1.0, 0.0, 1.0), -np.ones(M), 1.0 - 2.0 * np.eye(M)],
    ids=["zero", "negative", "indefinite"],
)
def test_traced_sigma_that_is_not_positive_gives_a_status(sigma):
    status = quick.jit(lambda s: fit(sigma=s).status)(sigma)
    assert int(status) == Status.NONFINITE_START


def test_start_is_required_for_a_plain_function():
    with pytest.raises(ValueError, match="params0: "):
        lmjax.curve_fit(decay, T, Y)


def test_a_mask_of_numpy_goes_with_sigma_inside_jit():
    mask, sigma = np.arange(T.size) != 3, np.linspace(0.1, 0.2, T.size)
    fit = lambda y: lmjax.curve_fit(decay, T, y, START, mask=mask, sigma=sigma).params
    np.testing.assert_allclose(jax.jit(fit)(Y), fit(Y), rtol=1e-6)
