"""Which solvers and derivatives go with which problem."""

from typing import Any

import jax.numpy as jnp

from lmjax._derivatives.unrolled import Derivative
from lmjax._linalg.solvers import (
    CG,
    QR,
    SVD,
    BlockCG,
    Cholesky,
    Dual,
    Schur,
    SparseCholesky,
)
from lmjax._solver.settings import LevenbergMarquardt


def check_solver(solver: Any, derivative: Any) -> None:
    """Raise unless there are a solver and a derivative."""
    if not isinstance(solver, LevenbergMarquardt):
        raise TypeError(f"solver: expected LevenbergMarquardt(...), got {solver!r}")
    if not isinstance(derivative, Derivative):
        raise TypeError(
            "derivative: expected Implicit(...), Unrolled(...) or OneStep(), "
            f"got {derivative!r}"
        )
    given = vars(solver)  # three times as fast as attributes of a Module
    for name in ("ftol", "xtol", "gtol"):
        value = given[name]
        if value is not None and jnp.ndim(value):
            raise ValueError(
                f"solver: expected a number for {name}, got an array of shape "
                f"{jnp.shape(value)}; one per fit goes through jax.vmap"
            )


def check_dense_solver(solver: LevenbergMarquardt) -> None:
    """Refuse linear solvers that need to know the structure of the problem."""
    if isinstance(solver.linear_solver, Schur | SparseCholesky | BlockCG):
        raise ValueError(
            "solver: expected a linear solver for one set of parameters, such as "
            f"QR() or CG(), got {type(solver.linear_solver).__name__}, which is for "
            "lmjax.ResidualBlocks (Schur() for lmjax.global_fit, too)"
        )


def check_curve_solver(solver: LevenbergMarquardt) -> None:
    """Refuse solvers that cannot work on curves with shared parameters."""
    others = QR | Cholesky | SVD | Dual | CG | BlockCG | SparseCholesky
    if isinstance(solver.linear_solver, others):
        raise ValueError(
            "solver: expected linear_solver=Schur() (or None, or a function of an "
            f"arrow linearization), got {solver.linear_solver!r}"
        )
    if solver.jac not in (None, "fwd"):
        raise ValueError(
            f"solver: expected jac='fwd' (or None) for curves, got {solver.jac!r}"
        )
