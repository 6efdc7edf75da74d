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

    ``Status(int(sol.status)).advice`` says what happened and what to do.

    Example:
        >>> import lmjax
        >>> lmjax.Status.MAX_STEPS.advice
        'The fit was still improving when its steps ran out. Raise max_steps, or start
        nearer to the answer.'
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
        """What happened, and what to do."""
        return _ADVICE[self]


# What happened, and what to do; the table of the README says the same.
_CONVERGED = (
    "The fit converged: the cost or the parameters no longer change, or the gradient "
    "is zero."
)
_ADVICE = {
    Status.FTOL: _CONVERGED,
    Status.XTOL: _CONVERGED,
    Status.GTOL: _CONVERGED,
    Status.RUNNING: "The fit has not ended.",
    Status.MAX_STEPS: "The fit was still improving when its steps ran out. Raise "
    "max_steps, or start nearer to the answer.",
    Status.NONFINITE_START: "The model gives NaN or infinity at the start, or the data "
    "hold one. Look at the data, at sigma and at the start.",
    Status.STALLED: "No step makes the fit better, or the last 250 hardly did, "
    "although the derivatives say that it is possible. Use float64. Check that the "
    "model is smooth and that jac is right. Try another start.",
    Status.SINGULAR: "No free parameter changes the curve here. Start somewhere else, "
    "or fix the parameters without effect.",
    Status.INFEASIBLE: "A lower bound is above its upper bound, or a bound is NaN. "
    "Correct the bounds.",
    Status.OUT_OF_RANGE: "The numbers are too large or too small for float32: beyond "
    "1e19 or below 1e-19. Change the units, or use float64.",
    Status.PLATEAU: "A parameter went so far that it no longer changes the curve. "
    "Start nearer to the data (guess, multi_start), or set bounds.",
    Status.RUNAWAY: "Several parameters grow without end, and their effects cancel. "
    "Set bounds, use guess or linear=, or use a simpler model.",
    Status.ILL_CONDITIONED: "The data hardly determine some combination of the "
    "parameters, so the answer may be wrong. Use float64 or QR(), set bounds, or fix "
    "a parameter.",
    Status.NOT_AFFINE: "A parameter marked linear does not enter linearly. Take the "
    "mark off.",
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
