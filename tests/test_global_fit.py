"""Global fits: the answer of the same problem written densely, by QR and by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.optimize
from tolerances import TOL, assert_close

import lmjax
from lmjax import ParamStatus, Status

CURVES, POINTS = 4, 12
T = np.linspace(0.0, 4.0, POINTS)
TRUTH = {
    "amplitude": np.array([2.0, 1.0, 3.0, 1.5]),
    "offset": np.array([0.5, 0.2, 0.0, 0.3]),
}
TAU = 1.3
NOISE = 0.05 * np.random.default_rng(11).normal(size=(CURVES, POINTS))
Y = TRUTH["amplitude"][:, None] * np.exp(-T / TAU) + TRUTH["offset"][:, None] + NOISE
START = {"amplitude": 1.0, "offset": 0.0, "tau": 1.0}
DENSE_START = {"amplitude": np.ones(CURVES), "offset": np.zeros(CURVES), "tau": 1.0}
SHARED = {"tau": True}


TRACES = []


def decay(p, t):
    TRACES.append(1)
    return p["amplitude"] * jnp.exp(-t / p["tau"]) + p["offset"]


def stacked(p, t):
    """The same curves as one model that knows nothing of blocks."""
    shape = jnp.exp(-t / p["tau"])
    shape = shape if jnp.ndim(t) == 2 else shape[None]
    return p["amplitude"][:, None] * shape + p["offset"][:, None]


def fit(y=Y, x=T, params0=START, **options):
    return lmjax.global_fit(decay, x, y, params0, shared=SHARED, **options)


def dense(y=Y, x=T, params0=DENSE_START, **options):
    return lmjax.curve_fit(stacked, x, y, params0, **options)


def assert_same(got, expected, tol=1e-10):
    """Compare pytrees; NaN equals NaN."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        size = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol * size)


STATISTICS = ("cost", "chi2", "reduced_chi2", "aic", "bic")
COUNTS = ("dof", "num_points", "num_free", "rank")


def assert_same_fit(got, expected):
    assert bool(got.success)
    assert_same(got.params, expected.params)
    assert_same(got.stderr, expected.stderr)
    for name in STATISTICS:
        assert_same(getattr(got, name), getattr(expected, name))
    for name in COUNTS:
        assert int(getattr(got, name)) == int(getattr(expected, name)), name
    # zero but for rounding, where the model has no residual
    assert_same(got.residual, expected.residual, 1e-9)
    np.testing.assert_array_equal(got.flat_status, expected.flat_status)


# ---- equal to the dense problem

LATE = T + np.arange(CURVES)[:, None] / 10.0  # each curve measured a bit later
MASK = np.random.default_rng(5).random((CURVES, POINTS)) < 0.8
MASK[0] = True
UPPER = np.full(CURVES, 2.5)
HELD = {
    "bounds": (
        {"offset": np.array([0.1, 0.1, 0.1, 0.4]), "amplitude": np.zeros(CURVES)},
        {"tau": 1.25, "amplitude": UPPER},
    ),
    "fixed": {"offset": np.arange(CURVES) == 1},
}
OFFSETS = {"offset": np.array([0.0, 0.2, 0.0, 0.0])}  # a start for each curve
# what global_fit takes; what curve_fit of the stacked model takes beside it
COUNTS_OF = np.random.default_rng(6).poisson(20.0 * np.maximum(Y, 0.05)).astype(float)
BRIGHT = {"amplitude": 20.0, "offset": 5.0, "tau": 1.0}
OPTIONS = {
    "plain": ({}, {}),
    "counts": (
        {
            "y": COUNTS_OF,
            "mask": MASK,
            "params0": BRIGHT,
            "likelihood": lmjax.likelihoods.Poisson(np.linspace(1.0, 3.0, 4)[:, None]),
        },
        {
            "params0": jax.tree.map(jnp.multiply, DENSE_START, BRIGHT)
            | {"offset": np.full(CURVES, 5.0)}
        },
    ),
    "data": (
        {
            "x": LATE,
            "sigma": np.arange(1.0, 5.0)[:, None] * (0.1 + T),
            "absolute_sigma": True,
            "mask": MASK,
            "loss": "soft_l1",
            "loss_scale": 0.1,
        },
        {},
    ),
    "held": (
        HELD | {"params0": START | OFFSETS},
        {"params0": DENSE_START | OFFSETS},
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "data" else pytest.mark.slow)
        for name in OPTIONS
    ],
)
def test_fit_is_that_of_the_stacked_problem(name):
    options, other = OPTIONS[name]
    got, expected = fit(**options), dense(**(options | other))
    assert got.linear_solver == "Schur"
    assert_same_fit(got, expected)
    if name == "counts":
        assert got.absolute_sigma
        assert_same(got.pearson_chi2, expected.pearson_chi2)
        assert "likelihood           Poisson" in got.report()
    if name == "held":
        codes = {ParamStatus(int(code)).name for code in got.flat_status}
        assert codes == {"FREE", "AT_UPPER", "FIXED", "AT_LOWER"}


