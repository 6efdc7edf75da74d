"""The solvers that run the workloads, each behind the same two functions.

A peer refuses a workload with a reason, or prepares it: compiles what is to be compiled
and returns a `Runner`, whose ``run(tol)`` does all the work of a batch and returns what
it found. Tolerances are data, so one compilation serves the whole ladder.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from benchmarks.batch import lanes
from benchmarks.batch.workloads import Workload


class Runner(NamedTuple):
    """A prepared peer.

    Attributes:
        run: ``run(tol)`` returns (params, claims success, steps), finished; lmjax adds
            the lane-steps executed per fit.
        fits: Which fits of the workload it runs.
        compile_s: Seconds to trace and compile, 0 without compilation.
        temp_bytes: What XLA reserves for temporaries, None without XLA.
    """

    run: Callable[[float], tuple[Any, ...]]
    fits: np.ndarray
    compile_s: float = 0.0
    temp_bytes: int | None = None


class Peer(NamedTuple):
    """A solver.

    Attributes:
        name: As in the tables.
        prepare: ``prepare(workload, max_steps)`` returns a `Runner`.
        refuses: Returns why a workload is beyond it, or None.
        lane_steps: Lane-steps executed, from the steps of each fit, where ``run`` does
            not count them.
        limits: Factors on the workload's limit on steps to try, in this order.
    """

    name: str
    prepare: Callable[[Workload, int], Runner]
    refuses: Callable[[Workload], str | None] = lambda workload: None
    lane_steps: Callable[[np.ndarray], int] = lanes.plain_vmap
    limits: tuple[int, ...] = (1, 10)


def jitted(fit_one):
    """Return ``prepare`` for ``fit_one(workload, max_steps, x, y, start, tol)``."""

    def prepare(workload, max_steps):
        dtype = workload.y.dtype

        def batch(x, y, start, tol):
            one = lambda y, start: fit_one(workload, max_steps, x, y, start, tol)
            return jax.vmap(one)(y, start)

        # float32 fits run as they do for whoever never asked for float64
        with jax.enable_x64(dtype == np.float64):
            started = time.perf_counter()
            data = jax.device_put((workload.x, workload.y, workload.start))
            tol = jnp.asarray(workload.ftol, dtype)
            compiled = jax.jit(batch).lower(*data, tol).compile()
            seconds = time.perf_counter() - started
        memory = compiled.memory_analysis()

        def run(tol):
            with jax.enable_x64(dtype == np.float64):
                tol = jnp.asarray(tol, dtype)
                return jax.block_until_ready(compiled(*data, tol))

        return Runner(
            run,
            np.arange(workload.fits),
            seconds,
            None if memory is None else int(memory.temp_size_in_bytes),
        )

    return prepare


def problem(workload: Workload) -> dict[str, Any]:
    """Return what ``lmjax.curve_fit`` is told about a workload besides its data."""
    return {"bounds": workload.bounds, "likelihood": workload.likelihood}


def fit_lmjax(workload, max_steps, x, y, start, tol, engine=None):
    """Fit one with lmjax."""
    solver = lmjax.LevenbergMarquardt(
        ftol=tol,
        max_steps=max_steps,
        damping=lmjax.Nielsen(initial=workload.damping),
        engine=engine,
    )
    fit = lmjax.curve_fit(
        workload.model, x, y, start, solver=solver, **problem(workload)
    )
    return fit.params, fit.success, fit.num_steps, fit.lane_steps


def fit_optimistix(workload, max_steps, x, y, start, tol):
    """Fit one with optimistix' LevenbergMarquardt, its defaults otherwise."""
    import optimistix as optx

    solution = optx.least_squares(
        lambda p, args: workload.model(p, x) - y,
        optx.LevenbergMarquardt(rtol=tol, atol=tol),
        start,
        max_steps=max_steps,
        throw=False,
    )
    success = solution.result == optx.RESULTS.successful
    return solution.value, success, solution.stats["num_steps"]


def fit_jaxopt(workload, max_steps, x, y, start, tol):
    """Fit one with jaxopt's LevenbergMarquardt.

    Its test compares the norm of the gradient with an absolute number; here with a
    share of the norm at the start, or no tolerance would serve all units. Its other
    test, "madsen-nielsen", is met at the start. Cholesky on the dense normal equations
    is the fastest of its linear solvers at these sizes.
    """
    import jaxopt

    residual = lambda p: workload.model(p, x) - y
    cost = lambda p: 0.5 * jnp.sum(residual(p) ** 2)
    limit = tol * jnp.linalg.norm(jax.grad(cost)(start))
    solver = jaxopt.LevenbergMarquardt(
        residual,
        tol=limit,
        maxiter=max_steps,
        solver="cholesky",
        materialize_jac=True,
        implicit_diff=False,
    )
    params, state = solver.run(start)
    return params, state.error <= limit, state.iter_num


def no_bounds(workload: Workload) -> str | None:
    """Return why a solver without bounds and likelihoods refuses."""
    return no_likelihood(workload) if workload.bounds is None else "no bounds"


def no_likelihood(workload: Workload) -> str | None:
    """Return why a solver of nothing but least squares refuses."""
    return None if workload.likelihood is None else "no likelihood"


LMJAX = Peer("lmjax", jitted(fit_lmjax))
XLA = Peer("lmjax-xla", jitted(partial(fit_lmjax, engine="xla")))
OURS = (LMJAX, XLA)
OPTIMISTIX = Peer("optimistix", jitted(fit_optimistix), no_bounds)
JAXOPT = Peer("jaxopt", jitted(fit_jaxopt), no_bounds)
