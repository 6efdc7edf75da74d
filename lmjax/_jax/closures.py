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
from jax.extend.core import Literal
from jaxtyping import Array

from lmjax._jax import sharded
from lmjax._jax.jaxpr_key import inputs_of


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
        out = sharded.eval_jaxpr(self.jaxpr, self.consts, *jax.tree.leaves(args))
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


class Code:
    """What a function does with arguments of given shapes; equals only itself.

    Attributes:
        jaxpr: The equations.
        inputs: Shape and dtype of every leaf of the arguments.
        in_structure: Structure of the arguments.
        out_structure: Structure of the result.
        data_places: Where each written number stands among the data: from (equation,
            operand) to (vector, element).
    """

    def __init__(
        self, jaxpr, inputs: list, in_structure, out_structure, data_places: dict
    ):
        self.jaxpr, self.inputs, self.data_places = jaxpr, inputs, data_places
        self.in_structure, self.out_structure = in_structure, out_structure

    def run(self, consts: list, numbers: list, args: list) -> Any:
        """Evaluate the equations, as ``jax.core.eval_jaxpr`` does."""
        env = dict(zip(inputs_of(self.jaxpr), [*consts, *args], strict=True))

        def read(place, atom):
            if not isinstance(atom, Literal):
                return env[atom]
            if place in self.data_places:
                vector, element = self.data_places[place]
                return numbers[vector][element]
            return atom.val

        for i, eqn in enumerate(self.jaxpr.eqns):
            operands = [read((i, j), atom) for j, atom in enumerate(eqn.invars)]
            with eqn.ctx.manager:
                outs = sharded.bind(eqn, *operands)
            env.update(zip(eqn.outvars, outs, strict=True))
        outs = [read((-1, j), atom) for j, atom in enumerate(self.jaxpr.outvars)]
        return jax.tree.unflatten(self.out_structure, outs)


class Program:
    """A function of arguments of given shapes as a pytree; see `program_cache`.

    Attributes:
        consts: What it closed over.
        numbers: Floating-point numbers written in it, a vector per dtype.
        code: What it does.
    """

    def __init__(self, consts: Any, numbers: Any, code: Code):
        self.consts, self.numbers, self.code = consts, numbers, code

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        leaves, structure = jax.tree.flatten(args)
        got = structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]
        inputs = [(aval.shape, aval.dtype) for aval in self.code.inputs]
        assert got == (self.code.in_structure, inputs), (got, inputs)
        return self.code.run(self.consts, self.numbers, leaves)

    def cast(self, start: Any) -> Any:
        """Return parameters in the dtypes that the function was traced for."""
        leaves, structure = jax.tree.flatten(start)
        pairs = zip(leaves, self.code.inputs, strict=False)
        return structure.unflatten([jnp.asarray(leaf, a.dtype) for leaf, a in pairs])

    def start(self, start: Any) -> Any:
        """Return what `cast` does to parameters, as shapes and dtypes."""
        structure = jax.tree.structure(start)
        return structure.unflatten(self.code.inputs[: structure.num_leaves])


jax.tree_util.register_dataclass(
    Program, data_fields=["consts", "numbers"], meta_fields=["code"]
)


class Unhashable:
    """A callable that Python cannot hash, such as a dataclass: it equals itself."""

    def __init__(self, fn: Callable):
        self.fn = fn

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same object."""
        return isinstance(other, Unhashable) and self.fn is other.fn

    def __hash__(self) -> int:
        """Return a hash of the address."""
        return id(self.fn)

    def __call__(self, *args, **kwargs):
        """Call the callable."""
        return self.fn(*args, **kwargs)


def as_pytree(fn: Callable) -> Callable:
    """Return a callable pytree whose leaves are arrays."""
    if isinstance(fn, eqx.Module):
        return Split(*eqx.partition(fn, eqx.is_array))
    if isinstance(fn, jax.tree_util.Partial | Program):
        return fn
    try:
        hash(fn)
    except TypeError:
        fn = Unhashable(fn)
    return jax.tree_util.Partial(fn)


def unwrapped(fn: Callable) -> Callable:
    """Return the function of which `as_pytree` made a pytree without leaves."""
    if isinstance(fn, jax.tree_util.Partial) and not (fn.args or fn.keywords):
        return fn.func.fn if isinstance(fn.func, Unhashable) else fn.func
    return fn
