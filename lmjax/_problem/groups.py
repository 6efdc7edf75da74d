"""A group of curves as one problem: parameters and data, curves on the last axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax._jax import arrays, paths
from lmjax._jax.arrays import is_list
from lmjax._jax.types import Params
from lmjax._linalg.arrowhead import Arrow
from lmjax._problem import data as measured
from lmjax._problem import masked_x
from lmjax._problem.data import Data
from lmjax._problem.ragged import padded
from lmjax.likelihoods import Likelihood


class Layout(NamedTuple):
    """Where the parameters of all curves stand in one flat array.

    Attributes:
        structure: Pytree of the parameters of one curve.
        shared: Which leaves all curves share.
        shapes: Shape of each leaf for one curve.
        curves: Number of curves.
    """

    structure: Any
    shared: tuple[bool, ...]
    shapes: tuple[tuple[int, ...], ...]
    curves: int

    @property
    def arrow(self) -> Arrow:
        """The pattern of the problem."""
        sizes = {True: 0, False: 0}
        for shared, shape in zip(self.shared, self.shapes, strict=True):
            sizes[shared] += int(np.prod(shape))
        return Arrow(self.curves, own=sizes[False], shared=sizes[True])

    def flatten(self, params: Params) -> Array:
        """Return the flat array of a pytree whose own leaves have the curves first."""
        parts = {True: [], False: []}
        for shared, leaf in zip(self.shared, jax.tree.leaves(params), strict=True):
            parts[shared].append(
                leaf.ravel() if shared else leaf.reshape(self.curves, -1).T
            )
        own, common = jnp.concatenate(parts[False]), jnp.concatenate(parts[True])
        return self.arrow.join(own, common)

    def unflatten(self, flat: Array) -> Params:
        """Return the pytree whose own leaves have the curves first."""
        own, shared = self.arrow.split(flat)
        return self._cut(own.T, shared, (self.curves,))

    def ravel(self, flat: Array) -> Array:
        """Return a flat array in ravel order of the pytree of all curves."""
        leaves = jax.tree.leaves(self.unflatten(flat))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    def unravel(self, raveled: Array) -> Array:
        """Return what `ravel` was given."""
        leaves, start = [], 0
        for shared, shape in zip(self.shared, self.shapes, strict=True):
            shape = shape if shared else (self.curves, *shape)
            stop = start + int(np.prod(shape))
            leaves.append(raveled[start:stop].reshape(shape))
            start = stop
        return self.flatten(jax.tree.unflatten(self.structure, leaves))

    def of_one(self, own: Array, shared: Array) -> Params:
        """Return the parameters of one curve."""
        return self._cut(own, shared, ())

    def _cut(self, own, shared, lead: tuple[int, ...]) -> Params:
        leaves, at = [], {True: 0, False: 0}
        for flag, shape in zip(self.shared, self.shapes, strict=True):
            part = slice(at[flag], at[flag] + int(np.prod(shape)))
            at[flag] = part.stop
            leaf = shared[part] if flag else own[..., part]
            leaves.append(leaf.reshape(shape if flag else (*lead, *shape)))
        return jax.tree.unflatten(self.structure, leaves)


def lay_out(params0: Params, shared: tuple[bool, ...], curves: int):
    """Return the layout and the start of all curves, own leaves with the curves first.

    An own leaf whose first axis is as long as there are curves holds a start for each.
    """
    leaves, structure = jax.tree.flatten(params0)
    shapes, starts = [], []
    for flag, leaf in zip(shared, leaves, strict=True):
        shape = jnp.shape(leaf)
        if flag:
            starts.append(jnp.asarray(leaf))
        else:
            each = shape[:1] == (curves,)
            starts.append(
                jnp.asarray(leaf) if each else jnp.broadcast_to(leaf, (curves, *shape))
            )
            shape = shape[1:] if each else shape
        shapes.append(shape)
    layout = Layout(structure, shared, tuple(shapes), curves)
    return layout, jax.tree.unflatten(structure, starts)


def shared_leaves(shared: Any, params0: Params) -> tuple[bool, ...]:
    """Return which leaves of the start all curves share, from a prefix of booleans.

    Raises:
        TypeError: If it holds anything but booleans.
        ValueError: If it does not fit the parameters, or none or all are shared.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(shared):
        if not isinstance(leaf, bool | np.bool_):
            where = "shared" + jax.tree_util.keystr(path)
            raise TypeError(f"shared: expected True or False, got {leaf!r} at {where}")
    skeleton = jax.tree.map(lambda _: 0.0, params0)
    # flags are choices, also inside a trace
    flags = paths.ravel_prefix("shared", shared, skeleton, False, bool, np)
    flags = tuple(flags.tolist())
    if not any(flags):
        raise ValueError(
            "shared: expected at least one shared parameter, got none; independent "
            "fits are jax.vmap of curve_fit"
        )
    if all(flags):
        raise ValueError(
            "shared: expected at least one parameter that is not shared; curves that "
            "share everything are one curve_fit"
        )
    return flags


