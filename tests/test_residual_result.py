"""Errors of what `least_squares` returns."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares as scipy_least_squares

import lmjax

X = np.linspace(0.0, 4.0, 25)
Y = 2.0 * np.exp(-0.7 * X) + 0.3 + 0.02 * np.cos(11.0 * X)


def residual(p, y=Y):
    return p["a"] * jnp.exp(-p["k"] * X) + p["c"] - y


START = {"a": 1.0, "k": 1.0, "c": 0.0}  # in ravel order: a, c, k


def reference(held=()):
    """Return the covariance of a, c, k by SciPy's J, in its textbook form."""
    free = [j for j in range(3) if j not in held]
    fit = scipy_least_squares(
        lambda p: p[0] * np.exp(-p[2] * X) + p[1] - Y, [1.0, 0.0, 1.0], xtol=1e-15
    )
    jac = fit.jac[:, free]
    found = np.zeros((3, 3))
    found[np.ix_(free, free)] = np.linalg.inv(jac.T @ jac)
    return found * 2.0 * fit.cost / (X.size - len(free))


def test_covariance_is_that_of_textbooks():
    fit = lmjax.least_squares(residual, START)
    wanted = reference()
    np.testing.assert_allclose(fit.covariance, wanted, rtol=1e-5)
    errors = [fit.stderr[name] for name in ("a", "c", "k")]
    np.testing.assert_allclose(errors, np.sqrt(np.diag(wanted)), rtol=1e-5)
    assert int(fit.dof) == X.size - 3


def test_fixed_parameters_are_constants():
    best = lmjax.least_squares(residual, START).params
    fit = lmjax.least_squares(residual, best, fixed={"c": True})
    np.testing.assert_allclose(fit.covariance, reference(held=[1]), rtol=1e-5)
    assert np.isnan(fit.stderr["c"])


def test_parameters_at_a_bound_are_constants():
    fit = lmjax.least_squares(residual, START, bounds=({"c": 0.5}, None))
    assert fit.params["c"] == 0.5
    assert np.isnan(fit.stderr["c"])
    assert not np.any(fit.covariance[1])
    assert fit.stderr["a"] > 0.0


def test_a_batch_has_the_errors_of_each():
    y = jnp.asarray(np.stack([Y, 2.0 * Y, Y + 1.0]))
    fits = jax.vmap(lambda y: lmjax.least_squares(residual, START, (y,)))(y)
    assert fits.covariance.shape == (3, 3, 3)
    for k in range(3):
        one = lmjax.least_squares(residual, START, (y[k],))
        np.testing.assert_allclose(fits.stderr["k"][k], one.stderr["k"], rtol=1e-6)


def test_errors_come_out_of_jit():
    errors = jax.jit(lambda y: lmjax.least_squares(residual, START, (y,)).stderr["k"])
    wanted = lmjax.least_squares(residual, START).stderr["k"]
    np.testing.assert_allclose(errors(jnp.asarray(Y)), wanted, rtol=1e-6)


def test_a_singular_problem_has_no_errors():
    fit = lmjax.least_squares(lambda p: (p["a"] + p["b"]) * X - Y, {"a": 1.0, "b": 1.0})
    assert np.isnan(fit.stderr["a"])
    assert np.isnan(fit.stderr["b"])


def test_no_degrees_of_freedom():
    fit = lmjax.least_squares(lambda p: jnp.tanh(p) - 0.5, jnp.zeros(2))
    assert not np.any(np.isfinite(fit.stderr))


def test_without_a_normal_matrix_errors_are_nan():
    solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.CG())
    fit = lmjax.least_squares(lambda p: p - 1.0, jnp.zeros(1200), solver=solver)
    assert fit.normal_matrix is None
    assert np.all(np.isnan(fit.stderr))
