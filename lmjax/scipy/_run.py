"""One fit in SciPy's terms: from traced functions to NumPy arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lmjax import losses
from lmjax._derivatives.implicit import Implicit
from lmjax._fit.solve import solve
from lmjax._jax.closures import as_pytree
from lmjax._problem.terms import LossTerm
from lmjax._solver.settings import LevenbergMarquardt
from lmjax._solver.status import Status
from lmjax.scipy._trace import float64, traced


class Named(eqx.Module):
    """A loss of `lmjax.losses` as SciPy has them: value, slope and curvature."""

    name: str = eqx.field(static=True)

    def __call__(self, z):
        """Return the three rows at z."""
        rho = getattr(losses, self.name)
        along = lambda fn: lambda z: jax.jvp(fn, (z,), (jnp.ones_like(z),))[1]
        return jnp.stack([rho(z), along(rho)(z), along(along(rho))(z)])


class Task(NamedTuple):
    """What is to be minimised.

    Attributes:
        residual: ``(n,) -> (m,)``, traced.
        jac: ``(n,) -> (m, n)``, traced, or None for the exact derivative.
        rows: Loss ``(m,) -> (3, m)``, or None for plain least squares.
        scale: Residual size at which the loss starts to bend.
        bounds: Lower and upper bounds, or None.
    """

    residual: Callable
    jac: Callable | None = None
    rows: Callable | None = None
    scale: float = 1.0
    bounds: tuple[np.ndarray, np.ndarray] | None = None


class Path(NamedTuple):
    """The points that a fit proposed, their costs, and which rows it took."""

    points: np.ndarray
    costs: np.ndarray
    taken: np.ndarray


class Found(NamedTuple):
    """Where a fit ended, as NumPy arrays.

    Attributes:
        x: Parameters.
        fun: Residual there.
        jac: Its Jacobian there.
        rows: Value, slope and curvature of the loss there, or None.
        status: A `Status` value.
        nfev: Evaluations of the residual.
        njev: Evaluations of the Jacobian.
        path: How the fit got there; empty unless asked for.
    """

    x: np.ndarray
    fun: np.ndarray
    jac: np.ndarray
    rows: np.ndarray | None
    status: Status
    nfev: int
    njev: int
    path: Path


def rows_of(loss: str | Callable, m: int) -> Callable | None:
    """Return the loss as ``(m,) -> (3, m)``, or None for plain least squares."""
    if isinstance(loss, str):
        return None if loss == "linear" else Named(loss)

    def checked(z):
        rows = jnp.asarray(loss(z), float)
        if rows.shape != (3, m):
            raise ValueError(
                "The return value of `loss` callable has wrong shape: expected "
                f"{(3, m)} (value, first and second derivative), got {rows.shape}."
            )
        return rows

    return traced("loss", checked, np.zeros(m))


def minimise(
    task: Task, start: np.ndarray, tolerances: dict[str, Any], limit: int, path: bool
) -> Found:
    """Minimise from ``start`` with at most ``limit`` evaluations of the residual."""
    if limit == 1:
        return evaluate(task, start)
    solver = LevenbergMarquardt(**tolerances, max_steps=limit - 1, record_history=path)
    with float64():
        out = _minimise(task, jnp.asarray(start), solver)
    (x, fun, jac, rows), status, steps, accepted, (points, costs, went) = _as_numpy(out)
    nfev, njev = int(steps) + 1, int(accepted) + 1
    found = Path(points, costs, np.flatnonzero(went))
    return Found(x, fun, jac, rows, Status(int(status)), nfev, njev, found)


def evaluate(task: Task, x: np.ndarray) -> Found:
    """Return what is to be known at ``x``, found by one evaluation."""
    with float64():
        x, fun, jac, rows = _as_numpy(_at(task, jnp.asarray(x)))
    finite = np.isfinite(fun).all() and np.isfinite(jac).all()
    status = Status.MAX_STEPS if finite else Status.NONFINITE_START
    nowhere = Path(np.empty((0, x.size)), np.empty(0), np.empty(0, int))
    return Found(x, fun, jac, rows, status, 1, 1, nowhere)


def _as_numpy(tree: Any) -> Any:
    """Return arrays that may be written to, as those of SciPy may."""
    return jax.tree.map(np.array, tree)


@jax.jit
def _minimise(task: Task, start, solver: LevenbergMarquardt):
    term = None
    if task.rows is not None:
        rows = task.rows
        # the loss itself, whose derivatives autodiff knows
        term = LossTerm(as_pytree(lambda z: rows(z)[0]), task.scale)
    solution, problem, outcome = solve(
        task.residual,
        start,
        bounds=task.bounds,
        fixed=None,
        term=term,
        solver=solver,
        derivative=Implicit(),
        jac=task.jac,
    )
    path = jnp.empty((0, start.size)), jnp.empty(0), jnp.empty(0, bool)
    if solution.history is not None:
        history = solution.history
        path = history.params, history.cost, history.accepted
    return (
        _seen(task, outcome.p, outcome.r, problem.jac_fn(outcome.p)),
        solution.status,
        solution.num_steps,
        solution.num_accepted,
        path,
    )


@jax.jit
def _at(task: Task, x):
    jac = jax.jacfwd(task.residual) if task.jac is None else task.jac
    return _seen(task, x, task.residual(x), jac(x))


def _seen(task: Task, x, fun, jac):
    rows = None
    if task.rows is not None:
        rows = task.rows((fun / task.scale) ** 2)
    return x, fun, jac, rows
