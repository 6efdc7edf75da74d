"""A `vmap` that keeps the batch on the last axis, and drops terms that are zero.

``jax.vmap`` puts the batch first wherever it broadcasts, so ``a * x`` with one ``a``
per fit and common ``x`` is laid out fit by fit, and a sum over points runs against the
grain of the vector unit: a third of the speed on CPU. Here every array of the batch has
the fits last. Derivatives by unit directions are mostly products with zero, which XLA
must keep (zero times NaN); those with zeros of the unit vectors are dropped here, as
symbolic zeros are in autodiff.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lmjax._jax import sharded


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# One output element from one element of each operand, all of the same shape.
ELEMENTWISE = _names("""
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2
    expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul
    ne neg nextafter not or pow real rem round rsqrt select_n sign sin sinh sqrt square
    stop_gradient sub tan tanh xor
""")
# They compute what a jaxpr among their parameters says, nothing else: calls, also those
# with rules for derivatives, which have been applied by then. Others have jaxprs that
# they run many times or in part: loops, branches, reductions, kernels.
CALLS = _names("""
    checkpoint closed_call core_call custom_jvp_call custom_vjp_call
    custom_vjp_call_jaxpr jit pjit remat remat2
""")
# Along named leading axes only: the fits behind them are not touched.
BY_AXIS = _names("""
    argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max
    reduce_min reduce_or reduce_prod reduce_sum rev split squeeze
""")
# Zero in, zero out.
LINEAR = _names("""
    broadcast_in_dim convert_element_type copy cumsum neg reduce_sum reshape rev slice
    split squeeze transpose
