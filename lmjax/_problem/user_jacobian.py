"""Where J comes from: autodiff, or a function of the user's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def jacobian_of(
    jac: Callable | str | None,
    unravel: Callable,
    whiten: Callable | None,
    n: int,
    m: int,
    dtype: Any,
) -> tuple[Callable | None, str]:
    """Return the user's Jacobian as a matrix, None for autodiff, and what it is."""
    if jac is None:
        # One pass per column or one per row: take the fewer.
        jac = "rev" if n > m else "fwd"
    if isinstance(jac, str):
        return None, jac

    def user(p):
        matrix = assemble(jac(unravel(p)), unravel(p), m, n, dtype)
        return matrix if whiten is None else jax.vmap(whiten, 1, 1)(matrix)

    return user, "user"


def assemble(tree, params, m, n, dtype):
    """Join the blocks of a Jacobian pytree, nested as ``jax.jacfwd`` does."""
    structure = jax.tree.structure(params)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    leaves = jax.tree.leaves(tree)
    if len(leaves) == 1 and jnp.shape(leaves[0]) == (m, n):
        return jnp.asarray(leaves[0], dtype)
    rows = jax.tree.leaves(tree, is_leaf=lambda x: jax.tree.structure(x) == structure)
    try:
        matrix = jnp.concatenate(
            [
                jnp.concatenate(
                    [
                        _block(block, shape, dtype)
                        for block, shape in zip(
                            jax.tree.leaves(row), shapes, strict=True
                        )
                    ],
                    axis=1,
                )
                for row in rows
            ]
        )
    except (ValueError, TypeError):
        matrix = None
    if matrix is None or matrix.shape != (m, n):
        got = [jnp.shape(leaf) for leaf in leaves]
        raise ValueError(
            "jac: expected the nesting and shapes of jax.jacfwd of the residual (or "
            f"the model), {m} rows by {n} columns in all; got leaves of shapes {got}"
        )
    return matrix


def _block(block, shape, dtype):
    """Flatten the derivative of one residual leaf by one parameter leaf."""
    block = jnp.asarray(block, dtype)
    if block.shape[block.ndim - len(shape) :] != shape:
        raise ValueError
    return jnp.reshape(block, (-1, int(np.prod(shape))))
