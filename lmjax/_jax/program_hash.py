"""A hash of what a function computes, the same in every process.

The function is traced; its jaxpr is written down with variables numbered in the order
of their appearance, so that names and addresses do not count, and numbers do.
"""

import hashlib
import re
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from lmjax._jax.captured_values import free_values

# Functions and objects print with their address in memory.
_ADDRESS = re.compile(r"\b(?:at )?0x[0-9a-fA-F]+")


def without_addresses(text: str) -> str:
    """Return a text without what differs from process to process."""
    return _ADDRESS.sub("", text)


def is_callback(value: Any) -> bool:
    """Return whether jax wrapped a function of the host, to be called back."""
    return hasattr(value, "callback_func")


def program_hash(fn: Callable, *arguments: Any) -> str:
    """Return the SHA-256 of what ``fn`` does with arguments like these.

    The values of ``arguments`` do not count, only their structure, shapes and dtypes;
    what the function closes over counts with its values. Of a host callback the code
    counts, and what it reads by name; what that calls is not seen.
    """
    closed, out = jax.make_jaxpr(fn, return_shape=True)(*arguments)
    writer = _Writer()
    writer.text(without_addresses(str(jax.tree.structure(out))))
    writer.closed(closed.jaxpr, closed.consts)
    return writer.hash.hexdigest()


class _Writer:
    """Writes jaxprs into a hash."""

    def __init__(self):
        self.hash = hashlib.sha256()

    def text(self, text: str) -> None:
        self.hash.update(text.encode() + b"\0")

    def array(self, value: Any) -> None:
        if isinstance(value, jax.Array) and jnp.issubdtype(
            value.dtype, jax.dtypes.prng_key
        ):
            self.text(str(value.dtype))
            value = jax.random.key_data(value)
        array = np.asarray(value)
        self.text(f"{array.dtype}{array.shape}")
        self.hash.update(np.ascontiguousarray(array).tobytes())

    def closed(self, jaxpr: core.Jaxpr, consts) -> None:
        for const in consts:
            self.array(const)
        self.jaxpr(jaxpr)

    def jaxpr(self, jaxpr: core.Jaxpr) -> None:
        names: dict[core.Var, int] = {}

        def atom(value):
            if isinstance(value, core.Literal):
                self.text(f"literal {value.aval}")
                self.array(value.val)
            else:
                self.text(f"{names.setdefault(value, len(names))}:{value.aval}")

        for var in (*jaxpr.constvars, *jaxpr.invars):
            atom(var)
        for eqn in jaxpr.eqns:
            self.text(f"= {eqn.primitive.name}")
            for value in eqn.invars:
                atom(value)
            for name in sorted(eqn.params):
                self.text(name)
                self.param(eqn.params[name])
            for value in eqn.outvars:
                atom(value)
        self.text("return")
        for value in jaxpr.outvars:
            atom(value)

    def param(self, value: Any) -> None:
        if isinstance(value, core.ClosedJaxpr):
            self.closed(value.jaxpr, value.consts)
        elif isinstance(value, core.Jaxpr):
            self.jaxpr(value)
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            self.array(value)
        elif isinstance(value, tuple | list):
            self.text(f"{type(value).__name__} of {len(value)}")
            for part in value:
                self.param(part)
        elif isinstance(value, dict | set | frozenset):
            # in the order of their texts: that of a set differs between processes
            self.text(f"{type(value).__name__} of {len(value)}")
            for key in sorted(value, key=lambda key: without_addresses(repr(key))):
                self.param(key)
                if isinstance(value, dict):
                    self.param(value[key])
        elif isinstance(value, types.FunctionType) or is_callback(value):
            self.function(value)
        else:
            self.text(without_addresses(repr(value)))

    def function(self, fn: Any) -> None:
        """Write what can be known of a function of Python: its code, what it reads."""
        if is_callback(fn):
            fn = fn.callback_func
        code = getattr(fn, "__code__", None) or type(fn).__call__.__code__
        self.text(f"{code.co_name} {code.co_names} {code.co_code.hex()}")
        self.text(without_addresses(repr(code.co_consts)))
        for name, value in free_values(fn):
            self.text(name)
            if isinstance(value, np.ndarray | np.generic | jax.Array):
                self.array(value)
            elif isinstance(value, types.FunctionType):
                self.text(value.__code__.co_code.hex())
            else:
                self.text(without_addresses(repr(value)))
