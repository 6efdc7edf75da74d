"""Programs worked out element by element, against jax, at every point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax._engines.fused.indices import (
    PointIndex,
    Undecided,
    Unsupported,
    point_index,
    reshaped,
)
from lmjax._engines.fused.ir import RULES
from lmjax._engines.fused.listing import Listing
from lmjax._engines.fused.recurrences import check
from lmjax._engines.fused.scalars import demand, evaluate
from lmjax._engines.fused.segments import segments

NUMPY = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "exp": np.exp,
    "neg": np.negative,
    "lt": np.less,
    "gt": np.greater,
    "ge": np.greater_equal,
    "select_n": lambda which, a, b: b if which else a,
    "convert_element_type": lambda a: a,
    "integer_pow": None,
    "and": np.logical_and,
}


def value_at(index, k):
    """Return the value of an index at point k."""
    if isinstance(index, PointIndex):
        return index.at((k // index.every) % index.size)
    return index


class AtPoint:
    """A builder that computes at one point, with NumPy."""

    def __init__(self, k):
        self.k = k

    def at(self, index):
        return value_at(index, self.k)

    def emit(self, name, values, dtype, params=None):
        if name == "integer_pow":
            return np.dtype(dtype).type(values[0] ** params["y"])
        if name not in NUMPY:
            raise Unsupported(f"it calls {name}")
        return np.dtype(dtype).type(NUMPY[name](*values))

    def number(self, index, dtype):
        return np.dtype(dtype).type(self.at(index))

    def table(self, array, place):
        return array[tuple(map(self.at, place))]


def at_every_point(fn, *args):
    """Return ``fn(*args)``, whose result is flat, one element at a time."""
    listing = Listing(jax.make_jaxpr(fn)(*args))
    (m,) = listing.shapes[listing.outputs[0]]

    def ask(index):
        asked = demand(listing, [[(index,)]]).asked
        check(asked, {listing.inputs[0]: 0})

    found = np.full(m, np.nan)
    for size, residuals in segments(ask, m):
        for k in range(size):
            build = AtPoint(k)
            reads = [
                lambda place, x=x, b=build: np.asarray(x)[tuple(map(b.at, place))]
                for x in args
            ]
            wanted = [[(index,) for index in residuals]]
            values = evaluate(listing, reads, wanted, build)[0]
            found[[value_at(index, k) for index in residuals]] = values
    return found


X = np.linspace(0.1, 2.0, 12)
GRID = X.reshape(3, 4)
P = np.array([0.5, 1.5])
FUNCTIONS = {
    "pointwise": (lambda p, x: p[0] * jnp.exp(-p[1] * x), X),
    "grid": (lambda p, x: (p[0] * x**2 + p[1]).ravel(), GRID),
    "rows and columns": (lambda p, x: (x[:, None] * p[0] + x[None, :]).ravel(), X[:5]),
    "transposed": (lambda p, x: (x.T * p[0]).T.reshape(-1), GRID),
    "axis of length one": (lambda p, x: x[:, None, :].reshape(12) * p[1], GRID),
    "stacked": (lambda p, x: p @ jnp.stack([x, x * x]), X),
    "transposed product": (lambda p, x: jnp.stack([x, x * x], 1) @ p, X),
    "sum of an axis": (lambda p, x: jnp.sum(x * p[0], 1), GRID),
    "sum of all": (lambda p, x: x / jnp.sum(x) * p[0], X),
    "every second": (lambda p, x: x[::2] * p[0], X),
    "backwards": (lambda p, x: x[::-1] * p[0], X),
    "a window": (lambda p, x: x[2:8] * p[0] - x[3:9], X),
    "counted": (lambda p, x: jnp.arange(12.0) * p[0] + x, X),
    "where": (lambda p, x: jnp.where(x > p[0], x, p[1]), X),
    "branch": (lambda p, x: jax.lax.cond(p[0] > 1.0, lambda: x, lambda: -x), X),
    "dead branch": (lambda p, x: jax.lax.cond(True, lambda: x, lambda: -x) * p[0], X),
    "scan": (
        lambda p, x: jax.lax.scan(lambda c, q: (c * q + x, c), x, p)[0],
        X,
    ),
    "scan that stacks": (
        lambda p, x: jnp.sum(jax.lax.scan(lambda c, q: (c * q, c + q), x, p)[1], 0),
        X,
    ),
    "table": (lambda p, x: x * np.linspace(1.0, 3.0, 12) * p[0], X),
    "padded": (lambda p, x: jnp.pad(x[:, None], ((0, 0), (1, 2)))[:, 1] * p[0], X),
    "derivative": (
        lambda p, x: jax.jvp(lambda q: q[0] * jnp.exp(q[1] * x), (p,), (P,))[1],
        X,
    ),
    "static cumulative": (lambda p, x: x * jnp.cumsum(p)[1], X),
    "joined": (lambda p, x: jnp.concatenate([x * p[0], x[:3] + p[1], x[:1]]), X),
    "joined within": (
        lambda p, x: jnp.exp(jnp.concatenate([x[:3] / p[0], x[3:] * p[1]])) + x,
        X,
    ),
    "joined twice": (
        lambda p, x: jnp.concatenate([x[:3], jnp.concatenate([x[5:], x[2:7] * p[0]])]),
        X,
    ),
    "joined grids": (
        lambda p, x: jnp.concatenate([x * p[0], x[:2] - p[1]], 0).ravel(),
        GRID,
    ),
    "joined rows": (
        lambda p, x: jnp.concatenate([x * p[0], x[:, :2] - p[1]], 1).ravel(),
        GRID,
    ),
    "rolled": (lambda p, x: jnp.roll(x, 2) * p[0] + x, X),
    "grid rolled": (lambda p, x: (jnp.roll(x, 1, 1) * p[0] + x).ravel(), GRID),
    "all of a grid rolled": (lambda p, x: (jnp.roll(x, 5) * p[0] + x).ravel(), GRID),
    "grid backwards": (lambda p, x: x.ravel()[::-1].reshape(4, 3).ravel(), GRID),
    "every second of a grid": (lambda p, x: x.ravel()[::2] * p[0], GRID),
    "padded along": (lambda p, x: jnp.pad(x * p[0], (2, 1)) + 1.0, X),
    "padded between": (
        lambda p, x: jax.lax.pad(x * p[0], 0.5, ((1, 2, 1),))[1::2] + 1.0,
        X,
    ),
    "padded grid": (
        lambda p, x: jnp.pad(x * p[0], ((1, 1), (2, 0)), mode="edge").ravel(),
        GRID,
    ),
    "stacked first": (lambda p, x: jnp.stack([x * p[0], x + p[1]]).ravel(), X),
    "stacked last": (lambda p, x: jnp.stack([x * p[0], x + p[1]], -1).ravel(), X),
    "stacked between": (
        lambda p, x: jnp.stack([x * p[0], x + p[1]], 1).ravel(),
        GRID,
    ),
    "a parameter per set": (lambda p, x: (p[:, None] * x[None, :]).ravel(), X),
    "spaced": (lambda p, x: jnp.linspace(0.0, 2.0, 12) * p[0] + x, X),
    "one of a kind": (lambda p, x: jnp.concatenate([p, x[:1]]), X),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_element_is_that_of_jax(name):
    fn, x = FUNCTIONS[name]
    np.testing.assert_allclose(at_every_point(fn, P, x), fn(P, x), rtol=1e-12)


REFUSED = {
    "joins arrays": lambda p, x: jnp.stack([x[i] * p[0] for i in range(70)]),
    "accumulates": lambda p, x: jnp.cumsum(x) * p[0],
    "it calls sort": lambda p, x: jnp.sort(x) * p[0],
    "it loops": lambda p, x: jax.lax.while_loop(
        lambda c: c[0] < 1.0, lambda c: c + 1.0, x * p[0]
    ),
    "loops 100 times": lambda p, x: jax.lax.scan(
        lambda c, _: (c * p[0], None), x, length=100
    )[0],
    "it pads along": lambda p, x: jax.lax.pad(
        jnp.concatenate([x] * 6), p[0], ((0, 0, 1),)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_no_point_tells_alone_is_refused(reason):
    with pytest.raises(Unsupported, match=reason):
        at_every_point(REFUSED[reason], P, X)


def test_program_that_is_too_long_is_refused():
    wide = lambda p, x: x + jnp.sum((x[:, None] * x[None, :]) ** 2)
    with pytest.raises(Unsupported, match="more than .* operations"):
        at_every_point(wide, P, np.linspace(0.0, 1.0, 400))


SHAPES = [(24,), (2, 12), (4, 6), (2, 3, 4), (1, 24), (24, 1), (2, 1, 12), (3, 8)]


@pytest.mark.parametrize("old", SHAPES, ids=str)
@pytest.mark.parametrize("new", SHAPES, ids=str)
def test_places_of_a_reshaped_array(old, new):
    numbers = np.arange(24).reshape(old)
    for place in np.ndindex(new):
        assert numbers[reshaped(place, new, old)] == numbers.reshape(new)[place]


RUNS = [(24, 0, 1), (6, 3, 1), (8, 1, 3), (5, 23, -1), (4, 2, 6), (7, 2, 2), (20, 4, 1)]


@pytest.mark.parametrize("run", RUNS, ids=str)
@pytest.mark.parametrize("old", SHAPES, ids=str)
def test_places_that_move_with_the_point(old, run):
    """Each is that of the flat array, or says where to cut."""
    numbers = np.arange(24).reshape(old)
    left = [run]
    while left:
        size, start, step = left.pop()
        try:
            place = reshaped((point_index(size, start, step),), (24,), old)
        except Undecided as undecided:
            inner = undecided.index
            assert inner.every * inner.size == size
            ends = [turn * inner.every for turn in (0, *undecided.breaks, inner.size)]
            left += [
                (b - a, start + step * a, step)
                for a, b in zip(ends, ends[1:], strict=False)
            ]
            continue
        for k in range(size):
            at = tuple(value_at(index, k) for index in place)
            assert numbers[at] == start + step * k


def test_every_operation_has_one_rule():
    assert set(NUMPY) - {"exp"} <= set(RULES) | {"add_any"}