def rectangular(x: Any, y: Any, sigma: Any, mask: Any) -> tuple[Any, Any, Any, Any]:
    """Return the data with lists of curves as padded arrays, the padding masked."""
    if not isinstance(y, list):
        return x, y, sigma, mask
    y, present, lengths = padded("y", y)

    def filled(name, value):
        nonlocal present
        common = not is_list(value) or not any(np.ndim(part) for part in value)
        if common:
            return value
        array, there, own_lengths = padded(name, value)
        if own_lengths != lengths:
            raise ValueError(
                f"{name}: expected a list of {len(lengths)} curves as long as those of "
                f"y, {lengths}, got lengths {own_lengths}"
            )
        present = present & there
        return array

    x = jax.tree.map(lambda value: filled("x", value), x, is_leaf=is_list)
    sigma, mask = filled("sigma", sigma), filled("mask", mask)
    if mask is not None:
        mask = present & mask
    elif not present.all():
        mask = present
    return x, y, sigma, mask


def axes_of(x: Any, shape: tuple[int, ...]) -> Any:
    """Return for each leaf of x the axis of the curves, the last, or None without one.

    A leaf differs per curve if its shape begins with that of y.
    """
    differs = lambda leaf: jnp.shape(leaf)[: len(shape)] == shape
    return jax.tree.map(lambda leaf: -1 if differs(leaf) else None, x)


def of_one_curve(params: Any, shared: tuple[bool, ...], x: Any, shape: Any) -> tuple:
    """Return parameters and x of the first curve, for a y of some shape."""
    leaves, structure = jax.tree.flatten(params)
    own = lambda leaf, flag: not flag and jnp.shape(leaf)[:1] == shape[:1]
    pairs = zip(leaves, shared, strict=True)
    start = [leaf[0] if own(leaf, flag) else leaf for leaf, flag in pairs]
    first = lambda leaf: leaf[0] if jnp.shape(leaf)[: len(shape)] == shape else leaf
    return structure.unflatten(start), jax.tree.map(first, x)


def axis_list(axes: Any) -> list[int | None]:
    """Return the leaves of `axes_of`, None being one."""
    return jax.tree.leaves(axes, is_leaf=lambda axis: axis is None)


def likelihood_last(likelihood: Likelihood, shape: tuple[int, ...]) -> Likelihood:
    """Return the likelihood with the curves of its arrays on the last axis."""

    def last(path, leaf):
        if not jnp.ndim(leaf):
            return leaf
        whole = arrays.broadcast("likelihood." + paths.name_of(path), leaf, shape)
        return jnp.moveaxis(whole, 0, -1)

    return jax.tree_util.tree_map_with_path(last, likelihood)


def curves_last(x: Any, axes: Any, y, sigma, mask, nan_policy: str, dtype) -> Data:
    """Return the data of all curves, curves on the last axis."""
    last = lambda value: jnp.moveaxis(jnp.asarray(value), 0, -1)
    whole = lambda name, value: (
        None if value is None else last(arrays.broadcast(name, value, y.shape))
    )
    if nan_policy == "omit":
        mask = _present(x, axes, y.shape, mask)
    x = jax.tree.map(
        lambda axis, leaf: leaf if axis is None else last(leaf),
        axes,
        x,
        is_leaf=lambda axis: axis is None,
    )
    sigma, mask = whole("sigma", sigma), whole("mask", mask)
    data = measured.prepare(x, last(y), sigma, mask, nan_policy, dtype)
    if data.mask is None:
        return data
    return data._replace(x=_common_inputs(data, None))


def _present(x: Any, axes: Any, shape: tuple[int, ...], mask):
    """Return the mask without points whose x is NaN, in one curve or in all."""
    pairs = list(zip(axis_list(axes), jax.tree.leaves(x), strict=True))
    own = [leaf for axis, leaf in pairs if axis is not None]
    common = [leaf for axis, leaf in pairs if axis is None]
    present = ~(
        masked_x.missing(own, shape) | masked_x.missing(common, shape[1:])[None]
    )
    if mask is None:
        return present
    # what is no boolean is refused where the weights are made
    return mask & present if mask.dtype == bool else mask


def inside_domain(data: Data, f: Float[Array, "*m"]) -> Data:
    """Return the data with x replaced at masked points outside the domain of the model.

    ``f`` is the model at the start: not finite where x is outside.
    """
    data = measured.inside_domain(data, f)
    if data.mask is None:
        return data
    return data._replace(x=_common_inputs(data, jnp.any(~jnp.isfinite(f), axis=-1)))


def _common_inputs(data: Data, beyond) -> Any:
    """Return x with leaves common to all curves replaced where no curve uses them."""
    assert data.mask is not None
    used = jnp.any(data.mask.reshape(data.y.shape), axis=-1)
    return masked_x.safe_inputs(data.x, used, beyond)
