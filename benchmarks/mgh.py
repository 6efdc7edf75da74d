"""Problems of Moré, Garbow and Hillstrom (1981) that the benchmarks and tests share.

Formulas, data vectors and standard starts: J. J. Moré, B. S. Garbow, K. E. Hillstrom,
"Testing Unconstrained Optimization Software", ACM TOMS 7(1), 17-41. Each record also
lists known stationary values of the sum of squares, the first being the global minimum.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """One test problem.

    Attributes:
        name: Name and, where it varies, size.
        residual: ``x -> f``, jnp in, jnp out.
        start: Standard start.
        minima: Known stationary values of ``sum f^2``, global minimum first.
        scaled_start: Replaces ``k * start`` where the standard start is zero.
    """

    name: str
    residual: Callable
    start: np.ndarray
    minima: tuple[float, ...]
    zero_start: bool = False

    def scaled(self, factor: float) -> np.ndarray:
        """Return ``factor`` times the standard start, as the paper's runs do."""
        if self.zero_start and factor != 1:
            return np.full_like(self.start, factor)
        return factor * self.start


def which_minimum(problem: Problem, sum_of_squares: float) -> int | None:
    """Return the index of the known minimum that was reached, None if it is none.

    Four digits of a nonzero minimum, 1e-12
    absolute for a zero one.
    """
    for index, value in enumerate(problem.minima):
        allowed = 1e-4 * value if value > 0 else 1e-12
        if abs(sum_of_squares - value) <= allowed:
            return index
    return None


def _rosenbrock(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def _freudenstein_roth(x):
    a, b = x
    return jnp.stack(
        [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b]
    )


def _brown_badly_scaled(x):
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def _beale(x):
    i = jnp.arange(1, 4)
    return jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** i)


def _helical_valley(x):
    turn = jnp.arctan(x[1] / x[0]) / (2 * jnp.pi) + jnp.where(x[0] < 0, 0.5, 0.0)
    return jnp.stack([10 * (x[2] - 10 * turn), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


_BARD_Y = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96]
_BARD_Y += [1.34, 2.10, 4.39]


def _bard(x):
    u = jnp.arange(1.0, 16.0)
    v = 16 - u
    return jnp.array(_BARD_Y) - (x[0] + u / (v * x[1] + jnp.minimum(u, v) * x[2]))


_MEYER_Y = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005]
_MEYER_Y += [5147, 4427, 3820, 3307, 2872]


def _meyer(x):
    t = 45 + 5 * jnp.arange(1.0, 17.0)
    return x[0] * jnp.exp(x[1] / (t + x[2])) - jnp.array(_MEYER_Y, float)


def _gulf(x):
    t = jnp.arange(1.0, 100.0) / 100
    y = 25 + (-50 * jnp.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - t


def _powell_singular(x):
    a, b, c, d = x
    return jnp.stack(
        [
            a + 10 * b,
            jnp.sqrt(5.0) * (c - d),
            (b - 2 * c) ** 2,
            jnp.sqrt(10.0) * (a - d) ** 2,
        ]
    )


def _wood(x):
    a, b, c, d = x
    return jnp.stack(
        [
            10 * (b - a**2),
            1 - a,
            jnp.sqrt(90.0) * (d - c**2),
            1 - c,
            jnp.sqrt(10.0) * (b + d - 2),
            (b - d) / jnp.sqrt(10.0),
        ]
    )


def _brown_dennis(x):
    t = jnp.arange(1.0, 21.0) / 5
    first = x[0] + t * x[1] - jnp.exp(t)
    return first**2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


_OSBORNE_Y = [0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784]
_OSBORNE_Y += [0.751, 0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522]
_OSBORNE_Y += [0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420]
_OSBORNE_Y += [0.414, 0.411, 0.406]


def _osborne(x):
    t = 10 * jnp.arange(33.0)
    model = x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4])
    return jnp.array(_OSBORNE_Y) - model


