"""The tight minimum of each fit, and how far above it a result lies.

Costs are recomputed in float64 from the returned parameters, whatever the precision of
the fit, on at most `JUDGED` evenly spaced fits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import lmjax
from benchmarks.batch.peers import problem
from benchmarks.batch.workloads import Workload, spread

JUDGED, POLISHED, BLOCK = 4_000, 200, 2_000
SOLVER = lmjax.LevenbergMarquardt(max_steps=1000)
SAME_COST = 1e-6  # relative
SAME_FIT = 0.01  # of n s^2, the cost of a tenth of a standard error


class Excess(NamedTuple):
    """How far above the tight minimum each judged fit lies; infinite where not finite.

    Attributes:
        fits: Which fits of the workload.
        relative: As a share of the sum of squares.
        scaled: In units of ``n s^2``: 1 is one standard error in every parameter.
    """

    fits: np.ndarray
    relative: np.ndarray
    scaled: np.ndarray


class Judge:
    """Knows the tight minimum of a workload.

    The best of a float64 solve by lmjax at default tolerances from the start, the same
    from the true parameters where there are any, and, on `POLISHED` evenly spaced fits,
    SciPy's ``least_squares`` from the better of them.
    """

    def __init__(self, workload: Workload):
        self.fits = spread(workload.fits, JUDGED)
        self._workload = workload
        self._y = workload.y[self.fits].astype(float)
        with jax.enable_x64(True):
            self._x = jax.tree.map(lambda a: np.asarray(a, float), workload.x)
            self._rss = jax.jit(jax.vmap(self._sum_of_squares))
            starts = [workload.start]
            if workload.truth is not None:
                starts.append(workload.truth)
            self.best = np.full(len(self.fits), np.inf)
            params = np.zeros((len(self.fits), workload.start.shape[1]))
            solve = jax.jit(jax.vmap(self._solve))
            for start in starts:
                found = _in_blocks(solve, start[self.fits].astype(float), self._y)
                cost = self.cost(found, slice(None))
                params = np.where((cost < self.best)[:, None], found, params)
                self.best = np.fmin(cost, self.best)
        self._polish(params)

    def cost(self, params, judged) -> np.ndarray:
        """Return the sum of squares of the judged fits, infinite where not finite."""
        params = np.asarray(params, float)
        with jax.enable_x64(True):
            cost = _in_blocks(self._rss, params, self._y[judged])
        return np.where(np.isfinite(cost), cost, np.inf)

    def excess(self, params, fits) -> Excess:
        """Compare what a peer returned for some fits of the workload."""
        common, theirs, judged = np.intersect1d(fits, self.fits, return_indices=True)
        rss, best = self.cost(np.asarray(params)[theirs], judged), self.best[judged]
        n, m = self._workload.start.shape[1], self._y.shape[1]
        relative = (rss - best) / best
        return Excess(common, relative, relative * (m - n) / n)

    def _residual(self, params, y, xp=jnp):
        """Return what the fits square and sum; for counts, the roots of deviances."""
        f = self._workload.model(params, self._x, xp)
        if self._workload.likelihood is None:
            return f - y
        half = f - y + y * xp.log(xp.where(y > 0, y, 1.0) / f)
        return xp.sign(f - y) * xp.sqrt(2.0 * xp.maximum(half, 0.0))

    def _sum_of_squares(self, params, y):
        return jnp.sum(self._residual(params, y) ** 2)

    def _solve(self, start, y):
        workload = self._workload
        fit = lmjax.curve_fit(
            workload.model, self._x, y, start, solver=SOLVER, **problem(workload)
        )
        return fit.params

    def _polish(self, params):
        workload = self._workload
        bounded = workload.bounds is not None
        for i in spread(len(self.fits), POLISHED):
            with np.errstate(all="ignore"):
                result = scipy.optimize.least_squares(
                    lambda p, y: self._residual(p, y, np),
                    params[i],
                    method="trf" if bounded else "lm",
                    x_scale="jac",
                    bounds=workload.bounds if bounded else (-np.inf, np.inf),
                    ftol=1e-15,
                    xtol=1e-15,
                    gtol=1e-15,
                    args=(self._y[i],),
                )
            self.best[i] = np.fmin(2 * result.cost, self.best[i])


def _in_blocks(function, *arrays):
    """Apply a batched function to blocks of one size, the last one padded."""
    size = min(BLOCK, len(arrays[0]))
    parts = []
    for first in range(0, len(arrays[0]), size):
        block = [a[first : first + size] for a in arrays]
        count = len(block[0])
        block = [np.resize(a, (size, *a.shape[1:])) for a in block]  # repeats
        parts.append(np.asarray(function(*block))[:count])
    return np.concatenate(parts)


def at_minimum(excess: Excess) -> np.ndarray:
    """Return which fits lie within a tenth of a standard error of the minimum."""
    return excess.scaled <= SAME_FIT


def quantiles(excess: Excess) -> tuple[float, float]:
    """Return the median and the 99th percentile of the excess, in ``n s^2``."""
    low, high = np.quantile(excess.scaled, [0.5, 0.99], method="higher")
    return float(low), float(high)
