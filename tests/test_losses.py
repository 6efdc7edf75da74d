"""Robust losses: formulas, their row scales, and robust fits against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from tolerances import assert_close

import lmjax
from lmjax import losses
from lmjax._problem.terms import LossTerm

# rho, rho' and rho'' in closed form (z = (r/c)^2), in plain numpy
CLOSED_FORMS = {
    "linear": (lambda z: z, lambda z: 1 + 0 * z, lambda z: 0 * z),
    "huber": (
        lambda z: np.where(z <= 1, z, 2 * z**0.5 - 1),
        lambda z: np.where(z <= 1, 1, np.maximum(z, 1) ** -0.5),
        lambda z: np.where(z <= 1, 0, -0.5 * np.maximum(z, 1) ** -1.5),
    ),
    "soft_l1": (
        lambda z: 2 * ((1 + z) ** 0.5 - 1),
        lambda z: (1 + z) ** -0.5,
        lambda z: -0.5 * (1 + z) ** -1.5,
    ),
    "cauchy": (
        lambda z: np.log(1 + z),
        lambda z: 1 / (1 + z),
        lambda z: -1 / (1 + z) ** 2,
    ),
    "arctan": (
        np.arctan,
        lambda z: 1 / (1 + z**2),
        lambda z: -2 * z / (1 + z**2) ** 2,
    ),
    "tukey": (
        lambda z: np.where(z <= 1, z - z**2 + z**3 / 3, 1 / 3),
        lambda z: np.where(z <= 1, (1 - z) ** 2, 0),
        lambda z: np.where(z <= 1, -2 * (1 - z), 0),
    ),
    "welsch": (
        lambda z: 1 - np.exp(-z),
        lambda z: np.exp(-z),
        lambda z: -np.exp(-z),
    ),
    "geman_mcclure": (
        lambda z: z / (1 + z),
        lambda z: (1 + z) ** -2.0,
        lambda z: -2 * (1 + z) ** -3.0,
    ),
}
NAMES = list(CLOSED_FORMS)
Z = np.array([0.0, 0.04, 0.3, 0.9, 2.0, 9.0, 400.0])
DTYPES = ["float64", "float32"]


def slope_of(name):
    """Return rho' by autodiff, for arrays."""
    return jax.vmap(jax.grad(getattr(losses, name)))


