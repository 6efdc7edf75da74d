"""The record of a workload, and the simulated ones.

Gpufit's own workloads follow the sources of its performance comparison and examples:
sizes, true parameters, starts, noise, tolerances and limits. Theirs with Poisson noise
are fitted by maximum likelihood there; here by least squares, which every peer can do,
and one of them both ways, see `Workload.likelihood`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.batch import models

GAUSS_2D, LINEAR_1D = 1, 5  # Gpufit's ModelID


class Workload(NamedTuple):
    """Many fits of one model.

    Attributes:
        name: Short name.
        model: ``model(params, x, xp)``.
        x: Independent variables, the same for all fits.
        y: Data, (fits, points); its dtype is the precision of the fit.
        start: Starts, (fits, n).
        ftol: Relative tolerance on the cost that lmjax runs with.
        max_steps: Most steps per fit.
        noise: "gaussian", "poisson" or "measured".
        likelihood: "poisson" for fits of maximum likelihood, None for least squares.
        bounds: (lower, upper), each (n,), or None.
        truth: True parameters, (fits, n), or None for measured data.
        cpufit: Number of the model in Cpufit, or None.
    """

    name: str
    model: Callable
    x: Any
    y: np.ndarray
    start: np.ndarray
    ftol: float
    max_steps: int
    noise: str = "gaussian"
    likelihood: str | None = None
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    truth: np.ndarray | None = None
    cpufit: int | None = None

    @property
    def damping(self) -> float:
        """First lambda for lmjax: Gpufit's own where Gpufit's starts are close."""
        return 1.0 if self.cpufit is None else 1e-3

    @property
    def fits(self) -> int:
        """Number of fits."""
        return len(self.y)

    def take(self, fits: np.ndarray) -> "Workload":
        """Return the workload with some of its fits only."""
        truth = None if self.truth is None else self.truth[fits]
        return self._replace(y=self.y[fits], start=self.start[fits], truth=truth)


def spread(total: int, count: int) -> np.ndarray:
    """Return ``count`` evenly spaced positions of ``total``, or all of them.

    A smaller count that divides a larger one gives a part of its positions.
    """
    return np.arange(total) if count >= total else np.arange(count) * total // count


def pixels(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y of each pixel of a square image, row by row."""
    y, x = np.indices((size, size), np.float32)
    return x.ravel(), y.ravel()


def evaluate(model, params, x) -> np.ndarray:
    """Return the model in numpy for many sets of parameters, (fits, points)."""
    return model(params.T[..., None], x, np)


def headline(fits: int, size: int = 5, seed: int = 0) -> Workload:
    """Gpufit's performance comparison: small images, Gaussian noise."""
    rng = np.random.default_rng(seed)
    centre = (size - 1) / 2
    mean = np.array([500.0, centre, centre, 1.0, 10.0])
    truth = mean * rng.uniform(0.9, 1.1, (fits, 5))
    start = truth * rng.uniform(0.9, 1.1, (fits, 5))
    # The signal-to-noise ratio of 10 refers to the mean over the full width at a tenth
    # of the maximum, 4.292 sigma wide.
    sd = 2 * np.pi * mean[0] * mean[3] ** 2 / (4.292 * mean[3]) ** 2 / 10
    x = pixels(size)
    y = evaluate(models.gauss2d, truth, x) + rng.normal(0, sd, (fits, size**2))
    return Workload(
        f"headline_{size}x{size}",
        models.gauss2d,
        x,
        y.astype(np.float32),
        start.astype(np.float32),
        ftol=1e-4,
        max_steps=10,
        truth=truth,
        cpufit=GAUSS_2D,
    )


def _poisson_image(name, fits, size, true, ftol, bounds=None, seed=0):
    """One true image, Poisson noise, starts around the truth."""
    rng = np.random.default_rng(seed)
    truth = np.tile(np.array(true, float), (fits, 1))
    start = truth * rng.uniform(0.8, 1.2, (fits, 5))
    start[:, 1:3] = truth[:, 1:3] + true[3] * rng.uniform(-0.2, 0.2, (fits, 2))
    x = pixels(size)
    y = rng.poisson(evaluate(models.gauss2d, truth[:1], x), (fits, size**2))
    return Workload(
        name,
        models.gauss2d,
        x,
        y.astype(np.float32),
        start.astype(np.float32),
        ftol=ftol,
        max_steps=20,
        noise="poisson",
        bounds=bounds,
        truth=truth,
        cpufit=GAUSS_2D,
    )


