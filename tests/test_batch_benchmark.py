"""The batch benchmark's data are what its README states, its judgements right."""

import jax
import numpy as np
import pytest
from scipy.special import xlogy

from benchmarks._report import RESULTS
from benchmarks.batch import __main__ as command_line
from benchmarks.batch import catalogue, judge, ladder, lanes, measure, models, peers
from benchmarks.batch.judge import Excess, Judge
from benchmarks.batch.workloads import evaluate, spread

SHIPPED = [*catalogue.SIMULATED, *catalogue.MEASURED]
MANY, FEW = 2_000, 6
# Fitted on every run; the others are alike.
KINDS = ("gauss2d_12x12_poisson", "decays")
# name: points, parameters, precision, ftol, max_steps
STATED = {
    "headline_5x5": (25, 5, np.float32, 1e-4, 10),
    "headline_15x15": (225, 5, np.float32, 1e-4, 10),
    "gauss_fit_2d_30x30": (900, 5, np.float32, 1e-3, 20),
    "gauss2d_12x12": (144, 5, np.float32, 1e-4, 20),
    "gauss2d_12x12_poisson": (144, 5, np.float32, 1e-4, 20),
    "gauss2d_constrained_20x20": (400, 5, np.float32, 1e-4, 20),
    "linear_regression": (20, 2, np.float32, 1e-3, 20),
    "decays": (50, 3, np.float64, 1e-6, 200),
    "peaks_2": (200, 8, np.float32, 1e-4, 100),
    "peaks_4": (200, 14, np.float32, 1e-4, 100),
    "colloid": (121, 5, np.float32, 1e-4, 100),
    "diffusion_mri": (102, 7, np.float64, 1e-6, 100),
}


def noise(load):
    return load.y - evaluate(load.model, load.truth, load.x)


@pytest.mark.parametrize("name", SHIPPED)
def test_workload_is_as_stated_and_reproducible(name):
    load, again = catalogue.load(name, FEW), catalogue.load(name, FEW)
    points, n, dtype, ftol, max_steps = STATED[name]
    assert load.name == name
    assert load.y.shape == (FEW, points)
    assert load.start.shape == (FEW, n)
    assert load.y.dtype == load.start.dtype == dtype
    assert (load.ftol, load.max_steps) == (ftol, max_steps)
    assert np.isfinite(load.y).all()
    np.testing.assert_array_equal(load.y, again.y)
    np.testing.assert_array_equal(load.start, again.start)


def test_number_of_fits_where_none_is_asked_for():
    assert catalogue.load("headline_5x5").fits == 10_000
    assert catalogue.load("colloid").fits == 4_000
    assert catalogue.load("diffusion_mri").fits == 600


def test_data_elsewhere_are_none_without_a_folder(tmp_path):
    assert catalogue.load("flim") is None
    assert catalogue.load("flim", folder=tmp_path) is None


@pytest.mark.parametrize("name", ["headline_5x5", "headline_15x15"])
def test_headline_has_gpufits_scatter_and_noise(name):
    load = catalogue.load(name, MANY)
    centre = (np.sqrt(load.y.shape[1]) - 1) / 2
    np.testing.assert_allclose(
        load.truth.mean(axis=0), [500, centre, centre, 1, 10], rtol=0.01
    )
    ratio = load.start / load.truth
    assert 0.899 < ratio.min() < 0.91
    assert 1.09 < ratio.max() < 1.101
    # mean amplitude of 2 pi 500 / 4.292^2 over 10
    assert noise(load).std() == pytest.approx(17.05, rel=0.02)
    assert noise(load).mean() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("name", [n for n in SHIPPED if n.startswith("gauss")])
def test_images_have_poisson_noise_and_starts_around_the_truth(name):
    load = catalogue.load(name, 500)
    mean = evaluate(load.model, load.truth[:1], load.x)[0]
    assert load.noise == "poisson"
    assert np.mean(load.y.mean(axis=0) / mean) == pytest.approx(1, rel=0.01)
    assert np.mean(load.y.var(axis=0) / mean) == pytest.approx(1, rel=0.02)
    shift = np.abs(load.start[:, 1:3] - load.truth[:, 1:3])
    assert 0.55 < shift.max() <= 0.6001  # a fifth of the width of 3
    assert (load.bounds is not None) == ("constrained" in name)
    if load.bounds is not None:
        assert ((load.bounds[0] <= load.start) & (load.start <= load.bounds[1])).all()


def test_line_has_unit_noise_at_powers_of_two():
    load = catalogue.load("linear_regression", MANY)
    assert load.x[0] == 1
    assert load.x[-1] == 2**19
    assert noise(load).std() == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(load.start.mean(axis=0), [5, 5], rtol=0.01)


def test_decay_rates_spread_over_two_decades():
    load = catalogue.load("decays", MANY)
    exponents = np.log10(load.truth[:, 1])
    assert exponents.min() == pytest.approx(-1, abs=0.01)
    assert exponents.max() == pytest.approx(1, abs=0.01)
    assert exponents.mean() == pytest.approx(0, abs=0.05)
    assert noise(load).std() == pytest.approx(0.05, rel=0.02)
    assert (load.start == load.start[0]).all()


