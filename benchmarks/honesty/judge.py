"""Whether a returned point is what its solver says: NumPy in float64, no solver inside.

The judge sees, at the returned point, the residual r and its Jacobian J, evaluated in
float64 with the data as the fit saw them. A point is *refuted* when the undamped linear
model promises a relevant reduction of the cost,

    1/2 |U' r|^2 > (0.05^2 n / max(m - n, 1)) cost + rounding,

U being an orthonormal basis of the columns of J, each scaled to length one. The share
in front is a twentieth of a standard error in every parameter. Since U comes from an
orthogonal factorisation and no damping enters, parameters that cancel or differ by
orders of magnitude hide nothing. The best step in each single parameter,
``1/2 (J_j' r)^2 / |J_j|^2``, is asked beside it: it needs no factorisation at all.

*Rounding.* A fit in float32 cannot know its residual better than to

    blur_i = eps (|r_i - (J p)_i| + sum_j |J_ij p_j|),

the sum of the sizes of what is added up in it (for a curve that is linear in its
parameters: the point y and all terms of the model); the second part is also what
rounding the parameters themselves does. It is evaluated **at the best known minimum**,
never at the returned point: a fit whose amplitude and offset ran away to 1e17 with
opposite signs has a residual of pure rounding, which would excuse anything.

*Plateaus and runaways.* A parameter whose effect, |J_j| times the largest size known of
it, is below rounding of the residual is left out of the promise; if it has an effect at
the best known minimum, a point that is not refuted is a plateau. If J lacks a direction
that it has at the best known minimum (in the precision of the fit), parameters ran
away together, and the promise cannot be computed: in 80 digits it is there.

*Second opinion.* At some minima J is singular: it vanishes (z^2 + 5 at 0), or there are
as many residuals as parameters and yet a residual is left (Freudenstein-Roth). As close
to them as one likes, the linear model promises to remove a good part of the cost.
Promise and missing direction are overruled where Newton's method has converged: the
full Hessian H is positive definite beyond rounding, its decrement ``1/2 g' H^-1 g`` is
below a thousandth of what is relevant, and no parameter is moved by more than a
thousandth of the change that would alter the residual by its own size (or, where it has
too little effect for that, of itself). In a curved valley, or where parameters ran
away, one of the three fails.

*Zero minima* that are singular (Powell's function) are approached linearly: every step
promises three quarters of what is left. There the cost decides, see ``Reference.zero``.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EPS = float(np.finfo(float).eps)
# A twentieth of a standard error in every parameter.
SHARE = 0.05**2
# Costs this close are the same minimum.
SAME = 1.01
# Newton has converged when what is left is this share of what matters.
CONVERGED = 1e-3
# Some operations per residual, each wrong by half a unit: three blurs.
ROUNDINGS = 10.0

KINDS = ("right", "local", "plateau", "false", "unsure", "failed")


class Point(NamedTuple):
    """A point, with what the judge knows of it.

    Attributes:
        p: Parameters, n.
        r: Residual, m.
        jac: Jacobian of r, m times n.
    """

    p: np.ndarray
    r: np.ndarray
    jac: np.ndarray

    @property
    def cost(self) -> float:
        """Half the sum of squares."""
        with np.errstate(all="ignore"):
            return float(0.5 * np.sum(self.r**2))


class Reference(NamedTuple):
    """The best known minimum of a data set.

    Attributes:
        point: Where it is.
        cost: Its cost, the least of what is published and what any run found.
        zero: Cost that counts as none, for minima of zero.
    """

    point: Point
    cost: float
    zero: float = 0.0


class Verdict(NamedTuple):
    """What became of a run.

    Attributes:
        kind: One of `KINDS`: claimed success at the best known minimum, at another
            minimum, where a parameter lost its effect, or at no minimum; no claim at
            the best known minimum, or elsewhere.
        reason: What decided, for successes elsewhere; "short" for one whose cost is
            that of the best known minimum within 1 %, yet more than a twentieth of an
            error away.
        promise: Share of the cost that the linear model promises to remove.
    """

    kind: str
    reason: str
    promise: float


def lengths(jac: np.ndarray) -> np.ndarray:
    """Return the norm of every column, safe from overflow."""
    largest = np.max(np.abs(jac), axis=0, initial=0.0)
    unit = np.where(largest > 0, largest, 1.0)
    return unit * np.sqrt(np.sum((jac / unit) ** 2, axis=0))


def singular(jac: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return left vectors and singular values of J with columns of length one."""
    size = lengths(jac)
    vectors, values, _ = np.linalg.svd(
        jac / np.where(size > 0, size, 1.0), full_matrices=False
    )
    return vectors, values


def rank(values: np.ndarray, shape: tuple[int, int], eps: float) -> int:
    """Return how many singular values stand out of rounding.

    Ten times NumPy's own limit, since J itself is rounded; in the precision of the fit,
    since no fit knows its Jacobian better.
    """
    least = max(10 * max(shape) * EPS, shape[1] * eps)
    return int(np.sum(values > least * values[:1]))


