"""Elementary functions of the models: exact where they can be, finite everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models import _stable

DTYPES = ["float32", "float64"]
SIZES = [1e-300, 1e-40, 1e-30, 1e-9, 0.5, 1.0, 3.0, 1e9, 1e30, 1e38, 1e300]


def numbers(dtype):
    """Return numbers of every size and sign that the dtype holds.

    Those below its smallest normal number count as zero, where the processor flushes.
    """
    least, most = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    sizes = np.array([0.0] + [size for size in SIZES if least < size < most])
    return np.concatenate([sizes, -sizes]).astype(dtype)


def pairs(dtype):
    u, w = np.meshgrid(numbers(dtype), numbers(dtype))
    return u.ravel(), w.ravel()


def with_slopes(fn, *args):
    """Return values and derivatives by each argument, entry by entry."""
    argnums = tuple(range(len(args)))
    value = jax.vmap(jax.value_and_grad(fn, argnums))(*map(jnp.asarray, args))
    return jax.tree.map(np.asarray, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponential_is_exact_below_its_limit_and_constant_above(dtype):
    limit = _stable.exponent_limit(dtype)
    assert limit == pytest.approx({"float32": 48.8, "float64": 390.4}[dtype], abs=0.1)
    z = np.array([-1e4, -5.0, 0.0, 1.0, 0.9 * limit, 1.1 * limit, 1e30], dtype)
    value, (slope,) = with_slopes(_stable.exp, z)
    exact = np.exp(z[:5].astype(float))
    rtol = 8 * np.finfo(dtype).eps * limit  # the argument itself is rounded
    np.testing.assert_allclose(value[:5], exact, rtol=rtol, atol=1e-300)
    np.testing.assert_array_equal(slope[:5], value[:5])
    np.testing.assert_allclose(value[5:], np.exp(limit), rtol=1e-4)
    np.testing.assert_array_equal(slope[5:], 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponential_has_room_for_an_amplitude_and_its_own_derivative(dtype):
    top = _stable.exp(jnp.asarray(1e4, dtype))
    assert np.isfinite(top) & np.isfinite(top**1.5 * 100.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_is_the_quotient_within_its_bound(dtype):
    u, w = pairs(dtype)
    bound = _stable.exponent_limit(dtype)
    value, (by_u, by_w) = with_slopes(_stable.ratio, u, w)
    assert value.dtype == dtype
    floor = float(np.finfo(dtype).tiny) ** 0.5
    usual = np.abs(w) >= floor
    with np.errstate(all="ignore"):
        exact = u[usual] / w[usual].astype(float)
    eps = 4 * np.finfo(dtype).eps
    clipped = np.clip(exact, -bound, bound)
    tiny = np.finfo(dtype).tiny  # below it, quotients are flushed to zero
    np.testing.assert_allclose(value[usual], clipped, rtol=eps, atol=tiny)
    for part in (value, by_u, by_w):
        assert np.isfinite(part).all()
    assert np.abs(value).max() <= bound * (1 + eps)
    inside = usual.copy()
    inside[usual] = (np.abs(exact) < 0.9 * bound) & (np.abs(w[usual]) < 1e30)
    np.testing.assert_allclose(by_u[inside], 1.0 / w[inside], rtol=eps, atol=tiny)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_of_nothing_to_nothing_is_zero(dtype):
    zero = jnp.zeros((), dtype)
    assert _stable.ratio(zero, zero) == 0.0
    assert (
        _stable.ratio(zero + 1.0, zero) == _stable.ratio(zero + 1.0, zero, None) > 0.0
    )
    assert _stable.ratio(zero - 1.0, zero) < 0.0
    assert _stable.ratio(zero + 9.0, zero + 1.0, 2.0) == 2.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_tail_bound_leaves_room_for_a_lorentzian_squared(dtype):
    z = jnp.asarray(_stable.tail_bound(dtype), dtype)
    assert np.isfinite((1.0 + z**2) ** 2)
    assert z > 1e7


def test_logarithm_knows_where_it_is_one():
    x = jnp.array([-1.0, 0.0, 0.5, 4.0])
    value, positive = _stable.log_positive(x)
    np.testing.assert_allclose(value, [0.0, 0.0, np.log(0.5), np.log(4.0)])
    assert positive.tolist() == [False, False, True, True]
    slope = jax.grad(lambda x: jnp.sum(_stable.log_positive(x)[0]))(x)
    np.testing.assert_allclose(slope, [0.0, 0.0, 2.0, 0.25])