def test_diffusion_weightings_are_those_of_unit_directions():
    load = catalogue.load("diffusion_mri")
    isotropic = np.array([1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    b = load.x[0] + load.x[1] + load.x[2]
    assert b.min() == pytest.approx(0.015)
    assert b.max() == pytest.approx(4.065)
    signal = models.diffusion_tensor(isotropic, load.x, np)
    np.testing.assert_allclose(signal, np.exp(-2 * b), rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow)
        for name in SHIPPED
    ],
)
def test_lmjax_fits_every_workload(name):
    load = catalogue.load(name, FEW)
    params, success, steps, _ = peers.LMJAX.prepare(load, load.max_steps).run(load.ftol)
    assert params.dtype == load.y.dtype
    rss = [
        np.sum((evaluate(load.model, np.asarray(p, float), load.x) - load.y) ** 2, 1)
        for p in (params, load.start)
    ]
    assert (rss[0] < rss[1]).all()
    assert np.mean(success) > 0.5
    assert np.max(steps) <= load.max_steps


def test_judge_finds_the_minimum_of_linear_problems():
    load = catalogue.load("linear_regression", FEW)
    judged = Judge(load)
    columns = np.stack([np.ones(20), load.x], axis=1).astype(float)
    best, rss, _, _ = np.linalg.lstsq(columns, load.y.T.astype(float), rcond=None)
    np.testing.assert_allclose(judged.best, rss, rtol=1e-8)
    # moved off the minimum by one in the offset: 20 more in the sum of squares
    excess = judged.excess(best.T + [1.0, 0.0], np.arange(FEW))
    np.testing.assert_allclose(excess.scaled, 20 / (2 * rss / 18), rtol=1e-6)
    lost = judged.excess(np.full((FEW, 2), np.nan), np.arange(FEW))
    assert np.isinf(lost.relative).all()


@pytest.mark.slow
def test_judge_of_counts_finds_the_least_deviance():
    load = catalogue.load("gauss2d_12x12_poisson", FEW)
    assert peers.no_likelihood(load)
    judged = Judge(load)
    params, success, *_ = peers.LMJAX.prepare(load, 200).run(1e-6)
    assert success.all()
    f = evaluate(load.model, np.asarray(params, float), load.x)
    deviance = 2 * np.sum(f - load.y + xlogy(load.y, load.y / f), axis=1)
    np.testing.assert_allclose(judged.best, deviance, rtol=1e-5)  # float32
    assert (judged.best < deviance * (1 + 1e-9)).all()


def test_equal_cost_compares_median_and_tail_on_common_fits():
    fits = np.arange(200)
    ours = Excess(fits, np.ones(200), np.full(200, 1e-3))
    same = Excess(fits[::2], np.ones(100), np.full(100, 1e-3))
    assert ladder.no_worse(same, ours)
    tail = np.where(fits < 5, 1.0, 1e-3)
    assert not ladder.no_worse(Excess(fits, tail, tail), ours)
    exact = Excess(fits, np.zeros(200), np.zeros(200))
    assert ladder.no_worse(Excess(fits, fits, np.full(200, 0.9e-4)), exact)
    assert not ladder.no_worse(ours, exact)


def test_lane_efficiency_is_useful_over_executed():
    steps = np.array([1, 2, 3, 10])
    assert lanes.efficiency(steps, lanes.plain_vmap(steps)) == 16 / 40
    assert lanes.efficiency(steps, lanes.serial(steps)) == 1
    assert lanes.efficiency(steps[:0], lanes.plain_vmap(steps[:0])) == 1


def test_memory_growth_sees_what_a_call_holds():
    if measure.resident() is None:
        pytest.skip("resident memory is unknown here")
    growth, _ = measure.memory_growth(lambda: np.ones(8_000_000).sum())
    assert growth > 30e6  # of 64e6; sampled, so not to the byte


def test_command_prints_a_table_and_keeps_the_saved_results(capsys):
    before = sorted(path.stat().st_mtime_ns for path in RESULTS.iterdir())
    options = ["--quick", "--fits", str(FEW), "--rounds", "1", "--peers", "scipy"]
    assert command_line.main([*options, "--workload", "decays", "flim"]) == 0
    out = capsys.readouterr().out
    assert "| lmjax |" in out
    assert "| scipy |" in out
    assert "flim: its data do not ship" in out
    assert before == sorted(path.stat().st_mtime_ns for path in RESULTS.iterdir())
    assert jax.config.jax_enable_x64  # as the tests set it


def test_judged_quantiles_take_the_higher_neighbour():
    excess = Excess(np.arange(3), np.zeros(3), np.array([0.0, 1.0, np.inf]))
    assert judge.quantiles(excess) == (1.0, np.inf)


def test_evenly_spaced_parts_lie_within_each_other():
    assert set(spread(123_457, 200)) <= set(spread(123_457, 10_000))
    np.testing.assert_array_equal(spread(5, 10), np.arange(5))
    assert len(np.unique(spread(10_001, 10_000))) == 10_000
