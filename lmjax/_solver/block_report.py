"""The report of a fit of `ResidualBlocks`."""

import jax
import numpy as np

from lmjax._solver import report
from lmjax._solver.status import ParamStatus


def text(sol) -> str:
    """Return what was solved, how, and what came of it."""
    summary = sol.summary
    unknowns = sum(rows * size for _, rows, size in summary.leaves)
    residuals = sum(blocks * outputs for blocks, outputs in summary.groups)
    before, after = float(sol.initial_cost), float(sol.cost)
    outcome = report.outcome(sol)
    lines = [
        *outcome[:2],
        f"    cost {before:.8g} -> {after:.8g}",
        f"    rms residual {_rms(before, residuals)} -> {_rms(after, residuals)}",
        *outcome[3:],
        f"Problem: {unknowns:,} unknowns, {residuals:,} residuals",
        *_leaf_lines(sol),
    ]
    parts = sol.residual if isinstance(sol.residual, list) else [sol.residual]
    for (blocks, outputs), part in zip(summary.groups, parts, strict=True):
        largest = np.max(np.abs(np.asarray(part)), initial=0.0)
        lines.append(
            f"    {blocks:,} blocks of {outputs} residuals, the largest {largest:.3g}"
        )
    lines += [
        "Solver",
        f"    asked for {summary.asked or 'none'}, used {summary.method}",
    ]
    if summary.eliminated is not None:
        lines.append(
            f"    eliminated {summary.eliminated}: a reduced system of "
            f"{summary.reduced:,} unknowns is left"
        )
    return "\n".join([*lines, *report.machinery(sol)[1:]])


def _rms(cost: float, residuals: int) -> str:
    """Return the root mean square; with a robust loss that of what it leaves."""
    return f"{np.sqrt(2.0 * cost / max(residuals, 1)):.4g}"


def _leaf_lines(sol) -> list[str]:
    """Return a line per leaf: its size, and what became of its rows."""
    lines = []
    leaves = jax.tree.leaves(sol.param_status)
    for (name, rows, size), codes in zip(sol.summary.leaves, leaves, strict=True):
        codes = np.asarray(codes).reshape(rows, -1)
        remarks = []
        for status in (ParamStatus.FIXED, ParamStatus.IDLE):
            count = int(np.sum(np.all(codes == status, axis=1)))
            if count:
                remarks.append(f"{count:,} {status.remark.split(',')[0]}")
        held = np.isin(codes, (ParamStatus.AT_LOWER, ParamStatus.AT_UPPER))
        if held.any():
            remarks.append(f"{int(held.sum()):,} values at a bound")
        remark = f" ({'; '.join(remarks)})" if remarks else ""
        lines.append(f"    {name}: {rows:,} rows of {size} unknowns{remark}")
    return lines
