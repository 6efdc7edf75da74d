"""The two Chebyshev series of ``lmjax/likelihoods/_rice.py``, by integration.

``python -m benchmarks.rice`` prints them. Everything is in units of sigma: a is the
noiseless magnitude, t the measured one.
"""

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.polynomial.legendre import leggauss
from scipy.optimize import brentq
from scipy.special import i0e, i1e

BEND = 3.0  # of 1, 1.5, 2, 2.5 and 3 the one whose series of degree 18 errs least
INFORMATION_DEGREE, PEAK_DEGREE = 18, 12
NODES, WEIGHTS = leggauss(400)
REACH = 13.0  # what lies further from a has a probability below 1e-36


def information(a: np.ndarray) -> np.ndarray:
    """Return ``E[(a - t I1(a t) / I0(a t))^2]`` over the density of t given a."""
    low, high = np.maximum(a - REACH, 0.0)[:, None], (a + REACH)[:, None]
    t = 0.5 * (high - low) * NODES + 0.5 * (high + low)
    bessel = i0e(a[:, None] * t)
    density = t * np.exp(-0.5 * (t - a[:, None]) ** 2) * bessel
    slope = a[:, None] - t * i1e(a[:, None] * t) / bessel
    return np.sum(0.5 * (high - low) * WEIGHTS * density * slope**2, axis=1)


def peak(t2: float) -> float:
    """Return the square of the a that makes t most probable, ``t2 = t^2 > 2``."""

    def slope(a2):
        w = np.sqrt(a2 * t2)
        return 1.0 - np.sqrt(t2 / a2) * i1e(w) / i0e(w)

    return brentq(slope, 1e-14, t2, xtol=1e-15, rtol=1e-15)


def series() -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of both series."""

    def relative_information(u):
        v = BEND * u / (1.0 - u)
        return information(np.sqrt(v)) * (1.0 + v) / v

    def relative_peak(q):
        return np.array([peak(1.0 / x) for x in q]) / (1.0 / q - 2.0)

    return (
        Chebyshev.interpolate(relative_information, INFORMATION_DEGREE, [0, 1]).coef,
        Chebyshev.interpolate(relative_peak, PEAK_DEGREE, [0, 0.5]).coef,
    )


def main() -> None:
    """Print both series as they stand in the source."""
    for name, coefficients in zip(("INFORMATION", "PEAK"), series(), strict=True):
        rows = "\n".join(f"    {float(c):.12g}," for c in coefficients)
        print(f"{name} = (\n{rows}\n)")


if __name__ == "__main__":
    main()
