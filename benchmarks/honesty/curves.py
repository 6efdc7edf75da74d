"""Curves with known parameters, and reported ones: the problems that users bring."""

import json
from pathlib import Path

import numpy as np

from benchmarks.honesty import models
from benchmarks.honesty.problems import (
    Problem,
    Starts,
    curve,
    near,
    none_given,
    synthetic,
    wild,
)


def _given(*starts) -> Starts:
    return Starts(np.array(starts, float))


def _reported(name, model, start_rule) -> Problem:
    """Return a curve of ``reported.json``, its own starts first."""
    path = Path(__file__).parent / "reported.json"
    record = json.loads(path.read_text())[name]
    starts = np.array(record["starts"], float)
    truth = np.array(record.get("params", [1.3, 2.0, 1.3, 1.0]), float)
    data = (np.array([record["x"]], float), np.array([record["y"]], float))
    rule = Starts(starts, start_rule)
    return Problem(
        name, "decays", curve(model), data, truth[None], rule, record["cost"]
    )


def _many_decays() -> Problem:
    """Return decays of 101 points whose scale is far from a start of (1, 1, 0)."""
    rng = np.random.default_rng(20261126)
    truth = np.column_stack(
        [rng.uniform(200, 1500, 64), rng.uniform(3, 20, 64), rng.uniform(0, 60, 64)]
    )
    x = np.arange(101) / 2
    clean = truth[:, :1] * np.exp(-x / truth[:, 1:2]) + truth[:, 2:]
    y = clean + 8 * rng.standard_normal(clean.shape)
    data = (np.broadcast_to(x, y.shape), y)
    starts = _given((1, 1, 0), (1, 10, 0))
    return Problem("many_decays", "decays", curve(models.decay), data, truth, starts)


def _decays():
    t = np.linspace(0.1, 10, 40)
    return [
        _many_decays(),
        _reported("runaway_curve", models.decay, wild()),
        _reported("decay_counts", models.exponential, wild()),
        _reported("two_exponentials", models.two_exponentials, wild()),
        synthetic(
            "decay_from_ones",
            "decays",
            models.rate_decay,
            (2.5, 1.3, 0.5),
            np.linspace(0, 4, 50),
            sets=32,
            spread=0.5,
            starts=_given((1, 1, 1)),
        ),
        synthetic(
            "decay_wild", "decays", models.decay, (500, 3, 40), np.linspace(0, 10, 50)
        ),
        synthetic(
            "two_decays",
            "decays",
            models.two_decays,
            (3, 0.6, 1, 4, 0.3),
            t,
            noise=0.01,
        ),
        synthetic("stretched", "decays", models.stretched, (2, 2, 0.7, 0.3), t),
        synthetic("saturation", "decays", models.saturation, (20, 3, 1), t),
        synthetic(
            "short_decay", "decays", models.decay, (10, 2, 1), np.arange(6.0), sets=16
        ),
    ]


def _powers():
    x = np.geomspace(0.5, 200, 30)
    return [
        synthetic("power", "powers", models.power, (3, 0.75), x),
        synthetic("power_steep", "powers", models.power, (1e-3, 3.2), x),
        synthetic("power_offset", "powers", models.power_offset, (3, -0.8, 1), x),
        synthetic("omori", "powers", models.omori, (80, 2, 1.1), x),
    ]


def _logistics():
    dose = np.geomspace(1e-3, 1e3, 28)
    cycle = np.arange(1.0, 41)
    return [
        synthetic("dose4", "logistics", models.dose4, (0.1, 2, 1, 1.1), dose),
        synthetic("dose5", "logistics", models.dose5, (0.1, 2, 1, 1.1, 1.5), dose),
        synthetic(
            "growth",
            "logistics",
            models.growth,
            (30, 20, 3, 2),
            cycle,
            place={1: (0, 40)},
        ),
        synthetic(
            "amplification",
            "logistics",
            models.amplification,
            (8, 22, 0.6, 0.7, 1),
            cycle,
            noise=0.005,
            place={1: (5, 35)},
        ),
        synthetic("gompertz", "logistics", models.gompertz, (100, 5, 0.15), cycle),
    ]


