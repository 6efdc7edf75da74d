"""Standard errors and derivatives of a batch: machine programs next to single fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax import LevenbergMarquardt

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

T = np.linspace(0.0, 4.0, 30)
FUSED = LevenbergMarquardt(engine="fused")


def covariance_summary(fit):
    return fit.covariance, fit.rank, fit.stderr, fit.flat_status, fit.status


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_covariances_are_those_of_a_single_fit(dtype):
    """Healthy, nearly dependent and dependent columns side by side."""
    t = T.astype(dtype)
    model = lambda p, x: p[0] + p[1] * x[0] + p[2] * x[1]
    gaps = np.array([1.0, 1e-3, 1e-6, 1e-9, 0.0, 1.0, 0.0], dtype)[:, None]
    second = (t + gaps * np.cos(3.0 * t)).astype(dtype)
    y = (1.0 + t + 0.1 * np.sin(9.0 * t) + np.zeros_like(second)).astype(dtype)
    start = np.full(3, 0.5, dtype)

    def fit(engine, y, second):
        solver = LevenbergMarquardt(engine=engine)
        found = lmjax.curve_fit(model, (t, second), y, start, solver=solver)
        return covariance_summary(found)

    got = jax.jit(jax.vmap(lambda *row: fit(None, *row)))(y, second)
    alone = [fit(None, *row) for row in zip(y, second, strict=True)]
    expected = jax.tree.map(lambda *x: np.stack(x), *alone)
    np.testing.assert_array_equal(got[1], expected[1])
    np.testing.assert_array_equal(got[3], expected[3])
    scale = np.sqrt(np.einsum("fii->fi", expected[0]))
    scale = np.where(scale > 0.0, scale, 1.0)
    relative = (np.asarray(got[0]) - expected[0]) / (scale[:, :, None] * scale[:, None])
    loose = np.where(gaps[:, 0] > 1e-5, 1e-7, 2e-3) if dtype == "float64" else 3e-2
    assert (np.abs(relative).max(axis=(1, 2)) < loose).all()


@pytest.mark.parametrize("n", [5, 11, 20])
def test_errors_of_many_parameters(n, rng):
    design = rng.normal(size=(60, n))
    design[:, -1] = design[:, 0] + 1e-9 * design[:, 1]  # one direction is open
    y = design[:, :-1] @ np.ones(n - 1) + 0.01 * rng.normal(size=(9, 60))
    model = lambda p, x: x @ p
    fit = lambda y: lmjax.curve_fit(model, design, y, np.zeros(n), solver=FUSED)
    got = jax.jit(jax.vmap(lambda y: covariance_summary(fit(y))))(y)
    assert (got[1] == n - 1).all()
    expected = np.linalg.pinv(design.T @ design, rcond=1e-13, hermitian=True)
    noise = np.array(
        [np.sum((r - design @ np.linalg.pinv(design) @ r) ** 2) for r in y]
    )
    expected = noise[:, None, None] * expected / (60 - n)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-10)


def single_and_batch(one, *rows):
    """Return what a batch makes of rows, and what single fits do."""
    got = jax.jit(jax.vmap(one))(*rows)
    alone = [one(*row) for row in zip(*rows, strict=True)]
    return got, jax.tree.map(lambda *x: np.stack(x), *alone)


def decay(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def decays(rng, count=9):
    p = rng.uniform(0.5, 2.0, (count, 3, 1))
    return (
        p[:, 0] * np.exp(-p[:, 1] * T) + p[:, 2] + 0.05 * rng.normal(size=(count, 30))
    )


def product(p, t):
    """Two parameters that enter as a product: the Hessian is singular."""
    return p[0] * p[1] * jnp.exp(-p[2] * t)


LOW = (np.array([0.0, 0.9, 0.0]), None)
FITS = {
    "plain": (decay, {}),
    "singular": (product, {}),
    "at a bound": (decay, {"bounds": LOW}),
    "fixed": (decay, {"fixed": np.array([False, True, False])}),
    "robust": (decay, {"loss": "cauchy", "loss_scale": 0.1}),
    "counts": (decay, {"likelihood": "poisson"}),
}


@pytest.mark.one_of(2)
@pytest.mark.parametrize("kind", FITS)
def test_gradients_are_those_of_a_single_fit(kind, rng):
    model, options = FITS[kind]
    y = decays(rng)
    if kind == "counts":
        y = rng.poisson(20.0 * np.abs(y)).astype(float)
    start = np.array([1.0, 1.0, 0.5])

    def one(y, shift):
        fit = lambda y, shift: lmjax.curve_fit(
            model, T + shift, y, start, solver=FUSED, **options
        )
        size = lambda *args: jnp.sum(fit(*args).params ** 2)
        return jax.grad(size, (0, 1))(y, shift)

    got, expected = single_and_batch(one, y, np.linspace(0.0, 0.01, len(y)))
    for a, b in zip(got, expected, strict=True):
        scale = np.abs(b).max(axis=-1, keepdims=True) if b.ndim > 1 else np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-6)


def test_second_derivatives_pass_through(rng):
    y, start = decays(rng, 4), np.array([1.0, 1.0, 0.5])

    def one(y):
        rate = lambda y: lmjax.curve_fit(decay, T, y, start, solver=FUSED).params[1]
        along = lambda s: rate(y + s * T)
        return jax.hessian(along)(0.0), jax.jvp(rate, (y,), (T,))[1]

    got, expected = single_and_batch(one, y)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    step = 1e-4
    rate = lambda s: one(y[0] + s * T)[1]
    slope = (rate(step) - rate(-step)) / (2 * step)
    np.testing.assert_allclose(got[0][0], slope, rtol=1e-5)


def test_the_errors_have_a_gradient(rng):
    y, start = decays(rng, 4), np.array([1.0, 1.0, 0.5])
    error = lambda y: lmjax.curve_fit(decay, T, y, start, solver=FUSED).stderr[1]
    got, expected = single_and_batch(jax.grad(error), y)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)


def test_batches_of_batches(rng):
    y, start = decays(rng, 6), np.array([1.0, 1.0, 0.5])

    def one(y):
        fit = lambda y: lmjax.curve_fit(decay, T, y, start, solver=FUSED)
        rate = jax.grad(lambda y: fit(y).params[1])(y)
        return fit(y).covariance, rate

    once = jax.jit(jax.vmap(one))(y)
    twice = jax.jit(jax.vmap(jax.vmap(one)))(y.reshape(2, 3, -1))
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_array_equal(a, np.reshape(b, a.shape))


def test_a_poisoned_fit_leaves_errors_and_gradients_alone(rng):
    y, start = decays(rng, 20), np.array([1.0, 1.0, 0.5])

    def one(y):
        fit = lmjax.curve_fit(decay, T, y, start, solver=FUSED)
        rate = lambda y: lmjax.curve_fit(decay, T, y, start, solver=FUSED).params[1]
        return fit.covariance, fit.rank, jax.grad(rate)(y)

    batch = jax.jit(jax.vmap(one))
    before = jax.tree.map(np.asarray, batch(y))
    y[7, 3] = np.nan
    after = jax.tree.map(np.asarray, batch(y))
    keep = np.arange(20) != 7
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[keep], b[keep])


def test_another_engine_needs_no_program(rng):
    y, start = decays(rng, 3), np.array([1.0, 1.0, 0.5])
    solver = LevenbergMarquardt(engine="xla")
    rate = lambda y: lmjax.curve_fit(decay, T, y, start, solver=solver).stderr[1]
    text = str(jax.make_jaxpr(jax.vmap(jax.grad(rate)))(y))
    assert "lmjax_program" not in text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_of_ill_conditioned_columns(dtype):
    """Known singular values and vectors, 24 columns: Jacobi's method takes long."""
    m, n, rng = 60, 24, np.random.default_rng(0)
    conditions = np.array([1e2, 1e5, 1e7, 1e9, 1e10, 1e11])
    conditions = conditions if dtype == "float64" else np.array([1e1, 1e2, 1e3, 1e4])
    designs, errors = [], []
    for condition in conditions:
        u, _ = np.linalg.qr(rng.normal(size=(m, n)))
        v, _ = np.linalg.qr(rng.normal(size=(n, n)))
        s = np.logspace(0.0, -np.log10(condition), n)
        designs.append((u * s) @ v.T)
        errors.append(np.sqrt(np.sum((v / s) ** 2, axis=1)))
    designs = np.stack(designs).astype(dtype)
    y = designs @ np.ones(n, dtype) + 0.1 * rng.normal(size=(len(designs), m))

    def one(x, y):
        given = {"sigma": np.asarray(1.0, dtype), "absolute_sigma": True}
        start = np.ones(n, dtype)
        fit = lmjax.curve_fit(lambda p, x: x @ p, x, y, start, solver=FUSED, **given)
        return fit.stderr, fit.rank

    got, rank = jax.jit(jax.vmap(one))(designs, y.astype(dtype))
    assert (rank == n).all()
    worst = np.abs(np.asarray(got) / np.stack(errors) - 1.0).max(axis=1)
    assert (worst < 100.0 * np.finfo(dtype).eps * conditions).all()


def test_rank_is_at_most_the_number_of_points():
    t = np.linspace(0.0, 3.0, 20)
    model = lambda p, t: jnp.cos(jnp.outer(t, np.arange(24.0) / 2.0)) @ p
    y = np.random.default_rng(1).normal(size=(5, 20))
    fit = lambda y: lmjax.curve_fit(model, t, y, np.zeros(24)).rank
    got, expected = single_and_batch(fit, y)
    np.testing.assert_array_equal(got, expected)
