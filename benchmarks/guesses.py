"""How often does a model's own start lead to the best known minimum?

    python -m benchmarks.guesses --data FOLDER [--only NAME,NAME] [--curves MOST]
        [--save [NAME]]

FOLDER holds measured curves; `benchmarks._curves` names files and arrays, and what is
missing is left out. Every curve is fitted by ``lmjax.curve_fit`` from ``Model.guess``
alone, as a batch with default settings, in float64 and in float32. The best known
minimum is the lowest sum of squares that these fits and MINPACK (SciPy's
``least_squares``, float64, scaled by the Jacobian, tolerances of 1e-12) reach. The
latter starts from

- our guess and our answer, and random changes of the answer;
- starts that know nothing of our guess;
- the answer with signs turned (a slope, a rate) and other asymmetries, the linear
  parameters solved anew.

Counted is, by excess of the sum of squares over the best: at most 1e-6 and at most 1 %.
A fit that claims success 1e-4 or more above the best is "silently worse". Curves of
counts are fitted by maximum likelihood, too: "no_start" counts guesses whose likelihood
is zero.
"""

import argparse
import dataclasses
import itertools
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares

import lmjax
from benchmarks._curves import Case, cases
from benchmarks._report import save

jax.config.update("jax_enable_x64", True)

RANDOM_STARTS = 2
SEED = 7
SILENT = 1e-4  # far below one standard error
# Share of the sum of y^2 that is no misfit, in float64 and in float32: residuals of
# 1e-10 of the data (a curve through all points, in the limit of an infinite rate) and
# of a rounding.
ROUNDING = np.array([1e-20, np.finfo(np.float32).eps ** 2])


class Fits(NamedTuple):
    """What a batch of fits from the guess returned, one row per curve."""

    guess: np.ndarray
    answer: np.ndarray
    status: np.ndarray


class Curve:
    """One curve: residual and Jacobian in NumPy, MINPACK's descent from a start."""

    def __init__(self, evaluate, case: Case, x, y):
        self.evaluate, self.x, self.y, self.case = evaluate, x, y, case
        self.fields = [field.name for field in dataclasses.fields(case.model)]
        self.latest = (None, None)

    def __call__(self, p):
        """Return (residual, Jacobian); MINPACK asks for both at the same point."""
        key = p.tobytes()
        if self.latest[0] != key:
            self.latest = key, jax.device_get(self.evaluate(p, self.x, self.y))
        return self.latest[1]

    def cost(self, p):
        """Return the sum of squares."""
        return float(np.sum(self(np.asarray(p, float))[0] ** 2))

    def descend(self, start):
        """Return the sum of squares at the end of a descent, infinite if it fails."""
        if not np.isfinite(self(start)[0]).all():
            return np.inf
        tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-12)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                found = least_squares(
                    lambda p: self(p)[0],
                    start,
                    lambda p: self(p)[1],
                    method="lm",
                    x_scale="jac",
                    max_nfev=500,
                    **tolerances,
                )
            except (ValueError, np.linalg.LinAlgError):
                return np.inf
        at = dict(zip(self.fields, found.x, strict=True))
        other = any(at[name] < 0.0 for name in self.case.positive)
        return np.inf if other or not np.isfinite(found.cost) else 2.0 * found.cost

    def mirrored(self, p):
        """Yield the parameters with signs turned and others tried."""
        signs = [((name, 1.0), (name, -1.0)) for name in self.case.mirrors]
        values = [[(n, v) for v in values] for n, values in self.case.also.items()]
        for change in itertools.product(*signs, *values):
            q = dict(zip(self.fields, p, strict=True))
            for name, value in change:
                q[name] = q[name] * value if name in self.case.mirrors else value
            yield self.solved(np.array(list(q.values())))

    def solved(self, p):
        """Return the parameters with the linear ones at their best."""
        linear = [self.fields.index(name) for name in self.case.linear]
        r, jac = self(p)
        if np.isfinite(r).all() and np.isfinite(jac).all():
            p = p.copy()
            p[linear] -= np.linalg.lstsq(jac[:, linear], r, rcond=1e-10)[0]
        return p


@cache
def fitter(model: type, x_batched: bool, likelihood: str | None):
    """Return the compiled batch of fits from the guess."""

    def fit_one(x, y):
        guess = model.guess(x, y)
        fit = lmjax.curve_fit(guess, x, y, nan_policy="omit", likelihood=likelihood)
        return ravel_pytree(guess)[0], ravel_pytree(fit.params)[0], fit.status

    return jax.jit(jax.vmap(fit_one, (0 if x_batched else None, 0)))


def fit_all(case: Case, x, y, dtype=float, likelihood=None) -> Fits:
    """Fit every curve from its guess."""
    x = jax.tree.map(lambda v: jnp.asarray(v, dtype), x)
    fits = fitter(case.model, case.x_batched, likelihood)
    guess, answer, status = jax.device_get(fits(x, jnp.asarray(y, dtype)))
    return Fits(guess.astype(float), answer.astype(float), status)


