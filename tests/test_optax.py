"""Levenberg-Marquardt as an optax transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

import lmjax.optax

X = np.linspace(-1.0, 1.0, 12)
Y = np.sin(3.0 * X)


def network(params, x):
    hidden = jnp.tanh(x[:, None] * params["w"][None, :] + params["b"][None, :])
    return hidden @ params["v"]


def residual_fn(params):
    return network(params, X) - Y


def start(width, seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=width)) for name in "bvw"}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def step_by_hand(params, lam):
    """Return the damped step in numpy, from the augmented least-squares problem."""
    jac = jax.jacfwd(residual_fn)(params)
    jac = np.concatenate([np.asarray(jac[name]) for name in sorted(jac)], axis=1)
    scale = np.linalg.norm(jac, axis=0)
    stacked = np.concatenate([jac, np.sqrt(lam) * np.diag(scale)])
    rhs = -np.concatenate([residual_fn(params), np.zeros(scale.size)])
    return np.linalg.lstsq(stacked, rhs)[0]


@pytest.mark.parametrize("width", [2, 8], ids=["m > n", "m < n"])
@pytest.mark.parametrize("tried", [True, False], ids=["residual_fn", "jacobian"])
def test_first_step_is_the_damped_one(width, tried):
    params = start(width)
    lm = lmjax.optax.levenberg_marquardt(damping=lmjax.Nielsen(initial=0.5))
    extra = {"residual_fn": residual_fn}
    if not tried:
        jacobian = jax.jacrev(residual_fn)(params)
        extra = {"residuals": residual_fn(params), "jacobian": jacobian}
    step, state = lm.update(params, lm.init(params), params, **extra)
    expected = step_by_hand(params, 0.5)
    np.testing.assert_allclose(flat(step), expected, rtol=1e-7, atol=1e-9)
    assert bool(state.accepted)
    assert jax.tree.structure(step) == jax.tree.structure(params)


def test_a_poor_step_is_not_taken_and_lambda_grows():
    # Gauss-Newton on arctan overshoots from here
    lm = lmjax.optax.levenberg_marquardt(damping=lmjax.Nielsen(initial=1e-6))
    p = jnp.array([3.0])
    state = lm.init(p)
    step, new = lm.update(p, state, p, residual_fn=jnp.arctan)
    assert float(step[0]) == 0.0
    assert not bool(new.accepted)
    assert float(new.damping) == 2.0 * float(state.damping)
    # from closer by it does not, and is taken
    p = jnp.array([0.5])
    step, new = lm.update(p, state, p, residual_fn=jnp.arctan)
    np.testing.assert_allclose(step, -1.25 * np.arctan(0.5), rtol=1e-5)
    assert bool(new.accepted)
    assert float(new.damping) < float(state.damping)


@pytest.mark.parametrize("tried", [True, False], ids=["residual_fn", "jacobian"])
def test_training_under_jit_reaches_a_small_cost(tried):
    lm = lmjax.optax.levenberg_marquardt()

    def one(carry, _):
        params, state = carry
        extra = {"residual_fn": residual_fn}
        if not tried:
            jacobian = jax.jacrev(residual_fn)(params)
            extra = {"residuals": residual_fn(params), "jacobian": jacobian}
        step, state = lm.update(params, state, params, **extra)
        return (optax.apply_updates(params, step), state), None

    params = start(8)
    run = quick.jit(lambda carry: jax.lax.scan(one, carry, None, length=140)[0])
    params, state = run((params, lm.init(params)))
    assert float(jnp.sum(residual_fn(params) ** 2)) < 1e-8
    assert bool(jnp.isfinite(state.damping))


def test_chained_transformations_see_the_step():
    params = start(2)
    lm = lmjax.optax.levenberg_marquardt()
    half = optax.chain(lm, optax.scale(0.5))
    step, _ = lm.update(params, lm.init(params), params, residual_fn=residual_fn)
    other, _ = half.update(params, half.init(params), params, residual_fn=residual_fn)
    np.testing.assert_allclose(flat(other), 0.5 * flat(step), rtol=1e-12)


def test_float32_stays_float32():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start(3))
    lm = lmjax.optax.levenberg_marquardt()
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    residual_fn = lambda params: network(params, x) - y
    state = lm.init(params)
    step, new = lm.update(params, state, params, residual_fn=residual_fn)
    assert {leaf.dtype for leaf in jax.tree.leaves(step)} == {np.dtype("float32")}
    assert [a.dtype for a in new] == [b.dtype for b in state]


def test_missing_arguments_are_named():
    lm = lmjax.optax.levenberg_marquardt()
    p = jnp.ones(2)
    with pytest.raises(ValueError, match="residual_fn=..., or both residuals"):
        lm.update(p, lm.init(p), p, residuals=p)
    with pytest.raises(ValueError, match="params: update needs"):
        lm.update(p, lm.init(p), residual_fn=lambda p: p)


WIDE = 500  # 1,500 parameters, more than get an n x n matrix


def test_a_wide_network_needs_no_square_matrix():
    params = start(WIDE)
    lm = lmjax.optax.levenberg_marquardt()
    update = lambda p, s: lm.update(p, s, p, residual_fn=residual_fn)
    text = jax.jit(update).lower(params, lm.init(params)).as_text()
    assert f"x{3 * WIDE}x" in text
    assert f"{3 * WIDE}x{3 * WIDE}x" not in text


def test_a_wide_fit_and_its_gradient_need_no_square_matrix():
    params = start(WIDE)

    def fit(y):
        sol = lmjax.least_squares(lambda p: network(p, X) - y, params)
        return jnp.sum(sol.params["v"] ** 2), sol

    gradient = quick.jit(jax.grad(fit, has_aux=True)).lower(jnp.asarray(Y))
    text = gradient.as_text()
    assert f"x{3 * WIDE}x" in text
    assert f"{3 * WIDE}x{3 * WIDE}x" not in text
    grad, sol = gradient.compile()(jnp.asarray(Y))
    assert sol.normal_matrix is None
    assert sol.linear_solver == "Dual"
    assert bool(sol.success)
    assert float(sol.cost) < 1e-20
    assert np.all(np.isfinite(grad))


def test_many_parameters_get_no_errors():
    y = jnp.linspace(0.0, 1.0, 1002)
    model = lambda p, x: p + 0.0 * x
    solver = lmjax.LevenbergMarquardt(linear_solver=lmjax.CG())
    fit = lmjax.curve_fit(model, y, y, jnp.zeros(1002), solver=solver)
    np.testing.assert_allclose(fit.params, y, atol=1e-8)
    assert fit.covariance is None
    assert np.all(np.isnan(fit.stderr))
    assert "no errors" in fit.report()
    with pytest.raises(ValueError, match="covariance: not formed"):
        fit.confidence_band(y)


def test_a_batch_of_nan_does_no_lasting_harm():
    x = jnp.linspace(0.0, 3.0, 30)
    y = 1000.0 * jnp.exp(-x)
    residual = lambda p, y: p[0] * jnp.exp(-100.0 * p[1] * x) - y
    optimizer = lmjax.optax.levenberg_marquardt()
    params = jnp.array([500.0, 0.03])
    state = optimizer.init(params)
    for k in range(20):
        data = y.at[1].set(jnp.nan) if k == 1 else y
        updates, state = optimizer.update(
            params * 0.0, state, params, residual_fn=lambda p, y=data: residual(p, y)
        )
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, [1000.0, 0.01], rtol=1e-6)
