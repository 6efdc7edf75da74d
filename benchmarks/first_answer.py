"""A whole process, from import to the answer, next to optimistix.

    python -m benchmarks.first_answer [--rounds 5]

10,000 decays of 50 points with 3 parameters, float32. lmjax returns parameters,
standard errors and statuses, optimistix parameters (its tolerances: 1e-6). Every
process starts anew, without a cache of compilations; they take turns. Beside the whole
time stand the parts of it: import, first call, and warm calls afterwards.
"""

import argparse
import json
import subprocess
import sys
from statistics import median

import jax

from benchmarks._report import save

COMMON = """
import json, sys, time
began = time.perf_counter()
import numpy as np, jax, jax.numpy as jnp
rng = np.random.default_rng(0)
N, m = 10_000, 50
t = np.linspace(0.0, 4.0, m).astype(np.float32)
a, k = rng.uniform(1, 5, (N, 1)), rng.uniform(0.3, 3, (N, 1))
c = rng.uniform(0, 1, (N, 1))
y = (a * np.exp(-k * t) + c + 0.1 * rng.standard_normal((N, m))).astype(np.float32)
start = np.float32([3.0, 1.0, 0.5])
def model(p, t): return p[0] * jnp.exp(-p[1] * t) + p[2]
"""
END = """
imported = time.perf_counter()
fit = jax.jit(jax.vmap(one))
jax.block_until_ready(fit(y))
first = time.perf_counter()
warm = []
for _ in range(5):
    s = time.perf_counter()
    jax.block_until_ready(fit(y))
    warm.append(time.perf_counter() - s)
times = {"import": imported - began, "first": first - imported, "warm": min(warm)}
print(json.dumps(times))
"""
PROGRAMS = {
    "lmjax": """
import lmjax
def one(y):
    fit = lmjax.curve_fit(model, t, y, start)
    return fit.params, fit.stderr, fit.status
""",
    "lmjax, with a guess": """
import lmjax
def one(y):
    fit = lmjax.curve_fit(lmjax.models.Exponential.guess(t, y), t, y)
    return fit.params, fit.stderr, fit.status
""",
    "lmjax, gradient": """
import lmjax
def one(y):
    return jax.grad(lambda y: lmjax.curve_fit(model, t, y, start).params[1])(y)
""",
    "lmjax, by XLA": """
import lmjax
solver = lmjax.LevenbergMarquardt(engine="xla")
def one(y):
    fit = lmjax.curve_fit(model, t, y, start, solver=solver)
    return fit.params, fit.stderr, fit.status
""",
    "optimistix": """
import optimistix
def one(y):
    solver = optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-6)
    residual = lambda p, y: model(p, t) - y
    p0 = jnp.asarray(start)
    return optimistix.least_squares(residual, solver, p0, args=y, throw=False).value
""",
}


def measure(program: str) -> dict[str, float]:
    """Return the seconds of a process."""
    code = COMMON + program + END
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    times = json.loads(out)
    return times | {"whole": times["import"] + times["first"]}


def main() -> None:
    """Time all programs in turns and keep the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            found[name].append(measure(program))
            print(name, {k: round(v, 3) for k, v in found[name][-1].items()})
    keys = ("import", "first", "whole", "warm")
    medians = {
        name: {key: median(run[key] for run in runs) for key in keys}
        for name, runs in found.items()
    }
    for name, row in medians.items():
        print(f"{name:22}", {key: round(value, 3) for key, value in row.items()})
    platform = jax.devices()[0].platform
    name = "first_answer" if platform == "cpu" else f"first_answer_{platform}"
    save(name, {"median_s": medians, "runs": found})


if __name__ == "__main__":
    main()
