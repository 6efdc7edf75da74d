"""Functions as pytrees, so that one `jax.jit` serves every model.

A plain function becomes a pytree without leaves, compared by identity; a callable
Module contributes its arrays as leaves. Passing either to a jitted function then
retraces for a new function and never for new numbers.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jaxtyping import Array


class Split(eqx.Module):
    """A callable Module with its arrays apart from everything else."""

    arrays: Any
    rest: Any = eqx.field(static=True)

    def __call__(self, *args):
        """Call the Module."""
        return eqx.combine(self.arrays, self.rest)(*args)


class Hoisted(eqx.Module):
    """A function traced once, what it closed over apart from what it does."""

    consts: list[Array]
    jaxpr: Any = eqx.field(static=True)
    structure: Any = eqx.field(static=True)

    def __call__(self, *args):
        """Call the function."""
        out = eval_jaxpr(self.jaxpr, self.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(self.structure, out)


def hoisted(fn: Callable, *args: Any) -> Hoisted:
    """Return ``fn`` for arguments like these, what it closes over as its leaves.

    So that ``vmap`` batches what a user's function closes over, and derivatives reach
    it. Like ``eqx.filter_closure_convert``, which however insists on arguments of the
    very same sharding and so fails inside ``shard_map``.
    """
    closed, out = jax.make_jaxpr(fn, return_shape=True)(*args)
    consts = [jnp.asarray(const) for const in closed.consts]
    return Hoisted(consts, closed.jaxpr, jax.tree.structure(out))


def as_pytree(fn: Callable) -> Callable:
    """Return a callable pytree whose leaves are arrays."""
    if isinstance(fn, eqx.Module):
        return Split(*eqx.partition(fn, eqx.is_array))
    if isinstance(fn, jax.tree_util.Partial):
        return fn
    return jax.tree_util.Partial(fn)
