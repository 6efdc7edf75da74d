"""Derivatives of a fit against oracles that know nothing of the rule behind them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import lmjax
from benchmarks import nist

NIST = nist.load()
EPS = np.finfo(float).eps


def newton(cost, p, t):
    """Return one Newton step of ``cost(p, t)`` from p, in parameters scaled to 1."""
    size = jax.lax.stop_gradient(jnp.where(p == 0.0, 1.0, jnp.abs(p)))
    scaled = lambda q: cost(q * size, t)
    q = p / size
    return (q - jnp.linalg.solve(jax.hessian(scaled)(q), jax.grad(scaled)(q))) * size


def double_newton(cost, p, t):
    """Two steps from a constant p: exact to third order in p's derivative by t."""
    return newton(cost, newton(cost, jax.lax.stop_gradient(p), t), t)


def condition(cost, p, t):
    """Return cond(H) with parameters scaled to 1."""
    size = np.where(np.asarray(p) == 0.0, 1.0, np.abs(p))
    hessian = np.asarray(jax.hessian(cost)(jnp.asarray(p), t))
    return float(np.linalg.cond(hessian * np.outer(size, size)))


def worst(got, expected):
    """Return the relative error of the worst parameter: rows are parameters."""
    got, expected = np.asarray(got), np.asarray(expected)
    return np.max(
        np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    )


def nist_case(name):
    problem = next(problem for problem in NIST if problem.name == name)
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    start = jnp.asarray(problem.starts[1])

    def residual(p, y):
        return problem.model(p, x) - y

    def cost(p, y):
        return 0.5 * jnp.sum(residual(p, y) ** 2)

    def fit(y, derivative):
        sol = lmjax.least_squares(residual, start, (y,), derivative=derivative)
        return sol.params, (sol.params, sol.derivative_check)

    @quick.jit
    def truth(p, y):
        return jax.jacfwd(lambda y: double_newton(cost, p, y))(y)

    return cost, residual, jax.jit(fit), truth, y


def sensitivity(fit, derivative):
    return quick.jit(jax.jacrev(lambda y: fit(y, derivative), has_aux=True))


# These on every run; all 19 together take minutes.
KINDS = ("MGH10", "BoxBOD")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(p.name, marks=[] if p.name in KINDS else pytest.mark.slow)
        for p in NIST
    ],
)
def test_nist_sensitivity_equals_double_newton(name):
    cost, _, fit, truth, y = nist_case(name)
    got, (p, _) = sensitivity(fit, lmjax.Implicit())(y)
    bar = max(1e-8, 100 * condition(cost, p, y) * EPS)
    assert worst(got, truth(p, y)) <= bar


# the relative error of the shortcut, far beyond what the test above allows
@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param("ENSO", 0.4, marks=pytest.mark.slow),
        ("BoxBOD", 0.15),
        pytest.param("Rat43", 0.1, marks=pytest.mark.slow),
    ],
)
def test_gauss_newton_shortcut_fails_and_rho_tells(name, error):
    cost, residual, fit, truth, y = nist_case(name)
    got, (p, _) = sensitivity(fit, lmjax.Implicit("gauss_newton"))(y)
    assert worst(got, truth(p, y)) > error
    check = fit(y, lmjax.Implicit(check=True))[1][1]
    jac = np.asarray(jax.jacfwd(residual)(p, y))
    low = np.linalg.inv(np.linalg.cholesky(jac.T @ jac))
    rest = np.asarray(jax.hessian(cost)(p, y)) - jac.T @ jac
    rho = np.max(np.abs(np.linalg.eigvalsh(low @ rest @ low.T)))
    np.testing.assert_allclose(check.rho, rho, rtol=1e-2)
    assert bool(check.definite)
    assert int(check.rank) == int(check.num_free) == p.size
    assert float(check.error) < 1e-6


X = np.linspace(0.0, 3.0, 10)
NOISE = 0.2 * np.random.default_rng(5).normal(size=X.size)
Y = jnp.asarray(2.0 * np.exp(-0.8 * X) + 0.5 + NOISE)
START = jnp.array([1.0, 1.0, 0.0])


