"""What the public functions check before and after a fit, and how they complain."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from lmjax import likelihoods, losses
from lmjax._derivatives.implicit import Implicit
from lmjax._derivatives.unrolled import Unrolled
from lmjax._errors.checks import check_real, is_real
from lmjax._jax import paths
from lmjax._jax.arrays import leaves_of
from lmjax._jax.closures import as_pytree
from lmjax._problem.charts import charts_of, is_manifold
from lmjax._problem.terms import LossTerm
from lmjax._solver.status import Status
from lmjax.likelihoods import Likelihood


def resolve_loss(loss: str | Callable | None, loss_scale: Any) -> LossTerm | None:
    """Return the term of the loss behind a name, its function as a callable pytree."""
    loss_scale = leaves_of("loss_scale", loss_scale)
    check_real("loss_scale", loss_scale)
    if isinstance(loss, str):
        if loss not in losses.NAMES:
            raise ValueError(
                f"loss: expected one of {', '.join(losses.NAMES)}, or a function; "
                f"got {loss!r}"
            )
        loss = getattr(losses, loss)
    if loss is None or loss is losses.linear:
        return None
    if not callable(loss):
        raise TypeError(f"loss: expected a name or a function, got {loss!r}")
    if not isinstance(loss_scale, Tracer) and not (np.asarray(loss_scale) > 0).all():
        raise ValueError(f"loss_scale: expected a positive number, got {loss_scale}")
    return LossTerm(as_pytree(loss), loss_scale)


def resolve_likelihood(
    likelihood: str | Likelihood | None, given: dict[str, Any]
) -> Likelihood | None:
    """Return the likelihood behind a name; it describes all the noise there is."""
    if likelihood is None:
        return None
    if isinstance(likelihood, str):
        likelihood = _likelihood_called(likelihood)
    if not isinstance(likelihood, Likelihood):
        raise TypeError(
            "likelihood: expected a name or an object like "
            f"lmjax.likelihoods.Poisson(), got {likelihood!r}"
        )
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected none beside likelihood=, which describes the noise "
                f"by itself, got {value!r}"
            )
    return likelihood


def _likelihood_called(name: str) -> Likelihood:
    known: dict[str, Likelihood] = {
        "poisson": likelihoods.Poisson(),
        "binomial": likelihoods.Binomial(1.0),
    }
    if name in known:
        return known[name]
    hint = "expected 'poisson', 'binomial' or an object of lmjax.likelihoods"
    if name == "rician":
        hint = "it needs its noise, write lmjax.likelihoods.Rician(sigma)"
    if name in ("gaussian", "normal"):
        hint = "leave it out and give sigma="
    raise ValueError(f"likelihood: {hint}; got {name!r}")


def check_possible(status, likelihood: Likelihood, y, mask) -> None:
    """Raise if concrete data are impossible; inside a trace the status says so instead.

    Tested after the fit, only if that could not start.
    """
    numbers = [leaf for leaf in (status, y, mask) if leaf is not None]
    if any(
        isinstance(leaf, Tracer) for leaf in [*numbers, *jax.tree.leaves(likelihood)]
    ):
        return
    if status != Status.NONFINITE_START:
        return
    y = jnp.asarray(y, float)
    per_point = lambda leaf: jnp.broadcast_to(jnp.asarray(leaf, float), y.shape)
    best = np.asarray(jax.tree.map(per_point, likelihood).best(y))
    wrong = np.isnan(best) & ~np.isnan(y)
    if mask is not None:
        wrong &= np.asarray(mask)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"y: impossible for {likelihood!r}: got {y[where]:g} at {list(where)} "
            "(mask= leaves out what was not measured)"
        )


def resolve_linear(
    linear: Any, params0: Any, *, bounds, terms, solver, derivative
) -> tuple[bool, ...] | None:
    """Return which flat parameters are marked, as a static value; None if none is."""
    if linear is None:
        return None
    for leaf in jax.tree.leaves(linear):
        kind = np.dtype(bool) if isinstance(leaf, bool) else getattr(leaf, "dtype", 0)
        if isinstance(leaf, Tracer) or kind is not np.dtype(bool):
            raise TypeError(
                "linear: expected booleans that are known before compilation, "
                f"got {leaf!r}"
            )
    flags = _spread("linear", linear, params0, False)
    if not flags.any():
        return None
    for name, term in terms.items():
        if term is not None:
            raise ValueError(
                f"{name}: expected None together with linear, whose parameters are "
                "solved for by least squares; leave out one of the two"
            )
    if isinstance(derivative, Unrolled):
        raise ValueError(
            "derivative: expected Implicit(...) or OneStep() together with linear; the "
            "steps that Unrolled follows are not steps in all parameters"
        )
    if getattr(solver, "geodesic", False):
        raise ValueError(
            "solver: expected geodesic=False together with linear, whose elimination "
            "leaves no second derivatives"
        )
    check_unbounded(flags, bounds, params0, "a parameter marked linear")
    return tuple(flags.tolist())


def check_unbounded(flags: np.ndarray, bounds: Any, params0: Any, what: str) -> None:
    """Raise if some of the flagged parameters have a bound, known or traced."""
    for side, bound in enumerate(bounds or ()):
        none = (-np.inf, np.inf)[side]
        given = jax.tree.map(
            lambda x, none=none: (
                True if isinstance(x, Tracer) else np.asarray(x) != none
            ),
            bound,
        )
        both = flags & _spread(f"bounds[{side}]", given, params0, False)
        if both.any():
            name = paths.parameter_names(params0)[int(np.argmax(both))]
            raise ValueError(f"bounds: expected none on {what}, got one on {name}")


def check_with_manifold(linear: Any, derivative: Any) -> None:
    """Refuse what takes parameters for plain numbers."""
    if linear is not None:
        raise ValueError(f"linear: expected none together with manifold, got {linear}")
    if not isinstance(derivative, Implicit):
        raise ValueError(
            "derivative: expected Implicit(...) together with manifold, got "
            f"{derivative!r}"
        )


def resolve_manifold(manifold: Any, params0: Any, bounds: Any) -> list[Any]:
    """Return the manifold of each leaf or None.

    Raises:
        TypeError: If something else than manifolds is given.
        ValueError: If a leaf does not hold elements, or has bounds.
    """
    kind = "an object of lmjax.manifolds, such as SE3()"
    found = paths.spread("manifold", manifold, params0, is_manifold, kind)
    for one in found:
        if any(leaf is one for leaf in jax.tree.leaves(one)):  # no pytree
            raise TypeError(
                "manifold: expected an object of a class derived from equinox.Module, "
                f"got {one!r}"
            )
    leaves = jax.tree.leaves(params0)
    charts_of(leaves, found)  # checks their shapes
    flags = np.concatenate(
        [
            np.full(jnp.size(leaf), kind is not None)
            for leaf, kind in zip(leaves, found, strict=True)
        ]
    )
    if flags.any():
        check_unbounded(flags, bounds, params0, "a leaf with a manifold")
    return found


def _spread(name, prefix, params0, default) -> np.ndarray:
    """Return a prefix pytree of booleans, flat, also inside a trace."""
    return paths.ravel_prefix(name, prefix, params0, default, bool, np)


def check_affine(status, linear, params0) -> None:
    """Raise if a concrete status says that a mark was wrong."""
    if isinstance(status, Tracer) or status != Status.NOT_AFFINE:
        return
    names = paths.parameter_names(params0)
    marked = [name for name, flag in zip(names, linear, strict=True) if flag]
    raise ValueError(
        "linear: expected parameters in which the residual is affine, which it is not "
        f"in those that are marked: {', '.join(marked)}"
    )


def check_pair(bounds) -> None:
    """Raise unless bounds are None or a pair."""
    if bounds is None or isinstance(bounds, tuple | list) and len(bounds) == 2:
        return
    got = f"{type(bounds).__name__}"
    if isinstance(bounds, tuple | list):
        got += f" of length {len(bounds)}"
    raise ValueError(
        f"bounds: expected a pair (lower, upper) of pytrees or numbers, got {got}"
    )


def check_feasible(status, bounds, params0) -> None:
    """Raise if concrete bounds cross; inside a trace the status says so instead.

    Tested after the fit, because the fit compares the bounds anyway.
    """
    if isinstance(status, Tracer) or status != Status.INFEASIBLE:
        return
    spread = partial(paths.ravel_prefix, params=params0, dtype=float)
    lower = np.asarray(spread("bounds[0]", bounds[0], default=-np.inf))
    upper = np.asarray(spread("bounds[1]", bounds[1], default=np.inf))
    j = int(np.argmin(lower <= upper))
    name = paths.parameter_names(params0)[j]
    if np.isnan(lower[j]) or np.isnan(upper[j]):
        raise ValueError(
            f"bounds: expected numbers, got NaN at {name} (None means no bound)"
        )
    raise ValueError(
        f"bounds: lower exceeds upper at {name} ({lower[j]:g} > {upper[j]:g})"
    )


def name_refused_argument(error: Exception, named: dict[str, Any]) -> Exception:
    """Return an error that names the argument which jax refused, or jax's own."""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return TypeError(
            "model or residual: NumPy was called on a traced array; write the function "
            "in jax.numpy (jnp.exp for np.exp)"
        )
    numbers = jax.Array | np.ndarray | np.generic | float | int
    for name, tree in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            typed = isinstance(leaf, np.ndarray | np.generic)
            odd = typed and leaf.dtype.kind not in "biufcV"  # V: bfloat16 and such
            odd |= isinstance(leaf, int) and not is_real(leaf)  # beyond 64 bits
            if odd or not isinstance(leaf, numbers):
                where = name + jax.tree_util.keystr(path)
                return TypeError(
                    f"{name}: expected numbers or arrays, got {leaf!r} at {where}"
                )
    return error


def check_curves(y: Array, sigma: Any) -> None:
    """Refuse data that are no curves."""
    if y.ndim < 2:
        raise ValueError(
            "y: expected an array with the curves on its first axis, or a list of "
            f"curves; got shape {y.shape}"
        )
    if y.size == 0:
        raise ValueError(f"y: expected at least one point, got shape {y.shape}")
    if isinstance(sigma, tuple):
        raise ValueError(
            "sigma: expected standard deviations that broadcast to y, got a tuple"
        )
