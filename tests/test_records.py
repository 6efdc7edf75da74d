"""Fits as dicts and DataFrames, single fits of a batch, shorthands."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit as scipy_curve_fit

import lmjax

X = np.linspace(0.0, 5.0, 30)
START = {"amplitude": 1.0, "decay": {"tau": 2.0}, "line": jnp.zeros(2)}


def model(p, x):
    line = p["line"][0] + p["line"][1] * x
    return p["amplitude"] * jnp.exp(-x / p["decay"]["tau"]) + line


def flat(x, amplitude, tau, constant, slope):
    return amplitude * np.exp(-x / tau) + constant + slope * x


NAMES = ["amplitude", "decay.tau", "line[0]", "line[1]"]


@pytest.fixture(scope="module")
def curves():
    rng = np.random.default_rng(3)
    taus = np.linspace(0.8, 1.4, 6)[:, None]
    return flat(X, 3.0, taus, 0.5, 0.1) + 0.02 * rng.standard_normal((6, X.size))


@pytest.fixture(scope="module")
def fits(curves):
    return jax.vmap(lambda y: lmjax.curve_fit(model, X, y, START))(jnp.asarray(curves))


def test_dict_has_what_scipy_finds(curves):
    fit = lmjax.curve_fit(model, X, curves[0], START)
    popt, pcov = scipy_curve_fit(flat, X, curves[0], [3.0, 1.0, 0.5, 0.1])
    found = fit.to_dict()
    values = [found[name] for name in NAMES]
    errors = [found[f"{name}_stderr"] for name in NAMES]
    np.testing.assert_allclose(values, popt, rtol=1e-6)
    np.testing.assert_allclose(errors, np.sqrt(np.diag(pcov)), rtol=1e-5)
    residual = flat(X, *popt) - curves[0]
    np.testing.assert_allclose(found["chi2"], residual @ residual, rtol=1e-9)
    np.testing.assert_allclose(found["cost"], 0.5 * residual @ residual, rtol=1e-9)
    assert int(found["status"]) == int(fit.status)
    assert int(found["num_steps"]) == int(fit.num_steps)


def test_dict_comes_out_of_a_batch(fits, curves):
    def columns(y):
        return lmjax.curve_fit(model, X, y, START).to_dict()

    inside = jax.vmap(columns)(jnp.asarray(curves))
    outside = fits.to_dict()
    assert set(inside) == set(outside)
    for name, values in outside.items():
        assert values.shape == (6,)
        np.testing.assert_allclose(inside[name], values, rtol=1e-12)


def test_frame_has_a_row_per_fit(fits):
    frame = fits.to_pandas()
    assert frame.shape[0] == 6
    assert frame.index.name == "fit"
    np.testing.assert_array_equal(frame["decay.tau"], fits.params["decay"]["tau"])
    np.testing.assert_array_equal(frame["line[1]_stderr"], fits.stderr["line"][:, 1])
    kinds = [lmjax.Status(int(code)).name for code in fits.status]
    assert list(frame["status"]) == kinds
    again = pd.read_csv(pd.io.common.StringIO(frame.to_csv()), index_col="fit")
    np.testing.assert_allclose(again["amplitude"], frame["amplitude"], rtol=1e-15)


def test_frame_of_one_fit_has_one_row(fits):
    assert len(fits[0].to_pandas()) == 1


def test_frame_of_a_map_has_an_index_of_two_levels(curves):
    fit = jax.vmap(jax.vmap(lambda y: lmjax.curve_fit(model, X, y, START)))
    fits = fit(jnp.asarray(curves).reshape(2, 3, -1))
    frame = fits.to_pandas()
    assert frame.index.names == ["fit_0", "fit_1"]
    assert frame.loc[(1, 2), "amplitude"] == fits.params["amplitude"][1, 2]


def test_frame_of_a_global_fit_has_a_row_per_curve(curves):
    shared = {"line": True}
    fit = lmjax.global_fit(model, X, jnp.asarray(curves), START, shared=shared)
    frame = fit.to_pandas()
    assert frame.index.name == "curve"
    np.testing.assert_array_equal(frame["decay.tau"], fit.params["decay"]["tau"])
    assert set(frame["line[0]"]) == {float(fit.params["line"][0])}
    assert frame["decay.tau_stderr"].notna().all()


def test_parameters_of_models_have_their_names(curves):
    shape = lmjax.models.Exponential
    fit = lmjax.curve_fit(shape.guess(X, curves[0]), X, curves[0])
    assert {"amplitude", "amplitude_stderr"} <= set(fit.to_dict())
    fits = jax.vmap(lambda y: lmjax.curve_fit(shape.guess(X, y), X, y))(curves)
    np.testing.assert_allclose(
        fits.to_pandas()["amplitude"][0], fit.params.amplitude, rtol=1e-6
    )


def test_tied_parameters_are_among_the_others(curves):
    tie = lambda p: {**p, "twice": 2.0 * p["rate"]}
    decay = lambda p, x: p["a"] * jnp.exp(-0.5 * p["twice"] * x) + 0.5
    fit = lmjax.curve_fit(decay, X, curves[0], {"a": 1.0, "rate": 1.0}, tie=tie)
    found = fit.to_dict()
    assert found["twice"] == pytest.approx(2.0 * float(found["rate"]), rel=1e-12)
    errors = [float(found[n]) for n in ("twice_stderr", "rate_stderr")]
    assert errors[0] == pytest.approx(2.0 * errors[1], rel=1e-9)


def test_pandas_is_named_if_missing(fits, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        fits.to_pandas()


def test_one_fit_of_a_batch(fits, curves):
    assert len(fits) == 6
    one = fits[3]
    assert one.params["decay"]["tau"] == fits.params["decay"]["tau"][3]
    assert one.report().startswith("Fit converged")
    np.testing.assert_allclose(one.predict(X), curves[3], atol=0.1)
    assert fits[-1].cost == fits.cost[5]
    assert len(fits[1:4]) == 3
    assert len(fits[fits.cost > 0]) == 6
    assert len(fits[[0, 2]]) == 2
    assert [float(fit.cost) for fit in fits] == fits.cost.tolist()


@pytest.mark.parametrize("index", [6, -7])
def test_a_fit_that_is_not_there(fits, index):
    with pytest.raises(IndexError, match="out of bounds"):
        fits[index]


def test_one_fit_is_no_batch(fits):
    with pytest.raises(TypeError, match="this is one fit"):
        fits[0][0]
    with pytest.raises(TypeError, match="this is one fit"):
        len(fits[0])
    with pytest.raises(TypeError, match="not a tuple"):
        popt, pcov = fits[0]
    with pytest.raises(TypeError, match="fit.success"):
        bool(fits[0])


def test_plot_is_a_shorthand(fits, curves):
    assert len(fits[0].plot(X, curves[0]).axes) >= 2
    assert fits.plot(curves, X).axes
    solver = lmjax.LevenbergMarquardt(record_history=True)
    fit = lmjax.least_squares(lambda p: p - 1.0, jnp.zeros(2), solver=solver)
    assert fit.plot().axes
