"""What fitting a model to data returns: `CurveFit`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._errors.advice import calling
from lmjax._errors.checks import check_choice, check_function, check_real
from lmjax._fit import tie as ties
from lmjax._jax.arrays import arrays_of, as_array, broadcast
from lmjax._jax.types import Params
from lmjax._solver import lmfit_report
from lmjax._solver import report as reports
from lmjax._solver.solution import Solution
from lmjax._statistics.delta import propagated
from lmjax._statistics.statistics import dof_of, has_error, is_free, student_t_quantile


class DataFit(Solution):
    """A `Solution` of a fit to data: what `CurveFit` and `GlobalFit` have in common.

    Everything here works on a batch (leading axes) as well, except the functions of x,
    which take one fit: use ``jax.vmap`` for those.

    Attributes:
        num_used: Observations that count, None if all do.
        pearson_chi2: Pearson's statistic, the sum over points of slope^2 / information
            (of ``(y - f)^2 / variance``, for counts), whose mean is close to ``dof``
            however few the counts; None without a likelihood.
        absolute_sigma: Whether sigma sets the errors; True with a likelihood.
        likelihood: Name of the likelihood, None for least squares.
        model: The model as a pytree, with what arrays it holds; None where ``params``
            is itself the callable model.
    """

    num_used: Int[Array, "*batch"] | None
    pearson_chi2: Float[Array, "*batch"] | None
    absolute_sigma: bool = eqx.field(static=True)
    likelihood: str | None = eqx.field(static=True)
    model: Callable | None

    @property
    def num_points(self) -> Int[Array, "*batch"]:
        """Observations that count."""
        if self.num_used is not None:
            return self.num_used
        batch, leaves = self.cost.shape, jax.tree.leaves(self.residual)
        sizes = [int(np.prod(leaf.shape[len(batch) :])) for leaf in leaves]
        return jnp.full(batch, sum(sizes), jnp.int32)

    @property
    def num_free(self) -> Int[Array, "*batch"]:
        """Parameters that are neither fixed, at a bound nor without effect."""
        return jnp.sum(is_free(self.flat_status), axis=-1, dtype=jnp.int32)

    @property
    def dof(self) -> Int[Array, "*batch"]:
        """Degrees of freedom: ``num_points`` less the parameters that are not fixed."""
        return dof_of(self.num_points, self.flat_status)

    @property
    def chi2(self) -> Float[Array, "*batch"]:
        """Sum of squared residuals in units of sigma (of losses, if robust).

        The deviance, with a likelihood.
        """
        return 2.0 * self.cost

    @property
    def deviance(self) -> Float[Array, "*batch"]:
        """``2 (log L_best - log L)``, where each point has its most probable value.

        ``chi2`` by the name it has with a likelihood.
        """
        return self.chi2

    @property
    def reduced_chi2(self) -> Float[Array, "*batch"]:
        """``chi2 / dof``; NaN without degrees of freedom."""
        dof = jnp.maximum(self.dof, 1).astype(self.cost.dtype)
        return jnp.where(self.dof > 0, self.chi2 / dof, jnp.nan)

    @property
    def aic(self) -> Float[Array, "*batch"]:
        """Akaike's criterion: ``-2 log L + 2 k`` up to a constant of the data.

        With k parameters that are not fixed, ``-2 log L`` is ``chi2`` for absolute
        sigma, the deviance for a likelihood and ``N log(chi2 / N)`` otherwise, as in
        lmfit.
        """
        k = (self.num_points - self.dof).astype(self.cost.dtype)
        return self._minus_two_log_likelihood() + 2.0 * k

    @property
    def bic(self) -> Float[Array, "*batch"]:
        """Bayesian criterion: as `aic` with ``k log N`` in place of ``2 k``."""
        n = self.num_points.astype(self.cost.dtype)
        k = (self.num_points - self.dof).astype(self.cost.dtype)
        return self._minus_two_log_likelihood() + k * jnp.log(n)

    def _errors(self, variance: Float[Array, "*batch n"]) -> Params:
        """Return standard errors, NaN for parameters that have none."""
        held = ~has_error(self.flat_status)
        flat = jnp.where(held, jnp.nan, jnp.sqrt(jnp.where(held, 0.0, variance)))
        return self.unravel(flat)

    def _minus_two_log_likelihood(self):
        n = self.num_points.astype(self.cost.dtype)
        return self.chi2 if self.absolute_sigma else n * jnp.log(self.chi2 / n)

    def evaluate(self, params: Params, x: Any) -> Array:
        """Return the model for any parameters."""
        if self.model is not None:
            return calling(self.model, "model(params, x)")(params, x)
        return calling(eqx.combine(params, self.params), "model(x)")(x)


class CurveFit(DataFit):
    """A `Solution` with the statistics of a fit to data.

    Everything here works on a batch (leading axes) as well, except the functions of x,
    which take one fit: use ``jax.vmap`` for those.

    Attributes:
        covariance: Covariance of the parameters in ravel order; rows and columns of
            parameters that are fixed, at a bound or without effect are zero. None where
            ``normal_matrix`` is, above 1,000 parameters: errors are NaN then.
        rank: Rank of the Jacobian over the free parameters. Below ``num_free`` some
            combination of parameters is not determined by the data: the covariance is
            then the one of least norm, and the parameters along it are arbitrary. None
            where ``covariance`` is.
    """

    covariance: Float[Array, "*batch n n"] | None
    rank: Int[Array, "*batch"] | None

    @property
    def stderr(self) -> Params:
        """Standard errors, a pytree like ``params``; NaN where there is none.

        Or where the dtype cannot hold its square: below 1e-19 in float32.
        """
        if self.covariance is None:
            nan = jnp.full(self.flat_status.shape, jnp.nan, self.cost.dtype)
            return self.unravel(nan)
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1)
        vanished = (variance == 0.0) & (self.cost[..., None] > 0.0)  # in float32
        return self._errors(jnp.where(vanished, jnp.nan, variance))

    @property
    def all_params(self) -> Params:
        """All parameters of the model: what ``tie`` makes of ``params``, or these."""
        return ties.all_params(self)

    @property
    def all_stderr(self) -> Params:
        """Errors of ``all_params`` as in `propagate`, NaN where there is none."""
        return ties.all_stderr(self)

    @property
    def correlation(self) -> Float[Array, "*batch n n"]:
        """Correlation matrix; zero off the diagonal where there is no error."""
        covariance = self.known_covariance()
        variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
        scale = jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0))
        corr = covariance / (scale[..., :, None] * scale[..., None, :])
        return jnp.where(jnp.eye(variance.shape[-1], dtype=bool), 1.0, corr)

    def known_covariance(self) -> Float[Array, "*batch n n"]:
        """Return the covariance, or say why there is none."""
        if self.covariance is None:
            raise ValueError(
                "covariance: not formed above 1,000 parameters by a matrix-free solver "
                "or with fewer residuals than parameters"
            )
        return self.covariance

    def predict(self, x: Any) -> Array:
        """Return the fitted model at ``x``."""
        return self.evaluate(self.varied(), arrays_of("x", x))

    def propagate(self, fn: Callable[[Params], Any]) -> tuple[Any, Any]:
        """Return (value, standard error) of a function of the parameters.

        The delta method: ``value = fn(params)`` and ``stderr = sqrt(J C J^T)`` with J
        the derivative of ``fn`` and C the covariance, so correlations count. Fixed
        parameters, and those at a bound, are constants. The error is right if ``fn`` is
        nearly linear over a few standard errors; `bootstrap` does not assume that.

        Args:
            fn: ``fn(params)`` returns an array or a pytree of arrays, floating-point.

        Returns:
            Two pytrees like what ``fn`` returns, with the axes of the batch in front.

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> t = jnp.linspace(0.0, 5.0, 6)
            >>> y = jnp.array([3.02, 1.80, 1.11, 0.68, 0.41, 0.24])
            >>> decay = lambda p, t: p["amplitude"] * jnp.exp(-t / p["tau"])
            >>> fit = lmjax.curve_fit(decay, t, y, {"amplitude": 1.0, "tau": 1.0})
            >>> half_life, error = fit.propagate(lambda p: p["tau"] * jnp.log(2.0))
            >>> print(f"{half_life:.3f} +- {error:.3f}")
            1.381 +- 0.012

        References:
            Casella and Berger (2002), "Statistical Inference", section 5.5.4.
        """
        check_function("fn", fn, "fn(params)")
        fn = calling(fn, "fn(params)")
        return propagated(fn, self.params, self.known_covariance())

    def _curve(self, x):
        """Return the fitted curve and its standard error at x."""
        x = arrays_of("x", x)
        varied = lambda params: eqx.filter(params, eqx.is_inexact_array)
        return self.propagate(lambda params: self.evaluate(varied(params), x))

    def _quantile(self, level):
        check_real("level", level)
        known = not isinstance(level, jax.Array)
        number = isinstance(level, int | float | np.number)
        if known and not (number and 0.0 < level < 1.0):
            raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
        dof = jnp.where(self.absolute_sigma, jnp.inf, self.dof.astype(self.cost.dtype))
        return student_t_quantile(level, dof).astype(self.cost.dtype)

    def confidence_band(self, x: Any, level: float = 0.95) -> tuple[Array, Array]:
        """Return (lower, upper) limits of the *curve* at each x, pointwise.

        Linear propagation of the covariance, ``t sqrt(J C J^T)`` with Student's t on
        ``dof`` degrees of freedom (the normal quantile when sigma is absolute, or with
        a likelihood).

        Example:
            >>> import jax.numpy as jnp, lmjax
            >>> x = jnp.arange(5.0)
            >>> y = 2.0 * x + jnp.array([0.1, -0.1, 0.0, -0.1, 0.1])
            >>> line = lambda p, x: p["slope"] * x + p["offset"]
            >>> fit = lmjax.curve_fit(line, x, y, {"slope": 1.0, "offset": 0.0})
            >>> low, high = fit.confidence_band(x)
            >>> bool(jnp.all((low < 2 * x) & (2 * x < high)))
            True
        """
        return self._band(*self._curve(x), level)

    def prediction_band(
        self, x: Any, level: float = 0.95, sigma: Any = 1.0
    ) -> tuple[Array, Array]:
        """Return (lower, upper) limits for a *new observation* at each x.

        Args:
            x: Where to predict.
            level: Probability that the band holds one new observation.
            sigma: Its standard deviation in the units given to ``curve_fit``; scaled by
                ``sqrt(reduced_chi2)`` unless sigma was absolute.

        Raises:
            ValueError: With a likelihood, whose observations do not scatter normally.
        """
        if self.likelihood is not None:
            raise ValueError(
                f"prediction_band: new observations of a {self.likelihood} fit are not "
                "normal; confidence_band has the limits of the curve"
            )
        scale = 1.0 if self.absolute_sigma else self.reduced_chi2

        def combined(spread):
            given = jnp.asarray(as_array("sigma", sigma), spread.dtype)
            noise = scale * broadcast("sigma", given, spread.shape) ** 2
            return jnp.sqrt(spread**2 + noise)

        centre, spread = self._curve(x)
        return self._band(centre, jax.tree.map(combined, spread), level)

    def _band(self, centre, spread, level):
        quantile = self._quantile(level)
        # without degrees of freedom nothing is known, whatever the covariance says
        half = lambda s: jnp.where(jnp.isinf(quantile), jnp.inf, quantile * s)
        low = jax.tree.map(lambda y, s: y - half(s), centre, spread)
        return low, jax.tree.map(lambda y, s: y + half(s), centre, spread)

    def report(self, style: str = "lmjax", start: Params = None, xy: Any = None) -> str:
        """Return a table of parameters, errors, correlations and how the fit went.

        Args:
            style: "lmjax", or "lmfit" for the layout of lmfit's ``fit_report``, where
                tied parameters read ``== tied``; one fit, not a batch.
            start: The start of the fit, which lmfit's layout shows.
            xy: The pair (x, y) of the fit, from which lmfit's layout has R-squared.
        """
        check_choice("style", style, ("lmjax", "lmfit"))
        if style == "lmfit":
            return lmfit_report.curve_fit(self, start, xy, ties.model_name(self))
        return reports.curve_fit(self)
