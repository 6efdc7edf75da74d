"""A guess tries every branch that the data admit, and stays where the data can be."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_table import DOSE, INVERSION_TIMES, SPECS, TIME, by_kind, share_5
from scipy.optimize import least_squares
from tolerances import assert_close

import lmjax
from lmjax import models
from lmjax.models import _guess, _refine

CURVES = json.loads((Path(__file__).parent / "data/amplification.json").read_text())[
    "curves"
]


@pytest.fixture(scope="module")
def fit_5():
    """Return the compiled fit of five parameters from its own guess."""

    def fit(x, y):
        return lmjax.curve_fit(models.Logistic5.guess(x, y), x, y, nan_policy="omit")

    return jax.jit(jax.vmap(lambda x, y: (fit(x, y).params, fit(x, y).chi2), (None, 0)))


@pytest.mark.parametrize(
    "dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)]
)
def test_five_parameters_reach_the_lower_of_two_minima(fit_5, dtype):
    size = max(len(curve["y"]) for curve in CURVES)
    pad = lambda y: np.r_[y, np.full(size - len(y), np.nan)]
    y = np.stack([pad(curve["y"]) for curve in CURVES])
    x = np.arange(1.0, size + 1.0)
    params, _ = fit_5(x.astype(dtype), y.astype(dtype))
    params = jax.tree.map(lambda v: np.asarray(v, float)[:, None], params)
    chi2 = np.nansum((np.asarray(params(x[None, :])) - y) ** 2, axis=1)
    best = np.array([curve["best"] for curve in CURVES])
    # the other minimum is 1.3 to 2.8 times as high
    assert np.all(chi2 <= best * (1.0 + (1e-6 if dtype == np.float64 else 1e-2)))


def mirrored_best(x, y, truth):
    """Return the least sum of squares from the truth and from its mirror images."""
    bottom, top, position, slope, power = truth
    lx = np.log(x)

    def curve(p):
        return p[0] + (p[1] - p[0]) * np.exp(
            -np.exp(p[4]) * np.logaddexp(0.0, -p[3] * (lx - p[2]))
        )

    costs = []
    for sign in (1.0, -1.0):
        ends = (bottom, top) if sign > 0.0 else (top, bottom)
        for a in (power, -power, 0.0):
            start = [*ends, position, sign * slope, a]
            options = {"method": "lm", "x_scale": "jac", "max_nfev": 2000}
            found = least_squares(lambda p: curve(p) - y, start, **options)
            costs.append(2.0 * found.cost)
    return min(costs)


@pytest.mark.slow
def test_either_sign_of_slope_and_asymmetry_is_found(fit_5, rng):
    x = np.linspace(1.0, 50.0, 50)
    slope, power = np.array([(s, a) for s in (1, -1) for a in (1, -1)] * 3).T
    n = slope.size
    truth = np.stack(
        [
            *(rng.uniform(0, 0.2, n), rng.uniform(1, 2, n), rng.uniform(3, 3.5, n)),
            *(slope * rng.uniform(5, 12, n), power * rng.uniform(0.7, 2, n)),
        ],
        axis=1,
    )
    clean = np.stack([p[0] + (p[1] - p[0]) * share_5(x, *p[2:]) for p in truth])
    y = clean + rng.normal(0.0, 0.01, clean.shape)
    _, chi2 = fit_5(x, y)
    best = [mirrored_best(x, *pair) for pair in zip(y, truth, strict=True)]
    assert np.all(chi2 <= np.array(best) * (1.0 + 1e-6))


def test_five_parameters_start_no_worse_than_four(rng):
    y = 1.0 + 2.0 / (1.0 + (2.0 / DOSE[1:]) ** 1.5) + rng.normal(0.0, 0.1, (6, 14))
    x = DOSE[1:]

    def costs(y):
        pair = models.Logistic4.guess(x, y), models.Logistic5.guess(x, y)
        return tuple(jnp.sum((model(x) - y) ** 2) for model in pair)

    four, five = jax.jit(jax.vmap(costs))(y)
    assert np.all(five <= four)


def test_refined_start_is_the_least_squares_solution():
    y = 3.0 * np.exp(-0.5 * ((TIME - 2.0) / 0.7) ** 2) + 1.0
    data = _guess.clean(TIME, y)
    shape = lambda q: models.Gaussian(1.0, q[0], q[1])(data.x)
    limits = jnp.array([jnp.inf, 5.0])
    starts = jnp.array([[1.6, 1.0], [2.3, 0.5], [2.0, 6.0]])
    found = _refine.refine(shape, starts, data, 0.0, limits)
    assert_close(found[:2], jnp.array([[2.0, 0.7]] * 2), atol=1e-9)
    assert np.all(found[2] == starts[2])  # beyond the limits: left alone


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.foot], ids=str)
def test_levels_are_bounded_by_what_the_data_can_tell(spec, dtype):
    x, y, names = spec.foot
    y = 181.0 * y / y.max()
    start = spec.model.guess(x.astype(dtype), y.astype(dtype))
    levels = [getattr(start, name) for name in names]
    # the points see a tenth of the rise at least
    assert max(abs(float(level)) for level in levels) < 11.0 * 181.0
    assert np.sum((np.asarray(start(x.astype(dtype))) - y) ** 2) < 0.3 * np.sum(y**2)


def counts(x, rng):
    """Return curves of counts at all points: falling, rising, flat, faint, a bump."""
    shape = np.broadcast_shapes(*(np.shape(v) for v in jax.tree.leaves(x)))
    k = np.linspace(0.0, 1.0, int(np.prod(shape)))
    means = [
        50.0 * np.exp(-8.0 * k),
        50.0 * (1.0 - np.exp(-8.0 * k)),
        1000.0 * np.exp(-40.0 * k) + 0.5,
        100.0 * k**3,
        50.0 * np.exp(-60.0 * (k - 0.4) ** 2),
        0.5 + 0.0 * k,
        200.0 * np.abs(k - 0.5) ** 1.5,
        0.0 * k,
    ]
    return np.stack([rng.poisson(mean) for mean in means]).reshape(-1, *shape)


@pytest.mark.parametrize(
    "spec", by_kind(spec for spec in SPECS if spec.zero_at is not True), ids=str
)
def test_start_for_counts_and_proportions_is_possible(spec, rng):
    y = counts(spec.x, rng)
    evaluate = lambda y: spec.model.guess(spec.x, y, **spec.options)(spec.x)
    evaluate = jax.jit(jax.vmap(evaluate))
    f = np.asarray(evaluate(y.astype(float)))
    assert np.all((f > 0.0) | (y == 0) | spec.zero_at)
    assert np.all(f >= 0.0)
    most = np.maximum(y.reshape(len(y), -1).max(1), 1)
    share = counts(spec.x, rng) / np.expand_dims(most, tuple(range(1, y.ndim)))
    share = np.minimum(share, 1.0)
    f = np.asarray(evaluate(share))
    assert np.all(f[~np.all(share == 1.0, axis=tuple(range(1, y.ndim)))] < 1.0)


def test_poisson_fit_starts_from_a_guess_whose_offset_would_be_negative():
    t = np.arange(12.0)
    y = np.array([60, 44, 36, 25, 19, 12, 8, 5, 2, 1, 0, 0])
    line = np.linalg.lstsq(
        np.stack([np.exp(-0.1 * t), np.ones(12)], axis=1), y.astype(float), rcond=None
    )
    assert line[0][1] < 0.0  # plain least squares would start below zero
    start = models.Exponential.guess(t, y)
    assert np.all(start(t) > 0.0)
    fit = lmjax.curve_fit(start, t, y, likelihood="poisson")
    assert fit.status != lmjax.Status.NONFINITE_START
    assert fit.deviance < 12.0


def test_binomial_fit_starts_from_the_guess_of_the_proportions():
    dead = np.array([0, 0, 1, 4, 11, 19, 20, 20])
    dose = np.geomspace(0.1, 10.0, 8)
    start = models.Logistic4.guess(dose, dead / 20)
    assert np.all((start(dose) > 0.0) & (start(dose) < 1.0))
    noise = lmjax.likelihoods.Binomial(trials=20.0)
    limits = {"bottom": 0.0, "top": 0.0}, {"bottom": 1.0, "top": 1.0}
    fit = lmjax.curve_fit(start, dose, dead, likelihood=noise, bounds=limits)
    assert fit.success


def reached(truth, x):
    """Return whether the fit from the guess passes through the curve of the truth."""
    y = truth(x)
    fit = lmjax.curve_fit(type(truth).guess(x, y), x, y)
    return float(fit.chi2) <= 1e-12 * float(jnp.sum(y**2))


@pytest.mark.parametrize(
    ("truth", "x"),
    [
        # one term grows; neither term is left at the second point
        (models.BiExponential(3.1539, 3.2376, 0.8613, -0.3851), TIME),
        (models.BiExponential(-1.6519, 16.005, -3.5499, -0.05), TIME),
        # incomplete saturation: the signal never crosses zero
        (models.MagnitudeInversionRecovery(122.0, 0.6979, 3585.0), INVERSION_TIMES),
    ],
    ids=["a growing term", "a term gone at once", "no inversion"],
)
def test_every_branch_is_tried(truth, x):
    assert reached(truth, x)


def test_weak_inhibitor_is_found():
    x = tuple(
        v.ravel() for v in np.meshgrid(np.geomspace(0.1, 20, 6), np.array([0.0, 1, 4]))
    )
    assert reached(models.CompetitiveInhibition(0.5196, 0.4634, 21.1), x)