def decay(p, x):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def residual_of(p, y):
    return decay(p, X) - y


def cost_of(p, y):
    return 0.5 * jnp.sum(residual_of(p, y) ** 2)


def params_of(y, **options):
    return lmjax.least_squares(residual_of, START, (y,), **options).params


def differences(fn, t, step=1e-4):
    """Return central differences of a tight fit by a flat t, all in one batch."""
    shifts = step * jnp.eye(t.size)
    both = quick.jit(jax.vmap(fn))(t[None, :] + jnp.concatenate([shifts, -shifts]))
    return (both[: t.size] - both[t.size :]).T / (2.0 * step)


@pytest.fixture(scope="module")
def exact():
    """Return the derivative of the parameters by y, in reverse mode."""
    return quick.jit(jax.jacrev(params_of))(Y)


def test_forward_and_reverse_mode_agree(exact):
    forward, reverse = quick.jit(jax.jacfwd(params_of))(Y), exact
    np.testing.assert_allclose(forward, reverse, rtol=1e-12, atol=1e-14)
    p = params_of(Y)
    oracle = quick.jit(jax.jacfwd(lambda y: double_newton(cost_of, p, y)))(Y)
    np.testing.assert_allclose(reverse, oracle, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("mode", ["fwd-rev", "rev-rev"])
def test_second_derivatives_equal_double_newton(mode):
    y = Y[::2]
    x, p0 = X[::2], START[:2]

    def residual(p, y):
        return p[0] * jnp.exp(-p[1] * x) - y

    def fit(y):
        return lmjax.least_squares(residual, p0, (y,)).params

    cost = lambda p, y: 0.5 * jnp.sum(residual(p, y) ** 2)
    outer, inner = (
        jax.jacfwd if word == "fwd" else jax.jacrev for word in mode.split("-")
    )
    got = quick.jit(outer(inner(fit)))(y)
    p = fit(y)
    oracle = quick.jit(jax.jacfwd(jax.jacfwd(lambda y: double_newton(cost, p, y))))(y)
    np.testing.assert_allclose(got, oracle, rtol=1e-7, atol=1e-7)


BOXES = {
    "none active": ([-9.0, -9.0, -9.0], [9.0, 9.0, 9.0]),
    "lower active": ([-9.0, 1.2, -9.0], [9.0, 9.0, 9.0]),
    "upper active": ([-9.0, -9.0, -9.0], [1.5, 9.0, 9.0]),
    "two active": ([-9.0, 1.2, -9.0], [1.5, 9.0, 9.0]),
    "all active": ([-9.0, 1.2, -9.0], [1.5, 9.0, 0.3]),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[] if name == "two active" else pytest.mark.slow,
        )
        for name in BOXES
    ],
)
def test_bounds_equal_finite_differences(name):
    def fit(t):
        y, lower, upper = t[:10], t[10:13], t[13:]
        return params_of(y, bounds=(lower, upper))

    lower, upper = map(jnp.array, BOXES[name])
    t = jnp.concatenate([Y, lower, upper])
    got, forward = quick.jit(jax.jacrev(fit))(t), quick.jit(jax.jacfwd(fit))(t)
    np.testing.assert_allclose(got, forward, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got, differences(fit, t), rtol=1e-6, atol=1e-6)
    held = np.count_nonzero(np.abs(np.asarray(got[:, 10:])).sum(axis=0) > 0.0)
    assert held == {"n": 0, "l": 1, "u": 1, "t": 2, "a": 3}[name[0]]


def test_fixed_value_is_an_input_and_other_starts_are_not():
    def fit(t):
        sol = lmjax.least_squares(
            residual_of, t[10:], (t[:10],), fixed=jnp.array([False, True, False])
        )
        return sol.params

    t = jnp.concatenate([Y, START])
    got = quick.jit(jax.jacrev(fit))(t)
    np.testing.assert_allclose(got, differences(fit, t), rtol=1e-6, atol=1e-6)
    assert np.all(np.asarray(got[:, [10, 12]]) == 0.0)
    assert float(got[1, 11]) == 1.0


