"""What a fit returns: `Solution` and the optional step `History`."""

from typing import Any, Self

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmjax._jax.types import Params
from lmjax._solver import records
from lmjax._solver import report as reports
from lmjax._solver.status import Engine, Status


class DerivativeCheck(eqx.Module):
    """How far to trust the derivative of a fit.

    Attributes:
        error: ``|H^-1 g|``, the Newton step that is left, relative to the parameters
            (both in units of the columns of J). The relative error of the derivative is
            this times a constant of the problem; with ``polish`` it goes with the
            square.
        rho: Spectral radius of ``(J^T J)^-1/2 S (J^T J)^-1/2``, S being the part of H
            that Gauss-Newton leaves out: a bound of the relative error of
            ``Implicit(hessian="gauss_newton")``. NaN beyond 128 parameters.
        rank: Rank of H over the free parameters. Below ``num_free``, the derivative is
            the one of least norm. -1 beyond 128 parameters, where it is not known.
        num_free: Parameters that are free and have an effect.
        definite: Whether H is positive definite beyond doubt.
    """

    error: Float[Array, "*batch"]
    rho: Float[Array, "*batch"]
    rank: Int[Array, "*batch"]
    num_free: Int[Array, "*batch"]
    definite: Bool[Array, "*batch"]


class FitError(RuntimeError):
    """Raised by ``raise_if_failed``; the message names the status and the advice."""


class History(eqx.Module):
    """One row per proposed step, in order; rows past ``num_steps`` hold NaN and False.

    Attributes:
        params: The proposed point, a pytree like ``Solution.params`` with a leading
            axis.
        cost: Cost at the proposed point.
        damping: Lambda that produced the proposal.
        gain: Actual over predicted reduction.
        accepted: Whether the step was taken.
    """

    params: Params
    cost: Float[Array, "*batch k"]
    damping: Float[Array, "*batch k"]
    gain: Float[Array, "*batch k"]
    accepted: Bool[Array, "*batch k"]


