"""Residual blocks as machine programs, a block per lane.

XLA makes a kernel of every few operations, a hundred for the derivatives of an edge
between two poses, and takes 10 ms or more for each. Here they are one program, which
also runs in a fifth of the time: its values stay in registers.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lmjax._engines.fused.engine import with_program
from lmjax._engines.fused.plan import Plan, loop
from lmjax._problem.block_problem import BlockProblem

# Elements up to which a function is written out: LLVM takes a second for some 10,000.
MOST_ELEMENTS = 20_000


def by_programs(problem: BlockProblem) -> BlockProblem:
    """Return a problem whose residual has no derivatives by autodiff, but is fast."""
    groups = [dataclasses.replace(g, engine=by_program) for g in problem.groups]
    constraints = problem.constraints
    if constraints.charts is not None:
        charts = dataclasses.replace(constraints.charts, engine=by_program)
        constraints = dataclasses.replace(constraints, charts=charts)
    return dataclasses.replace(problem, groups=tuple(groups), constraints=constraints)


def by_program(fn: Callable) -> Callable:
    """Return a function of arrays that is a machine program under `jax.vmap`."""

    def plan(arrays) -> Plan:
        # one turn, which does nothing: all there is to do is to finish
        begin = lambda arrays: [jnp.int32(0)]
        whole, results = loop(
            begin,
            lambda s: s[0] < 0,
            lambda s, _: s,
            lambda _, arrays: [fn(*arrays)],
            arrays,
        )
        start = jax.ShapeDtypeStruct((0,), np.dtype(results[0].dtype))
        return Plan("blocks", [whole], {}, results, start, 1, MOST_ELEMENTS)

    return lambda *arrays: with_program(plan, lambda arrays: [fn(*arrays)], arrays)[0]