def test_every_loss_has_a_closed_form_here():
    assert set(losses.NAMES) == set(NAMES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_its_closed_form(name, dtype):
    got = getattr(losses, name)(jnp.asarray(Z, dtype))
    assert got.dtype == dtype
    assert_close(got, CLOSED_FORMS[name][0](Z), factor=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_slope_equals_its_closed_form(name):
    assert_close(slope_of(name)(jnp.asarray(Z)), CLOSED_FORMS[name][1](Z))


@pytest.mark.parametrize("name", NAMES)
def test_slope_at_zero_is_one(name):
    assert float(jax.grad(getattr(losses, name))(0.0)) == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_tiny_residuals_keep_every_digit(name, dtype):
    z = jnp.asarray([1e-12, 1e-9], dtype)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(getattr(losses, name)(z), z, rtol=4 * eps + 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_a_residual_of_zero_is_zero(name):
    rho = getattr(losses, name)
    grad = jax.grad(lambda r: jnp.sum(LossTerm(rho, 0.5).half_terms(r)))(jnp.zeros(2))
    np.testing.assert_array_equal(grad, np.zeros(2))


@pytest.mark.parametrize("name", NAMES)
def test_half_terms_carry_half_the_squared_scale(name):
    r, c = np.array([-3.0, 0.1, 0.5, 8.0]), 0.7
    got = LossTerm(getattr(losses, name), c).half_terms(jnp.asarray(r))
    assert_close(got, 0.5 * c**2 * CLOSED_FORMS[name][0]((r / c) ** 2))


@pytest.mark.parametrize("name", NAMES)
def test_scaled_rows_give_the_gradient_of_the_robust_cost(name, rng):
    jac, p, offset = rng.normal(size=(9, 3)), rng.normal(size=3), rng.normal(size=9)
    c, rho = 0.8, getattr(losses, name)
    r = jac @ p - 3.0 * offset
    residual, b = LossTerm(rho, c).gauss_newton_rows(jnp.asarray(r))
    got = (np.asarray(b)[:, None] * jac).T @ np.asarray(residual)
    cost = lambda p: jnp.sum(LossTerm(rho, c).half_terms(jac @ p - 3.0 * offset))
    assert_close(got, jax.grad(cost)(jnp.asarray(p)))
    assert_close(got, jac.T @ (CLOSED_FORMS[name][1]((r / c) ** 2) * r))


@pytest.mark.parametrize("name", NAMES)
def test_concave_losses_are_clamped_to_plain_reweighting(name):
    r = jnp.sqrt(jnp.asarray(Z))
    residual, b = LossTerm(getattr(losses, name), 1.0).gauss_newton_rows(r)
    weight = np.sqrt(CLOSED_FORMS[name][1](Z))
    assert_close((residual, b), (weight * np.sqrt(Z), weight))


def test_convex_loss_gets_the_exact_curvature_along_the_residual():
    # rho = z + z^2 at z = 1/2: rho' = 2, rho'' = 2, so b^2 = rho' + 2 z rho'' = 4 and
    # a = rho' / b = 1
    r = jnp.sqrt(jnp.array([0.5]))
    residual, b = LossTerm(lambda z: z + z**2, 1.0).gauss_newton_rows(r)
    assert_close((residual, b), (np.sqrt([0.5]), np.array([2.0])))


def test_falling_loss_counts_as_flat():
    residual, b = LossTerm(lambda z: -z, 1.0).gauss_newton_rows(jnp.ones(1))
    np.testing.assert_array_equal([residual, b], np.zeros((2, 1)))


# ---- fits of a line with outliers

X = np.linspace(0.0, 4.0, 15)
NOISE = np.random.default_rng(5).normal(size=15)
Y = 0.5 + 2.0 * X + 0.1 * NOISE
Y[[3, 9]] += [6.0, -4.0]
# not so far from the minimum that losses which are not convex find another one
START = np.array([0.3, 1.8])


def line(p, x, y):
    return p[0] + p[1] * x - y


def scipy_fit(name, scale):
    """Return SciPy's robust fit; losses it lacks are handed over in closed form."""
    loss = name
    if name not in ("linear", "huber", "soft_l1", "cauchy", "arctan"):
        loss = lambda z: np.stack([form(z) for form in CLOSED_FORMS[name]])
    tol = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    jac = lambda p, x, y: np.stack([np.ones_like(x), x], axis=1)
    return scipy.optimize.least_squares(
        line, START, jac, args=(X, Y), loss=loss, f_scale=scale, max_nfev=1000, **tol
    )


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", NAMES)
def test_robust_fit_agrees_with_scipy(name):
    expected = scipy_fit(name, 0.4)
    sol = lmjax.least_squares(line, START, (X, Y), loss=name, loss_scale=0.4)
    assert bool(sol.success)
    # SciPy's own convergence on a robust cost is linear: it ends at 7 digits or so
    np.testing.assert_allclose(sol.cost, expected.cost, rtol=1e-10)
    np.testing.assert_allclose(sol.params, expected.x, rtol=2e-6)


def test_robust_fit_in_float32_agrees_with_scipy():
    start, x, y = (np.asarray(a, "float32") for a in (START, X, Y))
    sol = lmjax.least_squares(line, start, (x, y), loss="soft_l1", loss_scale=0.4)
    assert sol.params.dtype == "float32"
    assert_close(sol.params, scipy_fit("soft_l1", 0.4).x)


@pytest.mark.parametrize("name", NAMES[1:])
def test_huge_loss_scale_is_plain_least_squares(name):
    expected = np.polyfit(X, Y, 1)[::-1]
    sol = lmjax.least_squares(line, START, (X, Y), loss=name, loss_scale=1e6)
    assert_close(sol.params, expected)


@pytest.mark.parametrize(
    "loss", [None, "linear", losses.linear], ids=["none", "name", "function"]
)
def test_linear_loss_ignores_the_scale(loss):
    sol = lmjax.least_squares(line, START, (X, Y), loss=loss, loss_scale=1e-3)
    assert_close(sol.params, np.polyfit(X, Y, 1)[::-1])


def test_own_rho_gives_the_fit_of_the_built_in_one():
    own = lambda z: jnp.log(1.0 + z)
    sol = lmjax.least_squares(line, START, (X, Y), loss=own, loss_scale=0.4)
    np.testing.assert_allclose(sol.params, scipy_fit("cauchy", 0.4).x, rtol=2e-6)


def test_residual_of_a_robust_fit_is_the_plain_one():
    sol = lmjax.least_squares(line, START, (X, Y), loss="cauchy", loss_scale=0.4)
    p = np.asarray(sol.params)
    assert_close(sol.residual, p[0] + p[1] * X - Y)


def counted():
    """Return a residual function and the list that grows when it is traced."""
    traces = []

    def residual(p, x, y):
        traces.append(1)
        return line(p, x, y)

    return residual, traces


@pytest.mark.parametrize("outer", [jax.jit, lambda fn: fn], ids=["jit", "eager"])
def test_new_loss_scale_does_not_retrace(outer):
    residual, traces = counted()
    fit = outer(
        lambda scale: lmjax.least_squares(
            residual, START, (X, Y), loss="huber", loss_scale=scale
        )
    )
    first = fit(0.4)
    before = len(traces)
    second = fit(0.9)
    assert len(traces) == before
    assert_close(first.params, scipy_fit("huber", 0.4).x, factor=100)
    assert_close(second.params, scipy_fit("huber", 0.9).x, factor=100)


@pytest.mark.slow
def test_loss_scale_may_differ_per_fit():
    scales = np.array([0.3, 1.0, 3.0])
    fit = lambda c: lmjax.least_squares(
        line, START, (X, Y), loss="soft_l1", loss_scale=c
    )
    got = jax.vmap(fit)(scales).params
    expected = np.stack([scipy_fit("soft_l1", c).x for c in scales])
    np.testing.assert_allclose(got, expected, rtol=2e-6)  # SciPy's digits


def test_unknown_loss_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"loss: .*soft_l1.*'hubert'"):
        lmjax.least_squares(line, START, (X, Y), loss="hubert")


def test_loss_that_is_not_callable_is_refused():
    with pytest.raises(TypeError, match=r"loss: .*3\.0"):
        lmjax.least_squares(line, START, (X, Y), loss=3.0)


def test_geodesic_steps_bend_as_the_weighted_residual_does():
    # rho(z) = 4 z doubles residual and J; so it must the second derivative
    valley = lambda p: jnp.array([10.0 * (p[1] - p[0] ** 2), 1.0 - p[0]])
    solver = lmjax.LevenbergMarquardt(geodesic=True, record_history=True, max_steps=60)
    fit = lambda fn, loss: lmjax.least_squares(
        fn, jnp.array([-1.2, 1.0]), loss=loss, solver=solver
    )
    got = fit(valley, lambda z: 4.0 * z)
    expected = fit(lambda p: 2.0 * valley(p), None)
    # the last steps are those of rounding
    common = min(int(got.num_steps), int(expected.num_steps)) - 2
    assert common > 5
    rows = lambda sol: np.asarray(sol.history.params)[:common]
    assert_close(rows(got), rows(expected))
    assert_close(got.params, np.ones(2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": jnp.sum}, ValueError, r"loss: .*rho\(z\).*\(2,\)"),
        ({"loss_scale": "a"}, TypeError, "loss_scale: .*number, got 'a'"),
        ({"loss_scale": np.ones(2)}, ValueError, r"loss_scale: .*\(2,\)"),
        ({"loss_scale": np.zeros(2)}, ValueError, "loss_scale: .*positive"),
    ],
    ids=["rho", "text", "shape", "zero"],
)
def test_wrong_losses_are_named(options, error, message):
    residual = lambda p: p - jnp.array([1.0, 2.0])
    with pytest.raises(error, match=message):
        lmjax.least_squares(residual, jnp.zeros(2), **{"loss": "huber"} | options)
