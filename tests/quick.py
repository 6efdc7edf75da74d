"""Compilation without the optimisations that take most of its time.

For tests of what a computation is, not of what the compiler makes of it: derivatives,
starts, formulas, what the documentation shows. Speed, precision, bits that do not
depend on the company of a fit, and all that is called without `jax.jit` are tested as
users have them compiled.
"""

import functools
import os

import jax

# The older emitters of XLA, without LLVM's optimisation: a fit compiles in a third of
# the time, a batch of fits in a fifth.
OPTIONS = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@functools.cache
def options():
    """Return the options, none where XLA has them no longer (jaxlib 0.12).

    All or none: what the newer emitters write runs for minutes unless it is optimised.
    """
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return OPTIONS


def jit(fn, **rest):
    """Return ``jax.jit(fn)``, quick to compile and slow to run."""
    return jax.jit(fn, compiler_options=options(), **rest)


def environment():
    """Return what makes another process compile so."""
    given = os.environ.get("XLA_FLAGS", "").split()
    chosen = [f"--{name}={value}".lower() for name, value in options().items()]
    return {"XLA_FLAGS": " ".join(given + chosen)}
