"""The Hessian of the cost of a batch as a plan of a machine program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmjax._engines.fused.plan import ALGEBRA, Plan, loop, pass_of, routine
from lmjax._linalg import hessian
from lmjax._linalg.hessian import Hessian
from lmjax._linalg.linearization import gram_pairs


def plan(arrays: Any, rest: Any) -> Plan:
    """Return how the Hessian is found, which ends in a `Hessian`.

    Args:
        arrays: Shapes of the arrays of a problem and a `Place` of one fit.
        rest: What is no array of them.
    """
    start = arrays[1].p
    n = start.shape[0]

    def problem_of(arrays):
        return eqx.combine(arrays[0], rest[0])

    def begin(arrays) -> Hessian:
        pairs = [(i, j) for i, j in gram_pairs(n) if j < n]
        found = routine("cost", [arrays[1].p], [()] * (n + len(pairs)))
        entries = dict(zip(pairs, found[n:], strict=True))
        entry = lambda i, j: entries[min(i, j), max(i, j)]
        rows = [jnp.stack([entry(i, j) for j in range(n)]) for i in range(n)]
        grad, matrix = jnp.stack(found[:n]), jnp.stack(rows)
        return hessian.by_factor(grad, matrix, arrays[1], ALGEBRA)

    def turn(known: Hessian, arrays) -> Hessian:
        return hessian.by_singular_values(known, arrays[1], ALGEBRA)

    going = lambda known: known.doubtful
    finish = lambda known, arrays: hessian.finish(known, arrays[1])
    of = lambda arrays, *args: bends_of_cost(problem_of(arrays), *args)
    passes = {"cost": pass_of(of, "sums", arrays, start)}
    whole, results = loop(begin, going, turn, finish, arrays)
    problem = problem_of(arrays)
    return Plan("hessian", [whole], passes, results, start, problem.m)


def bends_of_cost(problem: Any, p: Array, units: Array) -> list[Array]:
    """Return the first and second derivatives of what each point adds to the cost."""
    cost = lambda p: problem.half_terms(problem.residual_fn(p))
    slope = lambda p, unit: jax.jvp(cost, (p,), (unit,))[1]

    def bends(unit):
        bend = lambda other: jax.jvp(lambda p: slope(p, unit), (p,), (other,))
        first, second = jax.vmap(bend)(units)
        return first[0], second

    first, second = jax.vmap(bends)(units)
    pairs = [(i, j) for i, j in gram_pairs(p.size) if j < p.size]
    return [*first, *(second[i, j] for i, j in pairs)]
