"""Outcome codes of a fit and of each of its parameters."""

import enum


class Engine(enum.IntEnum):
    """What ran a fit.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> fit = lambda y: lmjax.least_squares(lambda p: p - y, jnp.zeros(1))
        >>> lmjax.Engine(int(fit(jnp.ones(1)).engine)).name
        'LOOP'
        >>> fits = jax.vmap(fit)(jnp.ones((4, 1)))
        >>> lmjax.Engine(int(fits.engine[0])).name in ("FUSED", "XLA")
        True
    """

    LOOP = 0
    """One loop: a single fit, or a batch that no other engine takes."""
    XLA = 1
    """Blocks of fits, compiled by XLA."""
    FUSED = 2
    """One machine program for vectors of fits (CPU) or threads (NVIDIA's GPUs)."""


class Status(enum.IntEnum):
    """Why a fit stopped: positive is converged, zero running, negative failed.

    ``Status(int(sol.status)).advice`` is one sentence on what to do about it.

    Example:
        >>> import lmjax
        >>> lmjax.Status.MAX_STEPS.advice
        'Ran out of steps: raise max_steps, improve the start, or loosen the
        tolerances.'
    """

    FTOL = 1
    XTOL = 2
    GTOL = 3
    RUNNING = 0
    MAX_STEPS = -1
    NONFINITE_START = -2
    STALLED = -3
    SINGULAR = -4
    INFEASIBLE = -5
    NOT_AFFINE = -6
    OUT_OF_RANGE = -7
    PLATEAU = -8
    RUNAWAY = -9
    ILL_CONDITIONED = -10

    @property
    def success(self) -> bool:
        """Whether this status means convergence."""
        return self > 0

    @property
    def advice(self) -> str:
        """One sentence that explains the status."""
        return _ADVICE[self]


_ADVICE = {
    Status.FTOL: "Converged: neither the last step nor the undamped model of the next "
    "one reduces the cost by more than ftol or rounding.",
    Status.XTOL: "Converged: the last step changed the scaled parameters by less "
    "than xtol.",
    Status.GTOL: "Converged: the residual is orthogonal to every column of the "
    "Jacobian within gtol.",
    Status.RUNNING: "Not finished.",
    Status.MAX_STEPS: "Ran out of steps: raise max_steps, improve the start, or loosen "
    "the tolerances.",
    Status.NONFINITE_START: "The residual, its likelihood or its Jacobian is not "
    "finite at the start: check the data, sigma and params0.",
    Status.STALLED: "No step helps, or the last 250 did not help noticeably, though "
    "the linear model promises more: try float64, a better start or bounds; or the "
    "residual is not smooth, or its Jacobian is wrong.",
    Status.SINGULAR: "No free parameter has any effect on the residual here: start "
    "somewhere else or fix the idle parameters.",
    Status.INFEASIBLE: "A lower bound exceeds its upper bound, or a bound is NaN.",
    Status.OUT_OF_RANGE: "Squares of the residuals or of their derivatives overflow or "
    "vanish in this dtype (float32: beyond 1e19, below 1e-19): change the units of the "
    "data or the parameters, or use float64.",
    Status.PLATEAU: "A parameter went where it has no effect on the residual: start "
    "nearer to the data (guess= of a model, multi_start), or keep it in with bounds.",
    Status.RUNAWAY: "Parameters run away together and their effects cancel: set "
    "bounds, start nearer to the data (guess), mark linear parameters with linear=, or "
    "use a simpler model.",
    Status.ILL_CONDITIONED: "Rounding hides a direction of the parameters, so this may "
    "be no minimum: use float64, linear_solver=QR() or bounds, or fix a parameter that "
    "the data do not determine.",
    Status.NOT_AFFINE: "The residual is not affine in the parameters marked linear: "
    "take the mark off those that enter another way.",
}


class ParamStatus(enum.IntEnum):
    """What became of one parameter; only FREE and UNMOVED ones have an error bar."""

    FREE = 0
    FIXED = 1
    AT_LOWER = 2
    AT_UPPER = 3
    IDLE = 4  # no effect on the residual at the solution
    UNMOVED = 5  # free, yet exactly where it started
    UNDETERMINED = 6  # the data leave it open, alone or together with others

    @property
    def has_error(self) -> bool:
        """Whether a standard error can be quoted."""
        return self in (ParamStatus.FREE, ParamStatus.UNMOVED)

    @property
    def remark(self) -> str:
        """A few words for the report."""
        return _REMARKS[self]


_REMARKS = {
    ParamStatus.FREE: "",
    ParamStatus.FIXED: "fixed",
    ParamStatus.AT_LOWER: "held at its lower bound, no error bar",
    ParamStatus.AT_UPPER: "held at its upper bound, no error bar",
    ParamStatus.IDLE: "no effect on the residual, no error bar",
    ParamStatus.UNMOVED: "never left its start",
    ParamStatus.UNDETERMINED: "not determined by the data, no error bar",
}


class ProfileStatus(enum.IntEnum):
    """What stands at one end of a profile interval.

    Example:
        >>> import lmjax
        >>> lmjax.ProfileStatus.OPEN.remark
        'no limit: the threshold is never reached'
    """

    FOUND = 1
    AT_BOUND = 2
    OPEN = 3
    HELD = 0
    LOST = -1

    @property
    def remark(self) -> str:
        """A few words for a report."""
        return _PROFILE_REMARKS[self]


_PROFILE_REMARKS = {
    ProfileStatus.FOUND: "",
    ProfileStatus.AT_BOUND: "a bound, or the end of where the model is finite",
    ProfileStatus.OPEN: "no limit: the threshold is never reached",
    ProfileStatus.HELD: "fixed, without effect or not asked for",
    ProfileStatus.LOST: "the fit, or the refits on the way, failed",
}
