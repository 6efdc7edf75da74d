"""Fits inside `jax.shard_map` with its defaults, and the types of loops there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import run_python

from lmjax._jax import sharded

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import lmjax
from jax.sharding import Mesh, PartitionSpec as P

t = np.linspace(0.0, 3.0, 8)
ys = jnp.stack([a * jnp.exp(-0.7 * t) for a in range(1, 7)]) + 0.01 * jnp.cos(9 * t)


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t)


def fit_one(y):
    fit = lmjax.curve_fit(decay, t, y, {"a": 1.0, "k": 1.0}, **OPTIONS)
    return fit.params["a"], fit.stderr["k"], fit.status


def fit_two(y):
    start = {"a": np.ones(2), "k": 1.0}
    shared = {"a": False, "k": True}
    fit = lmjax.global_fit(decay, t, jnp.stack([y, 2.0 * y]), start, shared=shared)
    return fit.params, fit.status


each = {"vmap": jax.vmap(fit_one), "map": lambda ys: jax.lax.map(fit_one, ys)}
each["global"] = jax.vmap(fit_two)
each["grad"] = jax.vmap(jax.grad(lambda y: fit_one(y)[0]))
mesh = Mesh(np.array(jax.devices()), ("i",))
for name in WAYS:
    plain = jax.jit(each[name])(ys)
    sharded = jax.shard_map(each[name], mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    for a, b in zip(*map(jax.tree.leaves, (plain, RUN(sharded)(ys)))):
        np.testing.assert_allclose(a, b, rtol=1e-5)
print(jax.device_count())
"""
OPTIONS = {
    "plain": "{}",
    "bounds": "{'bounds': ({'k': 0.0}, {'k': 0.5})}",
    "linear": "{'linear': {'a': True}}",
    "loss": "{'loss': 'soft_l1', 'loss_scale': 0.1}",
    "own loop": "{'solver': lmjax.LevenbergMarquardt(linear_solver=lmjax.QR())}",
}


@pytest.mark.parametrize(
    ("options", "ways"),
    [("plain", ("vmap", "map", "grad"))]
    + [(name, ("vmap",)) for name in ("bounds", "linear")]
    + [
        pytest.param(*given, marks=pytest.mark.slow)
        for given in (
            ("own loop", ("vmap",)),
            ("plain", ("global",)),
            ("loss", ("vmap",)),
        )
    ],
    ids=["plain", "bounds", "linear", "own loop", "global", "loss"],
)
def test_fits_are_the_same_when_shared_among_devices(options, ways):
    code = SCRIPT.replace("**OPTIONS", f"**{OPTIONS[options]}")
    # also outside jit, where a map over devices makes a trace of every array
    run = "(lambda fn: fn)" if "global" in ways else "jax.jit"
    code = code.replace("WAYS", repr(ways)).replace("RUN", run)
    flags = "--xla_force_host_platform_device_count=2"
    found = run_python("-c", code, XLA_FLAGS=flags, JAX_ENABLE_X64="1")
    assert found.split() == ["2"]


EXPLICIT = """
import jax, jax.numpy as jnp, numpy as np
import lmjax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

t = np.linspace(0.0, 3.0, 8)
ys = np.outer(np.arange(1.0, 7.0), np.exp(-0.7 * t))
decay = lambda p, t: p["a"] * jnp.exp(-p["k"] * t)
fit_one = lambda y: lmjax.curve_fit(decay, t, y, {"a": 1.0, "k": 1.0}).params["a"]
mesh = jax.make_mesh((2,), ("fits",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(mesh):
    spread = jax.device_put(ys, NamedSharding(mesh, P("fits", None)))
    try:
        jax.jit(jax.vmap(fit_one))(spread)
    except ValueError as error:
        assert "'fits'] of the type Explicit; use lmjax.fit_batch" in str(error)
    else:
        raise AssertionError
    every = jax.shard_map(jax.vmap(fit_one), in_specs=P("fits"), out_specs=P("fits"))
    np.testing.assert_allclose(jax.jit(every)(spread), np.arange(1.0, 7.0), rtol=1e-7)
np.testing.assert_allclose(lmjax.fit_batch(fit_one, spread), np.arange(1.0, 7.0))
print(jax.device_count())
"""


def test_explicit_axes_of_a_mesh_are_explained():
    flags = "--xla_force_host_platform_device_count=2"
    found = run_python("-c", EXPLICIT, XLA_FLAGS=flags, JAX_ENABLE_X64="1")
    assert found.split() == ["2"]


def mapped(fn):
    """Return ``fn(x)`` inside a map over one device."""
    spec = jax.sharding.PartitionSpec("i")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
    return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec))


LOOPS = {
    "while": lambda x: sharded.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + x, c[1]), (0, 0.0 * T, T)
    )[2],
    "fori": lambda x: sharded.fori_loop(0, 3, lambda i, c: c + x, jnp.zeros(3)),
    "cond": lambda x: sharded.cond(x[0] > 0.0, lambda: x, lambda: T) + 0.0 * x,
    "platform": lambda x: sharded.platform_dependent(
        x, cpu=lambda x: jnp.ones(3), default=lambda x: x
    ),
    "linearize": lambda x: sharded.linearize(jnp.sin, x)[1](jnp.ones(3)),
}
T = jnp.arange(3.0)


@pytest.mark.parametrize("name", LOOPS)
def test_types_of_loops_and_branches_agree(name):
    x = jnp.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(mapped(LOOPS[name])(x), LOOPS[name](x))


def test_outside_a_map_nothing_varies():
    assert not sharded.is_mapped()
    assert sharded.axes_of({"a": T, "b": 1.0}) == frozenset()
    assert sharded.vary(T, frozenset()) is T


def test_integers_pass_through_a_rule():
    def run(x):
        rule = lambda args, tangents, found: (
            3.0 * tangents[0],
            sharded.no_tangent(found[1]),
        )
        fn = lambda x: (2.0 * x, jnp.sum(x > 0.0, dtype=jnp.int32))
        return sharded.custom_jvp(fn, rule, x)

    def both(x):
        count = run(x)[1]
        return jax.grad(lambda x: jnp.sum(run(x)[0]))(x) * count.astype(float)

    for way in (both, mapped(both)):
        np.testing.assert_array_equal(way(jnp.array([1.0, 2.0])), [6.0, 6.0])
