"""Arrays that change along the points, in the fused engine: joins, recurrences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax import Engine, LevenbergMarquardt

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")


def summary(fit):
    return fit.params, fit.cost, fit.status, fit.num_steps, fit.engine, fit.residual


def by(engine, model, start, **options):
    """Return a fit of one row of data by an engine."""

    def fit(row):
        solver = LevenbergMarquardt(engine=engine)
        keys = ("sigma", "mask", "bounds")
        given = {key: row[key] for key in keys if key in row} | options
        return summary(
            lmjax.curve_fit(model, row["x"], row["y"], start, solver=solver, **given)
        )

    return fit


def assert_as_xla(model, start, data, rtol=1e-9, **options):
    """Compare a batch of fits with the other engine; return the fused result."""
    with jax.numpy_dtype_promotion("standard"):
        got, expected = (
            jax.jit(jax.vmap(by(engine, model, start, **options)))(data)
            for engine in ("fused", "xla")
        )
    assert (got[4] == Engine.FUSED).all()
    assert (expected[4] == Engine.XLA).all()
    np.testing.assert_array_equal(got[2] > 0, expected[2] > 0)
    np.testing.assert_allclose(got[1], expected[1], rtol=rtol)
    return jax.tree.map(np.asarray, got)


def both(p, x):
    """Two decays of one rate; the first alone has a root that may leave its range."""
    fast = p["a"] * jnp.exp(-p["k"] * x["fast"])
    return {"fast": fast, "slow": p["b"] * jnp.sqrt(1.0 + p["k"] * x["slow"])}


START = {"a": 1.0, "b": 1.0, "k": 1.0}


def two_sets(rng, count, sizes, dtype="float64"):
    """Return data of two sets, with an x of its own for each fit."""
    names = ("fast", "slow")
    x = {
        name: np.sort(rng.uniform(0.0, 3.0, (count, size)), axis=1)
        for name, size in zip(names, sizes, strict=True)
    }
    p = {name: rng.uniform(0.7, 1.5, (count, 1)) for name in START}
    y = jax.tree.map(
        lambda y: np.asarray(y) + 0.01 * rng.normal(size=y.shape), both(p, x)
    )
    cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
    return {"x": cast(x), "y": cast(y)}


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1, 2), (2, 33), (33, 33), (70, 1)], ids=str)
def test_several_data_sets(sizes, dtype, rng):
    data = two_sets(rng, 20, sizes, dtype)
    start = jax.tree.map(np.dtype(dtype).type, START)
    if sum(sizes) == 3:  # as many points as parameters: the cost is rounding
        got = jax.jit(jax.vmap(by("fused", both, start)))(data)
        assert np.isfinite(got[1]).all()
        return
    assert_as_xla(both, start, data, rtol=1e-9 if dtype == "float64" else 1e-4)


@pytest.mark.slow
def test_several_data_sets_with_everything(rng):
    data = two_sets(rng, 30, (12, 20))
    data["sigma"] = jax.tree.map(lambda y: rng.uniform(0.5, 2.0, y.shape), data["y"])
    data["mask"] = jax.tree.map(lambda y: rng.uniform(size=y.shape) > 0.2, data["y"])
    data["y"]["slow"][4, 3] = np.nan
    data["mask"]["slow"][4, 3] = False
    lower = jax.tree.map(lambda _: np.full(30, 0.9), START)
    data["bounds"] = lower, jax.tree.map(lambda x: x + 1.0, lower)
    got = assert_as_xla(both, START, data, loss="huber")
    assert (got[2] > 0).all()


def test_nan_in_a_part_spoils_one_fit_only(rng):
    data = two_sets(rng, 37, (9, 14))
    batch = jax.jit(jax.vmap(by("fused", both, START)))
    before = jax.tree.map(np.asarray, batch(data))
    data["y"]["slow"][17, 2] = np.nan
    after = jax.tree.map(np.asarray, batch(data))
    keep = np.arange(37) != 17
    same = lambda a, b: np.testing.assert_array_equal(a[keep], b[keep])
    jax.tree.map(same, before, after)
    assert after[2][17] < 0


def test_nan_of_the_part_that_is_not_read_does_not_leak(rng):
    """Where x is negative its root is NaN; those points are of the other part."""
    x = np.linspace(-2.0, 3.0, 40)

    def model(p, x):
        right = p["a"] * jnp.sqrt(x) + p["k"]
        return jnp.concatenate([p["b"] * x[:16], right[16:]])

    p = {name: rng.uniform(0.7, 1.5, 8) for name in START}
    y = np.stack([model({k: v[i] for k, v in p.items()}, x) for i in range(8)])
    assert np.isfinite(y).all()
    got = jax.vmap(lambda y: by("fused", model, START)({"x": x, "y": y}))(y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), got[0], p)


T = np.linspace(0.0, 4.0, 33)


def signal(p, t):
    return p["a"] * jnp.exp(-p["k"] * t), p["b"] * t


JOINED = {
    "real and imaginary": lambda p, t: jnp.concatenate(
        [signal(p, t)[0] * jnp.cos(p["b"] * t), signal(p, t)[0] * jnp.sin(p["b"] * t)]
    ),
    "stacked last": lambda p, t: jnp.stack(signal(p, t), axis=-1),
    "rolled": lambda p, t: p["a"] * jnp.exp(-p["k"] * jnp.roll(t, 3)) + p["b"],
    "linspace": lambda p, t: (
        p["a"] * jnp.exp(-p["k"] * jnp.linspace(0.0, 3.0, 33)) + p["b"] * t
    ),
    "padded": lambda p, t: jnp.pad(p["a"] * jnp.exp(-p["k"] * t[2:]), (1, 1)) + p["b"],
    "differences": lambda p, t: jnp.diff(
        p["a"] * jnp.exp(-p["k"] * t), prepend=p["b"][None]
    ),
    "an amplitude per set": lambda p, t: (
        jnp.stack([p["a"], p["b"]])[:, None] * jnp.exp(-p["k"] * t)[None]
    ),
}


@pytest.mark.one_of(3)
@pytest.mark.parametrize("name", JOINED)
def test_joins_along_the_points(name, rng):
    model = JOINED[name]
    p = {key: rng.uniform(0.7, 1.5, 20) for key in START}
    y = np.array(jax.vmap(lambda p: model(p, T))(p))
    y += 0.01 * rng.normal(size=y.shape)
    data = {"x": np.tile(T, (20, 1)), "y": y}
    assert_as_xla(model, START, data)


def test_bits_of_joined_sets_do_not_depend_on_the_company(rng):
    data = two_sets(rng, 200, (10, 33))
    batch = jax.jit(jax.vmap(by("fused", both, START)))
    whole = jax.tree.map(np.asarray, batch(data))
    for picked in (slice(0, 1), slice(5, 22), [150, 3, 3, 77]):
        part = batch(jax.tree.map(lambda x: x[picked], data))  # noqa: B023
        same = lambda a, b: np.testing.assert_array_equal(a, b[picked])  # noqa: B023
        jax.tree.map(same, part, whole)


def assert_at_minimum(model, start, data, rtol=1e-9, flat=1e-6):
    """Compare cost and gradient of a batch of fits with those of jax."""
    with jax.numpy_dtype_promotion("standard"):
        got = jax.jit(jax.vmap(by("fused", model, start)))(data)
        residual = lambda p, row: jnp.ravel(model(p, row["x"]) - row["y"])
        r = jax.vmap(residual)(got[0], data)
        jac = jax.tree.leaves(jax.vmap(jax.jacfwd(residual))(got[0], data))
    assert (got[4] == Engine.FUSED).all()
    assert (got[2] > 0).all()
    np.testing.assert_allclose(got[1], 0.5 * (r * r).sum(1), rtol=rtol)
    for column in jac:
        size = np.linalg.norm(column, axis=1) * np.linalg.norm(r, axis=1)
        assert (np.abs((column * r).sum(1)) <= flat * size).all()
    return jax.tree.map(np.asarray, got)


def reaction(p, y):
    """Two substances: the first makes the second, which decays."""
    return jnp.stack([-p["a"] * y[0] * y[1] - p["b"] * y[0], p["a"] * y[0] - y[1]])


def runge_kutta(p, y, step):
    a = reaction(p, y)
    b = reaction(p, y + 0.5 * step * a)
    c = reaction(p, y + 0.5 * step * b)
    d = reaction(p, y + step * c)
    return y + step / 6.0 * (a + 2.0 * b + 2.0 * c + d)


def ode(p, t):
    """Both substances at all times; the first is known at the beginning."""
    begin = jnp.stack([p["k"], jnp.full_like(p["k"], 0.1)])

    def turn(y, step):
        y = runge_kutta(p, y, step)
        return y, y

    rows = jax.lax.scan(turn, begin, jnp.diff(t))[1]
    return jnp.concatenate([begin[None], rows])


def smooth(p, x, reverse=False):
    """A recursive filter."""
    turn = lambda c, x: 2 * (c + p["b"] * 0.3 * (x - c),)
    return jax.lax.scan(turn, jnp.zeros_like(x[0]), x, reverse=reverse)[1]


RECURRENCES = {
    "cumulative": lambda p, t: p["a"] * jnp.cumsum(jnp.exp(-p["k"] * t)) + p["b"],
    "cumulative backwards": lambda p, t: (
        p["a"] * jax.lax.cumsum(jnp.exp(-p["k"] * t), reverse=True) + p["b"]
    ),
    "cumulative twice": lambda p, t: (
        jnp.cumsum(p["a"] * jnp.cumsum(jnp.exp(-p["k"] * t))) + p["b"]
    ),
    "trapezoids": lambda p, t: (
        p["b"]
        + jnp.concatenate(
            [
                jnp.zeros_like(t[:1]),
                jnp.cumsum(
                    jnp.diff(t)
                    * (jnp.exp(-p["k"] * t[1:]) + p["a"] * jnp.exp(-p["k"] * t[:-1]))
                ),
            ]
        )
    ),
    "ode": ode,
    "ode at every second time": lambda p, t: ode(p, jnp.linspace(0.0, 4.0, 81))[::2],
    "differences of an ode": lambda p, t: jnp.diff(ode(p, t)[:, 1]) * 10.0,
    "filter": lambda p, t: p["k"] + smooth(p, p["a"] * jnp.sin(4.0 * t)),
    "filter backwards": lambda p, t: (
        p["k"] + smooth(p, p["a"] * jnp.sin(4.0 * t), True)
    ),
    "the last of a filter": lambda p, t: (
        p["a"] * jnp.exp(-p["k"] * t) + smooth(p, jnp.cos(4.0 * t))[-1]
    ),
    "turns before the points": lambda p, t: (
        p["a"] * jnp.exp(-p["k"] * t)
        + jax.lax.fori_loop(0, 50, lambda i, c: c - 0.1 * (c * c - p["b"]), p["b"])
    ),
    "a recurrence and its two sides": lambda p, t: jnp.concatenate(
        [ode(p, t)[:, 0], p["b"] * jnp.cumsum(jnp.exp(-p["k"] * t))]
    ),
}


def recurrent(model, points, rng, dtype="float64", count=18):
    """Return data of a model, with an x of its own for each fit."""
    t = np.linspace(0.0, 4.0, points) * rng.uniform(0.8, 1.2, (count, 1))
    p = {key: rng.uniform(0.7, 1.5, count) for key in START}
    y = np.array(jax.vmap(model)(p, t))
    y += 0.001 * rng.normal(size=y.shape)
    return {"x": t.astype(dtype), "y": y.astype(dtype)}


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", RECURRENCES)
def test_recurrences_along_the_points(name, rng):
    model = RECURRENCES[name]
    assert_at_minimum(model, START, recurrent(model, 40, rng))


@pytest.mark.one_of(3)
@pytest.mark.parametrize("points", [9, 20, 70])
def test_short_and_long_recurrences(points, rng):
    """They go on where a run of points ends."""
    assert_at_minimum(ode, START, recurrent(ode, points, rng))


@pytest.mark.one_of(3)
@pytest.mark.parametrize("points", [1, 2, 33])
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)]
)
def test_other_engines_find_the_same_recurrence(dtype, points, rng):
    data = recurrent(ode, points + 1, rng, dtype)
    start = jax.tree.map(np.dtype(dtype).type, START)
    if points < 3:
        got = jax.jit(jax.vmap(by("fused", ode, start)))(data)
        assert np.isfinite(got[1]).all()
        return
    assert_as_xla(ode, start, data, rtol=1e-9 if dtype == "float64" else 1e-3)


@pytest.mark.slow
def test_a_recurrence_with_everything(rng):
    data = recurrent(ode, 40, rng)
    data["sigma"] = rng.uniform(0.5, 2.0, data["y"].shape)
    data["mask"] = rng.uniform(size=data["y"].shape) > 0.2
    data["y"][4, 3, 1] = np.nan
    data["mask"][4, 3, 1] = False
    lower = jax.tree.map(lambda _: np.full(18, 0.9), START)
    data["bounds"] = lower, jax.tree.map(lambda x: x + 1.0, lower)
    got = assert_as_xla(ode, START, data, loss="huber")
    assert (got[2] > 0).all()


def test_a_recurrence_keeps_its_lane(rng):
    """NaN in one fit leaves the others alone, and so does the company."""
    data = recurrent(ode, 40, rng, count=60)
    batch = jax.jit(jax.vmap(by("fused", ode, START)))
    whole = jax.tree.map(np.asarray, batch(data))
    for picked in (slice(0, 1), [50, 3, 3, 17]):
        part = batch(jax.tree.map(lambda x: x[picked], data))  # noqa: B023
        same = lambda a, b: np.testing.assert_array_equal(a, b[picked])  # noqa: B023
        jax.tree.map(same, part, whole)
    data["x"][17, 5] = np.nan
    spoiled = jax.tree.map(np.asarray, batch(data))
    keep = np.arange(60) != 17
    same = lambda a, b: np.testing.assert_array_equal(a[keep], b[keep])
    jax.tree.map(same, spoiled, whole)
    assert spoiled[2][17] < 0


def test_parameters_that_are_neighbours_along_the_points():
    """Broyden's tridiagonal function, Moré, Garbow and Hillstrom (1981), no. 30."""

    def broyden(p):
        padded = jnp.pad(p, 1)
        return (3 - 2 * p) * p - padded[:-2] - 2 * padded[2:] + 1

    start = -np.ones((3, 10)) * np.array([[1.0], [1.1], [0.9]])
    solver = LevenbergMarquardt(engine="fused")
    fit = lambda p: lmjax.least_squares(broyden, p, solver=solver)
    got = jax.vmap(lambda p: (fit(p).params, fit(p).cost))(start)
    assert (got[1] < 1e-20).all()
    np.testing.assert_allclose(got[0], np.tile(fit(start[0]).params, (3, 1)), rtol=1e-7)
