"""Advice that goes with errors: what people write, and what they should write here."""

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from lmjax._errors.warn import PACKAGE

Function = TypeVar("Function", bound=Callable[..., Any])

# Keywords of other libraries, and what says the same here.
_KEYWORDS = {
    "p0": "params0= is the start; lmjax.scipy.curve_fit takes p0=",
    "x0": "params0= is the start; lmjax.scipy.least_squares takes x0=",
    "weights": "sigma= takes standard deviations: sigma = 1 / weights, or "
    "1 / sqrt(weights) where weights multiply squares",
    "expr": "tie= takes a function from the free parameters to all",
    "vary": "fixed= marks parameters that keep their start",
    "scale_covar": "absolute_sigma=True is scale_covar=False",
    "method": "there is one method; settings go into solver=LevenbergMarquardt(...)",
    "jac": "solver=LevenbergMarquardt(jac=...) takes a Jacobian; the default is exact",
    "maxfev": "solver=LevenbergMarquardt(max_steps=...) limits the steps",
    "max_nfev": "solver=LevenbergMarquardt(max_steps=...) limits the steps",
    "max_steps": "write solver=LevenbergMarquardt(max_steps=...)",
    "ftol": "write solver=LevenbergMarquardt(ftol=...)",
    "xtol": "write solver=LevenbergMarquardt(xtol=...)",
    "gtol": "write solver=LevenbergMarquardt(gtol=...)",
    "f_scale": "loss_scale= is the size at which a loss begins to bend",
    "kwargs": "close over them, or functools.partial(model, ...)",
}

_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
_IN_JAX = (
    "the model or residual is compiled, so its arrays have no values yet: write "
    "jnp.where(condition, a, b) for `if` and for boolean masks such as y[x > 0], "
    "jnp.exp and other functions of jax.numpy for those of math and numpy, and "
    "leave out float(...) and int(...)"
)


def hints(function: Function) -> Function:
    """Return a public function whose errors help.

    It explains keywords of other libraries. Tracebacks end in the user's frames: ours
    are left out, as jax leaves out its own, unless JAX_TRACEBACK_FILTERING is "off".
    """
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def explaining(*args, **kwargs):
        if kwargs.keys() <= known.keys():
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if getattr(jax.config, "jax_traceback_filtering", "") == "off":
                    raise
                kept = _without_own_frames(error.__traceback__)
                raise error.with_traceback(kept)  # noqa: B904  (the same error)
        name = min(kwargs.keys() - known.keys())
        hint = _KEYWORDS.get(name, "the keywords are " + ", ".join(known))
        raise TypeError(f"{name}: expected a keyword of {function.__name__}; {hint}")

    return explaining  # pyright: ignore[reportReturnType]


def _without_own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this package."""
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
            frames.append(trace)
        trace = trace.tb_next
    kept = None
    for entry in reversed(frames):
        kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept


def calling(function: Callable, call: str) -> Callable:
    """Return a user's function whose errors say how it was called.

    Args:
        function: The function.
        call: What the call looks like, ``model(params, x)``.
    """

    def explained(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            note = f"lmjax calls {call}"
            if isinstance(error, _TRACED):
                note += f"; {_IN_JAX}"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return explained


def on_shapes(got: Any, y: Any) -> str:
    """Return what to try where a model returns another shape than y has, or nothing."""
    leaves = jax.tree.leaves(got), jax.tree.leaves(y)
    if not len(leaves[0]) == len(leaves[1]) == 1:
        return ""
    got, y = (jnp.shape(leaf[0]) for leaf in leaves)
    if len(y) > 1 and y[1:] == got:
        return (
            f"; y holds {y[0]} data sets on its first axis: fit one of them under "
            "jax.vmap, or all together with global_fit"
        )
    if y == got[::-1] and len(y) > 1:
        return "; y is transposed: give y.T"
    if len(y) > 1 and y[:-1] == got and y[-1] > 1:
        return (
            f"; y holds {y[-1]} data sets on its last axis: give y.T and fit one of "
            "them under jax.vmap"
        )
    flat, column = sorted((y, got), key=len)
    if len(flat) == 1 and column == (*flat, 1):
        return "; a column becomes flat by .ravel(), in x and y alike"
    if _size(y) == _size(got):
        flat = "y.ravel()" if len(got) == 1 else f"y.reshape({got})"
        return f"; as many numbers in another shape: give {flat}"
    if got == ():
        return "; the model returns one number: is x used?"
    return ""


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
