"""More than one try: failed fits another way, or the best of several starts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lmjax._batch import packing
from lmjax._batch.fit_batch import fit_batch
from lmjax._errors.advice import calling
from lmjax._errors.checks import check_function
from lmjax._jax.arrays import leaves_of
from lmjax._jax.types import Params


def rescue(fits: Any, fit_one: Callable[[Any], Any], data: Any, **options: Any) -> Any:
    """Return ``fits`` with the failed ones tried again by another function.

    Args:
        fits: What ``fit_batch`` or ``vmap`` returned: a `Solution` or `CurveFit` of a
            batch, or any pytree with a ``status`` and a ``cost``.
        fit_one: Fits one row another way: other starts (`multi_start`), more damping,
            float64. It returns the same as the first function did.
        data: The data that were fitted.
        options: Keywords of `fit_batch`.

    Returns:
        The batch as NumPy arrays. A second try replaces a failed fit if it succeeded,
        or if it failed at a lower cost.

    Raises:
        ValueError: If there are more or fewer rows than fits.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax
        >>> def fit_one(y, steps=2):
        ...     solver = lmjax.LevenbergMarquardt(max_steps=steps)
        ...     return lmjax.least_squares(
        ...         lambda p, y: p**3 - y, jnp.ones(1), (y,), solver=solver
        ...     )
        >>> y = jnp.array([[1.0], [500.0]])
        >>> fits = jax.vmap(fit_one)(y)
        >>> fits = lmjax.rescue(fits, lambda y: fit_one(y, 100), y)
        >>> fits.success.tolist()
        [True, True]
    """
    check_function("fit_one", fit_one, "fit_one(row)")
    if not (hasattr(fits, "status") and hasattr(fits, "cost")):
        raise TypeError(
            "fits: expected what fit_batch or vmap returned, with a status and a cost, "
            f"got {fits!r}"
        )
    if np.ndim(fits.status) != 1:
        raise ValueError(
            "fits: expected a batch, with one status per row of data, got a status of "
            f"shape {np.shape(fits.status)}"
        )
    data = packing.table(data)
    whole = jax.tree.map(np.array, fits)
    if data.size != len(whole.status):
        raise ValueError(
            f"data: expected one row for each of {len(whole.status)} fits, got "
            f"{data.size}"
        )
    failed = np.flatnonzero(np.asarray(whole.status) <= 0)
    if failed.size == 0:
        return whole
    rows = data.row.restore([leaf[failed] for leaf in data.leaves])
    again = fit_batch(fit_one, rows, **options)
    whole, again = _counted(whole, again), _counted(again, whole)
    old_cost = np.nan_to_num(np.asarray(whole.cost)[failed], nan=np.inf)
    new_cost = np.nan_to_num(np.asarray(again.cost), nan=np.inf)
    better = (np.asarray(again.status) > 0) | (new_cost < old_cost)

    def merge(old, new):
        new = np.asarray(new)
        old[failed[better]] = new[better].astype(old.dtype)
        return old

    return jax.tree.map(merge, whole, again)


def _counted(fits: Any, others: Any) -> Any:
    """Return fits with the number of points that count, if the others have it.

    It is None where all points count, such as before a second try that omits some.
    """
    known = getattr(fits, "num_used", ())
    if known is not None or others.num_used is None:
        return fits
    return eqx.tree_at(
        lambda these: these.num_used,
        fits,
        np.array(fits.num_points),
        is_leaf=lambda leaf: leaf is None,
    )


def multi_start(fit_one: Callable[[Params], Any], starts: Params) -> Any:
    """Return the best of several fits of the same data from different starts.

    Works under ``jax.jit`` and ``jax.vmap``, where all starts of all fits become one
    batch.

    Args:
        fit_one: Function of a start that returns a `Solution` or `CurveFit`.
        starts: Pytree like a start, with a leading axis.

    Returns:
        The successful fit of lowest cost; the one of lowest cost if none succeeded.

    Raises:
        ValueError: If the starts have no first axis in common.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> wavy = lambda p: jnp.stack([jnp.sin(3.0 * p) + 0.3 * p, 0.1 * p])
        >>> starts = jnp.linspace(-6.0, 6.0, 7)
        >>> best = lmjax.multi_start(lambda p: lmjax.least_squares(wavy, p), starts)
        >>> print(f"{abs(best.params):.3f}")
        0.000
    """
    check_function("fit_one", fit_one, "fit_one(start)")
    starts = leaves_of("starts", starts)
    is_array = lambda leaf: isinstance(leaf, jax.Array | np.ndarray)
    shapes = [leaf.shape if is_array(leaf) else () for leaf in jax.tree.leaves(starts)]
    if () in shapes or len({shape[:1] for shape in shapes}) != 1:
        raise ValueError(
            "starts: expected arrays with the starts on their first axis, as many in "
            f"each, got shapes {shapes}"
        )
    fits = jax.vmap(calling(fit_one, "fit_one(start)"))(starts)
    if not (hasattr(fits, "status") and hasattr(fits, "cost")):
        raise TypeError(
            "fit_one: expected a function that returns a fit, with a status and a "
            f"cost, got {type(fits).__name__}"
        )
    cost = jnp.where(jnp.isnan(fits.cost), jnp.inf, fits.cost)
    worst = jnp.where(fits.status > 0, 0, 1)
    best = jnp.lexsort((cost, worst))[0]
    return jax.tree.map(lambda x: x[best], fits)
