"""The batch's interpreter of jaxprs: the answers of `jax.vmap`, the fits last."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax import lax

from lmjax._jax import vmap_last_axis
from lmjax._jax.vmap_last_axis import evaluate

WIDTH = 5  # no other axis here is as long
# between 0.1 and 0.9, where every function below is smooth
A, B = np.random.default_rng(17).uniform(0.1, 0.9, (2, 3, WIDTH))  # the fits last
ONE = np.array([0.25, 0.5, 0.75])  # the same for all fits
BOTH = [True, True]


class Case(NamedTuple):
    """A function of one fit, its arguments, and which of them differ per fit."""

    fn: Callable
    args: tuple
    wide: list[bool]

    def by_lanes(self, args):
        return by_lanes(self.fn, args, self.wide)

    def by_vmap(self, args):
        """Return what plain `jax.vmap` returns."""
        axes = tuple(-1 if flag else None for flag in self.wide)
        mapped = jax.vmap(self.fn, in_axes=axes, out_axes=-1, axis_size=WIDTH)
        return jax.tree.leaves(mapped(*args))


def by_lanes(fn, args, wide):
    """Return ``fn`` evaluated for all fits."""
    return by_units(lambda _, *args: fn(*args), np.eye(3), args, wide)


def by_units(fn, units, args, wide):
    """Return ``fn`` evaluated for all fits, from unit vectors as well."""
    one = lambda *args: jax.tree.leaves(fn(*args))
    args = [jnp.asarray(x) for x in args]
    return evaluate(one, units, list(wide), args, WIDTH)


def jaxpr_of(fn, *args, wide=None):
    """Return what the interpreter computes."""
    wide = [True] * len(args) if wide is None else wide
    return jax.make_jaxpr(lambda *args: by_lanes(fn, args, wide))(*args).jaxpr


def jaxpr_of_units(fn, units, *args):
    """Return what the interpreter computes from unit vectors and what differs."""
    wide = [True] * len(args)
    return jax.make_jaxpr(lambda *args: by_units(fn, units, args, wide))(*args).jaxpr


def names_in(jaxpr):
    """Return the names of the primitives of a jaxpr and of those it calls."""
    names = []
    for eqn in jaxpr.eqns:
        names.append(eqn.primitive.name)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            names += names_in(inner) if hasattr(inner, "eqns") else []
    return names


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        eps = jnp.finfo(a.dtype).eps if a.dtype.kind in "fc" else 0.0
        # the two are fused differently, and sums run in another order
        np.testing.assert_allclose(a, b, rtol=40 * eps, atol=4 * eps, strict=True)


def assert_fits_stay_last(jaxpr):
    for eqn in jaxpr.eqns:
        for var in eqn.outvars:
            assert WIDTH not in var.aval.shape[:-1], eqn


# ---- a rule for each of these, which keeps the fits last

UNARY = {
    "abs": lambda x: lax.abs(x - 0.5),
    "acos": lax.acos,
    "acosh": lambda x: lax.acosh(1.0 + x),
    "asin": lax.asin,
    "asinh": lax.asinh,
    "atan": lax.atan,
    "atanh": lax.atanh,
    "bessel_i0e": lax.bessel_i0e,
    "bessel_i1e": lax.bessel_i1e,
    "cbrt": lax.cbrt,
    "ceil": lambda x: lax.ceil(9.0 * x),
    "clamp": lambda x: lax.clamp(0.3, x, 0.6),
    "convert_element_type": lambda x: lax.convert_element_type(x, np.float32),
    "copy": jnp.copy,
    "cos": lax.cos,
    "cosh": lax.cosh,
    "digamma": lax.digamma,
    "erf": lax.erf,
    "erf_inv": lax.erf_inv,
    "erfc": lax.erfc,
    "exp": lax.exp,
    "exp2": lax.exp2,
    "expm1": lax.expm1,
    "floor": lambda x: lax.floor(9.0 * x),
    "integer_pow": lambda x: lax.integer_pow(x, 3),
    "is_finite": lambda x: lax.is_finite(1.0 / (x - A[0, 0])),
    "lgamma": lax.lgamma,
    "log": lax.log,
    "log1p": lax.log1p,
    "logistic": lax.logistic,
    "neg": lax.neg,
    "not": lambda x: lax.bitwise_not(x > 0.5),
    "round": lambda x: lax.round(9.0 * x),
    "rsqrt": lax.rsqrt,
    "sign": lambda x: lax.sign(x - 0.5),
    "sin": lax.sin,
    "sinh": lax.sinh,
    "sqrt": lax.sqrt,
    "square": lax.square,
    "stop_gradient": lax.stop_gradient,
    "tan": lax.tan,
    "tanh": lax.tanh,
}
BINARY = {
    "add": lax.add,
    "and": lambda x, y: (x > 0.5) & (y > 0.5),
    "atan2": lax.atan2,
    "div": lax.div,
    "eq": lambda x, y: lax.eq(lax.round(3.0 * x), lax.round(3.0 * y)),
    "ge": lax.ge,
    "gt": lax.gt,
    "le": lax.le,
    "lt": lax.lt,
    "max": lax.max,
    "min": lax.min,
    "mul": lax.mul,
    "ne": lambda x, y: lax.ne(lax.round(3.0 * x), lax.round(3.0 * y)),
    "nextafter": lax.nextafter,
    "or": lambda x, y: (x > 0.5) | (y > 0.5),
    "pow": lax.pow,
    "rem": lambda x, y: lax.rem(5.0 * x, y),
    "select_n": lambda x, y: jnp.where(x > y, x, y),
    "sub": lax.sub,
    "xor": lambda x, y: (x > 0.5) ^ (y > 0.5),
}
MATRIX = np.random.default_rng(3).uniform(0.5, 1.5, (4, 6, WIDTH))
BY_AXIS = {
    "argmax": lambda x: lax.argmax(x, 1, np.int32),
    "argmin": lambda x: lax.argmin(x, 0, np.int32),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "cummax": lambda x: lax.cummax(x, 0),
    "cummin": lambda x: lax.cummin(x, 1),
    "cumprod": lambda x: lax.cumprod(x, 1),
    "cumsum": lambda x: lax.cumsum(x, 1, reverse=True),
    "reduce_and": lambda x: jnp.all(x > 0.6, axis=1),
    "reduce_max": lambda x: jnp.max(x, axis=0),
    "reduce_min": lambda x: jnp.min(x, axis=(0, 1)),
    "reduce_or": lambda x: jnp.any(x > 1.4, axis=0),
    "reduce_prod": lambda x: jnp.prod(x, axis=1),
    "reduce_sum": lambda x: jnp.sum(x, axis=0),
    "rev": lambda x: lax.rev(x, (1,)),
    "split": lambda x: lax.split(x, (1, 3, 2), axis=1),
    "squeeze": lambda x: lax.squeeze(x[:, :1], (1,)),
}
SHAPING = {
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (4, 2, 6), (0, 2)),
    "concatenate": lambda x: lax.concatenate([x, 2.0 * x], 0),
    "reshape": lambda x: (lax.reshape(x, (3, 8)), lax.reshape(x, (8, 3), (1, 0))),
    "slice": lambda x: (lax.slice(x, (1, 0), (3, 6)), x[::2, 1::3]),
    "transpose": lambda x: lax.transpose(x, (1, 0)),
}


def meeting(x):
    """Return a derivative in which two parts of one tangent meet."""
    return jax.vjp(lambda x: (jnp.sin(x), jnp.cos(x)), x)[1]((x, x))[0]


# by the primitive that must be there
RULED = (
    {name: Case(fn, (A,), [True]) for name, fn in UNARY.items()}
    | {name: Case(fn, (A, B), BOTH) for name, fn in BINARY.items()}
    | {"add_any": Case(meeting, (A,), [True])}
    | {"real": Case(lax.real, (A + 1j * B,), [True])}
    | {name: Case(fn, (MATRIX,), [True]) for name, fn in BY_AXIS.items()}
    | {name: Case(fn, (MATRIX,), [True]) for name, fn in SHAPING.items()}
)


def test_every_rule_is_tried_here():
    shaping = vmap_last_axis.BY_AXIS | set(vmap_last_axis.RULES)
    # copy_p is what older versions of jax call copy
    assert set(RULED) == (vmap_last_axis.ELEMENTWISE | shaping) - {"copy_p"}
    assert set(FOLDED) == set(vmap_last_axis.KNOWN)
    assert set(LINEAR) == vmap_last_axis.LINEAR


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", RULED)
def test_rule_keeps_the_fits_last(name):
    fn, args, _ = RULED[name]
    one_fit = (x[..., 0] for x in args)
    assert name in names_in(jax.make_jaxpr(fn)(*one_fit).jaxpr)
    computed = jaxpr_of(fn, *args)
    assert name in names_in(computed)
    assert_fits_stay_last(computed)


@pytest.mark.parametrize("name", BINARY)
def test_rule_keeps_the_fits_last_beside_what_they_share(name):
    fn = BINARY[name]
    for operands in ((A, ONE), (ONE, A)):
        wide = [x is A for x in operands]
        assert_fits_stay_last(jaxpr_of(fn, *operands, wide=wide))


# ---- the answers of vmap


def newton(x):
    """Return a square root by a loop of its own length per fit."""
    unfinished = lambda s: jnp.abs(s * s - x) > 1e-14
    return lax.while_loop(unfinished, lambda s: 0.5 * (s + x / s), x)


def steps(x):
    return lax.fori_loop(0, 4, lambda i, s: s + x * i.astype(float), x)


def length(x):
    """Return a length by a reduction with a computation of its own."""
    longer = lambda a, b: jnp.sqrt(a * a + b * b)
    return lax.reduce(x, jnp.zeros((), x.dtype), longer, (0,))


def largest_and_its_partner(x):
    """Return a reduction of two arrays at once."""
    further = lambda a, b: tuple(
        jnp.where(a[0] >= b[0], p, q) for p, q in zip(a, b, strict=True)
    )
    start = (jnp.array(-jnp.inf), jnp.array(0.0))
    return lax.reduce((x, jnp.cos(x)), start, further, (0,))


def one_of_three(x):
    which = (4.0 * x[0]).astype(int)
    return lax.switch(which, [jnp.sin, jnp.cos, jnp.exp], x)


SQUARE = 6.0 * np.eye(4)[..., None] + MATRIX[:, :4]
INDEX = np.array([2, 0, 1, 5, 3])
COMMON = jnp.asarray(MATRIX[..., 0].T)
# what has no rule
UNRULED = {
    "loop": (newton, A[0]),
    "loop of fixed length": (steps, A),
    "scan": (lambda x: lax.scan(lambda c, v: (c + v, c * v), 0.0, x), A),
    "branch": (lambda x: lax.cond(x[0] > 0.5, jnp.sin, jnp.cos, x), A),
    "one of several branches": (one_of_three, A),
    "reduction of its own": (length, A),
    "reduction of two arrays": (largest_and_its_partner, A),
    "scan of pairs": (lambda x: lax.associative_scan(jnp.multiply, x), A),
    "matrix product": (lambda x: x @ x.T, MATRIX),
    "matrix times vector": (lambda x: x @ jnp.arange(6.0), MATRIX),
    "common matrix": (lambda x: COMMON @ x, MATRIX),
    "gather": (lambda x, i: x[:, i], MATRIX, INDEX),
    "gather at a common index": (lambda x: x[:, jnp.array([4, 0, 0])], MATRIX),
    "scatter": (lambda x, i: x.at[:, i].add(2.0), MATRIX, INDEX),
    "dynamic slice": (lambda x, i: lax.dynamic_slice(x, (1, i), (2, 1)), MATRIX, INDEX),
    "update": (
        lambda x, i: lax.dynamic_update_slice(x, x[:1, :2], (i - 1, i - 1)),
        MATRIX,
        INDEX,
    ),
    "sort": (lambda x: lax.sort(x, dimension=1), MATRIX),
    "pad": (lambda x: jnp.pad(x, ((1, 0), (2, 3))), MATRIX),
    "stack": (lambda x: jnp.stack([x, jnp.asarray(ONE), 2.0 * x]), A),
    "complex": (lambda x: jnp.abs(jnp.fft.fft(x)), A),
    "polygamma": (lambda x: lax.polygamma(jnp.ones(3), x), A),
    "factorisation": (lambda x: jnp.linalg.cholesky(x @ x.T), SQUARE),
    "linear system": (lambda x: jnp.linalg.solve(x, jnp.arange(4.0)), SQUARE),
}


@jax.custom_jvp
def softplus(x):
    return jnp.log1p(jnp.exp(x))


softplus.defjvps(lambda dx, _, x: 3.0 * dx)  # not the derivative: to be recognised


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (cube(x), x), lambda x, dy: (5.0 * x * dy,))


def gaussian(p, x):
    return p[0] * jnp.exp(-0.5 * ((x - p[1]) / p[2]) ** 2)


def columns(p, x):
    """Return the columns of J as the batch asks for them, unit by unit."""
    r, linear = jax.linearize(lambda p: gaussian(p, x), p)
    return [linear(e) for e in np.eye(3, dtype=p.dtype)] + [r]


X = np.linspace(0.0, 1.0, 7)
OWN_X = X[:, None] + A[0]
SHARED = [True, False]
POINTS, OTHER = np.random.default_rng(5).normal(size=(2, 37, WIDTH))
WEIGHTS = np.random.default_rng(6).normal(size=37)
NESTED = {
    "jit": Case(jax.jit(lambda x: jnp.exp(x) + jnp.asarray(ONE)), (A,), [True]),
    "jit of constants": Case(
        lambda x: x * jax.jit(jnp.sin)(jnp.asarray(ONE)), (A,), [True]
    ),
    "jit of other arguments": Case(
        lambda x, t: jax.jit(jnp.multiply)(x, jax.jit(jnp.sin)(t)), (A, ONE), SHARED
    ),
    "own forward derivative": Case(jax.jacfwd(softplus), (A,), [True]),
    "own reverse derivative": Case(jax.grad(lambda x: jnp.sum(cube(x))), (A,), [True]),
    "functions with own derivatives": Case(
        lambda x: (softplus(x), cube(x)), (A,), [True]
    ),
    "checkpoint": Case(
        jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(x) * x))), (A,), [True]
    ),
    "functions of jax.nn": Case(
        lambda x: jax.nn.relu(x - 0.5) + jax.nn.sigmoid(x), (A,), [True]
    ),
    "Jacobian, x in common": Case(columns, (A, X), SHARED),
    "Jacobian, x per fit": Case(columns, (A, OWN_X), BOTH),
    "Jacobian in float32": Case(
        columns, (A.astype(np.float32), X.astype(np.float32)), SHARED
    ),
    "Hessian": Case(
        lambda p, x: jax.hessian(lambda p: jnp.sum(gaussian(p, x)))(p), (A, X), SHARED
    ),
    "products of vectors": Case(jnp.dot, (POINTS, OTHER), BOTH),
    "product with a common vector": Case(jnp.dot, (POINTS, WEIGHTS), SHARED),
    "product with a constant": Case(
        lambda x: jnp.dot(jnp.asarray(WEIGHTS), x), (POINTS,), [True]
    ),
    "number to array": Case(
        lambda x: (jnp.broadcast_to(x, (4, 6)), x.reshape(1, 1)), (A[0],), [True]
    ),
    "concatenated with what all share": Case(
        lambda x, t: jnp.concatenate([jnp.asarray(ONE), x, t, jnp.zeros(2)]),
        (A, ONE),
        SHARED,
    ),
    "the same for all": Case(
        lambda x, t: (t, jnp.sin(t), jnp.ones(2), jnp.zeros((), int), x[0] > 9.0),
        (A, ONE),
        SHARED,
    ),
}
# a number per fit and an array of constants: neither a factor of one nor a zero may
# then be left out, the result has the shape of the array
MIXED = {
    f"{op.__name__} of {word}{', turned round' * turned}": Case(
        lambda x, op=op, array=array, turned=turned: (
            op(x, jnp.asarray(array)) if turned else op(jnp.asarray(array), x)
        ),
        (A[0],),
        [True],
    )
    for op in (lax.add, lax.sub, lax.mul, lax.div, lax.max)
    for word, array in (("zeros", np.zeros(3)), ("ones", np.ones(3)), ("others", ONE))
    for turned in (False, True)
}
BESIDE = {
    f"{name}, {side} in common": Case(fn, args, [x is A for x in args])
    for name, fn in BINARY.items()
    for side, args in (("first", (ONE, A)), ("second", (A, ONE)))
}
FALLEN_BACK = {
    name: Case(fn, args, [True] * len(args)) for name, (fn, *args) in UNRULED.items()
}
CASES = RULED | FALLEN_BACK | NESTED | MIXED | BESIDE


@pytest.fixture(scope="module")
def answers():
    """Return what interpreter and vmap make of every case, compiled as one."""
    args = {name: case.args for name, case in CASES.items()}

    @quick.jit
    def both(args):
        return {
            name: (case.by_lanes(args[name]), case.by_vmap(args[name]))
            for name, case in CASES.items()
        }

    return both(args)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", CASES)
def test_answer_is_that_of_vmap(name, answers):
    assert_same(*answers[name])


def test_own_derivatives_are_the_ones_that_are_used(answers):
    got, _ = answers["own forward derivative"]
    expected = 3.0 * np.eye(3)[..., None] * np.ones(WIDTH)
    np.testing.assert_array_equal(got[0], expected)
    got, _ = answers["own reverse derivative"]
    np.testing.assert_allclose(got[0], 5.0 * A, rtol=1e-14)


def test_products_of_vectors_are_sums_over_points():
    computed = jaxpr_of(jnp.dot, POINTS, OTHER)
    assert "dot_general" not in names_in(computed)
    assert_fits_stay_last(computed)


# ---- zeros and ones of the unit vectors, and those of the model

BAD = np.full((3, WIDTH), np.nan)  # what is multiplied by a known zero plays no part
ZERO, UNIT = np.zeros(3), np.ones(3)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda zero, x: x * zero, 0.0),
        (lambda zero, x: zero * x, 0.0),
        (lambda zero, x: lax.mul(jnp.sin(x), -zero), 0.0),
        (lambda zero, x: lax.div(zero, x), 0.0),
        (lambda zero, x: lax.add(lax.mul(x, zero), ONE), ONE[:, None]),
        (lambda zero, x: lax.sub(ONE, lax.mul(x, zero)), ONE[:, None]),
    ],
    ids=["x 0", "0 x", "f(x) 0", "0 / x", "x 0 + c", "c - x 0"],
)
def test_zero_of_a_unit_vector_ends_a_term(fn, expected):
    (got,) = by_units(fn, ZERO, [BAD], [True])
    np.testing.assert_array_equal(got, np.broadcast_to(expected, BAD.shape))
    assert got.dtype == BAD.dtype


@pytest.mark.parametrize(
    "fn",
    [lambda x: x * ZERO, lambda x: 0.0 * x, lambda x: lax.div(ZERO, x)],
    ids=["x 0", "0 x", "0 / x"],
)
def test_zero_of_the_model_keeps_what_it_is_multiplied_with(fn):
    (got,) = by_lanes(fn, [BAD], [True])
    np.testing.assert_array_equal(got, BAD)
    # nor is a unit vector times such a zero one of its own zeros
    (got,) = by_units(lambda one, x: x * (one * ZERO), UNIT, [BAD], [True])
    np.testing.assert_array_equal(got, BAD)


@pytest.mark.parametrize(
    ("units", "fn"),
    [
        (UNIT, lambda one, x: lax.mul(x, one)),
        (UNIT, lambda one, x: lax.mul(one, x)),
        (UNIT, lambda one, x: lax.div(x, one)),
        (ZERO, lambda zero, x: lax.add(x, zero)),
        (ZERO, lambda zero, x: lax.add(zero, x)),
        (ZERO, lambda zero, x: lax.sub(x, zero)),
        (ZERO, lambda zero, x: lax.add(x, lax.mul(zero, x))),
    ],
)
def test_one_or_zero_of_a_unit_vector_changes_nothing(units, fn):
    computed = jaxpr_of_units(fn, units, A)
    assert computed.eqns == []
    assert computed.outvars == computed.invars


@pytest.mark.parametrize(
    ("units", "fn", "expected"),
    [
        (ZERO, lambda zero, x: lax.sub(zero, x), -A),
        (UNIT, lambda one, x: lax.div(one, x), 1.0 / A),
        (ZERO, lambda zero, x: lax.div(x, zero), np.full(A.shape, np.inf)),
        (ZERO, lambda zero, x: lax.max(x, zero), A),
        (UNIT, lambda one, x: lax.add(x, one), 1.0 + A),
        (ZERO, lambda zero, x: lax.pow(x, zero), np.ones(A.shape)),
    ],
    ids=["0 - x", "1 / x", "x / 0", "max(x, 0)", "x + 1", "x ** 0"],
)
def test_other_uses_of_zero_and_one_are_computed(units, fn, expected):
    assert jaxpr_of_units(fn, units, A).eqns != []
    (got,) = by_units(fn, units, [A], [True])
    np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_terms_that_vanish_are_not_computed():
    """Each column of J needs its own terms only."""

    def rows(units, p, x):
        r, linear = jax.linearize(lambda p: gaussian(p, x), p)
        return [linear(units[j]) for j in range(3)] + [r]

    def hidden(units, p, x):
        # the same, with the zeros of the units out of sight
        return rows(units + (p - p)[None], p, x)

    def count(fn):
        run = lambda p, x: by_units(fn, np.eye(3), (p, x), SHARED)
        return len(names_in(jax.make_jaxpr(run)(A, X).jaxpr))

    assert count(rows) < 0.6 * count(hidden)


TABLE = np.arange(12.0).reshape(3, 4)
# what NumPy works out in advance; of a table of ones it leaves ones
FOLDED = {
    "broadcast_in_dim": lambda t: lax.broadcast_in_dim(t, (2, 3, 6, 4), (1, 3)),
    "concatenate": lambda t: lax.concatenate([t, t], 1),
    "convert_element_type": lambda t: lax.convert_element_type(t, np.float32),
    "copy": jnp.copy,
    "mul": lambda t: lax.mul(t, t),
    "neg": lambda t: lax.neg(lax.neg(t)),
    "reshape": lambda t: lax.reshape(t, (2, 6)),
    "slice": lambda t: (lax.slice(t, (0, 1), (3, 4), (2, 2)), t[1:, :2]),
    "split": lambda t: lax.split(t, (1, 3), axis=1),
    "squeeze": lambda t: lax.squeeze(t[:, 1:2], (1,)),
    "transpose": lambda t: lax.transpose(t, (1, 0)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_constant_is_worked_out_at_once(name):
    fold = lambda t: jax.tree.leaves(FOLDED[name](t))
    assert name in names_in(jax.make_jaxpr(fold)(TABLE).jaxpr)
    got = by_units(lambda t, x: fold(t), TABLE, [A], [True])
    for part, expected in zip(got, fold(TABLE), strict=True):
        repeated = np.repeat(np.asarray(expected)[..., None], WIDTH, axis=-1)
        np.testing.assert_array_equal(part, repeated, strict=True)
    # a factor that is known to be one is left out
    ones = np.ones((3, 4))
    for k, part in enumerate(fold(ones)):
        scaled = lambda t, x, k=k: lax.mul(x, fold(t)[k])
        x = np.ones((*part.shape, WIDTH), part.dtype)
        assert jaxpr_of_units(scaled, ones, x).eqns == []


# zero in, zero out
LINEAR = {
    name: (UNARY | BY_AXIS | SHAPING)[name]
    for name in (
        *("broadcast_in_dim", "convert_element_type", "copy", "cumsum", "neg"),
        *("reduce_sum", "reshape", "rev", "slice", "split", "squeeze", "transpose"),
    )
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_function_of_zero_is_a_known_zero(name):
    parts = lambda zeros: jax.tree.leaves(LINEAR[name](zeros))

    def fn(zeros, x):
        return [jnp.full_like(z, 1.0) * x.astype(z.dtype) * z for z in parts(zeros)]

    zeros = np.zeros((4, 6))
    got = by_units(fn, zeros, [np.full(WIDTH, np.nan)], [True])
    for part, expected in zip(got, parts(zeros), strict=True):
        repeated = np.zeros((*expected.shape, WIDTH), expected.dtype)
        np.testing.assert_array_equal(part, repeated, strict=True)


def test_what_all_fits_share_is_worked_out_once():
    fn = lambda x, t: x * jnp.exp(jnp.sin(t))
    eqns = jaxpr_of(fn, A, ONE, wide=SHARED).eqns
    shapes = {eqn.primitive.name: eqn.outvars[0].aval.shape for eqn in eqns}
    assert shapes["sin"] == shapes["exp"] == (3,)
    assert shapes["mul"] == (3, WIDTH)
