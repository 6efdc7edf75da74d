"""Models equal formulas written in NumPy, and stay finite where those overflow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.special
from model_table import SPECS
from processes import ROOT
from tolerances import TOL

from lmjax import models
from lmjax.models._faddeeva import voigt_profile

DTYPES = (np.float32, np.float64)
each_model = pytest.mark.parametrize("spec", SPECS, ids=str)


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


def cast(tree, dtype):
    return jax.tree.map(lambda v: jnp.asarray(v, dtype), tree)


def test_table_names_every_model():
    # what composes models is no curve of its own
    public = {name for name in dir(models) if name[0].isupper()} - {
        "Model",
        "Sum",
        "Product",
    }
    assert {spec.model.__name__ for spec in SPECS} == public


def test_changelog_counts_the_models():
    assert f"`lmjax.models`: {len(SPECS)} curves" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.one_of(2)
@each_model
def test_value_is_that_of_the_formula(spec, dtype, rng):
    for parameters in spec.draw(rng, 5):
        expected = spec.formula(spec.x, *parameters)
        got = spec.build(cast(parameters, dtype))(cast(spec.x, dtype))
        assert got.dtype == dtype
        assert got.shape == expected.shape
        tol = TOL[np.dtype(dtype)] * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=tol)


@pytest.mark.one_of(2)
@each_model
def test_derivative_is_that_of_the_formula(spec, rng):
    parameters = spec.draw(rng, 1)[0]
    curve = lambda p: spec.build(p)(spec.x)
    jac = quick.jit(jax.jacfwd(curve))(jnp.asarray(parameters))
    for k, value in enumerate(parameters):
        step = 1e-5 * max(abs(value), 1e-2)
        high, low = (
            spec.formula(spec.x, *parameters[:k], value + s, *parameters[k + 1 :])
            for s in (step, -step)
        )
        expected = (high - low) / (2 * step)
        # error of the difference: step**2 times a third derivative
        tol = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(jac[..., k], expected, rtol=0, atol=tol)


@pytest.mark.one_of(3)
@each_model
def test_extreme_parameters_give_finite_values_and_derivatives(spec, dtype, rng):
    ordinary = spec.draw(rng, 1)[0]
    extremes = [0.0, 1e-30, -1e-30, 1e-9, -1e-9, 1.0, -1.0, 1e4, -1e4, 1e10, -1e10]
    rows = []
    for extreme in extremes:
        for k in range(ordinary.size):
            rows.append(ordinary.copy())
            rows[-1][k] = extreme
    # a few at once; the first parameter is a factor, which may overflow on its own
    for extreme in rng.choice(extremes, (40, ordinary.size)):
        rows.append(np.r_[ordinary[0], extreme[1:]])
    rows, x = cast(np.array(rows), dtype), cast(spec.x, dtype)
    curve = lambda p: spec.build(p)(x).ravel()
    all_of = lambda p: {
        "value": curve(p),
        "forward": jax.jacfwd(curve)(p),
        "reverse": jax.jacrev(curve)(p),
    }
    for name, values in quick.jit(jax.vmap(all_of))(rows).items():
        finite = np.isfinite(values)
        finite = finite.reshape(len(rows), -1).all(axis=1)
        assert finite.all(), f"{name} at {rows[np.argmin(finite)]}"


@pytest.mark.one_of(3)
@each_model
def test_numbers_and_integer_x_will_do(spec, rng):
    parameters = [float(v) for v in spec.draw(rng, 1)[0]]
    x = jax.tree.map(lambda v: np.arange(1, 4), spec.x)
    model = spec.of_numbers(*parameters)
    expected = spec.formula(jax.tree.map(lambda v: v.astype(float), x), *parameters)
    np.testing.assert_allclose(model(x), expected, rtol=1e-8)


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("gamma", [0.0, 1e-6, 0.1, 1.0, 30.0])
def test_voigt_profile_is_that_of_scipy(sigma, gamma):
    if sigma == gamma == 0.0:
        pytest.skip("a delta function")
    x = np.linspace(-20.0, 20.0, 401)
    expected = scipy.special.voigt_profile(x, sigma, gamma)
    finite = np.isfinite(expected)
    got = np.asarray(voigt_profile(jnp.asarray(x), sigma, gamma))[finite]
    expected, top = expected[finite], expected[finite].max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * top)
    # in the far wings of a Gaussian the relative error grows
    seen = expected > 1e-6 * top
    np.testing.assert_allclose(got[seen], expected[seen], rtol=1e-6)
    single = voigt_profile(jnp.asarray(x, jnp.float32), sigma, gamma)
    np.testing.assert_allclose(single[finite], expected, rtol=0, atol=1e-6 * top)


def test_voigt_limits_are_gaussian_and_lorentzian():
    x = jnp.linspace(-5.0, 5.0, 21)
    gaussian = models.Gaussian(1 / np.sqrt(2 * np.pi).item() / 0.7, 0.3, 0.7)
    lorentzian = models.Lorentzian(1 / np.pi / 0.7, 0.3, 0.7)
    assert jnp.allclose(models.Voigt(1.0, 0.3, 0.7, 0.0)(x), gaussian(x), atol=1e-13)
    assert jnp.allclose(models.Voigt(1.0, 0.3, 0.0, 0.7)(x), lorentzian(x), atol=1e-13)


def test_dose_zero_gives_the_left_level():
    for slope, level in ((2.0, 1.0), (-2.0, 3.0)):
        for log_ec50 in (-5.0, 5.0):
            curve = models.Logistic4(1.0, 3.0, log_ec50, slope)
            assert curve(0.0) == level
    assert models.Hill(3.0, 0.0, 1.5)(0.0) == 0.0


def test_integer_parameter_is_refused_by_name():
    with pytest.raises(TypeError, match=r"Gaussian\.width.*1\.0 instead of 1"):
        models.Gaussian(1.0, 0.0, 1)
    with pytest.raises(TypeError, match="Gaussian.centre"):
        models.Gaussian(1.0, jnp.arange(3), 1.0)


def test_transformations_may_put_anything_into_a_model():
    model = models.Gaussian(1.0, 0.0, 1.0)
    assert jax.tree.map(lambda _: 1, model).width == 1
    names = [field.name for field in dataclasses.fields(model)]
    assert names == ["amplitude", "centre", "width"]