def test_covariance_blocks_are_those_of_scipy():
    got = fit()
    residual = lambda p: (p[:4, None] * np.exp(-T / p[8]) + p[4:8, None] - Y).ravel()
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "method": "lm"}
    start = np.array([1.0] * 4 + [0.0] * 4 + [1.0])
    found = scipy.optimize.least_squares(residual, start, **tight)
    flat = np.concatenate([jax.tree.leaves(got.params)[k].ravel() for k in range(3)])
    np.testing.assert_allclose(flat, found.x, rtol=1e-6, atol=1e-8)  # its differences
    jac, tau = np.zeros((4, POINTS, 9)), flat[8]
    shape = np.exp(-T / tau)
    for g in range(4):
        jac[g, :, g], jac[g, :, 4 + g] = shape, 1.0
        jac[g, :, 8] = flat[g] * shape * T / tau**2
    jac = jac.reshape(-1, 9)
    cov = np.linalg.inv(jac.T @ jac) * 2.0 * found.cost / (48 - 9)
    for g in range(4):
        own = np.ix_([g, 4 + g], [g, 4 + g])
        assert_same(got.covariance.own[g], cov[own])
        cross = cov[[g, 4 + g], 8:]
        assert_same(got.covariance.cross[g], cross)
    assert_same(got.covariance.shared, cov[8:, 8:])


def test_float32_agrees_with_float64():
    narrow = lambda tree: jax.tree.map(lambda a: np.asarray(a, "float32"), tree)
    got = fit(*narrow((Y, T, START)))
    assert got.params["tau"].dtype == got.covariance.own.dtype == "float32"
    assert bool(got.success)
    expected = dense()
    tol = TOL[np.dtype("float32")]
    assert_same(got.params, expected.params, tol)
    # errors of float32 normal equations: their condition number costs digits
    assert_same(got.stderr, expected.stderr, 20 * tol)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"geodesic": True},
        {"damping": lmjax.Fixed(0.0), "linear_solver": lmjax.Schur()},
        {"record_history": True, "max_steps": 30},
    ],
    ids=["geodesic", "gauss-newton", "history"],
)
def test_settings_of_the_loop_lead_to_the_same_minimum(settings):
    got = fit(solver=lmjax.LevenbergMarquardt(**settings))
    assert bool(got.success)
    assert_same(got.params, dense().params)
    if got.history is not None:
        last = int(got.num_steps) - 1
        assert got.history.params["amplitude"].shape == (30, CURVES)
        assert got.history.params["tau"].shape == (30,)
        assert_close(got.history.cost[last], got.cost)


def linear(p, x):
    """Nine own and nine shared coefficients: NumPy knows the answer."""
    return x[0] @ p["own"] + x[1] @ p["shared"]