class Solution(eqx.Module):
    """Outcome of `least_squares`: arrays and plain strings only, so it vmaps and jits.

    Attributes:
        params: The best parameters found, a pytree like ``params0``.
        cost: Half the sum of squares (or the robust cost, or half the deviance) at
            ``params``.
        status: A `Status` value.
        num_steps: Steps proposed.
        num_accepted: Steps taken.
        optimality: Largest cosine between the residual and a column of J over the
            parameters that are free to move; zero at a stationary point.
        damping: Lambda when the fit stopped.
        normal_matrix: ``J^T J`` at ``params``, in ravel order of the parameters; None
            above 1,000 parameters with `CG`, with `Dual`, or with fewer residuals than
            parameters.
        residual: Residual at ``params``, as ``residual_fn`` returned it; of a fit to
            data ``model - y`` in units of sigma, 0 where masked.
        flat_status: ``param_status`` in ravel order of the parameters.
        start_projected: Whether the start lay outside the bounds and was moved inside;
            None without bounds.
        history: Step history if ``record_history`` was set, else None.
        derivative_check: What ``derivative=Implicit(check=True)`` found, else None.
        tolerances: Those of ftol, xtol and gtol that were given; None if all were left
            to the dtype.
        engine: What ran the fit, an `Engine` value. Those of batches solve the normal
            equations by Cholesky's method whatever ``linear_solver`` says.
        lane_steps: Steps computed on behalf of this fit: ``num_steps`` and, in a batch,
            its share of what was computed while fits waited for others.
        linear_solver: Name of the linear solver of a fit on its own.
        jacobian: How J was computed: "fwd", "rev", "user" or "matrix-free".
    """

    params: Params
    cost: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    num_steps: Int[Array, "*batch"]
    num_accepted: Int[Array, "*batch"]
    optimality: Float[Array, "*batch"]
    damping: Float[Array, "*batch"]
    normal_matrix: Float[Array, "*batch n n"] | None
    residual: Any
    flat_status: Int[Array, "*batch n"]
    start_projected: Bool[Array, "*batch"] | None
    history: History | None
    derivative_check: DerivativeCheck | None
    tolerances: dict[str, Float[Array, "*batch"]] | None
    engine: Int[Array, "*batch"]
    lane_steps: Float[Array, "*batch"]
    linear_solver: str = eqx.field(static=True)
    jacobian: str = eqx.field(static=True)

    @property
    def in_batch(self) -> Bool[Array, "*batch"]:
        """Whether an engine for batches ran."""
        return self.engine > Engine.LOOP

    @property
    def success(self) -> Bool[Array, "*batch"]:
        """Whether the fit converged (per fit in a batch).

        With default tolerances: neither the undamped linear model at the
        returned point nor a step in one parameter alone reduces the cost by more than
        ``0.05^2 n / (m - n)`` of it, a twentieth of a standard error in each of n
        parameters, or than rounding does.
        """
        return self.status > 0

    @property
    def param_status(self) -> Params:
        """A `ParamStatus` per parameter, a pytree like ``params``.

        Free, fixed, at a bound, without effect, undetermined.
        """
        return self.unravel(self.flat_status)

    def unravel(self, flat: Array) -> Params:
        """Return values in ravel order of the parameters as a pytree like them."""
        leaves, structure = jax.tree.flatten(self.varied())
        batch = self.cost.shape
        parts, start = [], 0
        for leaf in leaves:
            shape = leaf.shape[len(batch) :]
            size = int(np.prod(shape))
            parts.append(flat[..., start : start + size].reshape(batch + shape))
            start += size
        return jax.tree.unflatten(structure, parts)

    def varied(self) -> Params:
        """Return the parameters without the rest of a callable model."""
        return eqx.filter(self.params, eqx.is_inexact_array)

    def leaf_axes(self) -> int | tuple[int, ...]:
        """Return how many leading axes of parameters count fits, maybe per leaf."""
        return self.cost.ndim

    def __len__(self) -> int:
        """Return how many fits a batch holds, on its first axis."""
        if not self.cost.ndim:
            raise TypeError(f"{type(self).__name__}: this is one fit, not a batch")
        return self.cost.shape[0]

    def __bool__(self) -> bool:
        """Refuse: an empty batch and a failed fit would both be candidates."""
        raise TypeError(f"{type(self).__name__}: ask fit.success whether a fit is good")

    def __getitem__(self, index: Any) -> Self:
        """Return one fit of a batch, or those of a slice, a mask or a list.

        Raises:
            IndexError: If there is no such fit.
            TypeError: If this is one fit.

        Example:
            >>> import jax, jax.numpy as jnp, lmjax
            >>> fit_one = lambda y: lmjax.least_squares(lambda p: p - y, jnp.zeros(1))
            >>> fits = jax.vmap(fit_one)(jnp.arange(3.0))
            >>> print(fits[2].params, len(fits[:2]))
            [2.] 2
        """
        if not self.cost.ndim:
            raise TypeError(
                f"{type(self).__name__}: this is one fit, not a batch; its parameters "
                "are in fit.params"
            )
        # NumPy says what is out of range, jax takes the last one
        at = np.arange(self.cost.size).reshape(self.cost.shape)[index]
        pick = lambda leaf: leaf.reshape(-1, *leaf.shape[self.cost.ndim :])[at]
        return jax.tree.map(lambda x: pick(x) if eqx.is_array(x) else x, self)

    def __iter__(self):
        """Return the fits of a batch; of one fit, explain that it is one object."""
        if self.cost.ndim:
            return (self[k] for k in range(len(self)))
        raise TypeError(
            f"{type(self).__name__} is one object, not a tuple: read fit.params, "
            "fit.stderr and fit.covariance (lmjax.scipy.curve_fit returns popt, pcov)"
        )

    def raise_if_failed(self) -> Self:
        """Return self, or raise `FitError` if any fit failed. For scripts, outside jit.

        Raises:
            FitError: With the status, its advice and, for a batch, how many fits
                failed.

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> sol = lmjax.least_squares(lambda p: p - 3.0, jnp.array([0.0]))
            >>> print(sol.raise_if_failed().params)
            [3.]
        """
        status = np.atleast_1d(np.asarray(self.status))
        failed = status[status <= 0]
        if failed.size:
            codes, counts = np.unique(failed, return_counts=True)
            lines = [
                f"{Status(int(code)).name}: {Status(int(code)).advice}"
                + (f" ({count} of {status.size} fits)" if status.size > 1 else "")
                for code, count in zip(codes, counts, strict=True)
            ]
            details = [] if status.size > 1 else reports.not_finite(self)
            raise FitError(" ".join(["; ".join(lines), *details]))
        return self

    def to_dict(self) -> dict[str, Array]:
        """Return parameters, standard errors and statistics by flat names.

        ``tau``, ``tau_stderr``, ..., then ``status``, ``cost``, ``num_steps`` and, for
        a fit to data, ``chi2`` and ``reduced_chi2``. Names are those of the report, as
        ``decay.rate`` or ``a[1]``, with ``tie`` those of all parameters of the model.
        Values are scalars of one fit and arrays of a batch; own parameters of a global
        fit have an axis of curves. Works under ``jit`` and ``vmap``.

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> fit = lmjax.least_squares(lambda p: p["a"] - jnp.ones(3), {"a": 0.0})
            >>> sorted(fit.to_dict())
            ['a', 'a_stderr', 'cost', 'num_steps', 'status']
        """
        return records.to_dict(self)

    def to_pandas(self) -> Any:
        """Return the same as a DataFrame: a row per fit, ``status`` by its name.

        A global fit has a row per curve. Needs pandas.
        """
        return records.to_pandas(self)

    def plot(self, *args: Any, **options: Any) -> Any:
        """Draw the fit: ``lmjax.plot.fit(fit, x, y, ...)``; needs matplotlib.

        Of a batch ``lmjax.plot.batch(fits, y, x, ...)``, of a fit without data
        ``lmjax.plot.convergence(fit, ...)``, which asks for ``record_history``.

        Returns:
            The matplotlib figure.
        """
        from lmjax import plot

        draw: Any = plot.fit if hasattr(self, "predict") else plot.convergence
        if self.cost.ndim:
            draw = plot.batch
        return draw(self, *args, **options)

    def report(self) -> str:
        """Return a table of the outcome, parameters by their pytree path."""
        return reports.solution(self)
