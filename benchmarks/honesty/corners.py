"""Problems at the edges of arithmetic: sizes, offsets, and minima where J vanishes."""

import jax.numpy as jnp
import numpy as np

from benchmarks.honesty import models
from benchmarks.honesty.problems import (
    Problem,
    Starts,
    about_one,
    near,
    none_given,
    synthetic,
)


def _given(*starts) -> Starts:
    return Starts(np.array(starts, float))


def _magnitudes():
    x = np.linspace(0, 10, 30)
    large = 10.0 ** np.arange(3, 21)
    peak = np.repeat(10.0 ** np.arange(3, 17), 2)
    small = 10.0 ** -np.arange(3.0, 21)
    ones = Starts(none_given(1), near(0.0))
    at_one = Starts(none_given(3), about_one)

    def units(row, sizes):
        return {"scales": (row, sizes), "noise": 0.02}

    return [
        synthetic(
            "constant_large",
            "magnitudes",
            models.constant,
            (2,),
            x,
            starts=ones._replace(centre=np.ones(1)),
            **units((1,), large),
        ),
        synthetic(
            "constant_small",
            "magnitudes",
            models.constant,
            (2,),
            x,
            starts=ones._replace(centre=np.ones(1)),
            **units((1,), small),
        ),
        synthetic(
            "peak_large",
            "magnitudes",
            models.gaussian,
            (3, 5, 1, 1),
            x,
            spread=0.02,
            starts=_given((1, 5, 1, 1), (1, 4, 1.5, 1)),
            **units((1, 0, 0, 1), peak),
        ),
        synthetic(
            "line_large",
            "magnitudes",
            models.line,
            (2, 0.5),
            x,
            starts=_given((1, 1), (0, 0)),
            **units((1, 1), large),
        ),
        synthetic(
            "decay_large",
            "magnitudes",
            models.decay,
            (3, 2.5, 1),
            x,
            starts=at_one,
            **units((1, 0, 1), large[:10]),
        ),
        synthetic(
            "decay_small",
            "magnitudes",
            models.decay,
            (3, 2.5, 1),
            x,
            starts=at_one,
            **units((1, 0, 1), small),
        ),
    ]


def _lines():
    seconds = 1e9 + np.arange(5.0)
    starts = _given((-1e9, 0), (0, 0), (1, 1))
    years = np.linspace(1990, 2020, 31)
    return [
        synthetic(
            "seconds", "lines", models.line, (-2e9, 2), seconds, spread=0, starts=starts
        ),
        synthetic(
            "milliseconds",
            "lines",
            models.line,
            (-3e9, 1e-3),
            1.6e12 + 1e3 * np.arange(20.0),
            starts=_given((-1.6e12, 0), (0, 0), (1, 1)),
        ),
        synthetic("years", "lines", models.line, (-4e3, 2), years, spread=0.01),
        synthetic(
            "years_squared", "lines", models.parabola, (4e4, -40, 0.01), years, spread=0
        ),
    ]


def _square_plus_five(p):
    return jnp.stack([p[0] ** 2 + 5])


def _square_beside_line(p):
    return jnp.stack([p[0] - 3, p[1] ** 2 + 1, p[0] + p[1] ** 2 - 3])


# Curvature that Gauss-Newton leaves out, over what it keeps: at 1 its steps go to and
# fro for ever.
_ZIGZAG = 0.9997


def _zigzag(p):
    return jnp.stack([p[0], p[1] - 1, p[0] ** 2 / 2 + _ZIGZAG])


def _curved():
    x = np.linspace(0, 10, 30)
    wide = Starts(np.array([[2.0]]), near(1.5, signs=0.5), np.ones(1))
    pair = Starts(none_given(2), near(1.5, signs=0.5), np.ones(2))
    return [
        Problem(
            "square_plus_five",
            "curved",
            _square_plus_five,
            (),
            np.zeros((1, 1)),
            wide,
            12.5,
        ),
        Problem(
            "square_beside_line",
            "curved",
            _square_beside_line,
            (),
            np.array([[3.0, 0.0]]),
            pair,
            0.5,
        ),
        Problem(
            "zigzag",
            "curved",
            _zigzag,
            (),
            np.array([[0.0, 1.0]]),
            pair,
            0.5 * _ZIGZAG**2,
        ),
        _negative("square_slope", models.square_slope, x, pair),
        _negative("square_peak", models.square_peak, x, pair),
    ]


def _negative(name, model, x, starts) -> Problem:
    """Return data that fall where the model can only rise: its minimum is at zero."""
    problem = synthetic(name, "curved", model, (1.0, 2.0), x, starts=starts)
    x, y = problem.data
    truth = np.column_stack([np.zeros(len(y)), -y.mean(axis=1)])
    return problem._replace(data=(x, -y), truth=truth)


def problems() -> list[Problem]:
    """Return all of them."""
    return [*_magnitudes(), *_lines(), *_curved()]
