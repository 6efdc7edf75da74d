"""`LevenbergMarquardt`: the settings of a fit."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from lmjax._errors.checks import check_flag, check_real
from lmjax._jax.closures import as_pytree
from lmjax._jax.types import Scalar
from lmjax._linalg.solvers import CG, QR, SVD, Dual
from lmjax._solver.damping import Nielsen

# With more parameters than this no n x n matrix is formed unless asked for: in float64
# it takes 8 MB, and a factorisation 10^9 operations in every step.
LARGE = 1000

# What may run a batch; None takes the first that the fit allows.
ENGINES = (None, "fused", "xla", "loop")


def _as_module(fn: Any) -> Any:
    """Return a function as a pytree; anything that will be refused stays as it is."""
    if isinstance(fn, type | eqx.Module) or not callable(fn):
        return fn
    return as_pytree(fn)


def as_int(value: Any) -> Any:
    """Return an integer of NumPy's as one of Python's, anything else as it is."""
    return int(value) if isinstance(value, np.integer) else value


class LevenbergMarquardt(eqx.Module):
    """The solver and its settings.

    Args:
        ftol: Stop when the last step reduced the cost by less than this share of it,
            and the linear model predicts no more. None chooses by dtype; 0 switches it
            off.
        xtol: Stop when a step changes the scaled parameters by less than this share.
            None switches it off.
        gtol: Stop when the largest cosine between the residual and a column of the
            Jacobian is below this.
        max_steps: Most steps to propose.
        damping: `Nielsen`, `Classical` or `Fixed`.
        linear_solver: `QR`, `Cholesky`, `SVD`, `Dual`, `CG`, or a callable of your own
            ``(linearization, damping) -> dp``. None chooses `QR` up to 1,000 parameters
            and `CG` beyond; with fewer residuals than parameters `SVD` and `Dual`;
            `Schur` in `global_fit`. With `ResidualBlocks` one of `Schur`,
            `SparseCholesky` and `BlockCG`, chosen by the pattern.
        jac: "fwd", "rev", or a function ``jac(params, *args)`` (``jac(params, x)`` in
            `curve_fit`) that returns what ``jax.jacfwd`` would. None takes forward
            mode, or reverse mode with more parameters than residuals (of a block, with
            `ResidualBlocks`, which take no function).
        geodesic: Add the second-order correction of geodesic acceleration, for one more
            solve per step: fewer steps in narrow curved valleys (a quarter, where the
            walls are 1,000 times as steep as the floor), some more in wide ones.
        record_history: Return every proposed step in ``Solution.history``.
        engine: What runs a batch: "fused", a machine program for vectors of fits on a
            CPU, for a thread per fit on a GPU of NVIDIA's; "xla", blocks of fits, as on
            every other device; "loop", the plain ``lax.while_loop`` of a single fit.
            None takes the first of them that the fit allows; `explain` says why.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> import lmjax
        >>> solver = lmjax.LevenbergMarquardt(ftol=1e-8, max_steps=50)

    References:
        Levenberg (1944), Quart. Appl. Math. 2, 164-168; Marquardt (1963), J. SIAM 11,
        431-441; Moré (1978), Lecture Notes in Math. 630, 105-116, for the scaling and
        the stopping tests; Transtrum and Sethna (2012), arXiv:1201.5885, for
        ``geodesic``.
    """

    ftol: float | Scalar | None = None
    xtol: float | Scalar | None = None
    gtol: float | Scalar | None = None
    max_steps: int = eqx.field(default=10_000, static=True, converter=as_int)
    damping: Any = Nielsen()
    linear_solver: Callable | None = eqx.field(default=None, converter=_as_module)
    jac: Callable | str | None = eqx.field(default=None, static=True)
    geodesic: bool = eqx.field(default=False, static=True)
    record_history: bool = eqx.field(default=False, static=True)
    engine: str | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        rule, linear_solver = self.damping, self.linear_solver
        if isinstance(rule, type) or not hasattr(rule, "guarded"):
            raise TypeError(f"damping: expected a rule like Nielsen(), got {rule!r}")
        usable = linear_solver is None or callable(linear_solver)
        if isinstance(linear_solver, type) or not usable:
            raise TypeError(
                f"linear_solver: expected one like QR(), got {linear_solver!r}"
            )
        for name in ("ftol", "xtol", "gtol"):
            value = getattr(self, name)
            if value is not None:
                check_real(name, value)
            if isinstance(value, float | int) and not 0 <= value < 1:
                raise ValueError(f"{name}: expected 0 <= {name} < 1, got {value}")
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ValueError(f"max_steps: expected an int >= 1, got {self.max_steps!r}")
        named = self.jac is None or isinstance(self.jac, str)
        known = self.jac in (None, "fwd", "rev") if named else callable(self.jac)
        if not known or isinstance(self.jac, type):
            raise ValueError(
                f"jac: expected 'fwd', 'rev' or a function, got {self.jac!r}"
            )
        if self.engine not in ENGINES:
            raise ValueError(f"engine: expected one of {ENGINES}, got {self.engine!r}")
        check_flag("geodesic", self.geodesic)
        check_flag("record_history", self.record_history)

    def choose_linear_solver(self, m: int, n: int) -> Callable:
        """Return the linear solver for m residuals and n parameters."""
        if self.linear_solver is not None:
            return self.linear_solver
        if m < n:
            return SVD() if n <= LARGE else Dual()
        return QR() if n <= LARGE else CG()

    def forms_normal_matrix(self, m: int, n: int) -> bool:
        """Return whether the solution carries ``J^T J``.

        Not above 1,000 parameters if the steps themselves get by without a matrix of
        that size.
        """
        matrix_free = getattr(self.choose_linear_solver(m, n), "matrix_free", False)
        return n <= LARGE or not (matrix_free or m < n)

    def tolerances(self, dtype) -> tuple[Scalar, Scalar, Scalar]:
        """Return (ftol, xtol, gtol) in ``dtype``, defaults filled in."""
        ftol, xtol, gtol = (
            jnp.asarray(
                default if getattr(self, name) is None else getattr(self, name), dtype
            )
            for name, default in default_tolerances(dtype).items()
        )
        return ftol, xtol, gtol

    def given_tolerances(self) -> dict[str, Scalar] | None:
        """Return the tolerances that were not left to the dtype, None if all were."""
        given = {
            name: jnp.asarray(getattr(self, name))
            for name in ("ftol", "xtol", "gtol")
            if getattr(self, name) is not None
        }
        return given or None


def default_tolerances(dtype) -> dict[str, float]:
    """Return the tolerances that None stands for.

    They are at the precision of the dtype, so that the rules for rounding end a fit
    that can no longer improve: looser ones stop problems that converge linearly (NIST
    ENSO, Thurber) three digits early. In a narrow valley a short step does not mean a
    minimum (NIST MGH10), so xtol is off unless asked for.
    """
    eps = float(jnp.finfo(dtype).eps)
    return {"ftol": eps**1.25, "xtol": 0.0, "gtol": 4 * eps}