@cache
def evaluator(model: type):
    """Return the compiled residual and Jacobian of flat parameters."""
    zeros = model(*(jnp.asarray(0.0) for _ in dataclasses.fields(model)))
    unravel = ravel_pytree(zeros)[1]

    def residual(p, x, y):
        r = unravel(p)(x) - y
        return jnp.where(jnp.isnan(y), 0.0, r).ravel()

    jac = jax.jacfwd(residual)
    return jax.jit(lambda *args: (residual(*args), jac(*args)))


def judge(case: Case, x, y, fits: list[Fits]) -> np.ndarray:
    """Return the excess over the best known sum of squares: (fits, curves).

    The fits are one in float64 and one in float32.
    """
    evaluate = evaluator(case.model)
    rng = np.random.default_rng(SEED)
    excess = np.empty((len(fits), len(y)))
    for i in range(len(y)):
        pick = jax.tree.map(lambda v: v[i], x) if case.x_batched else x  # noqa: B023
        curve = Curve(evaluate, case, pick, y[i])
        answer = fits[0].answer[i]
        noise = rng.normal(0.0, 0.5, (RANDOM_STARTS, answer.size))
        starts = [answer, fits[0].guess[i], *(answer * np.exp(noise))]
        starts += [np.asarray(start, float) for start in case.naive(pick, y[i])]
        starts += curve.mirrored(answer)
        costs = [curve.cost(fit.answer[i]) for fit in fits]
        best = min(*costs, *(curve.descend(start) for start in starts))
        above = np.array(costs) - best
        # a curve that passes through all points is as good as rounding lets it be
        above[above <= ROUNDING * np.nansum(y[i] ** 2)] = 0.0
        excess[:, i] = above / max(best, np.finfo(float).tiny)
    return np.nan_to_num(excess, nan=np.inf)


def summary(excess: np.ndarray, status: np.ndarray) -> dict:
    """Return the counts of one batch."""
    return {
        "converged": int(np.sum(status > 0)),
        "within_1e-6": int(np.sum(excess <= 1e-6)),
        "within_1_percent": int(np.sum(excess <= 1e-2)),
        "worst_excess": float(np.max(excess)),
        "silently_worse": int(np.sum((excess > SILENT) & (status > 0))),
        "silently_worse_1_percent": int(np.sum((excess > 1e-2) & (status > 0))),
        "missed": [int(i) for i in np.flatnonzero(excess > 1e-2)[:20]],
    }


def run(case: Case, curves: int | None) -> dict:
    """Fit a case and compare with the best known."""
    chosen = np.arange(len(case.y))
    if curves is not None:
        chosen = np.unique(np.linspace(0, len(case.y) - 1, curves).astype(int))
    y = np.asarray(case.y[chosen], float)
    x = jax.tree.map(lambda v: v[chosen], case.x) if case.x_batched else case.x
    fits = [fit_all(case, x, y, dtype) for dtype in (np.float64, np.float32)]
    double, single = judge(case, x, y, fits)
    found = {"model": case.model.__name__, "curves": len(y)}
    found["float64"] = summary(double, fits[0].status)
    found["float32"] = summary(single, fits[1].status)
    if case.counts:
        status = fit_all(case, x, y, likelihood="poisson").status
        no_start = np.sum(status == lmjax.Status.NONFINITE_START)
        found["poisson"] = {
            "converged": int(np.sum(status > 0)),
            "no_start": int(no_start),
        }
    return found


def main():
    """Run every case, print a table, save the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of curves")
    parser.add_argument("--curves", type=int, help="most curves per set (default: all)")
    parser.add_argument(
        "--only", default="", help="sets whose name contains one of these"
    )
    parser.add_argument(
        "--save", nargs="?", const="guesses", help="write results/NAME.json"
    )
    options = parser.parse_args()
    results = {}
    head = ("set", "dtype", "curves", "converged", "1e-6", "1 %", "silent", "worst")
    print("{:<26}{:<9}{:>8}{:>11}{:>8}{:>8}{:>8}{:>10}".format(*head))
    for case in cases(options.data):
        if not any(part in case.name for part in options.only.split(",")):
            continue
        found = results[case.name] = run(case, options.curves)
        for dtype in ("float64", "float32"):
            s = found[dtype]
            print(
                f"{case.name:<26}{dtype:<9}{found['curves']:>8}{s['converged']:>11}"
                f"{s['within_1e-6']:>8}{s['within_1_percent']:>8}"
                f"{s['silently_worse']:>8}{s['worst_excess']:>10.1e}",
                found.get("poisson", "") if dtype == "float64" else "",
                flush=True,
            )
    if options.save:
        print(save(options.save, {"silent": SILENT, "sets": results}))


if __name__ == "__main__":
    main()
