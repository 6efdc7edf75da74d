"""Which engine a batch runs in, and why."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.backend import get_backend

from lmjax._batch import packing
from lmjax._engines.fused.engine import PLATFORMS, Program, note_p, program_p
from lmjax._jax.machine import Unsupported
from lmjax._linalg.linearization import UNROLL_UP_TO


def explain(fit_one: Callable[[Any], Any], data: Any) -> str:
    """Return which engine the fits of ``jax.vmap(fit_one)(data)`` run in, and why.

    Nothing is fitted and nothing is compiled by XLA.

    Args:
        fit_one: Function of one row, as for `fit_batch`.
        data: Pytree of arrays with one row per fit.

    Returns:
        A line per batch of fits.

    Raises:
        ValueError: If the arrays of ``data`` differ in length or are empty.
        TypeError: If data are no numbers.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> t = jnp.linspace(0.0, 3.0, 20)
        >>> def fit_one(y):
        ...     model = lambda p, t: p["a"] * jnp.exp(-p["k"] * t)
        ...     return lmjax.curve_fit(model, t, y, {"a": 1.0, "k": 1.0}).params
        >>> print(lmjax.explain(fit_one, jnp.ones((5, 20))))
        fused: one machine program for 5 fits of 2 parameters to 20 points
    """
    if not callable(fit_one):
        raise TypeError(f"fit_one: expected a function of one row, got {fit_one!r}")
    table = packing.table(data)
    one = lambda leaves: packing.plain(fit_one(table.row.restore(leaves)))
    rows = [
        jax.ShapeDtypeStruct((table.size, *x.shape), x.dtype) for x in table.row.leaves
    ]
    lines = list(_lines(jax.make_jaxpr(jax.vmap(one))(rows).jaxpr))
    return "\n".join(lines) or "loop: no batch of fits that an engine takes"


def _line(program: Program, size: int) -> str:
    kernel, backend = program.kernel, get_backend()
    platform = "cuda" if "cuda" in backend.platform_version else backend.platform
    reason = f"{platform} has no machine programs"
    if platform in PLATFORMS:
        try:
            program.on(platform, size)
        except Unsupported as error:
            reason = str(error)
        else:
            return (
                f"fused: one machine program for {size} fits of {kernel.n} parameters "
                f"to {kernel.points} points"
            )
    name = "xla" if kernel.n <= UNROLL_UP_TO else "loop"
    return f"{name}: not fused, because {reason}"


def _lines(jaxpr: Any):
    for eqn in jaxpr.eqns:
        if eqn.primitive is program_p:
            program, size = eqn.params["program"], eqn.params["size"]
            if program.kernel.plan.name == "fits":
                yield _line(program, size)
        elif eqn.primitive is note_p:
            yield eqn.params["text"]
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _lines(inner)
