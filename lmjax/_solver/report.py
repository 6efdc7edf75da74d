"""Plain-text reports, parameters by their pytree path."""

import jax
import numpy as np

from lmjax._jax.paths import parameter_names
from lmjax._solver import records
from lmjax._solver.settings import default_tolerances
from lmjax._solver.status import ParamStatus, Status

FEW_CURVES = 6  # of a global fit are listed one by one: they fit on a screen
CORRELATIONS_FROM = 0.1  # as in lmfit: weaker ones are rarely worth a line


def solution(sol) -> str:
    """Return the report of a `Solution` (or of a batch of them)."""
    if np.ndim(sol.status):
        return _batch(sol)
    lines = outcome(sol) + ["Parameters"]
    values = flat_of(sol.params)
    names = names_of(sol.params)
    for name, value, code in zip(
        names, values, np.asarray(sol.flat_status), strict=True
    ):
        remark = ParamStatus(int(code)).remark
        lines.append(f"    {name}  {value:.8g}" + (f"  ({remark})" if remark else ""))
    return "\n".join(lines + machinery(sol))


def curve_fit(fit) -> str:
    """Return the report of a `CurveFit` (or of a batch of them)."""
    if np.ndim(fit.status):
        return _batch(fit)
    lines = [
        *outcome(fit),
        *_statistics(fit),
        "Parameters",
        *_parameter_lines(fit, range(fit.flat_status.size)),
        *_tied_lines(fit),
        *_remarks(fit),
        *_correlation_lines(fit),
        *machinery(fit),
    ]
    return "\n".join(lines)


def global_fit(fit) -> str:
    """Return the report of a `GlobalFit` (or of a batch of them)."""
    if np.ndim(fit.status):
        return _batch(fit)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(records.numbers(fit.params))]
    flags = np.repeat(fit.shared, sizes)
    lines = [
        *outcome(fit),
        *_statistics(fit),
        "Shared parameters",
        *_parameter_lines(fit, np.flatnonzero(flags)),
        *_own_lines(fit),
        *_remarks(fit),
        *machinery(fit),
    ]
    return "\n".join(lines)


def _own_lines(fit):
    """Return all own parameters of a few curves, a summary of those of many."""
    curves = fit.residual.shape[0]
    if curves <= FEW_CURVES:
        sizes = [np.size(leaf) for leaf in jax.tree.leaves(records.numbers(fit.params))]
        lines = _parameter_lines(fit, np.flatnonzero(~np.repeat(fit.shared, sizes)))
        return [f"Parameters of {curves} curves", *lines]
    lines = [f"Parameters of {curves} curves: median [5 %, 95 %], median error"]
    values, errors = (
        records.columns(_own(fit, t), 1) for t in (fit.params, fit.stderr)
    )
    for name, error in errors.items():
        known = np.asarray(error)[~np.isnan(error)]
        middle = f", {np.median(known):.3g}" if known.size else ""
        lines.append(_percentiles(name, values[name]) + middle)
    return lines


def _own(fit, tree):
    leaves, structure = jax.tree.flatten(records.numbers(tree))
    own = [
        None if shared else leaf
        for leaf, shared in zip(leaves, fit.shared, strict=True)
    ]
    return jax.tree.unflatten(structure, own)


def _statistics(fit):
    held = int(fit.num_points) - int(fit.dof)
    return [
        "Statistics",
        f"    data points          {int(fit.num_points)}",
        f"    fitted parameters    {held}",
        *_misfit_lines(fit),
        f"    AIC                  {float(fit.aic):.8g}",
        f"    BIC                  {float(fit.bic):.8g}",
    ]


def _misfit_lines(fit):
    if fit.likelihood is None:
        return [
            f"    chi-square           {float(fit.chi2):.8g}",
            f"    reduced chi-square   {float(fit.reduced_chi2):.8g}",
        ]
    return [
        f"    likelihood           {fit.likelihood}",
        f"    deviance             {float(fit.deviance):.8g}",
        f"    Pearson chi-square   {float(fit.pearson_chi2):.8g}",
    ]


def _parameter_lines(fit, which):
    """Return a line for each of the flat parameters in ``which``."""
    names = names_of(fit.params)
    values, errors = flat_of(fit.params), flat_of(fit.stderr)
    width = max(len(names[j]) for j in which)
    lines = []
    for j in which:
        status = ParamStatus(int(fit.flat_status[j]))
        remark = f"  ({status.remark})" if status.remark else ""
        lines.append(f"    {names[j]:<{width}}  {_with_error(values[j], errors[j])}")
        lines[-1] += remark
    return lines


def _with_error(value, error):
    text = f"{value:.8g}"
    if not np.isnan(error):
        text += f" +/- {error:.3g}"
        text += f" ({100 * abs(error / value):.2f}%)" if value != 0 else ""
    return text


def _tied_lines(fit):
    found = tied_parameters(fit)
    width = max(map(len, found), default=0)
    lines = [
        f"    {name:<{width}}  {_with_error(*pair)}" for name, pair in found.items()
    ]
    return ["Tied parameters", *lines] if lines else []


def tied_parameters(fit) -> dict[str, tuple[float, float]]:
    """Return (value, error) by name of the parameters that are not free ones."""
    free = dict(zip(names_of(fit.params), flat_of(fit.params), strict=True))
    every = zip(
        names_of(fit.all_params),
        flat_of(fit.all_params),
        flat_of(fit.all_stderr),
        strict=True,
    )
    return {name: (v, error) for name, v, error in every if free.get(name) != v}


