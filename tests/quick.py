"""Compilation without the optimisations that take most of its time.

For tests of what a computation is, not of what the compiler makes of it: derivatives,
starts, formulas, what the documentation shows. Speed, precision, bits that do not
depend on the company of a fit, and all that is called without `jax.jit` are tested as
users have them compiled.
"""

import functools
import os

import jax

# Older emitters, twice as fast to compile as those that took their place.
EMITTERS = {"xla_cpu_use_fusion_emitters": False}
EVERYTHING = EMITTERS | {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@functools.cache
def known(name):
    """Return whether this version of XLA has an option: they come and go."""
    try:
        jax.jit(lambda: 0, compiler_options={name: EVERYTHING[name]}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit(fn, **options):
    """Return ``jax.jit(fn)``, quick to compile and slow to run."""
    chosen = {name: value for name, value in EVERYTHING.items() if known(name)}
    return jax.jit(fn, compiler_options=chosen, **options)


def flags(choice):
    """Return the environment of a process that compiles so."""
    words = [
        f"--{name}={value}".lower() for name, value in choice.items() if known(name)
    ]
    return {"XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *words]).strip()}
