"""Results as Markdown tables."""

HEADER = [
    "peer",
    "fits/s (range)",
    "tolerance",
    "excess: median, 99 %",
    "at minimum: 1e-6, 0.1 error",
    "false success",
    "steps: mean, most",
    "lanes",
    "compile",
    "memory, of which XLA",
]


def markdown(workloads: dict[str, dict]) -> str:
    """Return one table per workload."""
    return "\n\n".join(_table(name, result) for name, result in workloads.items())


def _table(name, result):
    lines = [
        f"**{name}**: {result['fits']:,} fits, {result['points']} points, "
        f"{result['parameters']} parameters, {result['dtype']}",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" * len(HEADER) + "|",
    ]
    lines += [
        "| " + " | ".join([peer, *_cells(row)]) + " |"
        for peer, row in result["peers"].items()
    ]
    refused = [f"{peer}: {why}" for peer, why in result["refused"].items()]
    return "\n".join([*lines, *(["", "; ".join(refused)] if refused else [])])


def _cells(row):
    low, high = row["fits_per_s_range"]
    yield f"{_short(row['fits_per_s'])} ({_short(low)} to {_short(high)})"
    yield f"{row['tolerance']:.0e}" + ("" if row["equal_cost"] else ", **worse cost**")
    yield f"{row['median_excess']:.0e}, {row['tail_excess']:.0e}"
    yield f"{row['same_cost']:.2%}, {row['same_fit']:.2%}"
    yield f"{row['false_success']:.2%}"
    yield f"{row['mean_steps']:.1f}, {row['max_steps']}"
    yield f"{row['lane_efficiency']:.0%}"
    yield f"{row['compile_s']:.1f} s" if row["compile_s"] else "-"
    growth = row["device_growth_bytes"] or row["rss_growth_bytes"]
    yield f"{_megabytes(growth)}, {_megabytes(row['temp_bytes'])}"


def _megabytes(size):
    return "-" if size is None else f"{size / 1e6:.1f} MB"


def _short(rate):
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate:.3g}"
