"""Settings that every test runs under, the cache of compilations, shared fixtures."""

import collections
import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def cpu():
    """Return what tells this processor from others: code compiled for one may crash."""
    wanted = ("model name", "flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = {line for line in lines if line.split("\t")[0].strip() in wanted}
    text = "\n".join([platform.machine(), platform.processor(), *sorted(known)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def keep_compilations():
    """Let jax keep what it compiles in a folder: two thirds of the suite's time.

    For this process, the other workers and the processes that tests start. The folder
    is LMJAX_TEST_CACHE if that is set; an empty value switches the cache off.
    """
    default = Path(__file__).parents[1] / ".pytest_cache" / "jax"
    chosen = os.environ.get("LMJAX_TEST_CACHE", str(default))
    if not chosen:
        return
    folder = Path(chosen).resolve() / f"{jaxlib.__version__}-{cpu()}"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


keep_compilations()

# A worker takes a file at a time: the longest first, or the others wait for it.
LONGEST = ("test_examples", "test_reference", "test_docs", "test_pages")


def pytest_collection_modifyitems(items):
    """Put the files first that take longest, and leave out some variants of a table.

    Of a test marked ``one_of(n)`` every n-th variant runs; the others are slow ones.
    """
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    variants = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("one_of")
        if marker is None:
            continue
        name = item.nodeid.partition("[")[0]
        if variants[name] % marker.args[0]:
            item.add_marker(pytest.mark.slow)
        variants[name] += 1


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
