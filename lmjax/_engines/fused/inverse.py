"""The inverse of ``J^T J`` of a batch as a plan of a machine program."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from lmjax._engines.block import rows_of_one
from lmjax._engines.fused.plan import ALGEBRA, Plan, ScalarFit, loop, pass_of
from lmjax._linalg import normal_inverse
from lmjax._linalg.normal_inverse import Inverse


def plan(arrays: Any, rest: Any) -> Plan:
    """Return how the inverse is found, its rank, and what is open.

    Args:
        arrays: Shapes of the arrays of problem, parameters, ``J^T J`` and squared norms
            of the columns of J of one fit.
        rest: What is no array of them.
    """

    def fit_of(arrays):
        problem, p, *_ = eqx.combine(arrays, rest)
        begun, twice = jnp.array(True), False
        return ScalarFit(problem, None, problem.constraints, p, begun, twice)

    def begin(arrays) -> Inverse:
        return normal_inverse.from_matrix(arrays[2], arrays[3], ALGEBRA)

    def turn(_, arrays) -> Inverse:
        fit = fit_of(arrays)
        jac = fit.cost_and_linearization(fit.p0)[2].jac
        return normal_inverse.from_jacobian(jac, arrays[3], fit.m, ALGEBRA)

    def finish(found: Inverse, arrays) -> Inverse:
        return found.in_units(arrays[3])

    start = arrays[1]
    problem = eqx.combine(arrays[0], rest[0])
    of = lambda arrays, *args: rows_of_one(eqx.combine(arrays[0], rest[0]), *args)
    passes = {"triangle": pass_of(of, "triangle", arrays, start)}
    going = lambda found: ~found.well_conditioned
    whole, results = loop(begin, going, turn, finish, arrays)
    return Plan("inverse", [whole], passes, results, start, problem.m)
