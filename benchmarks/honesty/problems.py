"""What is fitted: a record per problem, and the ways to draw starts.

A problem is a residual, one or more data sets and a rule for starts. Everything is
drawn from seeds that depend on the name of the problem only, so that one problem can be
run again alone.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


class Problem(NamedTuple):
    """One problem.

    Attributes:
        name: Its name, unique.
        family: Kind of problem, for the tables.
        residual: ``residual(p, *data)`` of a flat vector, in jnp.
        data: Arrays whose first axis counts the data sets; () where there are no data.
        truth: Where the reference solver starts, one row per data set.
        starts: Rule for starts, see `Starts`.
        known: Published least cost (half the sum of squares), None if there is none.
        floor: A cost below which a zero minimum counts as found.
    """

    name: str
    family: str
    residual: Callable
    data: tuple
    truth: np.ndarray
    starts: "Starts"
    known: float | None = None
    floor: float = 0.0

    @property
    def sets(self) -> int:
        """Number of data sets."""
        return len(self.truth)

    def rng(self, purpose: int) -> np.random.Generator:
        """Return the generator of this problem for one purpose."""
        return np.random.default_rng([purpose, zlib.crc32(self.name.encode())])


class Starts(NamedTuple):
    """Where fits start.

    Attributes:
        given: Starts that are taken first, as they are, one per row.
        rule: ``rule(rng, centre)`` draws one more; None cycles through ``given``, each
            for every data set.
        centre: What the rule varies, None for the truth of the data set.
    """

    given: np.ndarray
    rule: Callable | None = None
    centre: np.ndarray | None = None


class Drawn(NamedTuple):
    """Starts of one problem, and the data set that each belongs to."""

    starts: np.ndarray
    sets: np.ndarray


def draw(problem: Problem, count: int) -> Drawn:
    """Return ``count`` starts of a problem, spread over its data sets."""
    rng, (given, rule, centre) = problem.rng(1), problem.starts
    runs = np.arange(count)
    if rule is None:
        return Drawn(given[runs % len(given)], runs // len(given) % problem.sets)
    sets = runs % problem.sets
    starts = [
        given[i] if i < len(given) else rule(rng, _centre(problem, centre, sets[i]))
        for i in runs
    ]
    return Drawn(np.array(starts, float), sets)


def _centre(problem, centre, number):
    return problem.truth[number] if centre is None else centre


def near(decades: float, signs: float = 0.0) -> Callable:
    """Return a rule: a log-uniform factor per parameter, its sign turned at times.

    Args:
        decades: The factor is ``10 ** uniform(-decades, decades)``.
        signs: Probability that a parameter changes its sign.
    """

    def rule(rng, centre):
        size = np.where(centre == 0, 1.0, centre)
        factor = 10 ** rng.uniform(-decades, decades, centre.size)
        return size * factor * np.where(rng.random(centre.size) < signs, -1, 1)

    return rule


def about_one(rng, centre):
    """Draw every parameter log-uniformly from 0.1 to 10, as if nothing were known."""
    return 10 ** rng.uniform(-1, 1, centre.size)


def wild(place: dict[int, tuple[float, float]] | None = None) -> Callable:
    """Return a rule that mixes four kinds of start with equal shares.

    Within a factor of 3; within a factor of 100; the same with random signs; about one.
    Exact ones are left out: in sums of like terms they start on a symmetry that no
    solver leaves.

    Args:
        place: Range of a parameter that is a position: drawn uniformly from it, since a
            factor would mean nothing.
    """
    kinds = (near(0.5), near(2.0), near(2.0, signs=0.5), about_one)

    def rule(rng, centre):
        start = kinds[rng.integers(len(kinds))](rng, centre)
        for index, (low, high) in (place or {}).items():
            start[index] = rng.uniform(low, high)
        return start

    return rule


def none_given(n: int) -> np.ndarray:
    """Return no starts for n parameters."""
    return np.empty((0, n))


def curve(model: Callable) -> Callable:
    """Return the residual of ``model(p, x)``; complex values count as two rows."""

    def residual(p, x, y):
        return model(p, x) - y

    return residual


def synthetic(
    name: str,
    family: str,
    model: Callable,
    truth,
    x,
    *,
    noise: float = 0.02,
    sets: int = 8,
    spread: float = 0.1,
    starts: Starts | None = None,
    place: dict | None = None,
    scales=None,
) -> Problem:
    """Return a problem with Gaussian noise on curves of known parameters.

    Args:
        name: Name.
        family: Family.
        model: ``model(p, x)``.
        truth: Parameters about which those of the data sets lie.
        x: Predictor, the same for all data sets.
        noise: Standard deviation in units of that of the curve, or of its size where
            it is level.
        sets: Number of data sets.
        spread: Each parameter is multiplied by ``10 ** uniform(-spread, spread)``.
        starts: Rule for starts; None is `wild`.
        place: Passed on to `wild`.
        scales: Pair of a row that says which parameters carry the unit of the data, and
            the sizes that the unit takes, one per data set.
    """
    truth, x = np.asarray(truth, float), np.asarray(x, float)
    rng = np.random.default_rng([0, zlib.crc32(name.encode())])
    units = np.ones((sets, 1))
    if scales is not None:
        units = np.asarray(scales[1], float)[:, None] ** np.asarray(scales[0], float)
        sets = len(units)
    truths = truth * 10 ** rng.uniform(-spread, spread, (sets, truth.size)) * units
    with jax.enable_x64(True):
        clean = np.stack([np.asarray(model(p, x)) for p in truths])
    y = clean + noise * _width(clean) * rng.standard_normal(clean.shape)
    rule = starts or Starts(none_given(truth.size), wild(place))
    data = (np.broadcast_to(x, (sets, *x.shape)), y)
    return Problem(name, family, curve(model), data, truths, rule)


def _width(curves):
    """Return how much each curve varies, its size where that is nothing."""
    flat = curves.reshape(len(curves), -1)
    varies, size = np.std(flat, axis=1), np.max(np.abs(flat), axis=1)
    width = np.where(varies > 1e-6 * size, varies, size)
    return width.reshape(-1, *[1] * (curves.ndim - 1))