""")


class Value(NamedTuple):
    """An array of the evaluation.

    Attributes:
        array: The array; ``wide`` ones have the fits on the last axis.
        wide: Whether it differs per fit.
        unit: Whether it comes from the unit vectors alone: its zeros are none of the
            model's.
    """

    array: Any
    wide: bool
    unit: bool = False

    def is_all(self, number: float) -> bool:
        """Return whether it comes from unit vectors and is filled with ``number``."""
        return self.unit and bool(np.all(self.array == number))


def evaluate(
    fn: Callable, units: np.ndarray, flags: list[bool], args: list, width: int
) -> list[jax.Array]:
    """Return ``fn(units, *args)`` for each of ``width`` fits.

    Args:
        fn: A function of one fit's arrays that returns a flat list of arrays.
        units: Unit vectors.
        flags: Which of the other arguments differ per fit.
        args: The other arguments; those that differ have the fits on the last axis.
        width: Number of fits.

    Returns:
        The results, all with the fits on the last axis.
    """
    pairs = list(zip(args, flags, strict=True))
    one = [sharded.first(x) if flag else x for x, flag in pairs]
    closed = jax.make_jaxpr(fn)(units, *one)
    given = [Value(units, False, True), *map(Value, args, flags)]
    return [spread(value, width) for value in _run(closed, given, width)]


def spread(value: Value, width: int) -> jax.Array:
    """Return the array of a value, repeated per fit if it is the same for all."""
    if value.wide:
        return value.array
    return jnp.broadcast_to(jnp.asarray(value.array)[..., None], _wide(value, width))


def _wide(value: Value, width: int) -> tuple[int, ...]:
    return (*np.shape(value.array), width)


def _run(closed: ClosedJaxpr, args: list[Value], width: int) -> list[Value]:
    env = dict(zip(closed.jaxpr.invars, args, strict=True)) | _constants(closed)
    env = _equations(closed.jaxpr.eqns, env, width)
    return [_read(env, var) for var in closed.jaxpr.outvars]


def _constants(closed: ClosedJaxpr) -> dict[Any, Value]:
    known = lambda x: Value(x, False)
    return dict(zip(closed.jaxpr.constvars, map(known, closed.consts), strict=True))


def _equations(eqns, env: dict[Any, Value], width: int) -> dict[Any, Value]:
    for eqn in eqns:
        given = [_read(env, var) for var in eqn.invars]
        env.update(zip(eqn.outvars, _apply(eqn, given, width), strict=True))
    return env


def _read(env: dict[Any, Value], var) -> Value:
    if isinstance(var, Literal):
        return Value(np.asarray(var.val), False)
    return env[var]


def _apply(eqn, given: list[Value], width: int) -> list[Value]:
    """Return what one equation makes of its operands."""
    if eqn.primitive.name in CALLS:
        body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if isinstance(body, ClosedJaxpr):
            return _run(body, given, width)
    if eqn.primitive.name == "pvary" and given[0].unit:
        return given  # `sharded.bind` adds the mesh axes where the operand is used
    simple = _simplify(eqn, given)
    if simple is not None:
        return simple
    if not any(value.wide for value in given):
        return _results(eqn, [value.array for value in given], wide=False)
    name = eqn.primitive.name
    rule = _rule(eqn)
    if rule is not None:
        return _results(eqn, *rule(eqn, given, width))
    if name == "dot_general" and all(var.aval.ndim == 1 for var in eqn.invars):
        a, b = (x.array if x.wide else jnp.asarray(x.array)[:, None] for x in given)
        return [Value(jnp.sum(a * b, axis=0), True)]
    axes = tuple(-1 if value.wide else None for value in given)
    bind = jax.vmap(partial(sharded.bind, eqn), in_axes=axes, out_axes=-1)
    return [Value(array, True) for array in bind(*(value.array for value in given))]


def _results(eqn, arrays, params=None, *, wide=True) -> list[Value]:
    outs = sharded.bind(eqn, *arrays, **(params or {}))
    return [Value(array, wide) for array in outs]


def _rule(eqn) -> Callable | None:
    name = eqn.primitive.name
    if name in ELEMENTWISE:
        return _elementwise
    if name in BY_AXIS:
        return lambda eqn, given, width: ([value.array for value in given],)
    return RULES.get(name)


def _elementwise(eqn, given, width):
    shape = (*eqn.outvars[0].aval.shape, width)

    def full(value):
        array = value.array if value.wide else jnp.asarray(value.array)[..., None]
        return jnp.broadcast_to(array, shape)

    return ([full(value) for value in given],)


def _broadcast_in_dim(eqn, given, width):
    params = dict(eqn.params, shape=(*eqn.params["shape"], width))
    last = len(eqn.params["shape"])
    params["broadcast_dimensions"] = (*eqn.params["broadcast_dimensions"], last)
    return [given[0].array], params


def _reshape(eqn, given, width):
    sizes, order = eqn.params["new_sizes"], eqn.params["dimensions"]
    order = None if order is None else (*order, len(order))
    return [given[0].array], dict(
        eqn.params, new_sizes=(*sizes, width), dimensions=order
    )


def _transpose(eqn, given, width):
    order = eqn.params["permutation"]
    return [given[0].array], dict(eqn.params, permutation=(*order, len(order)))


def _slice(eqn, given, width):
    params = dict(eqn.params)
    params["start_indices"] = (*params["start_indices"], 0)
    params["limit_indices"] = (*params["limit_indices"], width)
    if params["strides"] is not None:
        params["strides"] = (*params["strides"], 1)
    return [given[0].array], params


def _concatenate(eqn, given, width):
    return ([spread(value, width) for value in given],)


RULES = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
}


def _simplify(eqn, given: list[Value]) -> list[Value] | None:
    """Return the result of an equation that unit vectors decide, or None."""
    name = eqn.primitive.name
    if name in LINEAR and given[0].is_all(0.0):
        return [_zeros(var) for var in eqn.outvars]
    if all(value.unit for value in given) and name in KNOWN:
        out = KNOWN[name](eqn.params, *(value.array for value in given))
        outs = out if isinstance(out, list) else [out]
        return [Value(np.asarray(array), False, True) for array in outs]
    if name not in ("mul", "div", "add", "add_any", "sub"):
        return None
    (a, b), out = given, eqn.outvars[0]
    # an operand may be a scalar; the other one then has the shape of the result
    whole_a, whole_b = (var.aval.shape == out.aval.shape for var in eqn.invars)
    if name == "mul" and (a.is_all(0.0) or b.is_all(0.0)):
        return [_zeros(out)]
    if name == "div" and a.is_all(0.0):
        return [_zeros(out)]
    if name in ("mul", "div") and b.is_all(1.0) and whole_a:
        return [a]
    if name == "mul" and a.is_all(1.0) and whole_b:
        return [b]
    if name != "mul" and name != "div" and b.is_all(0.0) and whole_a:
        return [a]
    if name in ("add", "add_any") and a.is_all(0.0) and whole_b:
        return [b]
    return None


def _zeros(var) -> Value:
    return Value(np.zeros(var.aval.shape, var.aval.dtype), False, True)


def _np_broadcast_in_dim(params, x):
    shape, dims = params["shape"], params["broadcast_dimensions"]
    ones = [1] * len(shape)
    for axis, dim in enumerate(dims):
        ones[dim] = x.shape[axis]
    return np.broadcast_to(x.reshape(ones), shape)


def _np_slice(params, x):
    strides = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(*b) for b in bounds)]


def _np_reshape(params, x):
    order = params["dimensions"]
    return (x if order is None else x.transpose(order)).reshape(params["new_sizes"])


KNOWN: dict[str, Callable] = {
    "broadcast_in_dim": _np_broadcast_in_dim,
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "copy": lambda params, x: x,
    "mul": lambda params, a, b: a * b,
    "neg": lambda params, x: -x,
    "reshape": _np_reshape,
    "slice": _np_slice,
    "split": lambda params, x: np.split(
        x, np.cumsum(params["sizes"])[:-1], params["axis"]
    ),
    "squeeze": lambda params, x: np.squeeze(x, params["dimensions"]),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
}