def promise(r: np.ndarray, jac: np.ndarray) -> float:
    """Return the share of the cost that an undamped step is promised to remove.

    The larger of the whole step and the best step in one parameter.
    """
    r = r / np.max(np.abs(r), initial=1e-300)
    total = np.sum(r**2)
    if total == 0 or jac.shape[1] == 0:
        return 0.0
    vectors, values = singular(jac)
    kept = vectors[:, : rank(values, jac.shape, 0.0)]
    whole = np.sum((kept.T @ r) ** 2) / total
    size = lengths(jac)
    one = (jac / np.where(size > 0, size, 1.0)).T @ r
    return float(max(whole, np.max(one**2) / total))


def newton_converged(point: Point, hessian: np.ndarray, scale: np.ndarray) -> bool:
    """Return whether Newton's method would stop here.

    Args:
        point: The point.
        hessian: Hessian of the cost.
        scale: Size of each parameter.
    """
    size = np.sqrt(np.abs(np.diag(hessian)))
    if not (np.all(np.isfinite(hessian)) and np.all(size > 0)):
        return False
    values, vectors = np.linalg.eigh(hessian / size / size[:, None])
    if values[0] <= 100 * len(values) * EPS * values[-1]:
        return False
    along = vectors.T @ (point.jac.T @ point.r / size)
    step = np.abs(vectors @ (along / values)) / size
    unit = np.minimum(scale, np.linalg.norm(point.r) / lengths(point.jac))
    decrement = 0.5 * np.sum(along**2 / values)
    small = decrement <= CONVERGED * relevant(point.jac.shape) * point.cost
    return bool(small and np.all(step <= CONVERGED * unit))


def blur(point: Point) -> np.ndarray:
    """Return the size of what is added up in each residual."""
    terms = np.abs(point.jac) @ np.abs(point.p)
    return np.abs(point.r - point.jac @ point.p) + terms


def effective(point: Point, scale: np.ndarray, terms: np.ndarray, eps) -> np.ndarray:
    """Return which parameters have an effect beyond rounding of the residual."""
    rounding = eps * (np.linalg.norm(point.r) + np.linalg.norm(terms))
    return lengths(point.jac) * scale > rounding


def relevant(shape: tuple[int, int]) -> float:
    """Return the share of the cost that is a twentieth of a standard error."""
    m, n = shape
    return SHARE * n / max(m - n, 1)


def judge(
    claims: bool,
    point: Point,
    start: Point,
    best: Reference,
    eps: float,
    hessian: Callable[[], np.ndarray],
) -> Verdict:
    """Return the verdict on one run.

    Args:
        claims: Whether the solver claims success.
        point: What it returned.
        start: Where it started.
        best: The best known minimum.
        eps: Unit of rounding of the fit.
        hessian: Returns the Hessian of the cost at ``point``, for the second opinion.
    """
    with np.errstate(all="ignore"):
        terms = blur(best.point)
        rounding = ROUNDINGS * 0.5 * float(np.sum((eps * terms) ** 2))
        rounding = max(rounding, best.zero)
        there = point.cost <= SAME * best.cost + rounding
        if not claims:
            return Verdict("unsure" if there else "failed", "", np.nan)
        if not (np.isfinite(point.cost) and np.all(np.isfinite(point.jac))):
            return Verdict("false", "not finite", np.nan)
        scale = _sizes(point, start, best)
        if not there:
            precision = (terms, rounding, eps)
            return _elsewhere(point, start, best, scale, precision, hessian)
        promised = promise(point.r, point.jac)
        short = (
            promised * point.cost > relevant(point.jac.shape) * point.cost + rounding
        )
        short = short and not newton_converged(point, hessian(), scale)
        return Verdict("right", "short" if short else "", promised)


def _sizes(point, start, best):
    """Return the size of each parameter: the largest that is known."""
    known = np.abs([point.p, start.p, best.point.p])
    largest = np.max(np.where(np.isfinite(known), known, 0.0), axis=0)
    return np.where(largest > 0, largest, 1.0)


def _elsewhere(point, start, best, scale, precision, hessian) -> Verdict:
    """Return the verdict on a success that is not at the best known minimum."""
    terms, rounding, eps = precision
    works = effective(point, scale, terms, eps)
    lost = ~works & effective(best.point, scale, terms, eps)
    part = Point(point.p[works], point.r, point.jac[:, works])
    promised = promise(part.r, part.jac)
    refuted = promised * part.cost > relevant(part.jac.shape) * part.cost + rounding
    least = best.point.jac[:, works]
    away = _deficiency(part.jac, eps) > _deficiency(least, eps) and not np.any(lost)
    if refuted or away:
        full = hessian()[np.ix_(works, works)]
        if not newton_converged(part, full, scale[works]):
            return Verdict("false", "promise" if refuted else "ran away", promised)
    if np.any(lost):
        began = effective(start, scale, terms, eps)
        return Verdict("plateau", "lost" if np.any(lost & began) else "idle", promised)
    return Verdict("local", "", promised)


def _deficiency(jac, eps):
    """Return how many combinations of the parameters have no effect."""
    return jac.shape[1] - rank(singular(jac)[1], jac.shape, eps)