@pytest.mark.slow
def test_cost_residual_normal_matrix_and_statistics_have_derivatives():
    def fit(t):
        sol = lmjax.curve_fit(decay, X, t[:10], START, sigma=t[10:])
        low, high = sol.confidence_band(jnp.array([0.5, 4.0]))
        parts = (
            sol.params,
            sol.cost[None],
            sol.residual,
            sol.normal_matrix.ravel(),
            sol.covariance.ravel(),
            sol.stderr,
            sol.reduced_chi2[None],
            low,
            high,
        )
        return jnp.concatenate(parts)

    t = jnp.concatenate([Y, 0.2 + 0.05 * jnp.cos(jnp.arange(10.0))])
    got, forward = quick.jit(jax.jacrev(fit))(t), quick.jit(jax.jacfwd(fit))(t)
    np.testing.assert_allclose(got, forward, rtol=1e-12, atol=1e-11)
    size = np.maximum(np.abs(np.asarray(fit(t))), 1.0)[:, None]
    np.testing.assert_allclose(
        got / size, differences(fit, t) / size, rtol=1e-5, atol=1e-5
    )


LOSSES = {
    "cauchy": jnp.log1p,
    "geman_mcclure": lambda z: z / (1.0 + z),
    "soft_l1": lambda z: 2.0 * (jnp.sqrt(1.0 + z) - 1.0),
}


@pytest.mark.parametrize(
    "loss",
    [
        "cauchy",
        pytest.param("geman_mcclure", marks=pytest.mark.slow),
        pytest.param("soft_l1", marks=pytest.mark.slow),
    ],
)
def test_robust_fit_equals_double_newton_and_frozen_weights_do_not(loss, rng):
    x = np.linspace(0.0, 3.0, 30)
    y = 2.0 * np.exp(-0.8 * x) + 0.5 + 0.1 * rng.normal(size=30)
    y[::3] += rng.uniform(0.5, 1.5, 10)[: y[::3].size]  # 30 % outliers
    start, rho = jnp.array([2.0, 0.8, 0.5]), LOSSES[loss]

    def residual(p, y):
        return decay(p, x) - y

    def fit(t):
        return lmjax.least_squares(
            residual, start, (t[:-1],), loss=loss, loss_scale=t[-1]
        ).params

    def cost(p, t):
        z = (residual(p, t[:-1]) / t[-1]) ** 2
        return 0.5 * t[-1] ** 2 * jnp.sum(rho(z))

    t = jnp.concatenate([jnp.asarray(y), jnp.array([0.2])])
    p = fit(t)
    weights = jax.vmap(jax.grad(rho))((residual(p, t[:-1]) / t[-1]) ** 2)
    frozen = lambda p, t: 0.5 * jnp.sum(weights * residual(p, t[:-1]) ** 2)
    got = quick.jit(jax.jacrev(fit))(t)
    oracle, wrong = (
        quick.jit(jax.jacfwd(lambda t, c=c: double_newton(c, p, t)))(t)
        for c in (cost, frozen)
    )
    assert worst(got, oracle) < 1e-7
    assert worst(wrong[:, :-1], oracle[:, :-1]) > 0.05


@pytest.mark.slow
def test_shape_of_a_loss_can_be_learned():
    def rho(z, shape):
        return shape * jnp.log1p(z / shape)

    def fit(shape):
        return params_of(Y, loss=lambda z: rho(z, shape), loss_scale=0.2)

    def cost(p, shape):
        return 0.02 * jnp.sum(rho((residual_of(p, Y) / 0.2) ** 2, shape))

    shape = jnp.array(1.7)
    oracle = jax.jacfwd(lambda s: double_newton(cost, fit(shape), s))(shape)
    np.testing.assert_allclose(jax.jacrev(fit)(shape), oracle, rtol=1e-7)


def test_masked_points_and_weights():
    mask = jnp.arange(10) != 4

    def fit(t):
        y = jnp.where(mask, t[:10], jnp.nan)
        return lmjax.curve_fit(
            decay, X, y, START, sigma=t[10:], mask=mask, absolute_sigma=True
        ).params

    t = jnp.concatenate([Y, 0.2 + 0.05 * jnp.cos(jnp.arange(10.0))])
    got = quick.jit(jax.jacrev(fit))(t)
    np.testing.assert_allclose(got, differences(fit, t), rtol=1e-6, atol=1e-6)
    assert np.all(np.asarray(got[:, [4, 14]]) == 0.0)


