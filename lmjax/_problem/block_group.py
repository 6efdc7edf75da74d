"""From `ResidualBlocks` to a group whose blocks, slots and data are known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.interpreters.partial_eval import dce_jaxpr

from lmjax._jax import paths, program_cache
from lmjax._jax.closures import hoisted
from lmjax._linalg.blocks.structure import Group, Leaf, Slot
from lmjax._problem.block_residual import BlockGroup

# Reverse mode pays if it takes so many times fewer passes: for reprojections of two
# residuals and twelve unknowns it takes 0.3 of the time.
FEWER = 3


def leaves_of(values: list, manifolds: list) -> tuple[Leaf, ...]:
    """Return the sizes of the leaves in a flat step."""
    found, start = [], 0
    for value, manifold in zip(values, manifolds, strict=True):
        # one element on a manifold is one row, as one number is
        rows = value.shape[0] if value.ndim > (manifold is not None) else 1
        size = value.size // max(rows, 1)
        if manifold is not None:
            size = size // value.shape[-1] * manifold.tangent_size
        found.append(Leaf(start, rows, size))
        start += rows * size
    return tuple(found)


def group_of(given, number, values, structure, params0, leaves, jac):
    """Return the blocks of one kind as they were given, and what ``fn`` returns."""
    name = f"blocks[{number}].at"
    is_rows = lambda x: hasattr(x, "shape")
    rows = paths.spread(name, given.at, params0, is_rows, "an array of rows")
    k = given.blocks
    for leaf, (value, at) in enumerate(zip(values, rows, strict=True)):
        if at is not None:
            rows[leaf] = _checked(name, at, value, leaf, params0)
    pick = lambda value, at: value if at is None else _row_like(value, at.shape[1:])
    one = jax.tree.unflatten(
        structure, [pick(v, at) for v, at in zip(values, rows, strict=True)]
    )
    first = jax.tree.map(_row_like, tuple(given.args))
    fn = program_cache.model("fn", given.fn, one, *first)
    fn, used, out, only_reverse = _traced(fn, one, first)
    slots, picked, spans = [], [], []
    for leaf, at in enumerate(rows):
        if at is None:
            if used[leaf]:
                whole = Slot(leaf, leaves[leaf].rows * leaves[leaf].size, True)
                spans.append((leaf, len(slots), len(slots) + 1, False))
                slots.append(whole)
                picked.append(np.zeros(k, np.int32))
            continue
        columns = [at] if at.ndim == 1 else [at[:, j] for j in range(at.shape[1])]
        spans.append((leaf, len(slots), len(slots) + len(columns), at.ndim == 2))
        slots += [Slot(leaf, leaves[leaf].size, False)] * len(columns)
        picked += columns
    stack = jnp if any(isinstance(x, Tracer) for x in picked) else np
    picked = stack.stack([x.astype(np.int32) for x in picked])
    pattern = Group(picked, tuple(slots), out.size)
    mask = given.mask
    args = tuple(given.args)
    if mask is not None:
        # what is masked may be NaN, and a derivative of 0 times NaN is NaN
        keep = jnp.argmax(mask)
        args = jax.tree.map(
            lambda x: jnp.where(
                jnp.reshape(mask, (-1,) + (1,) * (x.ndim - 1)), x, x[keep]
            ),
            args,
        )
    sigma = _inverse_sigma(given.sigma, k, out)
    given = fn, args, sigma, mask, given.loss, given.loss_scale
    reverse = jac == "rev" or (jac is None and only_reverse)
    if jac is None and FEWER * out.size <= pattern.width:
        reverse = _is_reversible(fn, one, first)
    group = BlockGroup(*given, pattern, tuple(spans), structure, reverse)
    return group, out


def _row_like(x, several: tuple[int, ...] = ()):
    """Return something of the shape of a row, for a trace, which sees no numbers.

    To take a row of an array on a device, XLA compiles up to six programs.

    Args:
        x: Rows.
        several: How many rows, if not one: their shape.
    """
    if not isinstance(x.dtype, np.dtype):  # keys of random numbers
        return x[0]
    return np.zeros((*several, *x.shape[1:]), x.dtype)


def _is_reversible(fn, one, first) -> bool:
    """Return whether reverse mode can differentiate a function."""
    total = lambda one: jnp.sum(fn(one, *first))
    try:
        jax.eval_shape(jax.grad(total), one)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def _checked(name, at, value, leaf, params0):
    """Return rows that exist."""
    path = jax.tree_util.tree_leaves_with_path(params0)[leaf][0]
    where = f"{name}{jax.tree_util.keystr(path)}"
    if not value.ndim:
        raise ValueError(f"{where}: expected a leaf with rows, got a number in params0")
    if isinstance(at, Tracer):
        return at
    at = np.asarray(at)
    wrong = (at < 0) | (at >= value.shape[0])
    if wrong.any():
        block = int(np.argwhere(wrong)[0][0])
        raise ValueError(
            f"{where}: expected rows from 0 to {value.shape[0] - 1}, got "
            f"{at[wrong][0]} in block {block}"
        )
    return at


def _traced(fn, one, first):
    """Return a function, which leaves of the parameters it reads, what it returns.

    And whether only reverse mode can differentiate it. A function that captured values
    of a transformation, such as `jax.vmap`, comes back with these as its leaves.
    """
    closed, out = jax.make_jaxpr(fn, return_shape=True)(one, *first)
    _, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    if len(jax.tree.leaves(out)) != 1 or not hasattr(out, "shape"):
        raise ValueError(
            f"fn: expected one array of residuals, got {jax.tree.structure(out)}"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"fn: expected real residuals, got {out.dtype} (of complex ones "
            "jnp.stack([z.real, z.imag]))"
        )
    if any(isinstance(const, Tracer) for const in closed.consts):
        wide = paths.common_dtype(out.dtype, *jax.tree.leaves(one))
        cast = lambda x: jnp.zeros(x.shape, wide)
        fn = hoisted(fn, jax.tree.map(cast, one), *first)
    only_reverse = _calls(closed.jaxpr, "custom_vjp_call")
    return fn, used[: len(jax.tree.leaves(one))], out, only_reverse


def _calls(jaxpr, name: str) -> bool:
    """Return whether a jaxpr, or one within it, has a primitive of that name."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith(name):
            return True
        within = jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns"))
        if any(_calls(inner, name) for inner in within if hasattr(inner, "eqns")):
            return True
    return False


def _inverse_sigma(sigma, k, out):
    if sigma is None:
        return None
    sigma = jnp.asarray(sigma)
    shape = (k, *out.shape)
    if sigma.shape == (k,):
        sigma = sigma.reshape(k, *(1,) * len(out.shape))
    try:
        sigma = jnp.broadcast_to(sigma, shape)
    except ValueError as error:
        raise ValueError(
            f"sigma: expected a shape that broadcasts to ({k},) or {shape}, got "
            f"{sigma.shape}"
        ) from error
    return 1.0 / sigma.reshape(k, -1).T
