"""A function with a version of its own for `jax.vmap`, nested or not."""

from collections.abc import Callable
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr

from lmjax._jax.dead_code import prune
from lmjax._jax.sharded import explicit_axes


def with_batch(alone: Callable, batch: Callable, arrays: Any) -> Any:
    """Return ``alone(arrays)``, which `jax.vmap` replaces by a batch.

    Args:
        alone: From the arrays of one fit to a pytree.
        batch: From the number of fits, flags and arrays to a pytree with the fits on
            the first axis. The flags mark the arrays that differ per fit, which have a
            leading axis. However many times ``jax.vmap`` is applied, it is one batch.
        arrays: A pytree.
    """
    one = custom_vmap(alone)

    @one.def_vmap
    def _(size, batched, arrays):
        _refuse_explicit_axes(arrays)
        out = _joined(batch, size, batched[0], arrays)
        return out, jax.tree.map(lambda _: True, out)

    return one(arrays)


def _refuse_explicit_axes(arrays: Any) -> None:
    """Raise if a batch is spread over axes of a mesh that are part of its type.

    Then every operation has to say how its result is spread; a loop over fits does not.
    """
    for leaf in jax.tree.leaves(arrays):
        if axes := explicit_axes(leaf):
            raise ValueError(
                "a batch of fits: expected data on mesh axes of the type Auto, got "
                f"{axes} of the type Explicit; use lmjax.fit_batch(fit_one, data), "
                "jax.shard_map(jax.vmap(fit_one), ...), or jax.make_mesh(..., "
                "axis_types=(jax.sharding.AxisType.Auto,))"
            )


def _joined(batch: Callable, size: int, flags: Any, arrays: Any) -> Any:
    """Return the results of a batch, of which a further ``vmap`` makes a larger one."""
    many = custom_vmap(lambda arrays: batch(size, flags, arrays))

    @many.def_vmap
    def _(outer, outer_batched, arrays):
        # fits of all batches in one row; what only some share is copied
        both = jax.tree.map(lambda a, b: a or b, flags, outer_batched[0])

        def join(x, inner, out):
            if not (inner or out):
                return x
            if not inner:
                x = jnp.repeat(x[:, None], size, axis=1)
            if not out:
                x = jnp.broadcast_to(x, (outer, *x.shape))
            return x.reshape(outer * size, *x.shape[2:])

        together = jax.tree.map(join, arrays, flags, outer_batched[0])
        out = _joined(batch, outer * size, both, together)
        out = jax.tree.map(lambda x: x.reshape(outer, size, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return many(arrays)


def _fewer(used: list[bool], eqn: JaxprEqn) -> JaxprEqn:
    """Return a call for the results in use.

    jax has no such rule for functions with a ``vmap`` of their own: it would work out
    all results of a batch of which only the parameters are asked for. The table of
    rules is one for all libraries: calls of others stay as they are.
    """
    if getattr(eqn.params["rule"], "__module__", None) != __name__:
        return eqn
    call, rule = eqn.params["call"], eqn.params["rule"]
    jaxpr, _ = dce_jaxpr(call.jaxpr, used, instantiate=True)

    def fewer(size, batched, *args):
        both = rule(size, batched, *args)
        return tuple(list(compress(jax.tree.leaves(tree), used)) for tree in both)

    params = eqn.params | {
        "call": ClosedJaxpr(jaxpr, call.consts),
        "rule": fewer,
        "out_tree": jax.tree.structure([0] * sum(used)),
    }
    outvars = list(compress(eqn.outvars, used))
    return eqn.replace(outvars=outvars, params=params, effects=jaxpr.effects)


# the primitive of such calls, which has no public name
_CALL = jax.make_jaxpr(sequential_vmap(lambda x: x))(0.0).eqns[0].primitive
prune(_CALL, _fewer)


def each(alone: Callable, size: int, flags: Any, arrays: Any) -> Any:
    """Return ``alone`` of each fit of a batch."""
    axes = jax.tree.map(lambda flag: 0 if flag else None, flags)
    return jax.vmap(alone, in_axes=(axes,), axis_size=size)(arrays)
