"""Every model of `lmjax.models` with a formula in NumPy and parameters to draw."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.special

from lmjax import models


class Foot(NamedTuple):
    """Data that show only the beginning of a rise.

    Attributes:
        x: Independent variable.
        y: Observations.
        levels: Names of the parameters that say how high the rise goes.
    """

    x: np.ndarray
    y: np.ndarray
    levels: tuple[str, ...]


@dataclasses.dataclass
class Spec:
    """All that the tests know of a model.

    Attributes:
        model: Its class.
        x: Where to evaluate it.
        formula: What it should be there: ``(x, *parameters)`` in float64 NumPy.
        ranges: From where to draw each parameter.
        canonical: Removes from parameters what the curve does not determine.
        options: Keywords of ``guess``.
        in_one_array: Whether the parameters are the elements of one array.
        every_run: Whether its guess is tested on every run, as an example of a kind of
            search. The guesses of all models take minutes: the others are slow tests.
        zero_at: Points at which the curve is zero itself, so that no start for counts
            is possible: a mask, or True for a curve that comes near zero anywhere.
        foot: For a curve that rises to a level: data that do not show the level.
    """

    model: type
    x: Any
    formula: Callable
    ranges: list[tuple[float, float]]
    canonical: Callable = lambda *p: p
    options: dict = dataclasses.field(default_factory=dict)
    in_one_array: bool = False
    every_run: bool = False
    zero_at: Any = False
    foot: Foot | None = None

    def __str__(self):
        return self.model.__name__

    def draw(self, rng, count):
        """Return parameters, one row per curve."""
        low, high = np.array(self.ranges).T
        return rng.uniform(low, high, (count, low.size))

    def build(self, parameters):
        """Return the model with these parameters (scalars, or columns of a batch)."""
        if self.in_one_array:
            return self.model(parameters)
        return self.model(*(parameters[..., k] for k in range(len(self.ranges))))

    def of_numbers(self, *parameters):
        """Return the model with Python numbers as parameters."""
        if self.in_one_array:
            return self.model(list(parameters))
        return self.model(*parameters)

    def flat(self, model):
        """Return the parameters of a model (or batch) as an array, last axis."""
        fields = [
            np.asarray(getattr(model, field.name))
            for field in dataclasses.fields(model)
        ]
        return fields[0] if self.in_one_array else np.stack(fields, axis=-1)


LINE = np.linspace(-3.0, 5.0, 49)
TIME = np.linspace(0.0, 6.0, 40)
DOSE = np.r_[0.0, np.geomspace(0.01, 100.0, 14)]
FOOT_DOSE = np.geomspace(0.01, 1.0, 15)
FOOT_TIME = np.linspace(0.0, 4.0, 15)
POSITIVE = np.linspace(0.2, 6.0, 25)
GRID = tuple(np.meshgrid(np.arange(9.0), np.arange(8.0)))
S_AND_I = tuple(np.meshgrid(np.geomspace(0.1, 20.0, 6), np.array([0.0, 1.0, 4.0])))
INVERSION_TIMES = np.geomspace(30.0, 6000.0, 16)
ANGLES = (np.deg2rad(np.array([2.0, 4.0, 8.0, 12.0, 20.0, 30.0])), np.array(15.0))
B_VALUES = np.r_[0.0, np.geomspace(5.0, 1500.0, 15)]


def by_kind(specs):
    """Return test parameters: specs, all but the examples of their kind marked slow."""
    return [
        pytest.param(spec, marks=[] if spec.every_run else pytest.mark.slow)
        for spec in specs
    ]


def bell(u):
    return np.exp(-(u**2) / 2)


def logistic(z):
    return 1 / (1 + np.exp(-z))


def share(x, log_ec50, slope):
    """1 / (1 + (ec50 / x)^slope), 0 at x = 0 for a positive slope."""
    with np.errstate(divide="ignore"):
        return 1 / (1 + (np.exp(log_ec50) / x) ** slope)


def share_5(x, log_position, slope, log_asymmetry):
    with np.errstate(divide="ignore"):
        inner = 1 + (np.exp(log_position) / x) ** slope
    return inner ** -np.exp(log_asymmetry)


def rotated(x, a, cx, cy, w1, w2, angle, b):
    u = (x[0] - cx) * np.cos(angle) + (x[1] - cy) * np.sin(angle)
    v = (x[1] - cy) * np.cos(angle) - (x[0] - cx) * np.sin(angle)
    return a * bell(u / w1) * bell(v / w2) + b


def inversion(x, s0, inv, t1):
    return s0 - s0 * inv * np.exp(-x / t1)


def ernst(x, s0, t1):
    e = np.exp(-x[1] / t1)
    return s0 * np.sin(x[0]) * (1 - e) / (1 - np.cos(x[0]) * e)


def widths_positive(*p):
    """Drop the sign of the third parameter and beyond."""
    return (*p[:2], *np.abs(p[2:]))


SPECS = [
    Spec(
        models.Gaussian,
        LINE,
        lambda x, a, c, w: a * bell((x - c) / w),
        [(-4, -1), (-2, 4), (0.3, 2)],
        widths_positive,
        every_run=True,
        zero_at=True,
    ),
    Spec(
        models.Lorentzian,
        LINE,
        lambda x, a, c, w: a * w**2 / (w**2 + (x - c) ** 2),
        [(1, 4), (-2, 4), (0.3, 2)],
        widths_positive,
    ),
    Spec(
        models.PseudoVoigt,
        LINE,
        lambda x, a, c, w, f: (
            a * ((1 - f) * 2.0 ** -(((x - c) / w) ** 2) + f / (1 + ((x - c) / w) ** 2))
        ),
        [(1, 4), (-2, 4), (0.3, 1.5), (0.1, 0.9)],
        widths_positive,
    ),
    Spec(
        models.Voigt,
        LINE,
        lambda x, a, c, s, g: a * scipy.special.voigt_profile(x - c, s, g),
        [(1, 4), (-1, 3), (0.3, 1), (0.2, 0.8)],
        widths_positive,
    ),
    Spec(
        models.Gaussian2D,
        GRID,
        lambda x, a, cx, cy, w, b: (
            a * bell((x[0] - cx) / w) * bell((x[1] - cy) / w) + b
        ),
        [(-9, -3), (2, 6), (2, 5), (0.8, 2), (5, 9)],
        lambda a, cx, cy, w, b: (a, cx, cy, np.abs(w), b),
    ),
    Spec(
        models.EllipticGaussian2D,
        GRID,
        lambda x, a, cx, cy, w, v, b: (
            a * bell((x[0] - cx) / w) * bell((x[1] - cy) / v) + b
        ),
        [(3, 9), (2, 6), (2, 5), (0.8, 2), (0.8, 2), (-1, 1)],
        lambda a, cx, cy, w, v, b: (a, cx, cy, np.abs(w), np.abs(v), b),
        every_run=True,
    ),
    Spec(
        models.RotatedGaussian2D,
        GRID,
        rotated,
        [(3, 9), (3, 5), (3, 4), (1.6, 2.2), (0.8, 1.2), (-1.5, 1.5), (0, 1)],
        lambda a, cx, cy, w, v, t, b: (
            *(a, cx, cy, np.abs(w), np.abs(v)),
            *(np.sin(2 * t), np.cos(2 * t), b),
        ),
    ),
    Spec(
        models.Exponential,
        TIME,
        lambda x, a, k, b: a * np.exp(-k * x) + b,
        [(-4, 4), (0.1, 3), (-1, 1)],
        every_run=True,
    ),
    Spec(
        models.BiExponential,
        TIME,
        lambda x, a, k, b, q: a * np.exp(-k * x) + b * np.exp(-q * x),
        [(1, 4), (2, 5), (1, 4), (0.1, 0.5)],
    ),
    Spec(
        models.StretchedExponential,
        TIME,
        lambda x, a, k, b: a * np.exp(-((k * x) ** b)),
        [(1, 4), (0.2, 2), (0.5, 1.5)],
    ),
    Spec(
        models.PowerLaw,
        POSITIVE,
        lambda x, a, k: a * x**k,
        [(-4, 4), (-2, 3)],
    ),
    Spec(
        models.Logistic4,
        DOSE,
        lambda x, b, t, c, s: b + (t - b) * share(x, c, s),
        [(-1, 1), (2, 5), (-2, 2), (0.7, 3)],
        foot=Foot(FOOT_DOSE, FOOT_DOSE**3, ("bottom", "top")),
    ),
    Spec(
        models.Logistic5,
        DOSE,
        lambda x, b, t, c, s, a: b + (t - b) * share_5(x, c, s, a),
        [(-1, 1), (2, 5), (-1, 1), (1, 2), (0.4, 1.0)],
        foot=Foot(FOOT_DOSE, FOOT_DOSE**3, ("bottom", "top")),
    ),
    Spec(
        models.Hill,
        DOSE,
        lambda x, m, c, s: m * share(x, c, s),
        [(1, 5), (-2, 2), (0.7, 3)],
        every_run=True,
        zero_at=DOSE == 0.0,
        foot=Foot(FOOT_DOSE, FOOT_DOSE**3, ("maximum",)),
    ),
    Spec(
        models.MichaelisMenten,
        POSITIVE,
        lambda x, v, k: v * x / (k + x),
        [(1, 5), (0.1, 10)],
    ),
    Spec(
        models.CompetitiveInhibition,
        S_AND_I,
        lambda x, v, k, i: v * x[0] / (k * (1 + x[1] / i) + x[0]),
        [(1, 5), (0.3, 8), (0.3, 5)],
    ),
    Spec(
        models.InversionRecovery,
        INVERSION_TIMES,
        inversion,
        [(50, 200), (1.6, 2), (200, 2000)],
    ),
    Spec(
        models.MagnitudeInversionRecovery,
        INVERSION_TIMES,
        lambda *args: np.abs(inversion(*args)),
        [(50, 200), (1.6, 2), (200, 2000)],
    ),
    Spec(
        models.VariableFlipAngle,
        ANGLES,
        ernst,
        [(100, 1000), (200, 3000)],
        every_run=True,
    ),
    Spec(
        models.T2Decay,
        POSITIVE,
        lambda x, s, t: s * np.exp(-x / t),
        [(50, 200), (0.5, 8)],
    ),
    Spec(
        models.Diffusion,
        B_VALUES,
        lambda x, s, d: s * np.exp(-x * d),
        [(50, 200), (0.0003, 0.003)],
    ),
    Spec(
        models.IVIM,
        B_VALUES,
        lambda x, s, f, p, d: s * ((1 - f) * np.exp(-x * d) + f * np.exp(-x * p)),
        [(50, 200), (0.1, 0.3), (0.01, 0.05), (0.0005, 0.002)],
        every_run=True,
    ),
    Spec(
        models.LogisticGrowth,
        TIME,
        lambda x, a, r, m, b: b + a * logistic(r * (x - m)),
        [(-3, 3), (1, 8), (1.5, 4), (0, 1)],
        foot=Foot(FOOT_TIME, np.exp(2.0 * FOOT_TIME), ("amplitude",)),
    ),
    Spec(
        models.GompertzGrowth,
        TIME,
        lambda x, a, r, m, b: b + a * np.exp(-np.exp(-r * (x - m))),
        [(1, 3), (1, 5), (1.5, 3), (0, 1)],
        every_run=True,
        foot=Foot(FOOT_TIME, np.exp(2.0 * FOOT_TIME), ("amplitude",)),
    ),
    Spec(
        models.Polynomial,
        LINE,
        lambda x, *c: np.polynomial.polynomial.polyval(x, c),
        [(-2, 2)] * 4,
        options={"degree": 3},
        in_one_array=True,
        every_run=True,
    ),
    Spec(
        models.DampedSine,
        TIME,
        lambda x, a, k, f, p: a * np.exp(-k * x) * np.sin(2 * np.pi * f * x + p),
        [(1, 3), (0.1, 1), (0.3, 2.5), (-1.5, 1.5)],
        lambda a, k, f, p: (a * np.sin(p), a * np.cos(p), k, f),
        every_run=True,
        zero_at=True,
    ),
]
