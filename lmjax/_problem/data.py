"""Measured data: y, sigma, mask and NaN policy as weights of a residual."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from lmjax._jax.arrays import broadcast
from lmjax._jax.paths import name_of
from lmjax._linalg.linearization import PRECISION
from lmjax._problem.masked_x import missing, safe_inputs
from lmjax._problem.terms import LikelihoodTerm
from lmjax.likelihoods import Likelihood

NAN_POLICIES = ("propagate", "omit")


class Data(NamedTuple):
    """Observations of one fit, inside a trace.

    Attributes:
        x: Independent variables, safe to evaluate the model at.
        y: Observations with masked points replaced by 0, a pytree if given as one.
        mask: Which points count, flat, or None for all.
        whiten: Function that divides a flat residual by the noise and zeroes masked
            points.
        unwhiten: Its inverse on points that count: white noise becomes noise of y.
        num_used: How many points count, None if all do.
    """

    x: Any
    y: Any
    mask: Bool[Array, " m"] | None
    whiten: Callable
    unwhiten: Callable
    num_used: Int[Array, ""] | None


def prepare(x, y, sigma, mask, nan_policy: str, dtype) -> Data:
    """Check shapes and build the weights, of an array or of a pytree of data sets."""
    structure = jax.tree.structure(y)
    if jax.tree_util.treedef_is_leaf(structure):
        return _prepare_one(x, y, sigma, mask, nan_policy, dtype)
    try:  # x with the structure of y: what belongs to each data set
        own_x = structure.flatten_up_to(x)
    except (ValueError, TypeError):
        own_x = None
    weights = per_set("sigma", sigma, y), per_set("mask", mask, y)
    given = zip(
        own_x or [x] * structure.num_leaves, jax.tree.leaves(y), *weights, strict=True
    )
    sets = [_prepare_one(*one, nan_policy, dtype) for one in given]
    ends = np.cumsum([one.y.size for one in sets])[:-1]

    def each(function: str, r):
        parts = zip(sets, jnp.split(r, ends), strict=True)
        return jnp.concatenate([getattr(one, function)(part) for one, part in parts])

    mask = num_used = None
    if any(one.mask is not None for one in sets):
        every = lambda one: jnp.ones(one.y.size, bool)
        parts = [every(one) if one.mask is None else one.mask for one in sets]
        mask = jnp.concatenate(parts)
        num_used = jnp.sum(mask, dtype=jnp.int32)
    if own_x is not None:
        x = structure.unflatten([one.x for one in sets])
    elif nan_policy == "omit":  # NaN of an x common to all sets: no set uses the point
        for one in sets:
            x = safe_inputs(x, ~missing(x, one.y.shape))
    y = structure.unflatten([one.y for one in sets])
    whiten, unwhiten = partial(each, "whiten"), partial(each, "unwhiten")
    return Data(x, y, mask, whiten, unwhiten, num_used)


def per_set(name: str, prefix: Any, y: Any) -> list[Any]:
    """Return what a prefix pytree of y (None among them) holds for each data set."""
    structure = jax.tree.structure(y)
    single = jax.tree_util.treedef_is_leaf(structure)
    if single or prefix is None or jax.tree_util.all_leaves([prefix]):
        return [prefix] * structure.num_leaves
    try:  # with all of y's structure: a pair may be the sigma of one set
        return structure.flatten_up_to(prefix)
    except (ValueError, TypeError):
        pass
    try:
        full = jax.tree.broadcast(prefix, y, is_leaf=lambda value: value is None)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected a prefix of y, {structure}, got "
            f"{jax.tree.structure(prefix)}"
        ) from error
    return structure.flatten_up_to(full)


def _prepare_one(x, y, sigma, mask, nan_policy: str, dtype) -> Data:
    """Check shapes and build the weights of an array.

    A sigma that is not positive turns the residual into NaN, so that the fit reports a
    non-finite start instead of a wrong answer.
    """
    if y.size == 0:
        raise ValueError("y: expected at least one observation, got none")
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise TypeError(f"y: expected real observations, got {y.dtype}")
    y = y.astype(dtype)
    if mask is not None:
        if mask.dtype != bool:
            raise TypeError(f"mask: expected booleans (True = use), got {mask.dtype}")
        mask = broadcast("mask", mask, y.shape)
    if nan_policy == "omit":
        present = ~(jnp.isnan(y) | missing(x, y.shape))
        mask = present if mask is None else mask & present
    num_used = None
    if mask is not None:
        num_used = jnp.sum(mask, dtype=jnp.int32)
        y = jnp.where(mask, y, 0.0)
        x = safe_inputs(x, mask)
    mask = None if mask is None else mask.ravel()
    whiten, unwhiten = _whitening(sigma, mask, y, dtype)
    return Data(x, y, mask, whiten, unwhiten, num_used)


def inside_domain(data: Data, f: Any) -> Data:
    """Return the data with x replaced at masked points outside the domain of the model.

    ``f`` is the model at the start: not finite where x is outside.
    """
    if data.mask is None:
        return data
    structure = jax.tree.structure(data.y)
    if jax.tree_util.treedef_is_leaf(structure):
        x = safe_inputs(data.x, data.mask.reshape(data.y.shape), ~jnp.isfinite(f))
        return data._replace(x=x)
    try:
        own_x = structure.flatten_up_to(data.x)
    except (ValueError, TypeError):
        return data
    leaves = jax.tree.leaves(data.y)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    masks = jnp.split(data.mask, ends)
    sets = zip(own_x, masks, leaves, jax.tree.leaves(f), strict=True)
    x = [safe_inputs(x, m.reshape(y.shape), ~jnp.isfinite(f)) for x, m, y, f in sets]
    return data._replace(x=structure.unflatten(x))


def likelihood_term(likelihood: Likelihood, data: Data, dtype) -> LikelihoodTerm:
    """Return the term of a likelihood, its arrays flat, and safe where masked."""
    shape = data.y.shape

    def per_point(path, leaf):
        leaf = jnp.asarray(leaf, dtype)
        name = "likelihood." + name_of(path)
        return broadcast(name, leaf, shape) if leaf.ndim else leaf

    spread = jax.tree_util.tree_map_with_path(per_point, likelihood)
    mask = data.mask
    if mask is not None:
        used = mask.reshape(shape)
        first = jnp.argmax(mask)
        replace = lambda leaf: jnp.where(used, leaf, leaf.ravel()[first])
        spread = jax.tree.map(lambda x: replace(x) if x.ndim else x, spread)
    flat = jax.tree.map(lambda leaf: leaf.ravel() if leaf.ndim else leaf, spread)
    return LikelihoodTerm(flat, data.y.ravel(), mask)


def _whitening(sigma, keep, y, dtype):
    def masked(r):
        return r if keep is None else jnp.where(keep, r, 0.0)

    if sigma is None:
        return masked, masked
    if isinstance(sigma, tuple):
        factor, lower = sigma
        factor = jnp.asarray(factor, dtype)
        _check_square("sigma", factor, y)
        # `lower` is traced like every other number
        factor = jnp.where(lower, jnp.tril(factor), jnp.triu(factor).T)
        covariance = factor @ factor.T if keep is not None else None
        return _correlated(factor, covariance, keep, masked)
    sigma = jnp.asarray(sigma, dtype)
    if is_covariance(sigma, y.size, y.ndim):
        return _correlated(None, sigma, keep, masked)
    sigma = broadcast("sigma", sigma, y.shape).ravel()
    # NaN where sigma is not positive; masked points may carry anything
    sigma = jnp.where(sigma > 0.0, sigma, jnp.nan)
    if keep is not None:
        sigma = jnp.where(keep, sigma, 1.0)
    return lambda r: masked(r) / sigma, lambda r: masked(r) * sigma


def is_covariance(sigma, size: int, ndim: int) -> bool:
    """Return whether sigma is a covariance matrix: (m, m) for (m,) observations."""
    return ndim == 1 and size > 1 and sigma.shape == (size, size)


def _correlated(factor, covariance, keep, masked):
    if keep is not None:
        # masked points: cut their correlations and give them unit variance
        used = keep[:, None] & keep[None, :]
        eye = jnp.eye(keep.size, dtype=covariance.dtype)
        factor = jnp.linalg.cholesky(jnp.where(used, covariance, eye))
    elif factor is None:
        factor = jnp.linalg.cholesky(covariance)
    whiten = lambda r: jax.scipy.linalg.solve_triangular(factor, masked(r), lower=True)
    return whiten, lambda r: masked(jnp.dot(factor, r, precision=PRECISION))


def _check_square(name, matrix, y):
    if matrix.shape != (y.size, y.size):
        raise ValueError(
            f"{name}: expected a Cholesky factor of shape {(y.size, y.size)}, "
            f"got {matrix.shape}"
        )


def check_sigma(sigma: Any, mask: Any, y: Any) -> None:
    """Raise if a concrete sigma is not positive (or not positive definite)."""
    if sigma is None:
        return
    leaves = jax.tree.leaves(y)
    for one in zip(
        per_set("sigma", sigma, y), per_set("mask", mask, y), leaves, strict=True
    ):
        _check_sigma_of_one(*one)


def _check_sigma_of_one(sigma, mask, y):
    if sigma is None or isinstance(sigma, Tracer):
        return
    if isinstance(sigma, tuple):
        if len(sigma) != 2 or np.ndim(sigma[0]) != 2:
            raise ValueError(
                "sigma: expected the pair (factor, lower) of cho_factor, or an array; "
                f"got a tuple of shapes {[np.shape(part) for part in sigma]}"
            )
        return
    if isinstance(mask, Tracer):
        return
    values = np.asarray(sigma)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"sigma: expected real numbers, got {values.dtype}")
    keep = None
    if mask is not None:
        broadcast("mask", mask, y.shape)  # which raises; inside jit it is traced
        keep = np.broadcast_to(np.asarray(mask, bool), y.shape)
    if is_covariance(values, y.size, y.ndim):
        if keep is not None:
            values = values[np.ix_(keep, keep)]
        rounding = 1e-5 * np.max(np.abs(values), initial=0.0)
        if (np.abs(values - values.T) > rounding).any():
            raise ValueError("sigma: expected a symmetric covariance matrix")
        values = np.diagonal(values)
    else:
        broadcast("sigma", values, y.shape)
        if keep is not None and values.shape == keep.shape:
            values = values[keep]  # masked points may carry anything
    if not (values > 0).all() and not np.isnan(values).any():
        raise ValueError(f"sigma: expected positive values, got {values.min()}")
    if values.size and np.isposinf(values).all():
        raise ValueError("sigma: expected finite values, got infinity for all points")
