"""Control flow inside `jax.shard_map`, which keeps track of what differs per device.

There the type of an array names the mesh axes over which it varies. Constants vary over
none, and a loop that begins with a constant and goes on with data changes the type of
its carry, which jax refuses. These are the functions of `jax.lax` for loops and
branches whose types agree. Outside `shard_map` they are those of `jax.lax`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr as core_eval_jaxpr
from jax.extend import core
from jax.extend.core import Literal


# jax names these two as it does because what they say may change with its versions; it
# has no other way to ask.
def is_jitted() -> bool:
    """Return whether `jax.jit` is at work."""
    return core.unsafe_am_i_under_a_jit_DO_NOT_USE()  # pyright: ignore[reportPrivateImportUsage]


def is_mapped() -> bool:
    """Return whether there are named axes, as inside `jax.shard_map`."""
    return core.nonempty_axis_env_DO_NOT_USE()  # pyright: ignore[reportPrivateImportUsage]


def axes_of(tree: Any) -> frozenset:
    """Return the mesh axes over which any array of a pytree varies."""
    found = frozenset()
    for leaf in jax.tree.leaves(tree):
        kind = getattr(leaf, "manual_axis_type", None)  # a shape
        if kind is None:
            kind = getattr(jax.typeof(leaf), "manual_axis_type", None)
        found |= getattr(kind, "varying", frozenset())
    return found


def explicit_axes(leaf: Any) -> list[Any]:
    """Return the axes of a mesh of explicit axes over which an array is spread."""
    if not isinstance(leaf, jax.Array):
        return []
    return [axis for axis in jax.typeof(leaf).sharding.spec if axis is not None]


def vary(tree: Any, axes: frozenset) -> Any:
    """Return a pytree of arrays that vary over these axes, too."""

    def one(leaf):
        missing = tuple(sorted(axes - axes_of(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree) if axes else tree


def first(array: Any) -> jax.ShapeDtypeStruct:
    """Return the type of one element along the last axis."""
    if not is_mapped():
        return jax.ShapeDtypeStruct(array.shape[:-1], array.dtype)
    return jax.eval_shape(lambda x: x[..., 0], array)


def custom_jvp(fn: Callable, rule: Callable, *args: Any) -> Any:
    """Return ``fn(*args)``, whose derivative a rule gives, as `jax.custom_jvp` does.

    Results may be integers and flags, whose tangents have no right type inside
    `jax.shard_map`: there they pass through the rule as floating-point numbers.

    Args:
        fn: The function.
        rule: Tangent of its results, from (args, tangents, results); symbolic zeros as
            for ``defjvp(symbolic_zeros=True)``.
        args: Its arguments.
    """
    as_float = as_given = lambda tree: tree
    if is_mapped():
        kinds = jax.eval_shape(fn, *args)
        as_float = lambda tree: jax.tree.map(_as_float, tree)
        as_given = lambda tree: jax.tree.map(_as_kind, tree, kinds)
    run = jax.custom_jvp(lambda *args: as_float(fn(*args)))

    def whole(primals, tangents):
        found = run(*primals)
        tangent = rule(primals, tangents, as_given(found))
        return found, tangent_like(found, tangent)

    run.defjvp(whole, symbolic_zeros=True)
    return as_given(run(*args))


def _as_float(x):
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def _as_kind(x, kind):
    return x.astype(kind.dtype)


def no_tangent(x: Any) -> Any:
    """Return the tangent of an array of integers or flags."""
    return np.zeros(x.shape, jax.dtypes.float0)


def zero_tangent(x: Any) -> Any:
    """Return the tangent of an array that does not move."""
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else no_tangent(x)


def tangent_like(primal: Any, tangent: Any) -> Any:
    """Return a tangent of the type that belongs to a primal value."""
    if not is_mapped():
        return tangent
    none = jax.dtypes.float0
    same = lambda t, x: jnp.zeros_like(x) if t.dtype == none else t.astype(x.dtype)
    return jax.tree.map(lambda t, x: vary(same(t, x), axes_of(x)), tangent, primal)


def linearize(fn: Callable, p: Any) -> tuple[Any, Callable]:
    """Do as ``jax.linearize``."""
    out, product = jax.linearize(fn, p)
    axes = axes_of(p)
    return out, lambda v: product(vary(v, axes))


def vary_like(tree: Any, *others: Any) -> Any:
    """Return a pytree each of whose arrays varies at least as those of the others."""
    return jax.tree.map(lambda x, *ys: vary(x, axes_of((x, *ys))), tree, *others)


def as_arguments(fn: Callable) -> Callable:
    """Return a function whose results vary over what its arguments vary over.

    Not all of LAPACK's do, as far as jax knows.
    """

    def varied(*args):
        out = fn(*args)
        return vary(out, axes_of(args)) if is_mapped() else out

    return varied


def alike(branches: list[Callable], *operands: Any) -> list[Callable]:
    """Return functions whose results have the same types."""
    if not is_mapped():
        return branches
    shapes = [jax.eval_shape(branch, *operands) for branch in branches]
    cast = lambda branch: lambda *args: vary_like(branch(*args), *shapes)
    return [cast(branch) for branch in branches]


def cond(pred: Any, true_fun: Callable, false_fun: Callable, *operands: Any) -> Any:
    """Do as ``jax.lax.cond``."""
    return jax.lax.cond(pred, *alike([true_fun, false_fun], *operands), *operands)


def choose(pred: Any, true_fun: Callable, false_fun: Callable) -> Any:
    """Do as ``jax.lax.cond``, in a single fit, of which `jax.vmap` may make many.

    Inside `jax.shard_map` both branches are evaluated: jax cannot batch a branch that
    makes a constant vary (0.10, 0.12).
    """
    if not is_mapped():
        return jax.lax.cond(pred, true_fun, false_fun)
    return jax.tree.map(lambda a, b: jnp.where(pred, a, b), true_fun(), false_fun())


def platform_dependent(*operands: Any, cpu: Callable, default: Callable) -> Any:
    """Do as ``jax.lax.platform_dependent``."""
    cpu, default = alike([cpu, default], *operands)
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=default)


def while_loop(cond_fun: Callable, body: Callable, init: Any) -> Any:
    """Do as ``jax.lax.while_loop``."""
    return jax.lax.while_loop(cond_fun, *_carrying(body, init))


def fori_loop(lower: Any, upper: Any, body: Callable, init: Any) -> Any:
    """Do as ``jax.lax.fori_loop``."""
    if not is_mapped():
        return jax.lax.fori_loop(lower, upper, body, init)
    _, init = _carrying(lambda carry: body(lower, carry), init)
    turn = lambda i, carry: vary_like(body(i, carry), init)
    return jax.lax.fori_loop(lower, upper, turn, init)


def _carrying(body: Callable, init: Any) -> tuple[Callable, Any]:
    """Return the body of a loop and its start, their types settled."""
    if not is_mapped():
        return body, init
    varying = lambda: [axes_of(leaf) for leaf in jax.tree.leaves(init)]
    before = None
    while before != varying():  # each turn adds an axis somewhere, and there are few
        before = varying()
        init = vary_like(init, jax.eval_shape(body, init))
    return lambda carry: vary_like(body(carry), init), init


def bind(eqn: Any, *operands: Any, **changes: Any) -> list:
    """Apply the primitive of an equation, as functions of `jax.lax` do.

    Also to arrays that vary over more than those that the equation was made for.
    """
    if is_mapped():
        operands = vary(operands, axes_of(operands))
        if eqn.primitive.name == "pvary":
            return [vary(operands[0], frozenset(eqn.params["axes"]))]
    params = eqn.primitive.get_bind_params({**eqn.params, **changes})
    out = eqn.primitive.bind(*operands, **params)
    return out if eqn.primitive.multiple_results else [out]


def eval_jaxpr(jaxpr: Any, consts: list, *args: Any) -> list:
    """Do as ``jax.core.eval_jaxpr``."""
    if not is_mapped():
        return core_eval_jaxpr(jaxpr, consts, *args)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    env = dict(zip(inputs, [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else env[atom]
    for eqn in jaxpr.eqns:
        outs = bind(eqn, *map(read, eqn.invars))
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
