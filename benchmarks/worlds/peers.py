"""A peer in a process of its own: ``PYTHON -m benchmarks.worlds.peers NAME FILE.npz``.

Runs in the peers' environment, without lmjax. Requests and answers as in `ours.py`.
"""

import time

BEGAN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402


def start(name, data):
    """Return a peer."""
    if name == "ceres":
        from benchmarks.worlds.peer_ceres import Ceres

        return Ceres(data)
    from benchmarks.worlds.peer_gtsam import Gtsam

    return Gtsam(data, name == "gtsam, own settings")


def peak_mb():
    """Return the most memory that this process has had, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(peak) / 1024)


def main():
    """Answer requests until there are no more."""
    name, path = sys.argv[1:]
    with np.load(path) as file:
        data = {key: file[key] for key in file.files}
    peer = start(name, data)
    whole = time.perf_counter() - BEGAN
    ready = {"import": whole - peer.build, "build": peer.build, "peak_mb": peak_mb()}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = peer.solve(request)
        answer["peak_mb"] = peak_mb()
        if "write" in request:
            np.savez(request["write"], **peer.params())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