@pytest.mark.slow
def test_many_parameters_per_curve(rng):
    x, y = rng.normal(size=(2, 30, 9)), rng.normal(size=(3, 30))
    start = {"own": np.zeros(9), "shared": np.zeros(9)}
    got = lmjax.global_fit(linear, tuple(x), y, start, shared={"shared": True})
    design = np.zeros((3, 30, 36))
    for g in range(3):
        design[g, :, 9 * g : 9 * g + 9] = x[0]
        design[g, :, 27:] = x[1]
    design = design.reshape(-1, 36)
    best = np.linalg.lstsq(design, y.ravel())[0]
    assert_close(got.params["own"].ravel(), best[:27])
    assert_close(got.params["shared"], best[27:])


# ---- data that are missing or bad


def test_lists_of_unequal_length_are_the_masked_arrays():
    lengths = [12, 7, 9, 12]
    cut = lambda rows: [list(row[:n]) for row, n in zip(rows, lengths, strict=True)]
    options = OPTIONS["data"][0]
    lists = {name: cut(options[name]) for name in ("x", "sigma")}
    ragged = cut(np.ones((CURVES, POINTS), bool))
    mask = np.arange(POINTS) < np.array(lengths)[:, None]
    got = fit(cut(Y), **(options | lists | {"mask": ragged}))
    assert_same_fit(got, fit(**(options | {"mask": mask})))
    assert int(got.num_points) == sum(lengths)


def spoil(y, curve):
    y = np.array(y)
    y[curve] = np.nan
    return y


def test_nan_in_one_curve_ends_the_joint_fit_at_its_start():
    got = fit(spoil(Y, 2))
    assert int(got.status) == Status.NONFINITE_START
    np.testing.assert_array_equal(got.params["amplitude"], np.ones(CURVES))


def test_curve_without_data_keeps_its_start_and_counts_for_nothing():
    rest = np.array([0, 1, 3])
    got = fit(spoil(Y, 2), nan_policy="omit")
    start = {
        name: np.delete(leaf, 2) for name, leaf in DENSE_START.items() if name != "tau"
    }
    expected = dense(Y[rest], T, start | {"tau": 1.0})
    assert bool(got.success)
    for field in ("params", "stderr"):
        found, wanted = getattr(got, field), getattr(expected, field)
        assert_same(found["tau"], wanted["tau"])
        for name in TRUTH:
            assert_same(found[name][rest], wanted[name])
    assert int(got.dof) == int(expected.dof)
    assert_same(got.aic, expected.aic)
    assert float(got.params["amplitude"][2]) == 1.0
    assert np.isnan(got.stderr["amplitude"][2])
    np.testing.assert_array_equal(got.residual[2], np.zeros(POINTS))


def test_nothing_but_masked_points_is_no_success():
    got = fit(spoil(Y, slice(None)), nan_policy="omit")
    assert int(got.status) == Status.SINGULAR


def test_masked_common_inputs_never_reach_the_model():
    x, mask = T.copy(), np.ones((CURVES, POINTS), bool)
    x[3], mask[:, 3] = np.nan, False
    slope = quick.jit(jax.grad(lambda y, x: fit(y, x, mask=mask).params["tau"]))
    got = slope(Y, x)
    assert (np.asarray(got)[:, 3] == 0.0).all()
    assert_same(got, slope(Y, T))


@pytest.mark.slow
def test_parameters_that_one_curve_leaves_open_do_not_spoil_the_others():
    # amplitude and offset of the curve that was measured at one time only
    x = LATE.copy()
    x[1] = 0.7
    got = fit(x=x)
    expected = dense(x=x)
    assert bool(got.success)
    assert int(got.rank) == int(expected.rank) == int(got.num_free) - 1
    assert_same(got.cost, expected.cost)
    assert_same(got.params["tau"], expected.params["tau"])
    assert_same(got.stderr["tau"], expected.stderr["tau"])
    others = np.array([0, 2, 3])
    for name in TRUTH:
        got_name, expected_name = got.stderr[name], expected.stderr[name]
        assert_same(got_name[others], expected_name[others])
        # two equal columns: halves of the one combination that is known
        assert_same(got_name[1], expected_name[1], 1e-6)