def bad_batch(size):
    """Return data of good fits, and the same with a NaN fit and a singular one."""
    scale = jnp.linspace(0.5, 2.0, size)[:, None]
    good = scale * Y[None, :]
    gain = jnp.ones(size)
    bad = good.at[size // 3].set(jnp.nan)
    return (good, gain), (bad, gain.at[size // 2].set(0.0))


@pytest.mark.parametrize("failed", ["zero", "nan"])
def test_a_bad_lane_passes_nothing_on_and_spoils_no_neighbour(failed):
    size = 1000
    rule = lmjax.Implicit(failed=failed)

    def loss(y, gain):
        def residual(p):
            return jnp.concatenate([gain * decay(p, X) - y, jnp.zeros(1) * gain])

        sol = lmjax.least_squares(residual, START, derivative=rule)
        return jnp.sum(sol.params) + sol.cost

    gradient = jax.jit(jax.vmap(jax.grad(loss)))
    good, bad = bad_batch(size)
    expected, got = np.asarray(gradient(*good)), np.asarray(gradient(*bad))
    lanes = [size // 3, size // 2]
    np.testing.assert_array_equal(
        np.delete(got, lanes, axis=0), np.delete(expected, lanes, axis=0)
    )
    assert np.all(np.isfinite(expected))
    assert np.all(got[lanes] == 0.0 if failed == "zero" else np.isnan(got[lanes]))


@pytest.mark.slow
def test_a_bad_lane_adds_nothing_to_what_all_share():
    def total(shift, ys):
        residual = lambda p, y: decay(p, X) + shift - y

        def one(y):
            return lmjax.least_squares(residual, START, (y,)).params[1]

        return jnp.nansum(jax.vmap(one)(ys))

    ys = Y[None, :] * jnp.array([[1.0], [2.0], [3.0]])
    shift = jnp.asarray(0.1 * X)
    both = (
        quick.jit(jax.grad(total)),
        quick.jit(jax.grad(jax.grad(lambda s, y: total(s * shift, y)))),
    )
    for fn, at in zip(both, (shift, jnp.array(1.0)), strict=True):
        got = fn(at, ys.at[1].set(jnp.nan))
        np.testing.assert_allclose(got, fn(at, ys[::2]), rtol=1e-9)


def test_singular_fit_has_the_derivative_of_least_norm():
    x = jnp.linspace(0.5, 2.0, 8)
    y = 1.5 * x + 0.1 * jnp.cos(7.0 * x)

    def fit(y):
        residual = lambda p: p[0] * p[1] * x - y
        rule = lmjax.Implicit(check=True)
        sol = lmjax.least_squares(residual, jnp.array([1.0, 1.0]), derivative=rule)
        return sol.params, (sol.params, sol.derivative_check)

    got, (p, check) = quick.jit(jax.jacrev(fit, has_aux=True))(y)
    # p0 p1 = x.y / x.x; in units of the columns of J both move alike
    product = np.asarray(x / jnp.sum(x * x))
    expected = 0.5 * np.stack([product / p[1], product / p[0]])
    np.testing.assert_allclose(got, expected, rtol=1e-7)
    assert int(check.rank) == 1
    assert int(check.num_free) == 2
    assert not bool(check.definite)


@pytest.mark.slow
def test_polish_squares_the_error():
    loose = lmjax.LevenbergMarquardt(ftol=1e-3)
    oracle = jax.jacfwd(lambda y: double_newton(cost_of, params_of(Y), y))(Y)
    errors = [
        worst(
            jax.jacrev(
                lambda y, polish=polish: params_of(
                    y, solver=loose, derivative=lmjax.Implicit(polish=polish)
                )
            )(Y),
            oracle,
        )
        for polish in (False, True)
    ]
    check = lmjax.least_squares(
        residual_of, START, (Y,), solver=loose, derivative=lmjax.Implicit(check=True)
    ).derivative_check
    assert errors[0] > 1e-5
    assert errors[1] < 3.0 * errors[0] ** 2
    # up to a constant that only third derivatives know
    assert errors[0] / 30.0 < float(check.error) < errors[0] * 30.0


def test_memory_of_the_gradient_does_not_depend_on_the_number_of_steps():
    def temporary(max_steps):
        solver = lmjax.LevenbergMarquardt(max_steps=max_steps)
        gradient = jax.grad(lambda y: jnp.sum(params_of(y, solver=solver)))
        analysis = jax.jit(gradient).lower(Y).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary(10) == temporary(10_000) < 1e5


def test_float32_gradient(exact):
    y = np.asarray(Y, np.float32)
    p0 = np.asarray(START, np.float32)
    x = jnp.asarray(X, jnp.float32)
    model = lambda p, x: p[0] * jnp.exp(-p[1] * x) + p[2]
    rule = lmjax.Implicit(polish=True)
    fit = lambda y: lmjax.curve_fit(model, x, y, p0, derivative=rule).params
    got = jax.jit(jax.jacrev(fit))(jnp.asarray(y))
    assert got.dtype == jnp.float32
    assert worst(got, exact) < 1e-4


@pytest.mark.slow
def test_many_parameters_by_conjugate_gradients():
    n, m = 130, 140
    rng = np.random.default_rng(3)
    a = jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(m) * np.logspace(0, 1, n))
    y = jnp.asarray(rng.normal(size=m))

    def fit(y):
        residual = lambda p: jnp.sinh(a @ p) - y
        return lmjax.least_squares(residual, jnp.zeros(n)).params

    cost = lambda p, y: 0.5 * jnp.sum((jnp.sinh(a @ p) - y) ** 2)
    weights = jnp.asarray(rng.normal(size=n))
    got = quick.jit(jax.grad(lambda y: weights @ fit(y)))(y)
    p = fit(y)
    cross = jax.jacfwd(jax.grad(cost), argnums=1)(p, y)
    expected = -jnp.linalg.solve(jax.hessian(cost)(p, y), cross).T @ weights
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)


def test_own_jacobian_is_not_asked_for_derivatives(exact):
    def jac(p, y):
        call = lambda p: np.asarray(jax.jacfwd(residual_of)(jnp.asarray(p), Y))
        return jax.pure_callback(call, jax.ShapeDtypeStruct((10, 3), float), p)

    solver = lmjax.LevenbergMarquardt(jac=jac)
    got = jax.jacrev(lambda y: params_of(y, solver=solver))(Y)
    np.testing.assert_allclose(got, exact, rtol=1e-9)


def test_one_step_is_the_gauss_newton_derivative(exact):
    got = quick.jit(jax.jacrev(lambda y: params_of(y, derivative=lmjax.OneStep())))(Y)
    shortcut = lmjax.Implicit("gauss_newton")
    expected = quick.jit(jax.jacrev(lambda y: params_of(y, derivative=shortcut)))(Y)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)
    assert worst(got, exact) > 1e-3


def test_unrolled_steps_have_the_derivative_of_what_they_compute():
    def few(start, num_steps):
        rule = lmjax.Unrolled(num_steps)
        residual = lambda p: jnp.exp(p) - Y[:3]
        return lmjax.least_squares(residual, start, derivative=rule).params

    # one Gauss-Newton step with the first lambda of 1, by hand
    def by_hand(p):
        jac = bend = jnp.exp(p) * jnp.ones(3)
        scale = jnp.sum(jac**2)
        left_out = jnp.linalg.norm(jnp.exp(p) - Y[:3]) * jnp.linalg.norm(bend)
        lam = jax.lax.stop_gradient(scale + left_out)
        return p - jac @ (jnp.exp(p) - Y[:3]) / (scale + lam)

    start = jnp.array(0.3)
    one, many = (
        quick.jit(jax.value_and_grad(lambda p, num=num: few(p, num)))(start)
        for num in (1, 30)
    )
    np.testing.assert_allclose(one, jax.value_and_grad(by_hand)(start), rtol=1e-12)
    assert abs(float(many[1])) < 1e-6


@pytest.mark.slow
def test_unrolled_derivative_converges_to_the_implicit_one(exact):
    unrolled = lambda y: params_of(y, derivative=lmjax.Unrolled(60))
    np.testing.assert_allclose(unrolled(Y), params_of(Y), rtol=1e-10)
    assert worst(quick.jit(jax.jacrev(unrolled))(Y), exact) < 1e-6


@pytest.mark.parametrize("derivative", [lmjax.OneStep(), lmjax.Unrolled(8)])
def test_alternatives_survive_bounds_and_a_bad_lane(derivative):
    def loss(y, lower):
        bounds = (jnp.stack([-9.0 + 0.0 * lower, lower, -9.0 + 0.0 * lower]), None)
        return jnp.sum(params_of(y, bounds=bounds, derivative=derivative))

    ys = jnp.stack([Y, Y.at[2].set(jnp.nan), 2.0 * Y])
    got = quick.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(ys, jnp.full(3, 1.2))
    assert all(np.all(np.isfinite(g)) for g in got)
    assert np.all(np.asarray(got[0][1]) == 0.0)
    # what holds rate at its bound moves the sum
    assert np.all(np.abs(np.asarray(got[1])[[0, 2]]) > 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lmjax.Implicit(hessian="bfgs"), "hessian: expected one of full"),
        (lambda: lmjax.Implicit(failed="raise"), "failed: expected one of zero"),
        (lambda: lmjax.Unrolled(0), "num_steps: expected an int >= 1"),
    ],
)
def test_bad_choice_raises(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_derivative_is_named():
    with pytest.raises(TypeError, match="derivative: expected Implicit"):
        params_of(Y, derivative="implicit")


def test_a_module_that_contains_a_fit_trains():
    class Layer(eqx.Module):
        shift: jax.Array
        name: str = eqx.field(static=True)

        def __call__(self, y):
            residual = lambda p: decay(p, X) + self.shift - y
            return lmjax.least_squares(residual, START).params[2]

    layer = Layer(jnp.array(0.1), "background")
    ys = Y[None, :] + jnp.array([[0.0], [1.0]])

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(layer, ys):
        return jnp.mean(eqx.filter_vmap(layer)(ys))

    # the shift is taken from the offset, one for one
    np.testing.assert_allclose(slope(layer, ys).shift, -1.0, rtol=1e-9)


def test_a_warm_start_carries_parameters_and_damping_over():
    def steps(start, damping):
        solver = lmjax.LevenbergMarquardt(damping=lmjax.Nielsen(initial=damping))
        sol = lmjax.least_squares(residual_of, start, (1.01 * Y,), solver=solver)
        return int(sol.num_steps)

    before = lmjax.least_squares(residual_of, START, (Y,))
    assert steps(before.params, before.damping) < steps(before.params, 1.0)
    assert steps(before.params, before.damping) < steps(START, 1.0)


def test_without_x64_everything_stays_float32(exact):
    x, y, start = (np.asarray(a, np.float32) for a in (X, Y, START))
    with jax.enable_x64(False):
        fit = lambda y: lmjax.curve_fit(decay, x, y, start).params
        got = jax.jit(jax.jacrev(fit))(jnp.asarray(y))
    assert got.dtype == jnp.float32
    assert worst(got, exact) < 1e-3


@pytest.mark.parametrize("n", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_batch_of_gradients_calls_no_lapack(n, rng):
    a = jnp.asarray(rng.normal(size=(20, n)))
    ys = jnp.asarray(rng.normal(size=(3, 20)))

    def loss(y):
        residual = lambda p: jnp.sinh(a @ p) - y
        return jnp.sum(lmjax.least_squares(residual, jnp.zeros(n)).params ** 2)

    gradient = quick.jit(jax.vmap(jax.grad(loss)))
    assert "lapack" not in gradient.lower(ys).as_text()
    alone = jnp.stack([jax.grad(loss)(y) for y in ys])
    np.testing.assert_allclose(gradient(ys), alone, rtol=1e-9, atol=1e-12)
