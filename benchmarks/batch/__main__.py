"""Batch fitting: lmjax next to its peers at equal final cost.

    python -m benchmarks.batch                 all workloads and peers
    python -m benchmarks.batch --quick         a few hundred fits of each, not saved
    python -m benchmarks.batch --growth        10^4 to 10^6 fits
    python -m benchmarks.batch --devices       two host devices next to one
    python -m benchmarks.batch --engines       the engines next to each other
    python -m benchmarks.batch --show          tables of the saved results

See README.md next to this file for what is measured and how.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import jax

from benchmarks._report import RESULTS, save
from benchmarks.batch import catalogue, devices, engines, growth, outside, peers, show
from benchmarks.batch.run import run

ROUNDS, QUICK_ROUNDS, QUICK_FITS = 7, 2, 300
PEERS = {
    "lmjax": (peers.LMJAX, "lmjax"),
    "lmjax-xla": (peers.XLA, "lmjax"),
    "optimistix": (peers.OPTIMISTIX, "optimistix"),
    "jaxopt": (peers.JAXOPT, "jaxopt"),
    "scipy": (outside.SCIPY, "scipy"),
}
USUAL = [name for name in PEERS if name != "lmjax-xla"]


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workload", nargs="+", choices=catalogue.NAMES, default=catalogue.NAMES)
    add("--peers", nargs="+", choices=list(PEERS), default=USUAL)
    add("--fits", type=int, help="fits per workload instead of its own number")
    add("--rounds", type=int, help=f"timed rounds (default {ROUNDS})")
    add("--data", type=Path, help="folder with data that do not ship")
    add("--cpufit", type=Path, help="shared library of Cpufit, to be a peer too")
    add("--quick", action="store_true", help="few fits and rounds; does not save")
    add("--save", metavar="NAME", help="save a run of part of the workloads, too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--growth", action="store_true")
    what.add_argument("--devices", action="store_true")
    what.add_argument("--engines", action="store_true")
    what.add_argument("--show", action="store_true")
    return parser


def chosen_peers(options) -> list[peers.Peer]:
    """Return the peers asked for that are installed, lmjax first."""
    found = [peers.LMJAX]
    for name in options.peers:
        peer, package = PEERS[name]
        if peer in found:
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{name}: not installed, left out")
            continue
        found.append(peer)
    return found + ([outside.cpufit(options.cpufit)] if options.cpufit else [])


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = arguments().parse_args(argv)
    platform = jax.devices()[0].platform
    if options.show:
        saved = json.loads((RESULTS / f"batch_{platform}.json").read_text())
        print(show.markdown(saved["workloads"]))
        return 0
    for part in (growth, devices, engines):
        name = part.__name__.rpartition(".")[2]
        if getattr(options, name):
            results = part.run(options.quick)
            if not options.quick:
                print("saved", save(f"batch_{name}_{platform}", results).name)
            return 0
    fits = options.fits or (QUICK_FITS if options.quick else None)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    results = {}
    for name in options.workload:
        workload = catalogue.load(name, fits, options.data)
        if workload is None:
            print(f"{name}: its data do not ship, left out (see --data)\n")
            continue
        results[name] = run(workload, chosen_peers(options), rounds)
        print(show.markdown({name: results[name]}), end="\n\n", flush=True)
    whole = options.workload == catalogue.NAMES and not options.quick
    name = options.save or (f"batch_{platform}" if whole else None)
    if name is not None:
        content = {"command": sys.argv[1:], "rounds": rounds, "workloads": results}
        print("saved", save(name, content).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
