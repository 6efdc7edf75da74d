"""The report of a fit in the layout of lmfit's ``fit_report``, for a diff of both."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lmjax._jax.arrays import as_arrays
from lmjax._solver.report import (
    CORRELATIONS_FROM,
    flat_of,
    names_of,
    tied_parameters,
)
from lmjax._solver.status import ParamStatus

AT_BOUND = (ParamStatus.AT_LOWER, ParamStatus.AT_UPPER)


class _Row(NamedTuple):
    """A parameter: ``kind`` is its `ParamStatus`, None if it is tied to others."""

    name: str
    value: float
    error: float
    kind: ParamStatus | None

    @property
    def is_varied(self) -> bool:
        return self.kind not in (None, ParamStatus.FIXED)


def curve_fit(fit: Any, start: Any, xy: Any, model: str) -> str:
    """Return the report of one `CurveFit`, with start and R-squared where known."""
    if np.ndim(fit.status):
        raise ValueError(
            f"style: expected 'lmjax' for a batch, which has {np.size(fit.status)} "
            "fits here, got 'lmfit'; fit.report() sums them up"
        )
    rows = _ordered(_rows(fit), start)
    width = max(len(row.name) for row in rows) + 1
    lines = [
        "[[Model]]",
        f"    Model({model})",
        *_statistics(fit),
        *_r_squared(fit, xy),
        *_warnings(rows, width),
        "[[Variables]]",
        *_variables(rows, start, width),
        *_correlations(fit, rows),
    ]
    return "\n".join(lines)


def _rows(fit) -> list[_Row]:
    tied = tied_parameters(fit)
    kinds = map(ParamStatus, np.asarray(fit.flat_status).tolist())
    values = zip(
        names_of(fit.params), flat_of(fit.params), flat_of(fit.stderr), kinds,
        strict=True,
    )  # fmt: skip
    free = [_Row(*row) for row in values if row[0] not in tied]
    return free + [_Row(name, *pair, None) for name, pair in tied.items()]


def _ordered(rows: list[_Row], start: Any) -> list[_Row]:
    """Return rows in the order of a start that is a dict; jax sorts its keys."""
    keys = map(str, start) if isinstance(start, Mapping) else ()
    place = {key: i for i, key in enumerate(keys)}
    return sorted(rows, key=lambda row: (place.get(row.name, len(place)), row.name))


def _variables(rows: list[_Row], start: Any, width: int) -> list[str]:
    given = {}
    if start is not None:
        given = dict(zip(names_of(start), flat_of(start), strict=True))
    lines = []
    for name, value, error, kind in rows:
        label = f"    {name + ':':<{width}}"
        if kind == ParamStatus.FIXED:
            lines.append(f"{label} {value: .7g} (fixed)")
            continue
        init = f"(init = {given[name]:.7g})" if name in given else "(init = ?)"
        # lmfit quotes the expression; what ties parameters here is a function
        end = "== tied" if kind is None else init
        lines.append(f"{label} {_with_error(value, error)} {end}")
    return lines


def _statistics(fit) -> list[str]:
    n, dof = int(fit.num_points), int(fit.dof)
    chi2, free = float(fit.chi2), n - dof
    # lmfit's criteria do not ask whether sigma is absolute
    likelihood = n * math.log(max(chi2, 1e-250 * n) / n)
    number = lambda value: _number(value).strip()
    return [
        "[[Fit Statistics]]",
        "    # fitting method   = leastsq",
        f"    # function evals   = {int(fit.num_steps) + 1}",
        f"    # data points      = {n}",
        f"    # variables        = {free}",
        f"    chi-square         = {number(chi2)}",
        f"    reduced chi-square = {number(chi2 / max(1, dof))}",
        f"    Akaike info crit   = {number(likelihood + 2 * free)}",
        f"    Bayesian info crit = {number(likelihood + math.log(n) * free)}",
    ]


def _r_squared(fit: Any, xy: Any) -> list[str]:
    """Return the share of the variance of y that the curve explains, as lmfit does.

    Sigma does not count. Nothing is returned if it is not clear which points do.
    """
    if xy is None:
        return []
    if not isinstance(xy, tuple | list) or len(xy) != 2:
        raise ValueError(f"xy: expected the pair (x, y) of the fit, got {xy!r}")
    y = as_arrays("y", xy[1])
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    curve = fit.predict(xy[0])
    for name, tree in (("y", y), ("x", curve)):
        if shapes(tree) != shapes(fit.residual):
            raise ValueError(
                f"xy: expected the x and y of the fit, whose y has shape "
                f"{shapes(fit.residual)}; this {name} gives {shapes(tree)}"
            )
    flat = lambda tree: np.asarray(ravel_pytree(tree)[0], float)
    y, curve, points = flat(y), flat(curve), int(fit.num_points)
    used = np.isfinite(y)
    # the fit does not hold its mask, but a residual of 0 at each point left out
    if used.sum() != points:
        used &= flat(fit.residual) != 0.0
    if used.sum() != points or points < 2:
        return []
    y, curve = y[used], curve[used]
    spread = max(float(np.sum((y - y.mean()) ** 2)), 1e-15)
    value = 1.0 - float(np.sum((y - curve) ** 2)) / spread
    return [f"    R-squared          = {_number(value).strip()}"]


def _warnings(rows: list[_Row], width: int) -> list[str]:
    varied = [row for row in rows if row.is_varied]
    if not any(np.isnan(row.error) for row in varied):
        return []
    lines = ["##  Warning: uncertainties could not be estimated:"]
    for row in varied:
        label = f"    {row.name + ':':<{width}}"
        if row.kind == ParamStatus.UNMOVED:
            lines.append(f"{label}  at initial value")
        if row.kind in AT_BOUND:
            lines.append(f"{label}  at boundary")
    return lines


def _correlations(fit, rows: list[_Row]) -> list[str]:
    if fit.covariance is None:
        return []
    matrix = np.asarray(fit.correlation)
    place = {name: j for j, name in enumerate(names_of(fit.params))}
    varied = [row.name for row in rows if row.is_varied]
    found = {}
    for one, other in itertools.combinations(varied, 2):
        value = float(matrix[place[one], place[other]])
        if abs(value) > CORRELATIONS_FROM:
            found[f"{one}, {other}"] = value
    if not found:
        return []
    title = f"[[Correlations]] (unreported correlations are < {CORRELATIONS_FROM:.3f})"
    width = max(map(len, found))
    # of two equal ones lmfit lists the later one first
    pairs = sorted(found.items(), key=lambda pair: abs(pair[1]))[::-1]
    lines = [f"    C({k}){' ' * (width - len(k))} = {c:+.4f}" for k, c in pairs]
    return [title, *lines]


def _with_error(value: float, error: float) -> str:
    text = _number(value)
    if np.isnan(error):
        return text
    share = f"({abs(error / value):.2%})" if value else ""
    return f"{text} +/-{_number(error)} {share}"


def _number(value: float) -> str:
    """Return a number in eleven characters with as many digits as fit, as lmfit does.

    The sign has a place of its own.
    """
    known = value != 0.0 and math.isfinite(value)
    exponent = int(math.log10(abs(value))) if known else 0
    digits, form = 4 - (abs(exponent) > 99), "e"
    if 0 < exponent < 8:
        digits, form = 8 - exponent, "f"
    elif -3 < exponent <= 0:
        digits, form = 8, "f"
    return f"{value:11.{digits}{form}}"
