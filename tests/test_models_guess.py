"""`guess` leads to the truth, and survives whatever the data hold."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from model_table import SPECS, TIME, Spec, by_kind
from tolerances import assert_close

import lmjax
from lmjax import models

each_model = pytest.mark.parametrize("spec", SPECS, ids=str)
some_models = pytest.mark.parametrize("spec", by_kind(SPECS), ids=str)
NUM_CURVES = 12


@cache
def guess_all(spec_name, x_batched=False):
    """Return the compiled guess of a batch of curves."""
    guess = partial(SPEC[spec_name].model.guess, **SPEC[spec_name].options)
    return quick.jit(jax.vmap(guess, in_axes=(0 if x_batched else None, 0)))


SPEC = {str(spec): spec for spec in SPECS}


def curves(spec: Spec, rng, count=NUM_CURVES):
    """Return parameters and noise-free curves, one per row."""
    truth = spec.draw(rng, count)
    return truth, np.stack([spec.formula(spec.x, *row) for row in truth])


def first_points(spec, count):
    """Return x and its shape reduced to a few points, for a small compilation."""
    flat = [np.broadcast_to(leaf, shape_of(spec)).ravel() for leaf in leaves(spec)]
    chosen = np.linspace(0, flat[0].size - 1, count).astype(int)
    flat = [leaf[chosen] for leaf in flat]
    return flat[0] if not isinstance(spec.x, tuple) else tuple(flat)


def leaves(spec):
    return spec.x if isinstance(spec.x, tuple) else (spec.x,)


def shape_of(spec):
    return np.broadcast_shapes(*(leaf.shape for leaf in leaves(spec)))


@some_models
def test_fit_from_the_guess_finds_the_truth(spec, rng):
    truth, y = curves(spec, rng)

    def fit_one(y):
        start = spec.model.guess(spec.x, y, **spec.options)
        fit = lmjax.curve_fit(start, spec.x, y)
        return fit.params, fit.chi2

    params, chi2 = quick.jit(jax.vmap(fit_one))(y)
    assert np.all(chi2 <= 1e-16 * np.sum(y**2, axis=tuple(range(1, y.ndim))))
    for got, expected in zip(spec.flat(params), truth, strict=True):
        pairs = zip(spec.canonical(*got), spec.canonical(*expected), strict=True)
        for a, b in pairs:
            # 1e-8 in the curve is more in parameters that nearly compensate
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@some_models
def test_single_precision_guess_is_near_the_double_one(spec, rng):
    _, y = curves(spec, rng)
    double = guess_all(str(spec))(spec.x, y)
    x = jax.tree.map(jnp.float32, spec.x)
    single = guess_all(str(spec))(x, jnp.float32(y))
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {np.dtype("float32")}
    # Rounding may tip the choice between two candidates: compare how well they fit.
    evaluate = quick.jit(jax.vmap(lambda model: model(spec.x)))
    axes = tuple(range(1, y.ndim))
    rest, rest_single = (
        np.sum((np.asarray(evaluate(model)) - y) ** 2, axis=axes)
        for model in (double, jax.tree.map(lambda v: v.astype(float), single))
    )
    assert np.all(rest_single <= 1.1 * rest + 1e-8 * np.sum(y**2, axis=axes))


def pick(model, i):
    return jax.tree.map(lambda v: v[i], model)


TROUBLE = {
    "zeros": lambda x, y: (x, 0.0 * y),
    "constant": lambda x, y: (x, 0.0 * y + 7.0),
    "negative": lambda x, y: (x, -np.abs(y) - 3.0),
    "huge": lambda x, y: (x, y * 1e18),
    "tiny": lambda x, y: (x, y * 1e-18),
    "nan-in-y": lambda x, y: (x, np.where(np.arange(y.size) % 3 == 1, np.nan, y)),
    "infinity-in-y": lambda x, y: (x, np.where(np.arange(y.size) == 2, np.inf, y)),
    "nan-in-x": lambda x, y: (np.where(np.arange(x.size) == 2, np.nan, x), y),
    "no-valid-y": lambda x, y: (x, y * np.nan),
    "no-valid-x": lambda x, y: (x * np.nan, y),
    "one-valid": lambda x, y: (x, np.where(np.arange(y.size) == 3, y, np.nan)),
    "two-valid": lambda x, y: (x, np.where(np.arange(y.size) // 2 == 2, y, np.nan)),
    "same-x": lambda x, y: (0.0 * x + 2.0, y),
    "x-all-zero": lambda x, y: (0.0 * x, y),
    "negative-x": lambda x, y: (-x - 1.0, y),
    "repeated-x": lambda x, y: (x[np.arange(x.size) // 2], y),
    "unsorted-x": lambda x, y: (x[::-1], y),
    "alternating": lambda x, y: (x, np.where(np.arange(y.size) % 2, 1.0, -1.0)),
}


@some_models
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)]
)
def test_guess_is_finite_whatever_the_data(spec, dtype, rng):
    x = first_points(spec, 12)
    y = spec.formula(x, *spec.draw(rng, 1)[0])
    xs, ys = zip(
        *(
            (jax.tree.map(lambda v: change(v, y)[0], x), change(y, y)[1])  # noqa: B023
            for change in TROUBLE.values()
        ),
        strict=True,
    )
    xs = jax.tree.map(lambda *v: np.stack(v).astype(dtype), *xs)
    got = guess_all(str(spec), x_batched=True)(xs, np.stack(ys).astype(dtype))
    for leaf in jax.tree.leaves(got):
        assert leaf.dtype == dtype
        bad = ~np.isfinite(leaf).reshape(len(ys), -1).all(axis=1)
        assert not bad.any(), np.array(list(TROUBLE))[bad]


@each_model
def test_guess_of_a_single_point_is_finite_and_of_none_an_error(spec):
    x = first_points(spec, 1)
    got = spec.model.guess(x, np.array([2]), **spec.options)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert {leaf.dtype.kind for leaf in jax.tree.leaves(got)} == {"f"}
    empty = jax.tree.map(lambda v: v[:0], x)
    with pytest.raises(ValueError, match="y: expected at least one observation"):
        spec.model.guess(empty, np.array([]), **spec.options)


# one column, two columns, and solver steps
@pytest.mark.parametrize(
    "name", ["Gaussian", pytest.param("IVIM", marks=pytest.mark.slow)]
)
def test_batch_of_guesses_is_the_guesses_one_by_one(name, rng):
    spec = SPEC[name]
    _, y = curves(spec, rng, 3)
    y[1].flat[3] = np.nan
    together = guess_all(str(spec))(spec.x, y)
    for i in range(3):
        alone = quick.jit(partial(spec.model.guess, **spec.options))(spec.x, y[i])
        # sums in another order
        assert_close(pick(together, i), alone, atol=1e-6)


def test_skipped_points_do_not_matter():
    y = 2.0 * np.exp(-0.8 * TIME) + 1.0
    starts = []
    for junk in (np.nan, np.inf, -np.inf):
        spoiled = y.copy()
        spoiled[[0, 7, 39]] = junk
        starts.append(models.Exponential.guess(TIME, spoiled))
    for other in starts[1:]:
        assert_close(other, starts[0])
    without = np.delete(y, [0, 7, 39])
    clean = models.Exponential.guess(np.delete(TIME, [0, 7, 39]), without)
    # the grid spans a little less, the answer is the same within its spacing
    assert np.allclose(starts[0].rate, clean.rate, rtol=0.4)


def test_order_of_the_points_does_not_matter(rng):
    y = models.LogisticGrowth(2.0, 3.0, 2.5, 0.3)(TIME)
    mixed = rng.permutation(TIME.size)
    sorted_start = models.LogisticGrowth.guess(TIME, y)
    assert_close(models.LogisticGrowth.guess(TIME[mixed], y[mixed]), sorted_start)


def test_integers_give_the_guess_of_the_same_floats():
    counts = np.array([90, 61, 44, 30, 22, 15, 12, 9])
    whole = models.Exponential.guess(np.arange(8), counts)
    assert_close(whole, models.Exponential.guess(np.arange(8.0), counts.astype(float)))
    single = models.Exponential.guess(np.arange(8, dtype=np.float32), counts)
    assert single.rate.dtype == np.float32


def test_constant_data_give_a_flat_curve():
    for model in (models.Exponential, models.Logistic4, models.LogisticGrowth):
        start = model.guess(TIME, np.full(TIME.size, 7.0))
        assert_close(start(TIME), jnp.full(TIME.size, 7.0))


def test_narrow_peak_in_many_points_is_found():
    x = np.linspace(0.0, 1000.0, 4001)
    truth = models.Gaussian(-3.0, 613.7, 0.6)
    fit = lmjax.curve_fit(models.Gaussian.guess(x, truth(x)), x, truth(x))
    assert_close(fit.params, jax.tree.map(jnp.asarray, truth))


def test_decay_far_from_zero_is_found_in_single_precision():
    x = np.linspace(2000.0, 2010.0, 30, dtype=np.float32)
    y = np.exp(-(x - 2000.0) / 2.0) + 1.0
    start = models.Exponential.guess(x, np.float32(y))
    assert np.allclose(start.rate, 0.5, rtol=0.3)


def test_polynomial_start_is_the_least_squares_solution(rng):
    x, y = rng.uniform(-2.0, 5.0, 30), rng.normal(size=30)
    start = models.Polynomial.guess(x, y, degree=4)
    expected = np.polynomial.polynomial.polyfit(x, y, 4)
    assert_close(start.coefficients, jnp.asarray(expected))
    few = models.Polynomial.guess(x[:2], y[:2], degree=4)
    assert_close(few(x[:2]), jnp.asarray(y[:2]))
    assert np.all(few.coefficients[2:] == 0.0)