def _remarks(fit):
    lines = []
    if fit.rank is None:
        lines.append("    So many parameters get no errors: J^T J was not formed.")
    elif int(fit.rank) < int(fit.num_free):
        lines.append(
            f"    The data determine only {int(fit.rank)} combinations of the "
            f"{int(fit.num_free)} free parameters. Fix or bound some of those marked."
        )
    points, dof = int(fit.num_points), int(fit.dof)
    if dof < 0:
        lines.append(
            f"    There are fewer data points ({points}) than fitted parameters "
            f"({points - dof}): {_consequence(fit)}."
        )
    elif dof == 0 and not fit.absolute_sigma:
        lines.append("    No degrees of freedom are left: errors cannot be estimated.")
    return lines


def _consequence(fit):
    """Return what fewer points than parameters mean for the errors."""
    # a sigma that is known gives errors to what the points do determine
    if fit.absolute_sigma:
        return "not all parameters have errors"
    return "errors cannot be given"


def _correlation_lines(fit):
    if fit.covariance is None:
        return []
    names = names_of(fit.params)
    corr = np.asarray(fit.correlation)
    pairs = [
        (abs(corr[i, j]), f"    {names[i]}, {names[j]}  {corr[i, j]:+.3f}")
        for i in range(len(names))
        for j in range(i)
        if abs(corr[i, j]) >= CORRELATIONS_FROM
    ]
    pairs.sort(reverse=True)
    title = f"Correlations (from {CORRELATIONS_FROM} in size)"
    return [title, *(line for _, line in pairs)] if pairs else []


def outcome(sol) -> list[str]:
    """Return how a fit ended."""
    status = Status(int(sol.status))
    word = "converged" if status.success else "failed"
    lines = [
        f"Fit {word}: {status.name} after {int(sol.num_steps)} steps, "
        f"{int(sol.num_accepted)} accepted",
        f"    {status.advice}",
        f"    cost {float(sol.cost):.8g}, optimality {float(sol.optimality):.2g}",
    ]
    lines += [f"    {line}" for line in not_finite(sol)]
    if sol.start_projected is not None and bool(sol.start_projected):
        lines.append("    The start lay outside the bounds and was moved inside.")
    return lines


def not_finite(sol) -> list[str]:
    """Return what is not finite in one fit that could not start."""
    if Status(int(sol.status)) != Status.NONFINITE_START:
        return []
    values, names = flat_of(sol.params), names_of(sol.params)
    for name, value in zip(names, values, strict=True):
        if not np.isfinite(value):
            return [f"The start of {name} is {value}."]
    for path, leaf in jax.tree_util.tree_leaves_with_path(sol.residual):
        bad = ~np.isfinite(np.asarray(leaf))
        if bad.any():
            first = [int(i) for i in np.argwhere(bad)[0]]
            where = (
                "residual" + jax.tree_util.keystr(path) + (str(first) if first else "")
            )
            hint = ' (if y is NaN there, nan_policy="omit" leaves it out)'
            return [
                f"{int(bad.sum())} of {bad.size} residuals are not finite, the first "
                f"is {where}{hint if hasattr(sol, 'num_used') else ''}."
            ]
    return []


def machinery(sol) -> list[str]:
    """Return what solved it, and by which tolerances."""
    tolerances = default_tolerances(sol.cost.dtype) | (sol.tolerances or {})
    listed = ", ".join(
        f"{name} {float(value):.2g}" for name, value in tolerances.items()
    )
    return [
        "Solver",
        f"    {sol.linear_solver}, Jacobian {sol.jacobian}, {sol.cost.dtype}",
        f"    {listed} (0 = off), final damping {float(sol.damping):.2g}",
    ]


def _batch(sol):
    status = np.asarray(sol.status).ravel()
    lines = [f"{status.size} fits"]
    codes, counts = np.unique(status, return_counts=True)
    for code, count in sorted(
        zip(codes, counts, strict=True), key=lambda pair: -pair[1]
    ):
        share = 100 * count / status.size
        lines.append(f"    {Status(int(code)).name:<16}{count:>10}  {share:6.2f}%")
    good = np.asarray(sol.success)
    steps = np.asarray(sol.num_steps)
    lines.append(f"    steps: mean {steps.mean():.1f}, most {steps.max()}")
    few = int(np.sum(np.asarray(sol.dof) < 0)) if hasattr(sol, "dof") else 0
    if few:
        lines.append(
            f"    fewer data points than parameters: {few}, where {_consequence(sol)}"
        )
    lines.append("Parameters of converged fits: median [5 %, 95 %]")
    for name, values in records.columns(sol.params, good.ndim).items():
        if good.any():
            lines.append(_percentiles(name, np.asarray(values)[good]))
    return "\n".join(lines)


def _percentiles(name, values):
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"    {name}  {middle:.6g} [{low:.6g}, {high:.6g}]"


def names_of(params) -> list[str]:
    """Return one name per flat parameter, those of a callable model too."""
    return parameter_names(records.numbers(params))


def flat_of(params) -> np.ndarray:
    """Return the parameters in ravel order."""
    return np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(records.numbers(params))]
    )
