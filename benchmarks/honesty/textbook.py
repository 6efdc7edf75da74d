"""Problems of the literature: Moré-Garbow-Hillstrom and NIST, from wild starts.

Numbers 6, 12 and 15 of Moré, Garbow and Hillstrom (1981), ACM TOMS 7(1), 17-41, are
added to those of `benchmarks.mgh`.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from benchmarks import mgh, nist
from benchmarks.honesty.problems import Problem, Starts, curve, wild

# Half of what `mgh.which_minimum` lets pass as a zero sum of squares.
ZERO = 5e-13

# Solutions, where the standard start does not lead the reference solver to the global
# minimum.
_SOLUTIONS = {
    "Freudenstein-Roth": (5, 4),
    "Brown badly scaled": (1e6, 2e-6),
    "Beale": (3, 0.5),
    "Helical valley": (1, 0, 0),
    "Meyer": (0.005609636, 6181.346, 345.2236),
    "Gulf": (50, 25, 1.5),
    "Brown-Dennis": (-11.5944, 13.2036, -0.403439, 0.236779),
    "Powell singular": (0, 0, 0, 0),
    "Variably dimensioned": (1,) * 10,
}
# One of each kind of the same function is enough; each takes seconds to compile.
_LEFT_OUT = ("Watson 6", "Watson 12", "Extended Rosenbrock", "Linear full rank")
_LEFT_OUT += ("Chebyquad 7", "Chebyquad 9", "Chebyquad 10")
_LEFT_OUT += ("Misra1c", "Misra1d", "Chwirut1", "Gauss2", "Lanczos2", "Rat42")


def _box(x):
    t = 0.1 * jnp.arange(1.0, 11.0)
    right = jnp.exp(-t) - jnp.exp(-10 * t)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * right


def _jennrich_sampson(x):
    i = jnp.arange(1.0, 11.0)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


_KOWALIK_Y = [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342]
_KOWALIK_Y += [0.0323, 0.0235, 0.0246]
_KOWALIK_U = [4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]


def _kowalik_osborne(x):
    y, u = jnp.array(_KOWALIK_Y), jnp.array(_KOWALIK_U)
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


_MORE = [
    mgh.Problem("Box", _box, np.array([0.0, 10, 20]), (0.0,)),
    mgh.Problem(
        "Jennrich-Sampson", _jennrich_sampson, np.array([0.3, 0.4]), (124.362182,)
    ),
    mgh.Problem(
        "Kowalik-Osborne",
        _kowalik_osborne,
        np.array([0.25, 0.39, 0.415, 0.39]),
        (3.075056038e-4, 1.02734e-3),
    ),
]
# A point from which the box function was once declared solved at a cost of 7e17.
_GIVEN = {"Box": [(-66.0525594053138, -43.7852329550506, 55.69377018257315)]}


def _from_mgh(record: mgh.Problem) -> Problem:
    standard = [record.scaled(factor) for factor in (1, 10, 100)]
    centre = np.where(record.start == 0, 1.0, record.start)
    truth = np.array(_SOLUTIONS.get(record.name, record.start), float)
    return Problem(
        record.name,
        "textbook",
        _without_data(record.residual),
        (),
        truth[None],
        Starts(np.array(_GIVEN.get(record.name, []) + standard), wild(), centre),
        record.minima[0] / 2,
        ZERO if record.minima[0] == 0 else 0.0,
    )


def _without_data(residual: Callable) -> Callable:
    def call(p):
        return residual(p)

    return call


def _from_nist(record: nist.Problem) -> Problem:
    return Problem(
        record.name,
        "nist",
        curve(record.model),
        (record.x[None], record.y[None]),
        record.params[None],
        Starts(np.array(record.starts), wild()),
        record.rss / 2,
    )


def problems() -> list[Problem]:
    """Return the problems of both collections."""
    return [
        *(_from_mgh(r) for r in [*mgh.PROBLEMS, *_MORE] if r.name not in _LEFT_OUT),
        *(_from_nist(r) for r in nist.load() if r.name not in _LEFT_OUT),
    ]
