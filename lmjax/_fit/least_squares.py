"""`least_squares`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, overload

import jax

from lmjax._derivatives.implicit import Implicit
from lmjax._derivatives.unrolled import Derivative
from lmjax._errors import advice
from lmjax._errors.advice import hints
from lmjax._fit.block_result import BlockSolution
from lmjax._fit.block_squares import fit_blocks, is_blocks
from lmjax._fit.residual_result import ResidualFit
from lmjax._fit.solve import solve
from lmjax._fit.validate import (
    check_affine,
    check_feasible,
    check_pair,
    check_with_manifold,
    name_refused_argument,
    resolve_linear,
    resolve_loss,
    resolve_manifold,
)
from lmjax._fit.validate_solver import check_solver
from lmjax._jax import arrays, program_cache
from lmjax._jax.closures import Program
from lmjax._jax.types import Params, ResidualFn
from lmjax._problem.precision import warn_of_rounded
from lmjax._problem.residual_blocks import ResidualBlocks
from lmjax._solver.settings import LevenbergMarquardt

_DEFAULT = LevenbergMarquardt()
_EXACT = Implicit()


@overload
def least_squares(
    residual_fn: ResidualFn,
    params0: Params,
    args: tuple = (),
    *,
    bounds: tuple[Any, Any] | None = ...,
    fixed: Any = ...,
    linear: Any = ...,
    loss: str | Callable | None = ...,
    loss_scale: Any = ...,
    manifold: Any = ...,
    solver: LevenbergMarquardt = ...,
    derivative: Derivative = ...,
) -> ResidualFit: ...
@overload
def least_squares(
    residual_fn: ResidualBlocks | Sequence[ResidualBlocks],
    params0: Params,
    *,
    bounds: tuple[Any, Any] | None = ...,
    fixed: Any = ...,
    manifold: Any = ...,
    solver: LevenbergMarquardt = ...,
    derivative: Implicit = ...,
) -> BlockSolution: ...
@hints
def least_squares(
    residual_fn: Any,
    params0: Params,
    args: tuple = (),
    *,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    linear: Any = None,
    loss: str | Callable | None = None,
    loss_scale: Any = 1.0,
    manifold: Any = None,
    solver: LevenbergMarquardt = _DEFAULT,
    derivative: Derivative = _EXACT,
) -> ResidualFit | BlockSolution:
    """Minimise ``1/2 * sum(residual_fn(params, *args)**2)`` over ``params``.

    Works under ``jax.jit`` and ``jax.vmap``; every number may be traced and differ per
    fit. Pass data through ``args``: a function object that is used again is not
    compiled again.

    Args:
        residual_fn: ``residual_fn(params, *args)`` returns an array or a pytree of
            arrays. In its place `ResidualBlocks`, or a list of them: then ``args``,
            ``linear`` and ``loss`` stay empty, and the result is a `BlockSolution`.
        params0: Start: any pytree of floating-point arrays.
        args: Further arguments of ``residual_fn``. Series and tables of pandas and the
            like become arrays.
        bounds: Pair ``(lower, upper)`` of prefix pytrees of ``params0``: a number
            covers everything below it, None or a key left out means no bound. A start
            outside is moved inside (``Solution.start_projected``).
        fixed: Prefix pytree of booleans: True keeps a parameter at its start.
        linear: Prefix pytree of booleans, known before compilation: True marks
            parameters in which the residual is affine (amplitudes, offsets). They are
            solved for in every step (variable projection), so their start does not
            matter; the result is that of the whole problem. If the residual is not
            affine in them, a call outside ``jit`` raises, and inside the status is
            ``NOT_AFFINE``. Not together with a loss, bounds on a marked parameter,
            `Unrolled` or geodesic acceleration.
        loss: Robust loss: a function ``rho(z)`` of ``z = (r / loss_scale)**2`` with
            ``rho(0) = 0``, or the name of one in ``lmjax.losses``. None is plain least
            squares.
        loss_scale: Size at which a residual starts to count less.
        manifold: Prefix pytree of manifolds, see ``lmjax.manifolds``: the last axis of
            such a leaf holds rotations, poses or unit vectors, and steps move along
            them. Bounds do not apply there; ``fixed`` holds whole elements.
        solver: Algorithm and settings.
        derivative: What autodiff of the solution means: `Implicit`, `Unrolled` or
            `OneStep`.

    Returns:
        The `Solution`. A fit that fails does not raise: see its ``status``.

    Raises:
        ValueError: If a shape, a name or a concrete bound is wrong, or the residual
            reads an array of params0 beyond its end; the message names it.
        TypeError: If parameters or residuals are not real floating-point numbers, or
            arrays are masked by numpy.ma.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> def rosenbrock(p):
        ...     return jnp.array([10 * (p["y"] - p["x"] ** 2), 1 - p["x"]])
        >>> sol = lmjax.least_squares(rosenbrock, {"x": -1.2, "y": 1.0})
        >>> print(f"{sol.params['x']:.4f} {sol.params['y']:.4f}")
        1.0000 1.0000

    References:
        The sources of the method are listed in `LevenbergMarquardt`; for ``linear``:
        Golub and Pereyra (1973), SIAM J. Numer. Anal. 10, 413-432; Kaufman (1975), BIT
        15, 49-57.
    """
    if is_blocks(residual_fn):
        unused = {"args": args or None, "linear": linear, "loss": loss}
        options = {"bounds": bounds, "fixed": fixed, "manifold": manifold}
        how = {"solver": solver, "derivative": derivative}
        return fit_blocks(residual_fn, params0, unused=unused, **options, **how)
    if not callable(residual_fn):
        raise TypeError(
            "residual_fn: expected a function, ResidualBlocks or a list of them, got "
            f"{residual_fn!r}"
        )
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"args: expected a tuple, got {type(args).__name__}; for one argument "
            "write (data,)"
        )
    check_pair(bounds)
    check_solver(solver, derivative)
    params0 = arrays.leaves_of("params0", params0)
    args = arrays.leaves_of("args", args)
    bounds, fixed = (
        arrays.leaves_of("bounds", bounds),
        arrays.leaves_of("fixed", fixed),
    )
    warn_of_rounded(args=args)
    term = resolve_loss(loss, loss_scale)
    manifolds = None
    if manifold is not None:
        check_with_manifold(linear, derivative)
        manifolds = resolve_manifold(manifold, params0, bounds)
    marked = resolve_linear(
        linear,
        params0,
        bounds=bounds,
        terms={"loss": term},
        solver=solver,
        derivative=derivative,
    )
    try:
        given = params0, *args
        program = program_cache.model("residual_fn", residual_fn, *given)
        plain, jac = program_cache.jacobian(solver, program, *given)
        solution = _fit(
            program,
            params0,
            args,
            bounds,
            fixed,
            program_cache.term(term, program),
            plain,
            derivative,
            marked,
            jac,
            manifolds,
        )
    except (TypeError, OverflowError) as error:
        named = {"params0": params0, "args": args, "bounds": bounds, "fixed": fixed}
        raise name_refused_argument(error, named) from error
    if bounds is not None:
        check_feasible(solution.status, bounds, params0)
    if marked is not None:
        check_affine(solution.status, marked, params0)
    return solution


@partial(jax.jit, static_argnames="linear")
def _fit(
    residual_fn,
    params0,
    args,
    bounds,
    fixed,
    term,
    solver,
    derivative,
    linear,
    jac,
    manifold,
):
    jac = jac or solver.jac
    if isinstance(residual_fn, Program):
        params0 = residual_fn.cast(params0)
    called = advice.calling(residual_fn, "residual_fn(params, *args)")
    solution, problem, _ = solve(
        lambda params: called(params, *args),
        params0,
        bounds=bounds,
        fixed=fixed,
        term=term,
        solver=solver,
        derivative=derivative,
        linear=linear,
        manifold=manifold,
        jac=(lambda params: jac(params, *args)) if callable(jac) else jac,
    )
    charts = problem.constraints.charts
    tangents = None if charts is None else charts.leaves
    return ResidualFit(**vars(solution), tangents=tangents)
