"""Parameters as the user holds them: any pytree, and what is said of parts of it.

Names along the path of a leaf, the dtype that all have in common, and prefixes: bounds
or marks that name only what they concern.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def is_parameter(leaf) -> bool:
    """Return whether a leaf of a callable model is a float or an array of floats.

    Not ``eqx.is_inexact_array_like``, which fails on tracers of jax 0.10.
    """
    if isinstance(leaf, np.ndarray | jax.Array):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return isinstance(leaf, float)


def common_dtype(*values):
    """Return the widest dtype, also where the user has set strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def check_params(params0) -> Any:
    """Return the dtype of the parameters, or raise if it is not a real floating one."""
    leaves = jax.tree_util.tree_leaves_with_path(params0)
    if not leaves or all(jnp.size(leaf) == 0 for _, leaf in leaves):
        raise ValueError("params0: expected at least one parameter, got none")
    for path, leaf in leaves:
        try:
            dtype = jnp.result_type(leaf)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"params0: expected floating-point parameters, got {leaf!r} at "
                f"params0{jax.tree_util.keystr(path)}"
            ) from error
        if not jnp.issubdtype(dtype, jnp.floating):
            hint = (
                "split complex numbers into real and imaginary parts"
                if jnp.issubdtype(dtype, jnp.complexfloating)
                else "write 1.0 instead of 1"
            )
            raise TypeError(
                f"params0: expected floating-point parameters, got {dtype} at "
                f"params0{jax.tree_util.keystr(path)} ({hint})"
            )
        if jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"params0: expected float32 or float64, got {dtype} at "
                f"params0{jax.tree_util.keystr(path)}"
            )
    return common_dtype(*(leaf for _, leaf in leaves))


def parameter_names(params) -> list[str]:
    """Return one name per flat parameter: ``tau``, ``decay.rate``, ``a[1]``."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = name_of(path)
        shape = jnp.shape(leaf)
        if not path and not shape:
            names.append("params")
        elif shape:
            names += [f"{name}[{', '.join(map(str, i))}]" for i in np.ndindex(shape)]
        else:
            names.append(name)
    return names


def leaf_names(params) -> list[str]:
    """Return one name per leaf: ``cameras``, ``decay.rate``; ``params`` for all."""
    listed = jax.tree_util.tree_leaves_with_path(params)
    return [name_of(path) or "params" for path, _ in listed]


def name_of(path) -> str:
    """Return a readable name for a pytree path: ``tau``, ``decay.rate``, ``[0]``."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def spread(
    name: str, prefix: Any, tree: Any, is_value: Callable, expected: str
) -> list[Any]:
    """Return what a prefix pytree says about each leaf of a tree, None if nothing.

    Args:
        name: What the prefix is called in messages.
        prefix: Values for leaves and subtrees; mappings may leave out keys.
        tree: The tree.
        is_value: Whether an object is such a value.
        expected: What such values are called in messages.
    """
    count = len(jax.tree.leaves(tree))
    if prefix is None or is_value(prefix):
        return [prefix] * count
    children, structure = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: x is not tree
    )
    if isinstance(prefix, Mapping):
        keys = [name_of(path) for path, _ in children]
        by_name = _by_name(name, prefix, keys)
        values = [by_name.get(key) for key in keys]
    elif count == len(children) == 1 and children[0][0] == ():
        raise TypeError(f"{name}: expected {expected}, got {prefix!r}")
    else:
        values = _children_of(name, prefix, structure)
    found = []
    for value, (path, child) in zip(values, children, strict=True):
        below = f"{name}{jax.tree_util.keystr(path)}"
        found += spread(below, value, child, is_value, expected)
    return found


def ravel_prefix(name, prefix, params, default, dtype, xp: Any = jnp):
    """Spread a prefix pytree over ``params`` and flatten it.

    A leaf of the prefix covers the whole subtree below it; None, or a key left out of a
    mapping, takes the default. A mapping may also address the fields of a Module by
    name. With ``xp=numpy`` the result is known at once, also inside a trace.
    """
    parts = []
    _spread(name, prefix, params, default, dtype, parts, xp)
    return xp.concatenate(parts)


def _spread(name, prefix, node, default, dtype, parts, xp):
    children, structure = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    if prefix is None:
        prefix = default
    if len(children) == 1 and children[0][0] == ():  # an array: the end of the path
        try:
            value = xp.asarray(prefix)
            spread = xp.broadcast_to(value.astype(dtype), jnp.shape(node))
        except (ValueError, TypeError) as error:
            got = (
                f"shape {jnp.shape(prefix)}"
                if jax.tree_util.all_leaves([prefix])
                else f"a {type(prefix).__name__}"
            )
            raise ValueError(
                f"{name}: expected a number or an array that broadcasts to "
                f"{jnp.shape(node)}, got {got}"
            ) from error
        if dtype is bool and value.dtype != np.bool_:
            raise TypeError(
                f"{name}: expected booleans, got {value.dtype} (a value belongs into "
                "the start)"
            )
        if jnp.iscomplexobj(value):
            raise TypeError(f"{name}: expected real numbers, got {value.dtype}")
        parts.append(xp.ravel(spread))
        return
    keys = [name_of(path) for path, _ in children]
    if _is_read_by_name(node, keys) and isinstance(prefix, Mapping):
        prefix = prefix if keys[0] in prefix else {keys[0]: prefix}
    if isinstance(prefix, Mapping):
        by_name = _by_name(name, prefix, keys)
        gone = [
            key
            for key, (_, child) in zip(keys, children, strict=True)
            if child is None and by_name.get(key) is not None
        ]
        if gone:
            raise ValueError(
                f"{name}: expected free parameters, got {gone[0]!r}, which follows "
                "from others (tie=); the free ones here are "
                + ", ".join(parameter_names(node))
            )
        prefixes = [by_name.get(key) for key in keys]
    elif jax.tree_util.all_leaves([prefix]):
        prefixes = [prefix] * len(children)
    else:
        prefixes = _children_of(name, prefix, structure)
    for key, child_prefix, (_, child) in zip(keys, prefixes, children, strict=True):
        _spread(f"{name}[{key!r}]", child_prefix, child, default, dtype, parts, xp)


def _by_name(name: str, prefix: Mapping, keys: list[str]) -> dict[str, Any]:
    """Return the values of a mapping by the names of parameters, or raise."""
    unknown = [key for key in prefix if str(key) not in keys]
    if unknown:
        raise ValueError(
            f"{name}: no parameter is called {unknown[0]!r}; the names here are "
            + ", ".join(keys)
        )
    return {str(key): value for key, value in prefix.items()}


def _is_read_by_name(node, keys: list[str]) -> bool:
    """Return whether ``node["name"]`` reads what stands in its one field.

    As in sums of models, whose parts are named without the field that holds them.
    """
    named = isinstance(node, eqx.Module) and hasattr(node, "__getitem__")
    return named and len(keys) == 1


def _children_of(name, prefix, structure):
    is_child = lambda x: x is not prefix
    children, prefix_structure = jax.tree.flatten(prefix, is_leaf=is_child)
    if prefix_structure != structure:
        raise ValueError(
            f"{name}: expected a prefix of params0, {structure}, got {prefix_structure}"
        )
    return children
