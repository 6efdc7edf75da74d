"""Tables of bundle adjustments and pose graphs, and which bars are met."""

from collections.abc import Iterator

from benchmarks._report import prose
from benchmarks.worlds.bars import fastest_peer, near, own_count, peers_of

SMALL = ("lmjax", "gtsam")
PEERS = {
    "bal": ("gtsam", "ceres"),
    "graph": ("gtsam", "gtsam, own settings"),
}
HEADS = {
    "bal": ("gtsam", "Ceres"),
    "graph": ("gtsam, Ceres' settings", "gtsam, its own"),
}


def tables(content: dict) -> Iterator[str]:
    """Return the lines of both tables, and of what is said under them."""
    for kind, title in (("bal", "bundle adjustment"), ("graph", "pose graph")):
        solvers = ("lmjax", *HEADS[kind])
        heads = [f"seconds: {title}", "best cost", "first answer", *solvers]
        yield "| " + " | ".join([*heads, "ratio"]) + " |"
        yield "|---" * (len(heads) + 1) + "|"
        for name, result in content["problems"].items():
            if result["kind"] == kind:
                yield row(name, result)
        yield ""
    yield prose(sentences(content))
    yield ""


def row(name: str, result: dict) -> str:
    """Return the line of one problem."""
    rows = result["solvers"]
    # chi2, which pose graphs are known by, is twice the cost.
    best = result["best"] * (2 if result["kind"] == "graph" else 1)
    first = f"{rows['lmjax']['first_s']['whole']:.1f}"
    solvers = ("lmjax", *PEERS[result["kind"]])
    cells = [f"{best:.8g}", first, *(cell(rows.get(s), result) for s in solvers)]
    return f"| {name} | " + " | ".join([*cells, ratios(result)]) + " |"


def cell(row: dict | None, result: dict) -> str:
    """Return the time to reach the best cost, of the whole, and the steps."""
    if row is None:
        return "-"
    whole = row["warm_s"]["median"]
    if not near(row, result):
        over = row["cost"] / result["best"]
        return f"not reached ({over:.4g} times the cost after {whole:.3g})"
    mark = "\\*" if own_count(row) else ""
    return f"{row['reach_s']['median']:.3g} in {row['reach_steps']} ({whole:.3g}){mark}"


def ratios(result: dict) -> str:
    """Return our time over that of the fastest peer, to the best and of the whole."""
    ours = result["solvers"]["lmjax"]
    if not near(ours, result) or not peers_of(result):
        return "-"
    parts = []
    for key in ("reach_s", "warm_s"):
        peer = fastest_peer(result, key)
        parts.append(f"{ours[key]['median'] / peer:.2f}" if peer else "-")
    return f"{parts[0]} ({parts[1]})"


def sentences(content: dict) -> str:
    """Return what the tables do not hold."""
    found = content["problems"]
    loads = [result["load"] for result in found.values() if "load" in result]
    text = """Time until the cost was within 1e-4 of the best that anybody found, the
        steps of it, and in brackets the time of the whole, warm, medians; the ratio is
        that of lmjax to the fastest peer that got there. All start at the same cost, in
        float64. For pose graphs chi2 stands in place of the cost. gtsam and Ceres leave
        out what is behind a camera: "in front" is without such observations, and with
        them lmjax is alone. A star: by the peer's own cost, which left out what went
        behind a camera on the way; by the whole cost it did not get there."""
    if loads:
        cores = content["environment"]["cores"]
        text += f""" The problems were measured in several runs, one to three times
        each, on a shared machine: its load, where noted, was {min(loads):.1f} to
        {max(loads):.1f} on {cores} cores, other work of ours included. Times are not
        those of a quiet machine, and ratios near 1 decide nothing."""
    if small := found.get("1000 small ones"):
        ours, peer = (small["solvers"][k]["warm_s"]["median"] for k in SMALL)
        text += f""" A thousand bundle adjustments of 2 cameras and 20 points under one
        `vmap` take {ours:.2f} s, a loop of gtsam over them {peer:.2f} s."""
    if large := found.get("1000 cameras"):
        megabytes = large["solvers"]["lmjax"]["solver_peak_mb"]
        text += f""" With {large["sizes"]["observations"]:,} observations the process
        of lmjax takes {megabytes / 1000:.1f} GB."""
    for name, why in content["refused"].items():
        text += f" {name} is left out, line {why}."
    return text
