"""How often the residual is traced: once per function, never for new numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax

T = np.linspace(0.0, 3.0, 12)


class Counted:
    """A model that counts how often jax traces it."""

    def __init__(self):
        self.traces = 0

    def __call__(self, p, t):
        self.traces += 1
        return p["a"] * jnp.exp(-p["k"] * t)


def fit(model, scale=1.0, **options):
    y = scale * np.exp(-0.7 * T)
    return lmjax.curve_fit(model, T, y, {"a": 0.5 * scale, "k": 1.0}, **options)


def variants(scale):
    """Everything that may differ per call without compiling again."""
    return {
        "solver": lmjax.LevenbergMarquardt(
            ftol=1e-8 * scale, gtol=1e-9 * scale, damping=lmjax.Nielsen(0.5 * scale)
        ),
        "bounds": ({"k": 0.1 * scale}, {"k": 9.0 * scale}),
        "sigma": 0.1 * scale * np.ones(T.size),
        "mask": np.arange(T.size) < 10 * scale,
        "loss": "soft_l1",
        "loss_scale": 3.0 * scale,
        "fixed": {"a": np.array(scale > 5.0)},
    }


def test_new_data_is_not_traced_again():
    model = Counted()
    fit(model)
    first = model.traces
    for scale in (2.0, 3.0, 4.0):
        fit(model, scale)
    assert model.traces == first


def test_no_number_in_the_request_is_static():
    model = Counted()
    fit(model, **variants(1.0))
    first = model.traces
    for scale in (1.1, 1.2):
        fit(model, scale, **variants(scale))
    assert model.traces == first


def test_a_new_function_is_traced():
    first, second = Counted(), Counted()
    fit(first)
    fit(second)
    assert second.traces == first.traces > 0


def test_a_module_model_is_not_traced_again():
    import equinox as eqx

    count = []

    class Decay(eqx.Module):
        a: jax.Array
        k: jax.Array

        def __call__(self, t):
            count.append(1)
            return self.a * jnp.exp(-self.k * t)

    for a in (1.0, 1.5, 2.0):
        y = a * np.exp(-0.7 * T)
        result = lmjax.curve_fit(Decay(jnp.array(a), jnp.array(1.0)), T, y)
        assert float(result.params.k) == pytest.approx(0.7)
        if a == 1.0:
            first = len(count)
    assert len(count) == first


def test_closed_over_values_are_batched():
    y = jnp.exp(-0.5 * T)

    def one(offset):
        sol = lmjax.least_squares(lambda p: p + offset - y, jnp.zeros(()))
        return sol.params

    offsets = jnp.array([0.0, 1.0, 2.0])
    batched = jax.vmap(one)(offsets)
    expected = jnp.mean(y) - offsets
    np.testing.assert_allclose(batched, expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(one)(1.0), expected[1], rtol=1e-12)


@pytest.mark.slow
def test_nested_vmap_matches_a_loop():
    ys = jnp.stack([a * jnp.exp(-k * T) for a in (1.0, 2.0) for k in (0.5, 1.0)])
    start = {"a": jnp.array(1.5), "k": jnp.array(0.8)}
    model = lambda p, t: p["a"] * jnp.exp(-p["k"] * t)
    one = lambda y: lmjax.curve_fit(model, T, y, start).params["k"]
    nested = jax.vmap(jax.vmap(one))(ys.reshape(2, 2, -1))
    looped = jnp.stack([one(y) for y in ys]).reshape(2, 2)
    np.testing.assert_allclose(nested, looped, rtol=1e-12)


def test_a_module_is_not_traced_again_for_other_numbers():
    traces = []

    class Decay(eqx.Module):
        a: float
        k: float

        def __call__(self, t):
            traces.append(1)
            return self.a * jnp.exp(-self.k * t)

    y = np.exp(-0.7 * T)
    lmjax.curve_fit(Decay(0.5, 1.0), T, y)
    first = len(traces)
    for k in (0.5, 0.9):
        lmjax.curve_fit(Decay(0.6, k), T, y)
    assert len(traces) == first


def test_no_pass_over_the_points_outgrows_the_shared_memory_of_a_gpu():
    # XLA takes 33 x 32 numbers for each sum of one pass and does not split it
    x = np.linspace(0.0, 10.0, 40)
    model = lambda p, x: sum(p[k] * jnp.cos(k * x) for k in range(6)) * jnp.exp(-p[6])
    fit = lambda y: lmjax.curve_fit(model, x, y, jnp.ones(7)).stderr
    traced = jax.jit(jax.vmap(fit)).trace(jnp.ones((300, 40)))
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    sums = max(line.count(" init: ") for line in program.splitlines())
    assert 0 < sums * 33 * 32 * 8 <= 64 * 1024
