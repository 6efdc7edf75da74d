"""The delta method: errors of what follows from the parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lmjax._jax.types import Params
from lmjax._linalg.linearization import PRECISION
from lmjax._solver.status import ParamStatus
from lmjax._statistics.statistics import has_error


def propagated(
    fn: Callable[[Params], Any],
    params: Params,
    covariance: Any,
    flat_status: Any = None,
) -> tuple[Any, Any]:
    """Return (value, standard error) of ``fn(params)``, also of a batch.

    Args:
        fn: From the parameters of one fit to a pytree of arrays.
        params: The parameters, with the axes of the batch in front.
        covariance: Their covariance, (..., n, n).
        flat_status: A `ParamStatus` each, (..., n). What depends on no parameter with
            an error, or on an undetermined one, then has NaN for its error. Without
            it, parameters that have no error are constants.
    """
    arrays, rest = eqx.partition(params, eqx.is_array)

    def one(arrays, covariance, status):
        varied, other = eqx.partition(eqx.combine(arrays, rest), eqx.is_inexact_array)
        flat, unravel = ravel_pytree(varied)
        derived = lambda p: fn(eqx.combine(unravel(p), other))
        jac = jax.jacfwd(derived)(flat)
        error = lambda j: _known(j, _spread(j, covariance), status)
        return derived(flat), jax.tree.map(error, jac)

    for _ in covariance.shape[:-2]:
        one = jax.vmap(one)
    return one(arrays, covariance, flat_status)


def _spread(jac, covariance):
    """Return ``sqrt(J C J^T)`` for each row of J."""
    variance = jnp.einsum("...i,ij,...j", jac, covariance, jac, precision=PRECISION)
    zero = variance <= 0.0  # where a square root has no derivative
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, variance)))


def _known(jac, error, status):
    if status is None:
        return error
    moved_by = lambda which: jnp.any(
        (jac != 0.0) & jnp.broadcast_to(which, jac.shape), axis=-1
    )
    known = moved_by(has_error(status))
    known &= ~moved_by(status == ParamStatus.UNDETERMINED)
    return jnp.where(known, error, jnp.nan)
