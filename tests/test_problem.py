"""Problems as users write them: pytrees, fixed parameters, Jacobians, dtypes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.optimize
from tolerances import TOL, assert_close

import lmjax
from lmjax import ParamStatus

T = np.linspace(0.0, 4.0, 25)
Y = 3.0 * np.exp(-0.8 * T) + 0.5 + 0.05 * np.sin(9.0 * T)


def decay(a, k, c, t):
    return a * jnp.exp(-k * t) + c


def flat(p, t, y):
    return decay(p[0], p[1], p[2], t) - y


START = np.array([1.0, 1.5, 0.1])


def jac_numpy(p):
    e = np.exp(-p[1] * T)
    return np.stack([e, -p[0] * T * e, np.ones_like(T)], axis=1)


@pytest.fixture(scope="module")
def minimum():
    fn = lambda p: p[0] * np.exp(-p[1] * T) + p[2] - Y
    tol = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    return scipy.optimize.least_squares(fn, START, jac_numpy, **tol).x


class Decay(eqx.Module):
    """A callable model with parameters, a plain field and a static one."""

    a: jax.Array
    k: jax.Array
    c: jax.Array
    label: str = eqx.field(static=True, default="decay")

    def __call__(self, t):
        return decay(self.a, self.k, self.c[0], t)


# ---- parameters as pytrees

PYTREES = {
    "dict": (
        {"a": np.array(1.0), "k": np.array(1.5), "c": np.array(0.1)},
        lambda p: (p["a"], p["k"], p["c"]),
    ),
    "nested": (
        {"decay": {"amp": np.array([1.0]), "rate": np.array(1.5)}, "c": np.array(0.1)},
        lambda p: (p["decay"]["amp"][0], p["decay"]["rate"], p["c"]),
    ),
    "list": ([np.array(1.0), np.array(1.5), np.array(0.1)], lambda p: p),
    "tuple": ((np.array([1.0, 1.5]), np.array(0.1)), lambda p: (*p[0], p[1])),
    "floats": ({"a": 1.0, "k": 1.5, "c": 0.1}, lambda p: (p["a"], p["k"], p["c"])),
    "matrix": (
        np.array([[1.0, 1.5], [0.1, 0.0]]),
        lambda p: (p[0, 0], p[0, 1], p[1, 0] + p[1, 1]),
    ),
    "module": (
        Decay(jnp.array(1.0), jnp.array(1.5), jnp.array([0.1])),
        lambda p: (p.a, p.k, p.c[0]),
    ),
}


@pytest.mark.parametrize("name", PYTREES)
def test_parameters_may_be_any_pytree(name, minimum):
    start, unpack = PYTREES[name]
    residual = lambda p, t, y: decay(*unpack(p), t) - y
    sol = lmjax.least_squares(residual, start, (T, Y))
    assert jax.tree.structure(sol.params) == jax.tree.structure(start)
    shapes = lambda tree: [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    assert shapes(sol.params) == shapes(start)
    assert_close(np.array([float(v) for v in unpack(sol.params)]), minimum)


def test_single_number_is_a_parameter():
    sol = lmjax.least_squares(lambda p: jnp.stack([p - 1.0, p - 4.0]), 0.0)
    assert sol.params.shape == ()
    assert_close(sol.params, 2.5)


def test_module_is_a_model_for_curve_fit(minimum):
    start = Decay(jnp.array(1.0), jnp.array(1.5), jnp.array([0.1]))
    fit = lmjax.curve_fit(start, T, Y)
    assert isinstance(fit.params, Decay)
    a, k, c = minimum
    assert_close(fit.params, Decay(jnp.array(a), jnp.array(k), jnp.array([c])))
    assert_close(fit.params(T), a * np.exp(-k * T) + c)


class Polynomial(eqx.Module):
    """A model with an integer that is neither static nor a parameter."""

    coefficients: jax.Array
    offset: float
    degree: int

    def __call__(self, x):
        powers = [self.coefficients[j] * x ** (j + 1) for j in range(self.degree)]
        return self.offset + sum(powers)


def test_module_fields_that_are_no_floats_stay_as_they_are():
    y = np.polyval([0.5, -2.0, 1.0], T)
    fit = lmjax.curve_fit(Polynomial(jnp.zeros(2), 0.0, 2), T, y)
    assert_close(fit.params.coefficients, np.array([-2.0, 0.5]))
    assert_close(fit.params.offset, 1.0)
    assert type(fit.params.degree) is int
    assert fit.params.degree == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda r: {"first": r[:10], "rest": r[10:].reshape(3, 5)},
        lambda r: [r[:1].sum(), r[1:]],
        lambda r: r.reshape(5, 5),
    ],
    ids=["dict", "list-with-scalar", "matrix"],
)
def test_residual_may_be_any_pytree(build, minimum):
    sol = lmjax.least_squares(lambda p, t, y: build(flat(p, t, y)), START, (T, Y))
    assert_close(sol.params, minimum)
    a, k, c = minimum
    assert_close(sol.residual, build(a * np.exp(-k * T) + c - Y))


# ---- fixed parameters

NAMED = {"a": 1.0, "k": 1.5, "c": np.array([0.1, 0.3])}


def named(p, t, y):
    return decay(p["a"], p["k"], p["c"][0] + p["c"][1], t) - y


def linear_minimum(k, offset):
    """Return (a, c) for a rate k, where offset + c is the constant term."""
    columns = np.stack([np.exp(-k * T), np.ones_like(T)], axis=1)
    return np.linalg.lstsq(columns, Y - offset, rcond=None)[0]


def test_partial_dict_fixes_whole_leaves():
    sol = lmjax.least_squares(
        named, NAMED, (T, Y), fixed={"k": True, "c": np.array([True, False])}
    )
    a, c = linear_minimum(1.5, 0.1)
    expected = {"a": a, "k": 1.5, "c": np.array([0.1, c])}
    assert_close(sol.params, expected)
    assert float(sol.params["k"]) == 1.5
    assert float(sol.params["c"][0]) == 0.1
    fixed = np.array([False, True, False, True])  # a, c[0], c[1], k
    np.testing.assert_array_equal(sol.flat_status == ParamStatus.FIXED, fixed)


def test_boolean_array_fixes_elements():
    fixed = np.array([False, True, False])
    sol = lmjax.least_squares(flat, START, (T, Y), fixed=fixed)
    a, c = linear_minimum(1.5, 0.0)
    assert_close(sol.params, np.array([a, 1.5, c]))


def test_fixed_flags_may_be_traced():
    fit = quick.jit(lambda f: lmjax.least_squares(flat, START, (T, Y), fixed=f))
    a, c = linear_minimum(1.5, 0.0)
    assert_close(fit(np.array([False, True, False])).params, np.array([a, 1.5, c]))
    # everything fixed is a converged fit of the start
    sol = fit(np.array([True, True, True]))
    np.testing.assert_array_equal(sol.params, START)
    assert bool(sol.success)
    r = START[0] * np.exp(-START[1] * T) + START[2] - Y
    assert_close(sol.cost, 0.5 * np.sum(r**2))


def test_fixed_flags_may_differ_per_fit(minimum):
    fit = lambda f: lmjax.least_squares(flat, START, (T, Y), fixed=f).params
    got = quick.jit(jax.vmap(fit))(np.array([[False] * 3, [False, True, False]]))
    a, c = linear_minimum(1.5, 0.0)
    assert_close(got, np.array([minimum, [a, 1.5, c]]))


def test_one_flag_fixes_everything():
    sol = lmjax.least_squares(flat, START, (T, Y), fixed=True)
    np.testing.assert_array_equal(sol.params, START)
    assert bool(sol.success)


def test_fixed_and_bounded_parameters_combine():
    sol = lmjax.least_squares(
        named, NAMED, (T, Y), fixed={"k": True, "c": True}, bounds=({}, {"a": 2.0})
    )
    assert_close(sol.params, {"a": 2.0, "k": 1.5, "c": np.array([0.1, 0.3])})


def test_unknown_name_in_fixed_lists_the_names():
    with pytest.raises(ValueError, match=r"fixed: .*'rate'.*a, c, k"):
        lmjax.least_squares(named, NAMED, (T, Y), fixed={"rate": True})


# ---- Jacobians


def fit_with_jac(jac, residual=flat, start=START):
    solver = lmjax.LevenbergMarquardt(jac=jac)
    return lmjax.least_squares(residual, start, (T, Y), solver=solver)


def jac_flat(p, t, y):
    e = jnp.exp(-p[1] * t)
    return jnp.stack([e, -p[0] * t * e, jnp.ones_like(t)], axis=1)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_modes_of_autodiff_agree(mode, minimum):
    sol = fit_with_jac(mode)
    assert sol.jacobian == mode
    assert_close(sol.params, minimum)
    jac = jac_numpy(minimum)
    assert_close(sol.normal_matrix, jac.T @ jac)


@pytest.mark.parametrize(
    ("m", "mode"), [(2, "rev"), (3, "fwd")], ids=["few-residuals", "square"]
)
def test_default_mode_takes_the_fewer_passes(m, mode):
    sol = lmjax.least_squares(lambda p: p[:m] - 1.0, jnp.zeros(3))
    assert sol.jacobian == mode


def test_own_jacobian_as_an_array(minimum):
    sol = fit_with_jac(jac_flat)
    assert sol.jacobian == "user"
    assert_close(sol.params, minimum)


def test_own_jacobian_is_the_one_that_is_used():
    # with the sign wrong every step climbs, so none that rounding shows is taken
    sol = fit_with_jac(lambda p, t, y: -jac_flat(p, t, y))
    np.testing.assert_allclose(sol.params, START, rtol=1e-11)
    assert not sol.success
    assert not bool(sol.success)


def jac_named(p, t, y):
    e = jnp.exp(-p["k"] * t)
    one = jnp.ones_like(t)
    return {"a": e, "k": -p["a"] * t * e, "c": jnp.stack([one, 2.0 * one], axis=1)}


def jac_named_rows(p, t, y):
    """The same for a residual ``{"head": ..., "tail": ...}``."""
    jac = jac_named(p, t, y)
    cut = lambda rows: {name: block[rows] for name, block in jac.items()}
    return {"head": cut(slice(0, 10)), "tail": cut(slice(10, None))}


def named_twice(p, t, y):
    return decay(p["a"], p["k"], p["c"][0] + 2.0 * p["c"][1], t) - y


def named_rows(p, t, y):
    r = named_twice(p, t, y)
    return {"head": r[:10], "tail": r[10:]}


@pytest.mark.parametrize(
    ("residual", "jac"),
    [(named_twice, jac_named), (named_rows, jac_named_rows)],
    ids=["params", "params-and-residual"],
)
def test_own_jacobian_as_a_pytree(residual, jac, minimum):
    p = fit_with_jac(jac, residual, NAMED).params
    constant = p["c"][0] + 2.0 * p["c"][1]
    assert_close(np.array([p["a"], p["k"], constant]), minimum)


def test_own_jacobian_of_a_model_is_weighted(minimum):
    model = lambda p, t: decay(p[0], p[1], p[2], t)
    solver = lmjax.LevenbergMarquardt(jac=lambda p, t: jac_flat(p, t, None))
    sigma = 0.1 + 0.05 * T
    got = lmjax.curve_fit(model, T, Y, START, sigma=sigma, solver=solver)
    auto = lmjax.curve_fit(model, T, Y, START, sigma=sigma)
    assert got.jacobian == "user"
    assert_close(got.params, auto.params)
    assert_close(got.covariance, auto.covariance)
    jac = jac_numpy(np.asarray(got.params)) / sigma[:, None]
    assert_close(got.normal_matrix, jac.T @ jac)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda jac: jac[:, :2],
        lambda jac: jac[:-1],
        lambda jac: jac.T,
    ],
    ids=["columns", "rows", "transposed"],
)
def test_own_jacobian_of_wrong_shape_is_named(wrong):
    jac = lambda p, t, y: wrong(jac_flat(p, t, y))
    with pytest.raises(ValueError, match=r"jac: .*25 rows by 3 columns"):
        fit_with_jac(jac)


# ---- requests that cannot be met


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ({"n": 1, "x": 1.0}, TypeError, r"params0: .*int.*\['n'\].*1\.0 instead of 1"),
        ({"z": np.array(1j)}, TypeError, r"params0: .*\['z'\]"),
        ({"b": np.array([True])}, TypeError, r"params0: .*bool.*\['b'\]"),
        ({}, ValueError, r"params0: .*at least one"),
        (np.zeros(0), ValueError, r"params0: .*at least one"),
    ],
    ids=["integer", "complex", "boolean", "no-leaves", "no-elements"],
)
def test_wrong_parameters_are_named(start, error, message):
    with pytest.raises(error, match=message):
        lmjax.least_squares(lambda p: jnp.ones(3), start)


@pytest.mark.parametrize(
    ("residual", "error"),
    [
        (lambda p: jax.lax.complex(p, p), TypeError),
        (lambda p: p[:0], ValueError),
        (lambda p: {}, ValueError),
    ],
    ids=["complex", "no-elements", "no-leaves"],
)
def test_wrong_residuals_are_named(residual, error):
    with pytest.raises(error, match="residual_fn: "):
        lmjax.least_squares(residual, np.ones(2))


@pytest.mark.parametrize("args", [T, None, 3.0], ids=["array", "none", "number"])
def test_args_must_be_a_tuple(args):
    with pytest.raises(TypeError, match=r"args: expected a tuple.*\(data,\)"):
        lmjax.least_squares(lambda p, t: p - t, 1.0, args)


# ---- dtypes


def test_float32_fit_stays_in_float32(minimum):
    start, t, y = (a.astype("float32") for a in (START, T, Y))
    sol = lmjax.least_squares(flat, start, (t, y))
    floats = [sol.params, sol.cost, sol.residual, sol.normal_matrix, sol.damping]
    assert {leaf.dtype.name for leaf in floats} == {"float32"}
    assert bool(sol.success)
    np.testing.assert_allclose(sol.params, minimum, rtol=TOL[np.dtype("float32")])


def test_float32_parameters_follow_float64_data(minimum):
    # the user's own function mixes the two, which strict promotion forbids
    with jax.numpy_dtype_promotion("standard"):
        sol = lmjax.least_squares(flat, START.astype("float32"), (T, Y))
    assert sol.params.dtype == "float64"
    assert_close(sol.params, minimum)


@pytest.mark.parametrize("x_dtype", ["float32", "float64"])
def test_python_numbers_start_a_fit_of_float32_data(x_dtype, minimum):
    start = {"a": 1.0, "k": 1.5, "c": 0.1}
    model = lambda p, t: decay(p["a"], p["k"], p["c"], t)
    x, y = T.astype(x_dtype), Y.astype("float32")
    with jax.numpy_dtype_promotion("standard"):
        fit = lmjax.curve_fit(model, x, y, start)
    assert bool(fit.success)
    # a fit that misjudges its own rounding wanders about for a hundred steps
    assert int(fit.num_steps) < 40
    got = np.array([fit.params[name] for name in "akc"])
    np.testing.assert_allclose(got, minimum, rtol=TOL[np.dtype("float32")])


def test_leaves_of_two_dtypes_meet_in_the_wider(minimum):
    start = {"a": np.float32(1.0), "k": np.float64(1.5), "c": np.float32(0.1)}
    residual = lambda p, t, y: decay(p["a"], p["k"], p["c"], t) - y
    with jax.numpy_dtype_promotion("standard"):
        sol = lmjax.least_squares(residual, start, (T, Y))
    assert_close(np.array([sol.params[name] for name in "akc"]), minimum)


X = np.linspace(0.0, 3.0, 12)


@pytest.mark.parametrize(
    ("error", "message", "request_fit"),
    [
        (TypeError, r"fixed\['rate'\]: expected booleans", {"fixed": {"rate": 0.0}}),
        (ValueError, "loss_scale: .* positive", {"loss": "huber", "loss_scale": -1.0}),
        (TypeError, "absolute_sigma: expected a bool", {"absolute_sigma": "no"}),
        (TypeError, "sigma: expected real numbers", {"sigma": np.full(12, 1j)}),
        (TypeError, "params0: expected float32", {"params0": {"rate": np.float16(1)}}),
        (TypeError, "params0: .*write 1.0", {"params0": {"rate": True}}),
    ],
    ids=["fixed", "loss_scale", "absolute_sigma", "sigma", "float16", "bool"],
)
def test_wrong_keyword_is_named(error, message, request_fit):
    model = lambda p, x: jnp.exp(-p["rate"] * x)
    given = {"x": X, "y": np.exp(-X), "params0": {"rate": 0.5}} | request_fit
    with pytest.raises(error, match=message):
        lmjax.curve_fit(model, **given)


@pytest.mark.parametrize(
    ("error", "message", "setting"),
    [
        (TypeError, "damping: .*Nielsen", {"damping": "nielsen"}),
        (TypeError, "damping: .*Nielsen", {"damping": lmjax.Nielsen}),
        (TypeError, "linear_solver: .*QR", {"linear_solver": "qr"}),
        (TypeError, "linear_solver: .*QR", {"linear_solver": lmjax.QR}),
        (ValueError, "jac: expected 'fwd', 'rev' or a function", {"jac": 3}),
        (ValueError, "max_steps: expected an int >= 1, got True", {"max_steps": True}),
        (ValueError, "max_steps: expected an int >= 1, got 5.0", {"max_steps": 5.0}),
    ],
)
def test_wrong_setting_is_named(error, message, setting):
    with pytest.raises(error, match=message):
        lmjax.LevenbergMarquardt(**setting)


def test_number_of_steps_may_be_of_numpy():
    assert lmjax.LevenbergMarquardt(max_steps=np.int64(7)).max_steps == 7
    assert lmjax.Unrolled(np.int32(3)) == lmjax.Unrolled(3)


def test_model_in_numpy_is_told_to_use_jax_numpy():
    with pytest.raises(TypeError, match=r"jax.numpy \(jnp.exp for np.exp\)"):
        lmjax.curve_fit(lambda p, x: np.exp(p * x), X, X, 1.0)
    with pytest.raises(TypeError, match=r"jax.numpy \(jnp.exp for np.exp\)"):
        lmjax.least_squares(np.exp, np.ones(2))