# Two circuits as published, and rough guesses from which fits part ways.
_NESTED = (0.0165, 0.00868, 3.32, 0.00539, 0.0631, 233.0, 0.22)
_NESTED_GUESSES = (
    (0.003, 0.02, 4.0, 0.001, 0.1, 50.0, 0.3),
    (0.01, 0.01, 100.0, 0.01, 0.05, 100.0, 1.0),
)
_SERIES = (10.0, 100.0, 1e-6, 200.0, 1e-4, 50.0, 5.0)


def _circuits():
    nested, series = np.geomspace(0.00316, 1e4, 60), np.geomspace(0.01, 1e5, 60)
    within_30 = near(np.log10(1.3))
    first, second = np.array(_NESTED_GUESSES)
    decade = Starts(none_given(7), near(1.0))

    def problem(name, model, truth, x, starts):
        return synthetic(
            name,
            "circuits",
            model,
            truth,
            x,
            noise=0.005,
            sets=4,
            spread=0.05,
            starts=starts,
        )

    guess = Starts(none_given(7), within_30)
    return [
        problem(
            "circuit_guess",
            models.nested_circuit,
            _NESTED,
            nested,
            guess._replace(centre=first),
        ),
        problem(
            "circuit_manual",
            models.nested_circuit,
            _NESTED,
            nested,
            guess._replace(centre=second),
        ),
        problem("circuit_nested", models.nested_circuit, _NESTED, nested, decade),
        problem("circuit_series", models.series_circuit, _SERIES, series, decade),
    ]


def _peaks():
    x = np.linspace(0, 10, 60)
    inside = {1: (0, 10)}
    pixels = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0))).reshape(2, -1)
    two = (5, 3.5, 0.6, 1, 3, 6, 0.9)
    return [
        synthetic(
            "gaussian", "peaks", models.gaussian, (7, 5, 0.8, 1), x, place=inside
        ),
        synthetic(
            "gaussian_on_line",
            "peaks",
            models.gaussian_on_line,
            (7, 5, 0.8, 1, 0.5),
            x,
            place=inside,
        ),
        synthetic(
            "lorentzian", "peaks", models.lorentzian, (70, 5, 0.8, 10), x, place=inside
        ),
        synthetic(
            "pseudo_voigt",
            "peaks",
            models.pseudo_voigt,
            (7, 5, 0.8, 0.5, 1),
            x,
            place=inside,
        ),
        synthetic(
            "two_peaks",
            "peaks",
            models.two_peaks,
            two,
            x,
            place={1: (0, 10), 5: (0, 10)},
        ),
        synthetic(
            "spot",
            "peaks",
            models.spot,
            (300, 4, 4, 1.3, 100),
            pixels,
            noise=0.1,
            place={1: (0, 8), 2: (0, 8)},
        ),
    ]


def _rates():
    x = np.geomspace(0.1, 50, 20)
    kelvin = np.linspace(270, 370, 25)
    warm = np.linspace(0, 40, 60)
    return [
        synthetic("michaelis_menten", "rates", models.michaelis_menten, (8, 4), x),
        synthetic("haldane", "rates", models.haldane, (8, 4, 30), x),
        synthetic("hill", "rates", models.hill, (8, 4, 1.8), x),
        synthetic(
            "respiration",
            "rates",
            models.respiration,
            (2, 0.08, 0.6, 33),
            warm,
            noise=0.6,
            spread=0.05,
        ),
        synthetic("langmuir", "rates", models.langmuir, (5, 0.7, 0.02), x),
        synthetic("rational", "rates", models.rational, (2, 1, 0.4, 0.06), x),
        synthetic("arrhenius", "rates", models.arrhenius, (0.5, 5000), kelvin),
        synthetic(
            "antoine", "rates", models.antoine, (18, 3800, -46), kelvin, spread=0.01
        ),
    ]


def _waves():
    t = np.linspace(0, 10, 80)
    return [
        synthetic("sine", "waves", models.sine, (3, 2, 0.5, 1), t, place={2: (-3, 3)}),
        synthetic(
            "ringing",
            "waves",
            models.ringing,
            (3, 4, 3, 0.5, 1),
            t,
            place={3: (-3, 3)},
        ),
    ]


def problems() -> list[Problem]:
    """Return all of them."""
    return [
        *_decays(),
        *_powers(),
        *_logistics(),
        *_circuits(),
        *_peaks(),
        *_rates(),
        *_waves(),
    ]
