"""Accuracy on problems with known answers, next to SciPy and optimistix.

    python -m benchmarks.accuracy            float64: NIST, Moré-Garbow-Hillstrom, units
    python -m benchmarks.accuracy --float32  NIST in float32, x64 off
    ... --nist FILE                          another file in the form of data/nist.json

Every solver runs with exact Jacobians. lmjax runs with its defaults; the others at the
tolerances given below, which is where they do best.
"""

import argparse
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from benchmarks import mgh, nist
from benchmarks._report import save


def fit_lmjax(problem, start):
    """Return (params, stderr, claims success) of lmjax with default settings."""
    fit = lmjax.curve_fit(problem.model, problem.x, problem.y, jnp.asarray(start))
    return np.asarray(fit.params), np.asarray(fit.stderr), bool(fit.success)


def fit_scipy(method):
    """Return a function like `fit_lmjax` for one of SciPy's methods."""
    from scipy.optimize import least_squares

    def fit(problem, start):
        residual = jax.jit(lambda p: problem.model(p, problem.x) - problem.y)
        jac = jax.jit(jax.jacfwd(residual))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                result = least_squares(
                    lambda p: np.asarray(residual(p)),
                    start,
                    lambda p: np.asarray(jac(p)),
                    method=method,
                    x_scale="jac",
                    ftol=1e-15,
                    xtol=1e-15,
                    gtol=1e-15,
                    max_nfev=10_000,
                )
            except ValueError:  # non-finite start or Jacobian
                return start, np.full_like(start, np.nan), False
        return result.x, np.full_like(start, np.nan), bool(result.success)

    return fit


def fit_optimistix(problem, start):
    """Return (params, nan, claims success) of optimistix' LevenbergMarquardt."""
    import optimistix as optx

    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    tol = 1e-13 if eps < 1e-10 else 1e-6
    solver = optx.LevenbergMarquardt(rtol=tol, atol=tol)
    solution = optx.least_squares(
        lambda p, args: problem.model(p, problem.x) - problem.y,
        solver,
        jnp.asarray(start),
        max_steps=10_000,
        throw=False,
    )
    params = np.asarray(solution.value)
    success = bool(solution.result == optx.RESULTS.successful)
    return params, np.full_like(params, np.nan), success


def run_nist(problems, fit):
    """Fit every problem from both starts."""
    rows = []
    for problem in problems:
        for number, start in enumerate(problem.starts, 1):
            params, stderr, success = fit(problem, start)
            rows.append(
                {
                    "problem": f"{problem.name} {number}",
                    "digits": nist.digits(params, problem.params),
                    "stderr_digits": nist.digits(stderr, problem.stderr),
                    "excess": nist.excess(problem, params),
                    "success": success,
                }
            )
    return rows


def run_mgh():
    """Run every Moré-Garbow-Hillstrom problem from x1, x10 and x100."""
    rows = []
    for problem in mgh.PROBLEMS:
        for factor in (1, 10, 100):
            start = jnp.asarray(problem.scaled(factor))
            sol = lmjax.least_squares(problem.residual, start)
            rows.append(
                {
                    "problem": f"{problem.name} x{factor}",
                    "sum_of_squares": 2 * float(sol.cost),
                    "minimum": mgh.which_minimum(problem, 2 * float(sol.cost)),
                    "status": lmjax.Status(int(sol.status)).name,
                    "steps": int(sol.num_steps),
                }
            )
    return rows


def run_units(problem, powers=range(-8, 9)):
    """Scale parameters, then residuals, by powers of ten; compare with no scaling."""

    def residual(q, param_unit, residual_unit):
        return (problem.model(q * param_unit, problem.x) - problem.y) * residual_unit

    def solve(*units):
        start = jnp.asarray(problem.starts[1] / units[0])
        sol = lmjax.least_squares(residual, start, units)
        return int(sol.num_steps), np.asarray(sol.params) * units[0]

    steps, params = solve(1.0, 1.0)
    same, worst = True, 0.0
    for power in powers:
        for units in ((10.0**power, 1.0), (1.0, 10.0**power)):
            other_steps, other = solve(*units)
            same &= other_steps == steps
            worst = max(worst, float(np.max(np.abs(other / params - 1))))
    return {"problem": problem.name, "same_steps": same, "worst_difference": worst}


def summary(rows):
    """Return the figures of merit of NIST runs."""
    lre = np.array([row["digits"] for row in rows])
    within = np.array([row["excess"] <= 0.01 for row in rows])
    success = np.array([row["success"] for row in rows])
    return {
        "runs": len(rows),
        "at_least_6_digits": int(np.sum(lre >= 6)),
        "at_least_8_digits": int(np.sum(lre >= 8)),
        "mean_digits": float(lre.mean()),
        "worst_digits": float(lre.min()),
        "within_a_tenth_of_an_error": int(within.sum()),
        "false_success": [
            row["problem"]
            for row, inside, ok in zip(rows, within, success, strict=True)
            if ok and not inside
        ],
    }


def main():
    """Run and print the tables; save them under results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--nist", type=Path, default=None)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", not options.float32)
    problems = nist.load(options.nist)
    fits = {"lmjax": fit_lmjax}
    if options.peers:
        fits["optimistix"] = fit_optimistix
        if not options.float32:
            fits |= {"scipy lm": fit_scipy("lm"), "scipy trf": fit_scipy("trf")}
    results = {"nist": {}, "nist_runs": {}}
    for name, fit in fits.items():
        rows = run_nist(problems, fit)
        results["nist_runs"][name] = rows
        results["nist"][name] = figures = summary(rows)
        print(
            f"{name:<12} {figures['runs']} runs; digits >= 6: "
            f"{figures['at_least_6_digits']}, >= 8: {figures['at_least_8_digits']}, "
            f"mean {figures['mean_digits']:.2f}, worst {figures['worst_digits']:.2f}; "
            f"within a tenth of an error: {figures['within_a_tenth_of_an_error']}; "
            f"false success: {', '.join(figures['false_success']) or 'none'}"
        )
    errors = [row["stderr_digits"] for row in results["nist_runs"]["lmjax"]]
    print(f"standard errors of lmjax: worst {min(errors):.2f} digits")
    if not options.float32:
        results["mgh"] = rows = run_mgh()
        found = [row["minimum"] for row in rows]
        print(
            f"Moré-Garbow-Hillstrom: {found.count(0)} of {len(found)} runs at the "
            f"global minimum, {sum(f is not None for f in found)} at a known one"
        )
        for row in rows:
            if row["minimum"] != 0:
                print(
                    f"    {row['problem']}: {row['sum_of_squares']:.7g} {row['status']}"
                )
        results["units"] = [run_units(problem) for problem in problems]
        for row in results["units"]:
            print(f"units {row}")
    print(
        "saved",
        save("accuracy_float32" if options.float32 else "accuracy", results).name,
    )


if __name__ == "__main__":
    main()