def gauss_fit_2d(fits: int) -> Workload:
    """Gpufit's Gauss_Fit_2D example, at the 30 x 30 pixels of its documentation.

    Its source says 50 x 50 with the spot in a corner; at 30 x 30 it is in the middle.
    """
    true = (10.0, 14.5, 14.5, 3.0, 10.0)
    return _poisson_image("gauss_fit_2d_30x30", fits, 30, true, 1e-3)


def gauss2d(fits: int) -> Workload:
    """Gpufit's gauss2d example of its Python binding."""
    true = (10.0, 5.5, 5.5, 3.0, 10.0)
    return _poisson_image("gauss2d_12x12", fits, 12, true, 1e-4)


def gauss2d_poisson(fits: int) -> Workload:
    """The same data as `gauss2d` by maximum likelihood, as Gpufit fits them."""
    return gauss2d(fits)._replace(name="gauss2d_12x12_poisson", likelihood="poisson")


def gauss2d_constrained(fits: int) -> Workload:
    """Gpufit's gauss2d_constrained: faint, amplitude and offset >= 0, known width."""
    lower = np.array([0.0, -np.inf, -np.inf, 2.9, 0.0], np.float32)
    upper = np.array([np.inf, np.inf, np.inf, 3.1, np.inf], np.float32)
    true = (2.0, 9.5, 9.5, 3.0, 10.0)
    loads = _poisson_image(
        "gauss2d_constrained_20x20", fits, 20, true, 1e-4, (lower, upper)
    )
    # as every solver would at once: the start inside the box
    return loads._replace(start=np.clip(loads.start, lower, upper))


def linear_regression(fits: int, seed: int = 0) -> Workload:
    """Gpufit's linear regression with x = 2^k: columns that differ by 10^6."""
    rng = np.random.default_rng(seed)
    x = 2.0 ** np.arange(20)
    truth = np.tile([5.0, 2.0], (fits, 1))
    # Both starts scatter around 5: the example multiplies the slope's by the offset.
    start = 5.0 * rng.uniform(0.8, 1.2, (fits, 2))
    y = evaluate(models.line, truth, x) + rng.normal(size=(fits, 20))
    return Workload(
        "linear_regression",
        models.line,
        x.astype(np.float32),
        y.astype(np.float32),
        start.astype(np.float32),
        ftol=1e-3,
        max_steps=20,
        truth=truth,
        cpufit=LINEAR_1D,
    )


def decays(fits: int, points: int = 50, seed: int = 0) -> Workload:
    """Exponential decays whose step counts have a long tail.

    The rates spread evenly over two decades in the logarithm, from hardly a bend within
    the window to gone after one sample; the common start suits none of them.
    """
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 5.0, points)
    truth = np.stack(
        [
            rng.uniform(1.0, 4.0, fits),
            10.0 ** rng.uniform(-1.0, 1.0, fits),
            rng.uniform(-0.5, 0.5, fits),
        ],
        axis=1,
    )
    y = evaluate(models.decay, truth, t) + 0.05 * rng.normal(size=(fits, points))
    return Workload(
        "decays",
        models.decay,
        t,
        y,
        np.tile([1.0, 1.0, 0.0], (fits, 1)),
        ftol=1e-6,
        max_steps=200,
        truth=truth,
    )


def peaks(fits: int, count: int, seed: int = 0) -> Workload:
    """Spectra of 200 points: peaks on a sloping line, three parameters per peak."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0.0, 10.0, 200)
    start = np.tile([0.0, 0.4, 2.0], (count, 1))
    start[:, 0] = np.linspace(1.0, 9.0, count)
    start = np.concatenate([start.ravel(), [0.5, 0.0]])
    each = lambda low, high: rng.uniform(low, high, (fits, count))
    shapes = [start[:-2:3] + each(-0.1, 0.1), each(0.3, 0.5), each(1.0, 3.0)]
    lines = [rng.uniform(0.4, 0.6, (fits, 1)), rng.uniform(-0.02, 0.02, (fits, 1))]
    truth = np.concatenate([np.stack(shapes, -1).reshape(fits, -1), *lines], axis=1)
    y = evaluate(models.peaks, truth, x) + 0.02 * rng.normal(size=(fits, len(x)))
    return Workload(
        f"peaks_{count}",
        models.peaks,
        x.astype(np.float32),
        y.astype(np.float32),
        np.tile(start, (fits, 1)).astype(np.float32),
        ftol=1e-4,
        max_steps=100,
        truth=truth,
    )