@pytest.mark.slow
def test_shared_parameter_that_own_ones_replace_has_no_error():
    model = lambda p, t: decay(p, t) + p["common"]
    start = START | {"common": 0.1}
    shared = SHARED | {"common": True}
    got = lmjax.global_fit(model, T, Y, start, shared=shared)
    assert bool(got.success)
    assert int(got.rank) == int(got.num_free) - 1
    assert np.isnan(got.stderr["common"])
    expected = dense()
    assert_same(got.cost, expected.cost)
    for name in ("amplitude", "tau"):
        error = expected.stderr[name] * np.sqrt(int(expected.dof) / int(got.dof))
        assert_same(got.stderr[name], error, 1e-7)
    assert "determine only" in got.report()


# ---- starts, models, results


@pytest.mark.slow
def test_module_holds_its_start_and_comes_back_fitted():
    start = lmjax.models.Exponential.guess(T, Y[0])
    got = lmjax.global_fit(start, T, Y, shared={"rate": True})
    assert type(got.params) is type(start)
    assert got.params.rate.shape == ()
    residual = lambda p: (p[:4, None] * np.exp(-p[4] * T) + p[5:, None] - Y).ravel()
    found = scipy.optimize.least_squares(residual, np.ones(9), xtol=1e-15, ftol=1e-15)
    assert_close(got.cost, found.cost)
    np.testing.assert_allclose(got.params.rate, found.x[4], rtol=1e-6)
    one = lambda g: jax.tree.map(lambda a: a[g] if a.ndim else a, got.params)
    assert_close(got.predict(T)[2], one(2)(T))


def test_prediction_is_the_model_curve_by_curve():
    got = fit(x=LATE)
    # the least-squares residual is model less data
    assert_close(got.predict(LATE), got.residual + Y)
    common = fit()
    assert common.predict(T[:5]).shape == (CURVES, 5)
    assert_close(common.predict(T[:5]), (common.residual + Y)[:, :5])
    ragged = got.predict([LATE[0, :3], *LATE[1:]])
    assert_close(ragged[1:], (got.residual + Y)[1:])
    with pytest.raises(ValueError, match=r"x: .*each of the 4 curves.*\(12,\)"):
        got.predict(T)


@pytest.mark.slow
def test_list_of_numbers_is_common_to_curves_of_unequal_length():
    curves = [Y[0], *Y[1:, :9]]
    got = fit(curves, T.tolist(), sigma=np.ones(12).tolist())
    mask = np.ones((CURVES, 12), bool)
    mask[1:, 9:] = False
    assert_same(got.params, fit(mask=mask).params, 1e-9)


@pytest.mark.slow
def test_curves_may_have_any_shape():
    # an image per curve: the same points, in two dimensions
    image = lambda a: a.reshape(*a.shape[:-1], 3, 4)
    got = fit(image(Y), image(T))
    assert_same(got.params, fit().params)
    assert got.residual.shape == (CURVES, 3, 4)


def test_reports_name_shared_and_own_parameters():
    got = fit()
    report = got.report()
    assert "Schur" in report
    assert f"tau  {float(got.params['tau']):.8g} +/-" in report
    assert f"amplitude[3]  {float(got.params['amplitude'][3]):.8g} +/-" in report


@pytest.mark.slow
def test_report_summarises_many_curves():
    many = fit(np.tile(Y, (2, 1)))
    middle = np.median(many.params["offset"])
    assert f"offset  {middle:.6g} [" in many.report()


# ---- transformations

WAVES = np.sin(T) * np.arange(1.0, 5.0)[:, None]  # not along any parameter


def of_params(sol):
    return sol.params["tau"] + jnp.arange(1.0, 5.0) @ sol.params["amplitude"] + sol.cost


def of_errors(sol):
    return 10.0 * sol.stderr["tau"] + jnp.arange(1.0, 5.0) @ sol.stderr["offset"]


