"""Settings that every test runs under, and the shared fixtures."""

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
    """Return a random generator with a fixed seed."""
    return np.random.default_rng(20240501)


@pytest.fixture(autouse=True, scope="module")
def _forget_compilations():
    """Drop what a module compiled once it is done.

    Each compiled function maps memory of its own, and a process may hold 65,530 maps:
    the whole suite in one process would run into that limit and abort.
    """
    yield
    jax.clear_caches()
