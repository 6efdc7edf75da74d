"""Requests that make no sense: every public function, one odd argument at a time.

A request is a valid call of a door with one argument replaced. What is `NONSENSE` must
be refused by the name of the argument. What is `NUMBERS` may also be answered: much of
it is legal somewhere, a start of inf or a mask of ones.
"""

import datetime
import decimal
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def wrong_signature():
    return 0.0


NONSENSE = {
    "text": "text",
    "empty text": "",
    "bytes": b"text",
    "object": object(),
    "set": {1.0},
    "class": int,
    "module": np,
    "function": wrong_signature,
    "ellipsis": ...,
    "datetime": datetime.datetime(2024, 1, 1),
    "decimal": decimal.Decimal("1.5"),
    "error": ValueError("text"),
    "generator": (k for k in ()),
    "array of objects": np.array([object(), None], object),
    "array of text": np.array(["a", "b", "c", "d"]),
    "array of dates": np.array("2024-01-01", "M8[s]") + np.arange(4),
    "array of records": np.zeros(4, [("t", float)]),
    "list of text": ["a", "b"],
    "list of None": [None, None],
    "dict of text": {"a": "text"},
    "dict of objects": {"a": object()},
    "unequal lists": [[1.0], [1.0, 2.0]],
}
NUMBERS = {
    "None": None,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus one": -1.0,
    "zero": 0.0,
    "huge": 1e300,
    "integer": 3,
    "huge integer": 10**30,
    "True": True,
    "complex": 1.0 + 2.0j,
    "empty list": [],
    "empty tuple": (),
    "empty dict": {},
    "empty array": np.zeros(0),
    "empty matrix": np.zeros((0, 3)),
    "seven": np.ones(7),
    "matrix": np.ones((2, 3)),
    "deep": np.ones((1, 1, 1, 1)),
    "four NaN": np.full(4, np.nan),
    "four halves": np.ones(4, np.float16),
    "four complex": np.ones(4, complex),
    "unknown name": {"nobody": 1.0},
    "nested": {"a": {"b": 1.0}},
    "three lists": [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]],
    "key": jax.random.key(0),
}


class Door(NamedTuple):
    """A public function and a call that works.

    Attributes:
        call: The function.
        given: Its arguments by name.
        proper: Says whether what it returns is a result.
        loose: Whether a message may name its argument anywhere, as SciPy's do.
    """

    call: Any
    given: dict[str, Any]
    proper: Any
    loose: bool = False


def refused(error: Exception, names: tuple[str, ...], loose: bool) -> bool:
    """Return whether an error says which argument it is about.

    That of a user's function says how it was called.
    """
    if any(note.startswith("lmjax calls") for note in getattr(error, "__notes__", ())):
        return True
    documented = (ValueError, TypeError, NotImplementedError)
    if loose:
        documented += (RuntimeError,)  # SciPy's for a fit that fails
    if not isinstance(error, documented):
        return False
    any_name = "|".join(map(re.escape, names))
    if loose:
        return re.search(rf"\b({any_name})\b", str(error)) is not None
    return re.match(rf"(\w+, |\w+\.)*({any_name})\b", str(error)) is not None


def outcome(door: Door, argument: str, value: Any, names: tuple[str, ...] = ()) -> str:
    """Return "answered", "refused", or what is wrong with a request."""
    try:
        result = door.call(**{**door.given, argument: value})
    except Exception as error:
        if refused(error, (argument, *names), door.loose):
            return "refused"
        return f"{type(error).__name__}: {error}"
    if not door.proper(result):
        return f"no proper result: {result!r}"
    return "answered"


def is_fit(result: Any) -> bool:
    """Return whether a result has the status of a fit."""
    return jnp.asarray(result.status).dtype == jnp.int32
