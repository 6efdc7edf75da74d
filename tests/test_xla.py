"""Batches: the same answers as one fit at a time, whatever the batch looks like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax

T = np.linspace(0.0, 4.0, 24)
START = {"a": 1.0, "k": 1.0, "c": 0.0}


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


def curves(count, seed=3, noise=0.02):
    """Decays whose rates, and so whose step counts, differ widely."""
    rng = np.random.default_rng(seed)
    a, c = rng.uniform(0.5, 3.0, (2, count, 1))
    k = 10 ** rng.uniform(-1.0, 0.7, (count, 1))
    return a * np.exp(-k * T) + c + noise * rng.normal(size=(count, T.size))


def fit_one(y):
    return lmjax.curve_fit(decay, T, y, START)


def summary(fit):
    return fit.params, fit.stderr, fit.cost, fit.status, fit.num_steps, fit.in_batch


BATCH = jax.jit(jax.vmap(lambda y: summary(fit_one(y))))


@pytest.fixture(scope="module")
def many():
    """More fits than one block holds, a number that no block size divides."""
    y = curves(1501)
    return y, BATCH(y)


def test_batch_equals_a_loop_to_rounding(many):
    y, (params, stderr, cost, status, _, in_batch) = many
    assert bool(jnp.all(in_batch))
    for row in range(0, 1501, 150):
        alone = fit_one(y[row])
        assert not alone.in_batch
        assert (alone.status > 0) == (status[row] > 0)
        np.testing.assert_allclose(cost[row], alone.cost, rtol=1e-9)
        for name in START:
            np.testing.assert_allclose(
                params[name][row], alone.params[name], rtol=1e-6, atol=1e-8
            )
            np.testing.assert_allclose(stderr[name][row], alone.stderr[name], rtol=1e-5)


def test_minimum_is_stationary(many):
    """Against the gradient worked out in NumPy."""
    y, (params, *_, status, _, _) = many
    a, k, c = (np.asarray(params[name])[:, None] for name in ("a", "k", "c"))
    bell = np.exp(-k * T)
    r = a * bell + c - y
    columns = np.stack([bell, -a * T * bell, np.ones_like(r)])
    sizes, norm = np.linalg.norm(columns, axis=2), np.linalg.norm(r, axis=1)
    cosine = np.abs(np.sum(columns * r, axis=2)) / (sizes * norm)
    # Rounding of the parameters moves r by eps |J| |p|, which is large where a flat
    # curve leaves amplitude and offset undetermined: no minimum to speak of there.
    blur = np.linalg.norm(sizes * np.stack([a, k, c])[..., 0], axis=0)
    judged = (np.asarray(status) > 0) & (blur < 1e5 * norm)
    assert judged.mean() > 0.995
    assert np.max(cosine[:, judged]) < 1e-9


def test_batch_is_bitwise_the_same_in_any_company(many):
    y, whole = many
    # not a batch of one, whose lanes XLA knows to be equal and computes another way
    for rows in (slice(3, 5), slice(100, 107), slice(37, 1400)):
        pick = lambda x, rows=rows: np.asarray(x)[rows]
        expected = jax.tree.map(pick, whole)
        jax.tree.map(np.testing.assert_array_equal, BATCH(y[rows]), expected)


def test_batch_is_bitwise_repeatable(many):
    y, whole = many
    for a, b in zip(jax.tree.leaves(BATCH(y)), jax.tree.leaves(whole), strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e300, 0.0])
def test_poisoned_fit_changes_no_other_by_one_bit(many, poison):
    y, whole = many
    bad = y.copy()
    bad[[0, 700, 1500]] = poison
    fine = np.setdiff1d(np.arange(1501), [0, 700, 1500])
    for a, b in zip(jax.tree.leaves(BATCH(bad)), jax.tree.leaves(whole), strict=True):
        assert np.array_equal(np.asarray(a)[fine], np.asarray(b)[fine], equal_nan=True)


def test_nested_vmap_is_one_larger_batch(many):
    y, whole = many
    nested = jax.jit(jax.vmap(jax.vmap(lambda y: summary(fit_one(y)))))
    params, _, *rest = nested(y[:1500].reshape(3, 500, -1))
    fitted, _, *expected = whole
    for a, b in zip(
        jax.tree.leaves((params, rest)),
        jax.tree.leaves((fitted, expected)),
        strict=True,
    ):
        flat = np.asarray(a).reshape(1500, *a.shape[2:])
        np.testing.assert_array_equal(flat, np.asarray(b)[:1500])


@pytest.mark.slow
def test_nested_vmap_over_different_things():
    y = curves(4)
    starts = jnp.array([0.5, 1.0, 2.0])
    fit = lambda y, k: lmjax.curve_fit(decay, T, y, START | {"k": k}).params["k"]
    outer = jax.vmap(jax.vmap(fit, (None, 0)), (0, None))(y, starts)
    inner = jax.vmap(jax.vmap(fit, (0, None)), (None, 0))(y, starts)
    np.testing.assert_allclose(outer, inner.T, rtol=1e-9)
    np.testing.assert_allclose(outer, outer[:, :1].repeat(3, 1), rtol=1e-6)


@pytest.mark.slow
def test_batch_axis_may_be_any():
    y = curves(5)
    fit = lambda y: fit_one(y).params["k"]
    got, expected = jax.vmap(fit, in_axes=1)(y.T), jax.vmap(fit)(y)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.slow
def test_values_that_a_closure_captures_are_batched():
    y = curves(6)

    def fit(y, t0):
        shifted = lambda p, t: p["a"] * jnp.exp(-p["k"] * (t - t0)) + p["c"]
        return lmjax.curve_fit(shifted, T, y, START).params["a"]

    t0 = jnp.linspace(0.0, 0.5, 6)
    got = jax.vmap(fit)(y, t0)
    expected = [fit(*pair) for pair in zip(y, t0, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_everything_may_differ_per_fit():
    count = 7
    y = curves(count)
    rng = np.random.default_rng(5)
    own = {
        "x": T + 0.01 * rng.normal(size=(count, T.size)),
        "sigma": rng.uniform(0.01, 0.03, (count, T.size)),
        "mask": rng.uniform(size=(count, T.size)) < 0.9,
        "start": rng.uniform(0.8, 1.2, count),
        "lower": rng.uniform(0.0, 0.6, count),
        "fixed": np.arange(count) % 2 == 0,
        "offset": rng.uniform(0.5, 3.0, count),
        "ftol": 10.0 ** -rng.integers(10, 14, count),
        "scale": rng.uniform(1.0, 3.0, count),
    }

    def fit(y, own):
        return lmjax.curve_fit(
            decay,
            own["x"],
            y,
            {"a": own["start"], "k": 1.0, "c": own["offset"]},
            sigma=own["sigma"],
            mask=own["mask"],
            bounds=({"k": own["lower"]}, {"k": 5.0}),
            fixed={"c": own["fixed"]},
            loss="soft_l1",
            loss_scale=own["scale"],
            solver=lmjax.LevenbergMarquardt(ftol=own["ftol"]),
        )

    got = jax.vmap(fit)(y, own)
    assert got.in_batch.all()
    for row in range(count):
        alone = fit(y[row], jax.tree.map(lambda x, row=row: x[row], own))
        assert got.status[row] > 0
        np.testing.assert_array_equal(got.flat_status[row], alone.flat_status)
        np.testing.assert_allclose(got.cost[row], alone.cost, rtol=1e-8)
        for name in START:
            np.testing.assert_allclose(
                got.params[name][row], alone.params[name], rtol=1e-5
            )


@pytest.mark.parametrize(
    "options",
    [
        {"linear_solver": lmjax.QR()},
        pytest.param({"linear_solver": lmjax.SVD()}, marks=pytest.mark.slow),
        {"record_history": True, "max_steps": 40},
        pytest.param({"geodesic": True}, marks=pytest.mark.slow),
        pytest.param({"jac": "rev"}, marks=pytest.mark.slow),
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_the_engine_does_not_do_takes_the_plain_path(options):
    y = curves(3)
    solver = lmjax.LevenbergMarquardt(**options)
    fit = lambda y: lmjax.curve_fit(decay, T, y, START, solver=solver)
    got = jax.vmap(fit)(y)
    assert not got.in_batch.any()
    expected = [fit(row).params["k"] for row in y]
    np.testing.assert_allclose(got.params["k"], expected, rtol=1e-6)


def test_more_parameters_than_the_engine_takes():
    x = jnp.linspace(-1.0, 1.0, 30)
    design = x[:, None] ** jnp.arange(10.0)[None, :]
    rng = np.random.default_rng(0)
    y = rng.normal(size=(4, 30))
    solver = lmjax.LevenbergMarquardt(engine="loop")
    residual = lambda p, y: design @ p - y
    fit = lambda y: lmjax.least_squares(residual, jnp.zeros(10), (y,), solver=solver)
    got = jax.vmap(fit)(y)
    expected = np.linalg.lstsq(np.asarray(design), y.T, rcond=None)[0].T
    assert not got.in_batch.any()
    np.testing.assert_allclose(got.params, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_float32_finds_the_minimum_of_float64(many):
    y, (params, stderr, *_) = many
    t, start = jnp.asarray(T, jnp.float32), jax.tree.map(jnp.float32, START)
    with jax.numpy_dtype_promotion("standard"):
        fit32 = jax.jit(jax.vmap(lambda y: lmjax.curve_fit(decay, t, y, start)))
        got = fit32(y.astype(np.float32))
    assert got.params["k"].dtype == jnp.float32
    good = np.asarray(got.status > 0)
    assert good.mean() > 0.99
    for name in START:
        off = np.asarray(got.params[name]) - np.asarray(params[name])
        off /= np.asarray(stderr[name])
        assert np.abs(off[good]).max() < 0.05


@pytest.mark.parametrize("engine", ["fused", "xla"])
def test_unfinished_fits_are_compacted(engine):
    """Most steps computed are useful although some fits take many times the mean."""
    solver = lmjax.LevenbergMarquardt(ftol=1e-6, max_steps=200, engine=engine)
    fit = lambda y: lmjax.curve_fit(decay, T, y, START, solver=solver)
    count = jax.jit(jax.vmap(lambda y: (fit(y).num_steps, fit(y).lane_steps)))
    num_steps, lane_steps = map(np.asarray, count(curves(20_000)))
    assert num_steps.max() > 4 * num_steps.mean()
    assert lane_steps.sum() >= num_steps.sum()
    # what the others made a fit wait, in steps; its own are ten on average. The last
    # block of XLA keeps its width until its slowest fit has ended
    waited = lane_steps.mean() - num_steps.mean()
    assert waited < (6.0 if engine == "fused" else 8.0)


def by_xla(model, y, start):
    """Return what the engine of blocks makes of a batch."""
    solver = lmjax.LevenbergMarquardt(engine="xla")
    part = lambda fit: (fit.params, fit.cost, fit.status, fit.num_steps)
    fit = lambda y: part(lmjax.curve_fit(model, T, y, start, solver=solver))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(fit))(y))


def test_blocks_of_xla_give_the_same_bits_in_any_company_beside_poisoned_fits():
    y = curves(1501)
    whole = by_xla(decay, y, START)
    bad = y.copy()
    bad[[0, 700, 1500]] = np.nan
    fine = np.setdiff1d(np.arange(1501), [0, 700, 1500])
    for got, rows in (
        (by_xla(decay, bad, START), slice(None)),
        (by_xla(decay, y[3:5], START), slice(3, 5)),
        (by_xla(decay, y[37:1400], START), slice(37, 1400)),
    ):
        good = np.isin(np.arange(1501)[rows], fine)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(a[good], b[rows][good])


def test_blocks_of_xla_keep_a_nan_behind_a_zero_of_the_model():
    undefined = lambda p, t: decay(p, t) + 0.0 * jnp.log(-1.0 - p["a"] ** 2)
    *_, status, _ = by_xla(undefined, curves(3), START)
    assert np.all(status == lmjax.Status.NONFINITE_START)


def test_blocks_are_sized_for_the_platform_they_are_lowered_for():
    """Also on a host without it: a GPU takes every fit at once."""
    solver = lmjax.LevenbergMarquardt(engine="xla")
    fit = lambda y: lmjax.curve_fit(decay, T, y, START, solver=solver).params
    traced = jax.jit(jax.vmap(fit)).trace(jnp.ones((5000, T.size)))
    block = f"tensor<{T.size}x5120xf64>"
    assert block in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert block not in traced.lower(lowering_platforms=("cpu",)).as_text()
