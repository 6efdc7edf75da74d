"""Peers outside JAX: SciPy in a loop, and the Cpufit library."""

import ctypes
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.batch import lanes
from benchmarks.batch.peers import Peer, Runner, no_likelihood
from benchmarks.batch.workloads import spread

# About a tenth of a second to a second of SciPy; divides judge.JUDGED, see spread.
SCIPY_FITS = 200


def _scipy_loop(workload, max_steps):
    """Prepare ``scipy.optimize.curve_fit`` on evenly spaced fits, one after another.

    As its users call it: numeric derivatives, float64, its own limit on evaluations.
    """
    from scipy.optimize import curve_fit

    del max_steps  # curve_fit counts evaluations and raises beyond its limit
    chosen = spread(workload.fits, SCIPY_FITS)
    y, start = (a[chosen].astype(float) for a in (workload.y, workload.start))
    model = lambda x, *p: workload.model(p, x, np)
    options = {} if workload.bounds is None else {"bounds": workload.bounds}

    def fit_one(y, start, tol):
        try:
            params, *_, info, _, _ = curve_fit(
                model,
                workload.x,
                y,
                start,
                ftol=tol,
                xtol=tol,
                full_output=True,
                **options,
            )
        except RuntimeError:  # out of evaluations; what it had is lost
            return np.full_like(start, np.nan), False, 0
        return params, True, info["nfev"]

    def run(tol):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # no covariance
            found = [fit_one(*pair, tol) for pair in zip(y, start, strict=True)]
        return tuple(map(np.array, zip(*found, strict=True)))

    return Runner(run, chosen)


SCIPY = Peer("scipy", _scipy_loop, no_likelihood, lanes.serial, limits=(1,))


def _pointer(array, kind):
    return array.ctypes.data_as(ctypes.POINTER(kind))


def _cpufit(library, workload, max_steps):
    """Prepare Cpufit: float32, one fit after another on one core.

    The C interface is that of Gpufit's Cpufit/cpufit.h: ``cpufit``, and
    ``cpufit_constrained``, which has two more arguments for the bounds.
    """
    number, n = workload.start.shape
    real, integer, size = ctypes.c_float, ctypes.c_int, ctypes.c_size_t
    y, start = (
        np.ascontiguousarray(a, np.float32) for a in (workload.y, workload.start)
    )
    free = np.ones(n, np.int32)
    info = np.empty(0, np.float32)
    if not isinstance(workload.x, tuple):  # images need no coordinates
        info = np.ascontiguousarray(workload.x, np.float32)
    box = ()
    function = library.cpufit
    if workload.bounds is not None:
        function = library.cpufit_constrained
        limits = np.stack(workload.bounds, axis=1).astype(np.float32)
        low, high = np.isfinite(limits).T
        types = (low + 2 * high).astype(np.int32)  # none, lower, upper, both
        limits = np.where(np.isfinite(limits), limits, 0).ravel()
        limits = np.tile(limits, (number, 1)).astype(np.float32)
        box = (_pointer(limits, real), _pointer(types, integer))
    function.restype = integer

    def run(tol):
        params = np.zeros((number, n), np.float32)
        states, steps = np.zeros((2, number), np.int32)
        chi2 = np.zeros(number, np.float32)
        failed = function(
            size(number),
            size(y.shape[1]),
            _pointer(y, real),
            None,  # no weights
            integer(workload.cpufit),
            _pointer(start, real),
            *box,
            real(tol),
            integer(max_steps),
            _pointer(free, integer),
            integer(workload.likelihood == "poisson"),  # 0: least squares
            size(info.nbytes),
            _pointer(info, ctypes.c_char) if info.size else None,
            _pointer(params, real),
            _pointer(states, integer),
            _pointer(chi2, real),
            _pointer(steps, integer),
        )
        if failed:
            library.cpufit_get_last_error.restype = ctypes.c_char_p
            raise RuntimeError(f"Cpufit: {library.cpufit_get_last_error().decode()}")
        return params, states == 0, steps

    return Runner(run, np.arange(number))


def cpufit(path: Path) -> Peer:
    """Return Cpufit as a peer, from its shared library."""
    library = ctypes.CDLL(str(path))

    def refuses(workload):
        if workload.cpufit is None:
            return "no such model"
        if workload.bounds is not None and not hasattr(library, "cpufit_constrained"):
            return "no bounds"
        return None

    return Peer("cpufit", partial(_cpufit, library), refuses, lanes.serial)
