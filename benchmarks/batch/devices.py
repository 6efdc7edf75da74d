"""Several devices next to one: the batch sharded over a mesh axis named ``fits``.

Each case runs in a process of its own, held on as many cores as it has devices where
``taskset`` exists. On a machine with accelerators the devices are real, and nothing is
forced or held.

    python -m benchmarks.batch.devices COUNT FITS    one case, as JSON
"""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from benchmarks.batch import peers, workloads

FITS, QUICK_FITS, ROUNDS = 100_000, 2_000, 5


def run(quick: bool = False, say=print) -> dict:
    """Return the speed on one device and on two, and the ratio."""
    host = jax.devices()[0].platform == "cpu"
    fits = QUICK_FITS if quick else FITS
    rows = []
    for count in (1, 2):
        if not host and len(jax.devices()) < count:
            say(f"{count} devices: only {len(jax.devices())} here, left out")
            continue
        rows.append(_in_a_process(count, fits, host))
        say(f"{count} devices: {rows[-1]['fits_per_s']:,.0f} fits/s")
    results = {"fits": fits, "rows": rows}
    if len(rows) == 2:
        results["speedup"] = rows[1]["fits_per_s"] / rows[0]["fits_per_s"]
        say(f"speed-up {results['speedup']:.2f}")
    return results


def _in_a_process(count, fits, host):
    command = [sys.executable, "-m", "benchmarks.batch.devices", str(count), str(fits)]
    environment = dict(os.environ)
    if host:
        flags = environment.get("XLA_FLAGS", "")
        forced = f"--xla_force_host_platform_device_count={count}"
        environment["XLA_FLAGS"] = f"{flags} {forced}".strip()
        cores = sorted(os.sched_getaffinity(0))[:count]
        if shutil.which("taskset"):
            held = ",".join(map(str, cores))
            command = ["taskset", "-c", held, *command]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(count: int, fits: int) -> dict:
    """Fit the headline workload on the first ``count`` devices of this process."""
    load = workloads.headline(fits - fits % count)
    mesh = Mesh(np.array(jax.devices()[:count]), ("fits",))
    over = PartitionSpec("fits")
    tol = np.float32(load.ftol)

    def batch(y, start):
        one = lambda y, start: peers.fit_lmjax(
            load, load.max_steps, load.x, y, start, tol
        )
        return jax.vmap(one)(y, start)

    # Each shard has its own loop; without shard_map every step would wait for all.
    sharded = jax.jit(
        jax.shard_map(
            batch, mesh=mesh, in_specs=(over, over), out_specs=over, check_vma=False
        )
    )
    data = jax.device_put((load.y, load.start), jax.sharding.NamedSharding(mesh, over))
    jax.block_until_ready(sharded(*data))
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        jax.block_until_ready(sharded(*data))
        times.append(time.perf_counter() - started)
    return {
        "devices": count,
        "fits_per_s": float(load.fits / np.median(times)),
        "seconds": times,
    }


if __name__ == "__main__":
    print(json.dumps(measure_here(*map(int, sys.argv[1:]))))
