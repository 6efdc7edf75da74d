"""Which bars the results meet: ``python -m benchmarks.worlds.bars``."""

from benchmarks._report import load

LADYBUG, STEP, MOST = "problem-49-7776", 30, 13_345.0


def peers_of(result: dict) -> dict:
    """Return what others did."""
    return {k: row for k, row in result["solvers"].items() if k != "lmjax"}


def near(row: dict, result: dict) -> bool:
    """Return whether a solver came within 1e-4 of the best cost.

    A peer's own count is taken, too: it leaves out what went behind a camera, which
    makes its cost lower, and its time must not be lost from the comparison.
    """
    cost = min(row["cost"], row.get("claimed_cost", row["cost"]))
    return row["reach_s"] is not None and cost <= result["best"] * (1 + 1e-4)


def own_count(row: dict) -> bool:
    """Return whether a solver's cost is not that of the whole problem."""
    return abs(row.get("claimed_cost", row["cost"]) / row["cost"] - 1) > 1e-6


def fastest_peer(result: dict, key: str) -> float | None:
    """Return the median time of the fastest peer that reached the best cost."""
    rows = peers_of(result).values()
    return min((r[key]["median"] for r in rows if near(r, result)), default=None)


def bars(content: dict) -> dict[str, dict[str, bool]]:
    """Return for each bar whether each problem meets it."""
    found: dict[str, dict[str, bool]] = {}

    def note(bar, name, met):
        found.setdefault(bar, {})[name] = bool(met)

    for name, result in content["problems"].items():
        ours = result["solvers"]["lmjax"]
        note("first answer under 5 s", name, ours["first_s"]["whole"] < 5)
        if result["kind"] == "bal":
            _of_bal(note, name, result, ours)
        elif result["kind"] == "graph":
            _of_graph(note, name, result, ours)
        else:
            peer = result["solvers"].get("gtsam")
            if peer:
                ratio = peer["warm_s"]["median"] / ours["warm_s"]["median"]
                note("20 times as fast as a loop of gtsam", name, ratio >= 20)
    return found


def _of_bal(note, name, result, ours):
    note("within 1e-4 of the best in 50 steps", name, near(ours, result))
    note("memory below 4 GB", name, ours["solver_peak_mb"] < 4000)
    if name == LADYBUG:
        note(f"below {MOST:,} at step {STEP}", name, ours["costs"][STEP - 1] < MOST)
    for peer, row in peers_of(result).items():
        if near(row, result):
            _times(note, name, ours, row, "reach_s", peer, result, (1.0, 0.5))


def _of_graph(note, name, result, ours):
    rows = {k: r for k, r in peers_of(result).items() if near(r, result)}
    if rows:
        note("best chi2 wherever gtsam reaches it", name, near(ours, result))
        peer = min(rows, key=lambda k: rows[k]["warm_s"]["median"])
        _times(note, name, ours, rows[peer], "warm_s", "gtsam", result, (2.0, 1.0))
    else:
        note("best chi2 where gtsam does not reach it", name, near(ours, result))


def _times(note, name, ours, row, key, peer, result, limits):
    what = {"reach_s": "time to the best cost", "warm_s": "time of the whole"}[key]
    for limit in limits:
        met = near(ours, result) and (ours[key]["median"] <= limit * row[key]["median"])
        note(f"{what} at most {limit} times that of {peer}", name, met)


def main():
    """Print bars, and the problems that miss them."""
    for bar, problems in bars(load("worlds")).items():
        missed = [name for name, met in problems.items() if not met]
        print(f"{bar}: {len(problems) - len(missed)} of {len(problems)}", missed or "")


if __name__ == "__main__":
    main()
