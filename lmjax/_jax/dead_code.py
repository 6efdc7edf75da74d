"""Calls that learn which of their results are used, arguments that nobody reads."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Primitive
from jax.interpreters.partial_eval import dce_jaxpr, dce_rules


def read_leaves(fn: Callable, tree: Any) -> list[bool]:
    """Return for each leaf of ``tree`` whether the result of ``fn(tree)`` needs it."""
    jaxpr = jax.make_jaxpr(fn)(tree).jaxpr
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]


def prune(primitive: Primitive, fewer: Callable[[list[bool], JaxprEqn], JaxprEqn]):
    """Let jax drop results that are not used, unless it has a rule of its own.

    A call without used results goes if it has no effects.

    Args:
        primitive: What is called.
        fewer: From flags of the results in use and the call to a call with those
            results only, or to the same call.
    """

    def rule(used: list[bool], *given):
        eqn = given[-1]  # from jax 0.12 on, flags of the arguments stand before it
        if not any(used) and not eqn.effects:
            return [False] * len(eqn.invars), None
        return [True] * len(eqn.invars), fewer(used, eqn)

    dce_rules.setdefault(primitive, rule)
