"""Outcomes in SciPy's codes and sentences.

Where SciPy has no word for an outcome, because it would claim success or go on, the
sentence is that of `lmjax.Status`.
"""

from lmjax._solver.status import Status

# The last digit of float64, in which all fits of this module run.
EPS = 2.0**-52

# of least_squares
GRADIENT, COST, STEP, LIMIT, FAILED, STOPPED = 1, 2, 3, 0, -1, -2
_MESSAGES = {
    STOPPED: "Stopped because `callback` function raised `StopIteration`",
    LIMIT: "The maximum number of function evaluations is exceeded.",
    GRADIENT: "`gtol` termination condition is satisfied.",
    COST: "`ftol` termination condition is satisfied.",
    STEP: "`xtol` termination condition is satisfied.",
}
_UNREACHABLE = (
    "Rounding hides any further reduction of the cost, but the `gtol` termination "
    "condition is not satisfied: raise gtol or enable ftol."
)

# of leastsq, which has no code for a failure other than these two
MAXFEV, NO_PROGRESS = 5, 7
_IER = {Status.FTOL: 1, Status.XTOL: 2, Status.GTOL: 4, Status.MAX_STEPS: MAXFEV}


def outcome(
    status: Status, small_gradient: bool, tolerances: tuple[float, float, float]
) -> tuple[int, str]:
    """Return code and message of ``least_squares`` with SciPy's meaning of ``gtol``.

    Args:
        status: How the fit ended.
        small_gradient: Whether SciPy's condition on the gradient holds at the end.
        tolerances: ftol, xtol and gtol; below the rounding of a double they are off.
    """
    ftol, xtol, gtol = (tol >= EPS for tol in tolerances)
    # The others are failures at points where the gradient may well be tiny.
    could_go_on = status.success or status in (Status.MAX_STEPS, Status.STALLED)
    if gtol and small_gradient and could_go_on:
        return GRADIENT, _MESSAGES[GRADIENT]
    if status == Status.MAX_STEPS:
        return LIMIT, _MESSAGES[LIMIT]
    if not status.success:
        return FAILED, status.advice
    if status == Status.XTOL or (xtol and not ftol):
        return STEP, _MESSAGES[STEP]
    if ftol:
        return COST, _MESSAGES[COST]
    return FAILED, _UNREACHABLE


def stopped() -> tuple[int, str]:
    """Return code and message of a fit that its callback ended."""
    return STOPPED, _MESSAGES[STOPPED]


def minpack(
    status: Status, tolerances: tuple[float, float, float], maxfev: int
) -> tuple[int, str]:
    """Return code and message of ``leastsq``; codes 1 to 4 are successes."""
    ftol, xtol, gtol = tolerances
    ier = _IER.get(status, NO_PROGRESS)
    messages = {
        1: "Both actual and predicted relative reductions in the sum of squares\n"
        f"  are at most {ftol:f}",
        2: f"The relative error between two consecutive iterates is at most {xtol:f}",
        4: "The cosine of the angle between func(x) and any column of the\n"
        f"  Jacobian is at most {gtol:f} in absolute value",
        MAXFEV: f"Number of calls to function has reached maxfev = {maxfev}.",
        NO_PROGRESS: status.advice,
    }
    return ier, messages[ier]
