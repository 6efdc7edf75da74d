"""Fits as columns: one per parameter, per standard error and per statistic."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lmjax._jax.paths import is_parameter, parameter_names
from lmjax._solver.status import Status


def numbers(params: Any) -> Any:
    """Drop what a callable model carries beside its parameters."""
    return jax.tree.map(lambda leaf: leaf if is_parameter(leaf) else None, params)


def columns(params: Any, axes: int | tuple[int, ...]) -> dict[str, Array]:
    """Return the values of every parameter by its name.

    Args:
        params: Parameters.
        axes: How many leading axes of a leaf are no part of it: those of a batch, and
            that of the curves of a global fit. One number, or one per leaf.
    """
    leaves, structure = jax.tree.flatten(numbers(params))
    each = (axes,) * len(leaves) if isinstance(axes, int) else axes
    pairs = list(zip(map(jnp.asarray, leaves), each, strict=True))
    shapes = [leaf.shape[k:] for leaf, k in pairs]
    one = jax.tree.unflatten(structure, [np.empty(shape) for shape in shapes])
    values = []
    for (leaf, k), shape in zip(pairs, shapes, strict=True):
        flat = leaf.reshape(*leaf.shape[:k], math.prod(shape))
        values += [flat[..., j] for j in range(flat.shape[-1])]
    return dict(zip(parameter_names(one), values, strict=True))


def to_dict(sol: Any) -> dict[str, Array]:
    """Return what `Solution.to_dict` does."""
    axes, found = sol.leaf_axes(), {}
    params, errors = sol.params, sol.stderr
    if hasattr(sol, "all_params"):  # those that are tied, too
        params, errors = sol.all_params, sol.all_stderr
    if getattr(sol, "tangents", None):  # an element has errors, its numbers have none
        of_numbers = lambda p, error: error if jnp.shape(p) == error.shape else None
        errors = jax.tree.map(of_numbers, params, errors)
    errors = columns(errors, axes)
    for name, value in columns(params, axes).items():
        found[name] = value
        if name in errors:
            found[f"{name}_stderr"] = errors[name]
    for name in ("status", "cost", "num_steps", "chi2", "reduced_chi2"):
        if hasattr(sol, name):
            found[name] = jnp.asarray(getattr(sol, name))
    return found


def to_pandas(sol: Any) -> Any:
    """Return what `Solution.to_pandas` does."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    arrays = {name: np.asarray(value) for name, value in to_dict(sol).items()}
    batch = np.shape(sol.cost)
    shape = max((x.shape for x in arrays.values()), key=len)  # curves of a global fit
    spread = lambda x: x.reshape(x.shape + (1,) * (len(shape) - x.ndim))
    flat: dict[str, Any] = {
        name: np.broadcast_to(spread(x), shape).ravel() for name, x in arrays.items()
    }
    codes, inverse = np.unique(flat["status"], return_inverse=True)
    kinds = [Status(int(code)).name for code in codes]
    flat["status"] = pd.Categorical.from_codes(inverse, kinds)
    names = [*("fit" for _ in batch), *("curve" for _ in shape[len(batch) :])]
    if len(shape) > 1:
        numbered = [f"{name}_{k}" for k, name in enumerate(names)]
        names = numbered if len(set(names)) < len(names) else names
        index = pd.MultiIndex.from_product([range(n) for n in shape], names=names)
    else:
        index = pd.RangeIndex(math.prod(shape), name=names[0] if names else None)
    return pd.DataFrame(flat, index=index)
