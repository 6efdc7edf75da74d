"""Functions as pytrees, so that one `jax.jit` serves every model.

A plain function becomes a pytree without leaves, compared by identity; a callable
Module contributes its arrays as leaves. Passing either to a jitted function then
retraces for a new function and never for new numbers.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


class Split(eqx.Module):
    """A callable Module with its arrays apart from everything else."""

    arrays: Any
    rest: Any = eqx.field(static=True)

    def __call__(self, *args):
        """Call the Module."""
        return eqx.combine(self.arrays, self.rest)(*args)


def hoisted(fn: Callable, *args: Any) -> Split:
    """Return ``fn`` for arguments like these, what it closes over as its leaves.

    So that ``vmap`` batches what a user's function closes over, and derivatives reach
    it.
    """
    converted = eqx.filter_closure_convert(fn, *args)
    return Split(*eqx.partition(converted, eqx.is_array))


def as_pytree(fn: Callable) -> Callable:
    """Return a callable pytree whose leaves are arrays."""
    if isinstance(fn, eqx.Module):
        return Split(*eqx.partition(fn, eqx.is_array))
    if isinstance(fn, jax.tree_util.Partial):
        return fn
    return jax.tree_util.Partial(fn)
