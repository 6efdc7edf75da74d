"""Several data sets in one fit, against the same points in one array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tolerances import assert_close

import lmjax

RNG = np.random.default_rng(2)
TIMES = {"fast": np.linspace(0.0, 2.0, 9), "slow": np.linspace(0.0, 5.0, 6)}
START = {"rate": 1.0, "fast": 1.0, "slow": 1.0}
Y = {
    "fast": 2.0 * np.exp(-0.8 * TIMES["fast"]) + 0.02 * RNG.normal(size=9),
    "slow": 0.5 * np.exp(-0.8 * TIMES["slow"]) + 0.05 * RNG.normal(size=6),
}
SIGMA = {"fast": 0.02, "slow": 0.05 + 0.01 * TIMES["slow"]}
MASK = {"fast": None, "slow": np.arange(6) != 1}


def both(p, t):
    """Two decays of one rate, each with its own amplitude."""
    return {name: p[name] * jnp.exp(-p["rate"] * t[name]) for name in Y}


def joined(values):
    """Return what the two sets hold as one array."""
    parts = [np.broadcast_to(values[name], Y[name].shape) for name in Y]
    return np.concatenate(parts)


def single(p, t):
    """The same two decays as one array of points."""
    amplitude = jnp.where(np.arange(15) < 9, p["fast"], p["slow"])
    return amplitude * jnp.exp(-p["rate"] * t)


def fit(y=Y, x=TIMES, **options):
    return lmjax.curve_fit(both, x, y, START, **options)


def fit_single(y, **options):
    fit = lambda: lmjax.curve_fit(single, joined(TIMES), y, START, **options)
    return fit()


def assert_same_fit(got, expected):
    for name in ("params", "stderr", "covariance", "cost", "reduced_chi2", "aic"):
        assert_close(getattr(got, name), getattr(expected, name))
    for name in ("dof", "num_points"):
        assert int(getattr(got, name)) == int(getattr(expected, name))
    assert_close(joined(got.residual), np.asarray(expected.residual))


def test_sets_are_one_fit_to_all_their_points():
    got, expected = fit(), fit_single(joined(Y))
    assert_same_fit(got, expected)
    assert {name: r.shape for name, r in got.residual.items()} == {
        "fast": (9,),
        "slow": (6,),
    }
    assert "data points          15" in got.report()
    for method in ("confidence_band", "prediction_band"):
        bands = getattr(got, method)(TIMES)
        limits = getattr(expected, method)(joined(TIMES))
        for band, limit in zip(bands, limits, strict=True):
            assert_close(joined(band), np.asarray(limit))


def test_sigma_and_mask_are_prefixes_of_the_sets():
    y = Y | {"slow": np.where(MASK["slow"], Y["slow"], np.nan)}
    mask = joined({"fast": True, "slow": MASK["slow"]})
    options = {"absolute_sigma": True, "loss": "soft_l1"}
    got = fit(y, sigma=SIGMA, mask=MASK, **options)
    expected = fit_single(joined(y), sigma=joined(SIGMA), mask=mask, **options)
    assert_same_fit(got, expected)
    omitted = fit(y, sigma=SIGMA, nan_policy="omit", **options)
    assert_same_fit(omitted, expected)


def test_a_covariance_matrix_is_that_of_its_set():
    covariance = 0.01 * np.exp(-np.abs(TIMES["slow"][:, None] - TIMES["slow"]))
    whole = np.diag(joined({"fast": 0.02**2, "slow": 0.0}))
    whole[9:, 9:] = covariance
    got = fit(sigma={"fast": 0.02, "slow": covariance})
    assert_same_fit(got, fit_single(joined(Y), sigma=whole))


def test_masked_inputs_of_a_set_never_reach_the_model():
    times = TIMES | {"slow": np.where(MASK["slow"], TIMES["slow"], np.nan)}
    rate = lambda y, x: fit(y, x, mask=MASK).params["rate"]
    slope = quick.jit(jax.grad(rate))
    got, expected = slope(Y, times), slope(Y, TIMES)
    assert_close(got, expected)
    assert float(got["slow"][1]) == 0.0 != float(got["slow"][2])


def test_many_fits_of_several_sets():
    scales = np.array([1.0, 2.0])
    run = lambda s: fit({name: s * y for name, y in Y.items()})
    got = quick.jit(jax.vmap(lambda s: (run(s).params, run(s).in_batch)))(scales)
    assert np.asarray(got[1]).all()
    assert_close(jax.tree.map(lambda a: a[0], got[0]), fit().params)
    assert_close(got[0]["rate"][1], got[0]["rate"][0])


def test_sets_may_be_a_tuple():
    model = lambda p, t: tuple(both(p, t)[name] for name in Y)
    got = lmjax.curve_fit(model, TIMES, tuple(Y.values()), START)
    assert_close(got.params, fit().params)
    assert isinstance(got.residual, tuple)


BAD = {
    "model": ({"y": {"fast": Y["fast"]}}, ValueError, "model: .*'fast': .9,.*'slow'"),
    "shape": (
        {"y": Y | {"slow": Y["slow"][:4]}},
        ValueError,
        r"model: .*'slow': \(4,\).*'slow': \(6,\)",
    ),
    "sigma-names": ({"sigma": {"fast": 0.1}}, ValueError, "sigma: .*prefix of y"),
    "sigma-zero": ({"sigma": {"fast": 0.1, "slow": 0.0}}, ValueError, "positive.*0"),
    "mask-shape": (
        {"mask": MASK | {"fast": np.ones(3, bool)}},
        ValueError,
        r"mask: .*\(9,\).*\(3,\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_requests_are_named(name):
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        fit(**options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["residual", "parametric", "wild", "case"])
def test_bootstrap_is_that_of_one_array(kind):
    mask = joined({"fast": True, "slow": MASK["slow"]})
    key = jax.random.key(4)
    options = {"sigma": SIGMA, "mask": MASK}
    flat = {"sigma": joined(SIGMA), "mask": mask}
    given = {"num": 16, "kind": kind}
    got = lmjax.bootstrap(key, fit(**options), TIMES, Y, **given, **options)
    expected = lmjax.bootstrap(
        key, fit_single(joined(Y), **flat), joined(TIMES), joined(Y), **given, **flat
    )
    assert expected.num_failed == 0
    assert_close(got.params, expected.params)


@pytest.mark.slow
def test_profile_is_that_of_one_array():
    options, flat = {"sigma": SIGMA}, {"sigma": joined(SIGMA)}
    got = lmjax.profile(fit(**options), TIMES, Y, "rate", **options)
    expected = lmjax.profile(
        fit_single(joined(Y), **flat), joined(TIMES), joined(Y), "rate", **flat
    )
    for end, other in zip(got.interval, expected.interval, strict=True):
        assert_close(end["rate"], np.asarray(other["rate"]))
    with pytest.raises(ValueError, match="these give another fit"):
        lmjax.profile(fit(**options), TIMES, Y, "rate")


@pytest.mark.slow
def test_prefixes_may_be_tuples_of_numbers_and_pairs():
    x, y = tuple(TIMES.values()), tuple(Y.values())
    two = lambda p, t: tuple(both(p, dict(zip(Y, t, strict=True))).values())
    several = lambda **options: lmjax.curve_fit(two, x, y, START, **options)
    got = several(sigma=(0.02, 0.05), mask=(True, MASK["slow"]))
    expected = fit(sigma={"fast": 0.02, "slow": 0.05}, mask=MASK)
    assert_close(got.params, expected.params)
    assert_close(got.cost, expected.cost)
    covariance = np.diag(SIGMA["slow"] ** 2)
    pair = jax.scipy.linalg.cho_factor(covariance, lower=True)
    got, expected = fit(sigma=SIGMA | {"slow": pair}), fit(sigma=SIGMA)
    assert_close(got.params, expected.params)
    assert_close(got.cost, expected.cost)


def test_lists_are_arrays_wherever_they_stand():
    lists = jax.tree.map(lambda array: array.tolist(), (TIMES, Y))
    got = fit(lists[1], lists[0])
    assert_close(got.params, fit().params)
    with pytest.raises(ValueError, match="y: .* lists that are arrays.* unequal"):
        fit_single([[1.0, 2.0], [3.0]])