@pytest.mark.parametrize(
    "quantity",
    [of_params, pytest.param(of_errors, marks=pytest.mark.slow)],
    ids=["params", "errors"],
)
def test_gradients_are_those_of_the_stacked_problem(quantity):
    def slopes(fitted):
        def value(y, sigma, upper):
            bounds = (None, {"tau": upper})
            return quantity(fitted(y, sigma=sigma, bounds=bounds))

        return quick.jit(jax.value_and_grad(value, (0, 1, 2)))

    ours, theirs = slopes(fit), slopes(dense)
    for upper in (5.0, 1.2):  # out of the way; in it
        given = Y, 0.1 + 0.1 * T, upper
        got, expected = ours(*given), theirs(*given)
        assert_same(got, expected)
        assert (float(got[1][2]) != 0.0) == (upper == 1.2)


@pytest.mark.slow
def test_gradient_of_an_affine_model_is_that_of_linear_algebra():
    # J is constant: some tangents are symbolic zeros
    x = np.arange(8.0)
    y = np.stack([x, 2.0 * x + np.cos(x)])
    line = lambda p, t: p["slope"] * t + p["offset"]

    def offset(y):
        start = {"slope": 1.0, "offset": 1.0}
        return lmjax.global_fit(line, x, y, start, shared={"offset": True}).params[
            "offset"
        ]

    zero = np.zeros(8)
    design = np.stack([np.r_[x, zero], np.r_[zero, x], np.ones(16)], axis=1)
    expected = np.linalg.pinv(design)[2].reshape(2, 8)
    assert_close(jax.grad(offset)(jnp.asarray(y)), expected)


@pytest.mark.one_of(3)
@pytest.mark.parametrize(
    "rule",
    [lmjax.Implicit("gauss_newton"), lmjax.Implicit(polish=True), lmjax.OneStep()],
    ids=["gauss-newton", "polish", "one-step"],
)
def test_other_derivatives_are_those_of_the_stacked_problem(rule):
    rate = lambda fitted: quick.jit(
        jax.jacfwd(lambda s: fitted(Y + s * WAVES, derivative=rule).params)
    )(0.1)
    # conjugate gradients stop at eps^(3/4)
    assert_same(rate(fit), rate(dense), 1e-9)


@pytest.mark.slow
def test_second_derivatives_are_those_of_the_stacked_problem():
    bend = lambda fitted: quick.jit(
        jax.hessian(lambda s: fitted(Y + s * WAVES).params["tau"])
    )(0.1)
    assert_same(bend(fit), bend(dense), 1e-8)


@pytest.mark.slow
def test_derivative_check_reports_a_minimum():
    check = fit(derivative=lmjax.Implicit(check=True)).derivative_check
    assert float(check.error) < 1e-10
    assert int(check.num_free) == 2 * CURVES + 1


def test_many_global_fits_and_a_bad_one_among_them():
    def one(y):
        got = fit(y)
        return got.params["tau"], (got.params, got.status)

    many = jax.jit(jax.vmap(jax.value_and_grad(one, has_aux=True)))
    good = many(np.stack([Y, 1.2 * Y, Y[::-1]]))
    mixed = many(np.stack([Y, spoil(Y, 0), Y[::-1]]))
    for a, b in zip(jax.tree.leaves(mixed), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a[::2], b[::2])
    (_, (params, status)), slopes = mixed
    assert int(status[1]) == Status.NONFINITE_START
    np.testing.assert_array_equal(slopes[1], np.zeros_like(Y))
    assert_same(jax.tree.map(lambda a: a[0], params), fit().params)
    assert np.abs(slopes[0]).max() > 0.0


def test_new_data_compile_nothing():
    fit()
    before = len(TRACES)
    fit(2.0 * Y)
    assert len(TRACES) == before > 0


