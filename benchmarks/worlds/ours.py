"""lmjax in a process of its own: ``python -m benchmarks.worlds.ours PROBLEM.npz``.

Reads one JSON request a line, answers with one: `__main__` says what is asked for.
"""

import time

BEGAN = time.perf_counter()  # before the imports: they are part of the first answer

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jax.monitoring  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import lmjax  # noqa: E402
from lmjax.io._camera import turn  # noqa: E402

SE2, SE3 = lmjax.manifolds.SE2(), lmjax.manifolds.SE3()
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "compile",
    "/jax/core/compile/backend_compile_duration": "compile",
}
spans: dict[str, list] = {"trace": [], "compile": []}


def reprojection(p, pixel):
    """Return the residual of one observation of a BAL problem."""
    return lmjax.io.project(p["cameras"], p["points"]) - pixel


def between(manifold):
    """Return the residual of one edge of a pose graph."""

    def residual(p, measured, root):
        seen = manifold.between(p["poses"][0], p["poses"][1])
        return root @ manifold.log(manifold.between(measured, seen))

    return residual


RESIDUALS = {2: between(SE2), 3: between(SE3)}


def bal(data):
    """Return blocks, start and keywords of a bundle adjustment."""
    at = {"cameras": data["camera_of"], "points": data["point_of"]}
    blocks = lmjax.ResidualBlocks(reprojection, at, (data["pixels"],))
    return blocks, {k: data[k] for k in ("cameras", "points")}, {}


def graph(data):
    """Return blocks, start and keywords of a pose graph; its first pose is fixed."""
    dimension = int(data["dimension"])
    # Some files have information that is singular to the last digit.
    value, axes = np.linalg.eigh(data["information"])
    root = np.sqrt(np.maximum(value, 0))[..., None] * axes.transpose(0, 2, 1)
    at = {"poses": np.stack([data["i"], data["j"]], 1)}
    args = (data["measurements"], root)
    blocks = lmjax.ResidualBlocks(RESIDUALS[dimension], at, args)
    fixed = data["fixed"] if data["fixed"].any() else np.arange(len(data["poses"])) < 1
    manifold = {"poses": SE2 if dimension == 2 else SE3}
    keywords = {"manifold": manifold, "fixed": {"poses": fixed[:, None]}}
    return blocks, {"poses": data["poses"]}, keywords


def settings(request):
    """Return the solver that a request names: the default, except for what it says."""
    words = dict(request.get("solver", {}))
    if "initial" in words:
        words["damping"] = lmjax.Nielsen(initial=words.pop("initial"))
    return lmjax.LevenbergMarquardt(**words)


def single(data):
    """Return a function that answers requests about one problem."""
    blocks, start, keywords = (bal if data["kind"] == "bal" else graph)(data)

    def solve(request):
        solver = settings(request)
        began = time.perf_counter()
        fit = lmjax.least_squares(blocks, start, solver=solver, **keywords)
        jax.block_until_ready(fit)
        seconds = time.perf_counter() - began
        answer = {
            "seconds": seconds,
            "initial": float(fit.initial_cost),
            "cost": float(fit.cost),
            "steps": int(fit.num_steps),
            "accepted": int(fit.num_accepted),
            "status": lmjax.Status(int(fit.status)).name,
        }
        if fit.history is not None:
            answer["costs"] = np.asarray(fit.history.cost)[: answer["steps"]].tolist()
        return answer, fit.params

    return solve


def many(data):
    """Return a function that solves all small problems at once."""
    n, _, k, _ = data["pixels"].shape
    focal = float(data["focal"])
    at = {"poses": np.repeat([0, 1], k), "points": np.tile(np.arange(k), 2)}
    fixed = {"poses": np.array([[True], [False]])}

    def residual(p, pixel):
        x = turn(p["poses"][:3], p["points"]) + p["poses"][3:]
        return -focal * x[:2] / x[2] - pixel

    @jax.jit
    @jax.vmap
    def fit_all(poses, points, pixels):
        blocks = lmjax.ResidualBlocks(residual, at, (pixels.reshape(-1, 2),))
        start = {"poses": poses, "points": points}
        fit = lmjax.least_squares(blocks, start, fixed=fixed)
        return fit.params, fit.cost, fit.initial_cost, fit.status, fit.num_steps

    def solve(request):
        del request
        began = time.perf_counter()
        arrays = (data[key] for key in ("poses", "points", "pixels"))
        result = jax.block_until_ready(fit_all(*arrays))
        seconds = time.perf_counter() - began
        params, cost, initial, status, steps = jax.tree.map(np.asarray, result)
        names, counts = np.unique(status, return_counts=True)
        answer = {
            "seconds": seconds,
            "initial": float(initial.sum()),
            "cost": float(cost.sum()),
            "each": cost.tolist(),
            "steps": float(steps.mean()),
            "status": {
                lmjax.Status(int(s)).name: int(c)
                for s, c in zip(names, counts, strict=True)
            },
        }
        return answer, params

    return solve


def union(intervals):
    """Return how long any of some intervals lasted."""
    total, end = 0.0, -np.inf
    for low, high in sorted(intervals):
        total += max(0.0, high - max(low, end))
        end = max(end, high)
    return total


def peak_mb():
    """Return the most memory that this process has had, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(peak) / 1024)


def listen(event, seconds, **_):
    """Note when jax traced or compiled."""
    if event in STAGES:
        now = time.perf_counter()
        spans[STAGES[event]].append((now - seconds, now))


def main():
    """Answer requests until there are no more."""
    jax.config.update("jax_enable_x64", True)
    jax.monitoring.register_event_duration_secs_listener(listen)
    with np.load(sys.argv[1]) as file:
        data = {key: file[key] for key in file.files}
    jax.block_until_ready(jnp.zeros(3) + 1)  # jax itself has started
    ready = {"import": time.perf_counter() - BEGAN, "peak_mb": peak_mb()}
    solve = many(data) if data["kind"] == "small" else single(data)
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        for stage in spans.values():
            stage.clear()
        request = json.loads(line)
        try:
            answer, params = solve(request)
        except Exception as error:  # whatever it is goes into the table
            print(json.dumps({"error": repr(error)[:200]}), flush=True)
            continue
        compiled = union(spans["compile"])
        answer["compile"] = compiled
        answer["trace"] = union(spans["trace"] + spans["compile"]) - compiled
        answer["peak_mb"] = peak_mb()
        if "write" in request:
            np.savez(request["write"], **params)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
