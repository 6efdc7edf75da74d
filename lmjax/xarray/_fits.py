"""The fits of one block of a map, and how a block travels to another process."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import lmjax
from lmjax._jax.closures import Unhashable
from lmjax.xarray._curve import Curve

# `fit_batch` takes all cores, so that two blocks at once in one process would only wait
# for each other, and compile the same program twice.
ONE_BLOCK = threading.Lock()
# Jobs that a worker keeps at hand.
KEPT_JOBS = 8


class Fitted(NamedTuple):
    """What is known of one fit, or of each fit of a block."""

    coefficients: Any
    covariance: Any
    stderr: Any
    status: Any
    cost: Any
    num_steps: Any


class OneFit(NamedTuple):
    """The fit of one place on the map: all that is no number, hashable.

    Attributes:
        curve: The model.
        captured: Fingerprints of what the model reads from outside, so that a changed
            number makes another program.
        num_coords: Independent variables.
        bounded: Whether there are bounds.
        moved: Parameters whose start is a default, which bounds may move.
        fixed: Which parameters keep their start, or None.
        options: Keywords of `lmjax.curve_fit` that are no arrays.
    """

    curve: Curve
    captured: tuple
    num_coords: int
    bounded: bool
    moved: tuple[bool, ...]
    fixed: tuple[bool, ...] | None
    options: Any

    def __call__(self, shared: tuple[Any, dict], row: dict[str, Array]):
        """Return (`Fitted`, whether there were data)."""
        arrays, constants = shared
        given = constants | row
        options = eqx.combine(arrays, self.options)._asdict()
        x = tuple(given[f"x[{i}]"] for i in range(self.num_coords))
        x = x[0] if self.num_coords == 1 else x
        guessed, model = self.curve.bind(x, given["y"])
        bounds = None
        if self.bounded:
            side = lambda side: self._vector(f"bounds[{side}]", given)
            bounds = side(0), side(1)
        fit = lmjax.curve_fit(
            model,
            x,
            given["y"],
            self._start(given, guessed, bounds),
            sigma=given.get("sigma"),
            bounds=bounds,
            fixed=None if self.fixed is None else np.array(self.fixed),
            **options,
        )
        found = Fitted(
            fit.params,
            fit.known_covariance(),
            fit.stderr,
            fit.status,
            fit.cost,
            fit.num_steps,
        )
        return found, fit.num_points > 0

    def _vector(self, name: str, given: dict[str, Array]) -> Float[Array, " n"]:
        return jnp.stack([given[f"{name}[{p}]"] for p in self.curve.names])

    def _start(self, given, guessed, bounds) -> Float[Array, " n"]:
        places = enumerate(self.curve.names)
        key = "p0[{}]".format
        start = jnp.stack(
            [given[key(p)] if key(p) in given else guessed[i] for i, p in places]
        )
        if bounds is None:
            return start
        low, high = bounds
        outside = jnp.array(self.moved) & ((start < low) | (start > high))
        return jnp.where(outside, _inside(low, high), start)


def _inside(low, high):
    """Return a point between bounds, the one that SciPy takes."""
    one_sided = jnp.where(jnp.isfinite(low), low + 1.0, high - 1.0)
    both = jnp.isfinite(low) & jnp.isfinite(high)
    middle = 0.5 * (jnp.where(both, low, 0.0) + jnp.where(both, high, 0.0))
    return jnp.where(both, middle, one_sided)


class Block:
    """The fits of any block of a map: a function of arrays with the map in front.

    All copies of one `Block` that reach a process are the same object there, so that
    all blocks of a map share one compiled program.

    Args:
        fit: The fit of one place.
        shared: What all places have in common: arrays of the options, numbers by name.
        keys: Names of the arrays that the function is called with, "y" among them.
        wide: Of each, how many axes at the end belong to one fit.
        dtype: What the fits compute in.
        largest: Fits in the largest block, None if there is only one block.
        strict: Whether a failed fit is an error.
    """

    def __init__(
        self,
        fit: OneFit,
        shared: tuple[Any, dict],
        keys: tuple[str, ...],
        wide: tuple[int, ...],
        dtype: np.dtype,
        largest: int | None,
        strict: bool,
    ):
        self.fit, self.shared, self.keys, self.wide = fit, shared, keys, wide
        self.dtype, self.largest, self.strict = dtype, largest, strict
        self.hashable: Callable = fit
        try:
            hash(fit)
        except TypeError:
            self.hashable = Unhashable(fit)
        self.packed: bytes | None = None

    def __reduce__(self):
        if self.packed is None:
            given = (self.fit, self.shared, self.keys, self.wide, self.dtype)
            self.packed = cloudpickle.dumps((*given, self.largest, self.strict))
        return received, (self.packed,)

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the fields of `Fitted`, with the map in front."""
        pairs = list(zip(arrays, self.wide, strict=True))
        place = np.broadcast_shapes(*(x.shape[: x.ndim - k] for x, k in pairs))
        fits = int(np.prod(place))
        if fits == 0:
            return tuple(self._nothing(place))
        rows = {}
        for key, (x, k) in zip(self.keys, pairs, strict=True):
            own = x.shape[x.ndim - k :]
            whole = np.broadcast_to(x, (*place, *own))
            flat = whole.reshape(fits, -1) if k else whole.reshape(fits)
            rows[key] = np.asarray(flat, self.dtype)
        with ONE_BLOCK, jax.enable_x64(self.dtype == np.float64):
            found = self._run(rows, fits)
        return tuple(part.reshape((*place, *part.shape[1:])) for part in found)

    def _run(self, rows: dict[str, np.ndarray], fits: int) -> list[np.ndarray]:
        step = None
        if self.largest is not None:
            # two pieces per core, so that none waits long for the last one
            cores = len(os.sched_getaffinity(0))
            step = as_steps(-(-self.largest // (2 * cores)), 64)
            rows = {key: filled(x, as_steps(fits, step)) for key, x in rows.items()}
        one = jax.tree_util.Partial(self.hashable, self.shared)
        found, observed = lmjax.fit_batch(one, rows, chunk_size=step)
        found, observed = Fitted(*(x[:fits] for x in found)), observed[:fits]
        failed = observed & (found.status <= 0)
        if self.strict and failed.any():
            raise lmjax.FitError(_complaint(found.status[failed], fits))
        useless = failed | ~observed
        if useless.any():
            for name in ("coefficients", "covariance", "stderr"):
                values = getattr(found, name)
                values[useless] = np.nan
        return list(found)

    def _nothing(self, place: tuple[int, ...]) -> Iterator[np.ndarray]:
        n = len(self.fit.curve.names)
        for own, dtype in zip(own_shapes(n), dtypes(self.dtype), strict=True):
            yield np.empty((*place, *own), dtype)


@lru_cache(maxsize=KEPT_JOBS)
def received(packed: bytes) -> Block:
    """Return the one `Block` of this process with these contents."""
    return Block(*cloudpickle.loads(packed))


def own_shapes(n: int) -> Fitted:
    """Return the shapes of what belongs to one fit of n parameters."""
    return Fitted((n,), (n, n), (n,), (), (), ())


def dtypes(dtype: np.dtype) -> Fitted:
    """Return the dtypes of results."""
    whole = np.dtype(np.int32)
    return Fitted(dtype, dtype, dtype, whole, dtype, whole)


def as_steps(count: int, step: int) -> int:
    """Return a count, rounded up to a multiple."""
    return -(-count // step) * step


def filled(x: np.ndarray, count: int) -> np.ndarray:
    """Return an array of ``count`` rows, the last row repeated."""
    missing = count - x.shape[0]
    return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x


def _complaint(statuses: np.ndarray, fits: int) -> str:
    """Return how many fits failed, and what to do about each kind."""
    kinds = {lmjax.Status(int(s)): int((statuses == s).sum()) for s in set(statuses)}
    lines = [f"{n} {kind.name}: {kind.advice}" for kind, n in kinds.items()]
    first = f"curvefit: {statuses.size} of {fits} fits failed"
    hint = 'errors="ignore" returns NaN for them, and their status.'
    return "\n".join([first, *lines, hint])