def sizes_in(jaxpr):
    """Yield the number of entries of every array that a computation makes."""
    for eqn in jaxpr.eqns:
        yield from (var.aval.size for var in eqn.outvars)
        for value in jax.tree.leaves(
            eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes_in(inner)


def test_no_array_grows_with_the_square_of_the_curves():
    curves = 60
    y = np.tile(Y, (curves // CURVES, 1))

    def quantity(y):
        got = fit(y)
        return got.params["tau"] + jnp.sum(got.stderr["amplitude"])

    jaxpr = jax.make_jaxpr(jax.value_and_grad(quantity))(y).jaxpr
    most = max(sizes_in(jaxpr))
    # a handful of arrays of the size of the data stand side by side: J is 3 of them
    assert y.size < most <= 8 * y.size < (2 * curves) ** 2


# ---- bad requests

BAD = {
    "y-one-curve": ({"y": Y[0]}, ValueError, r"y: .*first axis.*\(12,\)"),
    "x-shape": ({"x": T[:5]}, ValueError, r"model: .*\(12,\).*\(5,\)"),
    "x-lengths": (
        {"y": [Y[0], Y[1, :5]], "x": [T, T[:6]]},
        ValueError,
        r"x: .*\[12, 5\].*\[12, 6\]",
    ),
    "sigma-shape": ({"sigma": np.ones(5)}, ValueError, r"sigma: .*\(4, 12\).*\(5,\)"),
    "sigma-tuple": ({"sigma": (np.eye(3), True)}, ValueError, "sigma: .*tuple"),
    "sigma-zero": ({"sigma": 0.0}, ValueError, "sigma: .*positive"),
    "mask-shape": ({"mask": MASK[:2]}, ValueError, r"mask: .*\(4, 12\).*\(2, 12\)"),
    "bounds-cross": (
        HELD
        | {"params0": START | OFFSETS}
        | {
            "bounds": (
                {"offset": np.zeros(CURVES), "amplitude": np.arange(CURVES) * 1.0},
                {"tau": 1.25, "amplitude": UPPER},
            )
        },
        ValueError,
        r"bounds: lower exceeds upper at amplitude\[3\] \(3 > 2.5\)",
    ),
    "bounds-shape": (
        {"bounds": ({"offset": np.zeros(3)}, None)},
        ValueError,
        r"bounds\[0\].*offset.*\(4,\).*\(3,\)",
    ),
    "solver": (
        {"solver": lmjax.LevenbergMarquardt(linear_solver=lmjax.QR())},
        ValueError,
        "solver: .*Schur.*QR",
    ),
    "jac": (
        {"solver": lmjax.LevenbergMarquardt(jac="rev")},
        ValueError,
        "solver: .*'fwd'.*'rev'",
    ),
    "likelihood-sigma": (
        {"likelihood": "poisson", "sigma": 1.0},
        ValueError,
        "sigma: expected none beside likelihood=",
    ),
    "likelihood-shape": (
        {"likelihood": lmjax.likelihoods.Poisson(np.ones(5))},
        ValueError,
        r"likelihood.read_noise: .*\(4, 12\).*\(5,\)",
    ),
    "likelihood-negative": (
        {"likelihood": "poisson", "y": -COUNTS_OF - 1.0},
        ValueError,
        "y: ",
    ),
    "solver-type": ({"solver": "lm"}, TypeError, "solver: .*'lm'"),
    "params-int": ({"params0": START | {"tau": 1}}, TypeError, "params0: .*tau"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_requests_are_named(name):
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        fit(**options)


BAD_SHARED = {
    "none": ({}, ValueError, "shared: .*at least one shared"),
    "all": (True, ValueError, "shared: .*not shared"),
    "unknown": ({"rate": True}, ValueError, "shared: .*'rate'.*tau"),
    "number": ({"tau": 1.0}, TypeError, r"shared: .*1\.0.*tau"),
    "array": ({"tau": np.array([True])}, TypeError, "shared: .*True or False"),
}


@pytest.mark.parametrize("name", BAD_SHARED)
def test_wrong_choices_of_what_is_shared_are_named(name):
    shared, error, message = BAD_SHARED[name]
    with pytest.raises(error, match=message):
        lmjax.global_fit(decay, T, Y, START, shared=shared)


def test_shared_is_known_inside_a_trace():
    got = jax.jit(lambda y: fit(y).params)(Y)
    assert got["tau"].shape == ()
    assert got["amplitude"].shape == (CURVES,)
