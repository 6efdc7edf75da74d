"""Residual blocks as machine programs, a block per lane.

XLA makes a kernel of every few operations, more than a hundred of the derivatives of an
edge between two poses, and takes some 15 ms for each. As one program they are there in
a tenth of the time, and run in a fifth: values stay in registers between operations.
"""

import dataclasses
from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lmjax._engines.fused.engine import with_program
from lmjax._engines.fused.listing import Equation, Listing
from lmjax._engines.fused.plan import Plan, loop
from lmjax._jax.machine import Unsupported

# Operations on numbers before, and instructions after those that are trivial are gone.
# The derivatives of an edge between poses in space have 17,000 and 6,000, for which
# LLVM takes 0.4 s.
MOST_OPERATIONS, MOST_INSTRUCTIONS = 50_000, 15_000


def by_programs(problem: Any) -> Any:
    """Return a `BlockProblem` for a loop: autodiff cannot pass its residual."""
    groups = [dataclasses.replace(g, engine=by_program) for g in problem.groups]
    constraints = problem.constraints
    if constraints.charts is not None:
        charts = dataclasses.replace(constraints.charts, engine=by_program)
        constraints = dataclasses.replace(constraints, charts=charts)
    return dataclasses.replace(problem, groups=tuple(groups), constraints=constraints)


def by_program(fn: Callable) -> Callable:
    """Return a function of arrays that is a machine program under `jax.vmap`.

    Where there is none, `jax.vmap` is what it always is.
    """

    def plan(arrays: Any) -> Plan:
        # there are no turns: all there is to do is to finish
        begin = lambda arrays: [jnp.int32(0)]
        going, turn = lambda state: state[0] < 0, lambda state, _: state
        finish = lambda _, arrays: [fn(*arrays)]
        whole, results = loop(begin, going, turn, finish, arrays)
        if any(isinstance(const, Tracer) for const in whole.finish.consts):
            raise Unsupported("it captured values of a transformation of jax")
        if _operations(Listing(whole.finish)) > MOST_OPERATIONS:
            raise Unsupported(f"it has more than {MOST_OPERATIONS} operations")
        start = jax.ShapeDtypeStruct((0,), np.dtype(results[0].dtype))
        return Plan("blocks", [whole], {}, results, start, 1, MOST_INSTRUCTIONS)

    return lambda *arrays: with_program(plan, lambda arrays: [fn(*arrays)], arrays)[0]


def _operations(listing: Listing) -> int:
    """Return how many operations on numbers there are."""
    return sum(_size(listing, eqn) for eqn in listing.equations)


def _size(listing: Listing, eqn: Equation) -> int:
    sizes = lambda names: sum(prod(listing.shapes[var]) for var in names)
    if eqn.name == "dot_general":
        (axes, _), _ = eqn.params["dimension_numbers"]
        terms = prod(listing.shapes[eqn.operands[0]][axis] for axis in axes)
        return terms * sizes(eqn.results)
    return max(sizes(eqn.results), sizes(eqn.operands[:1]))