def _watson(x):
    t = jnp.arange(1.0, 30.0) / 29
    powers = t[:, None] ** jnp.arange(x.size)
    j = jnp.arange(1.0, x.size)
    slopes = powers[:, :-1] @ (j * x[1:])
    f = slopes - (powers @ x) ** 2 - 1
    return jnp.concatenate([f, jnp.stack([x[0], x[1] - x[0] ** 2 - 1])])


def _extended_rosenbrock(x):
    even, odd = x[1::2], x[::2]
    return jnp.concatenate([10 * (even - odd**2), 1 - odd])


def _variably_dimensioned(x):
    total = jnp.sum(jnp.arange(1.0, x.size + 1) * (x - 1))
    return jnp.concatenate([x - 1, jnp.stack([total, total**2])])


def _broyden_tridiagonal(x):
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def _linear_full_rank(x):
    m = 20
    shift = 2 / m * jnp.sum(x) + 1
    return jnp.concatenate([x - shift, jnp.full(m - x.size, -shift)])


def _chebyquad(x):
    n = x.size
    t, before = 2 * x - 1, jnp.ones_like(x)
    values = []
    for i in range(1, n + 1):
        integral = 0.0 if i % 2 else -1 / (i**2 - 1)
        values.append(jnp.mean(t) - integral)
        t, before = 2 * (2 * x - 1) * t - before, t
    return jnp.stack(values)


def _array(*values):
    return np.array(values, float)


PROBLEMS = [
    Problem("Rosenbrock", _rosenbrock, _array(-1.2, 1), (0.0,)),
    Problem(
        "Freudenstein-Roth", _freudenstein_roth, _array(0.5, -2), (0.0, 48.98425368)
    ),
    Problem("Brown badly scaled", _brown_badly_scaled, _array(1, 1), (0.0,)),
    # the valley x2 -> 1, |x1| -> infinity is a limit, not a minimum, but attracts
    Problem("Beale", _beale, _array(1, 1), (0.0, 0.4520)),
    Problem("Helical valley", _helical_valley, _array(-1, 0, 0), (0.0,)),
    Problem("Bard", _bard, _array(1, 1, 1), (8.214877307e-3, 17.42869333)),
    Problem("Meyer", _meyer, _array(0.02, 4000, 250), (87.94585517,)),
    Problem("Gulf", _gulf, _array(5, 2.5, 0.15), (0.0,)),
    Problem("Powell singular", _powell_singular, _array(3, -1, 0, 1), (0.0,)),
    Problem("Wood", _wood, _array(-3, -1, -3, -1), (0.0,)),
    Problem("Brown-Dennis", _brown_dennis, _array(25, 5, -5, -1), (85822.20163,)),
    Problem("Osborne 1", _osborne, _array(0.5, 1.5, -1, 0.01, 0.02), (5.464894697e-5,)),
    Problem("Watson 6", _watson, np.zeros(6), (2.287670054e-3,), True),
    Problem("Watson 9", _watson, np.zeros(9), (1.399760138e-6,), True),
    Problem("Watson 12", _watson, np.zeros(12), (4.722381102e-10,), True),
    Problem("Extended Rosenbrock", _extended_rosenbrock, np.tile([-1.2, 1], 5), (0.0,)),
    Problem(
        "Variably dimensioned",
        _variably_dimensioned,
        1 - np.arange(1, 11) / 10,
        (0.0,),
    ),
    Problem("Broyden tridiagonal", _broyden_tridiagonal, -np.ones(10), (0.0,)),
    Problem("Linear full rank", _linear_full_rank, np.ones(10), (10.0,)),
    Problem("Chebyquad 7", _chebyquad, np.arange(1, 8) / 8, (0.0,)),
    Problem("Chebyquad 8", _chebyquad, np.arange(1, 9) / 9, (3.516873726e-3,)),
    Problem("Chebyquad 9", _chebyquad, np.arange(1, 10) / 10, (0.0,)),
    Problem(
        "Chebyquad 10",
        _chebyquad,
        np.arange(1, 11) / 11,
        (4.772713696e-3, 6.50395e-3),
    ),
]
