"""The table of what maps cost, for the page on clusters."""

from benchmarks._report import load, prose

FIRST, LAST = "<!-- figures -->", "<!-- end of figures -->"


def clusters() -> str:
    """Return what a map costs beside `fit_batch`."""
    content = load("maps")
    rows = [
        "| decays of 40 points | `fit_batch` | `curvefit` | ratio |",
        "|---|---|---|---|",
    ]
    store = content["store"]
    for stack in content["in_memory"]:
        rows.append(_map_row("{} x {} in memory".format(*stack["shape"]), stack))
    name = f"{store['curves']:,} from Zarr to Zarr, {store['workers']} workers"
    rows.append(_map_row(name, store))
    text = prose(
        f"""Median times on {content["environment"]["cores"]} cores, in float64, and the
        ratio of the medians (of the fastest runs). `fit_batch` has one process always.
        No worker had more than {store["peak_mb_after_a_tenth"]} MB after a tenth of the
        store, {store["peak_mb_after_all"]} MB after all of its {store["data_mb"]} MB,
        {store["runs"] + 1} times over."""
    )
    return "\n".join([FIRST, *rows, "", text, LAST])


def _map_row(name, row):
    cells = (f"{1e3 * row[k]['median']:,.1f} ms" for k in ("fit_batch_s", "curvefit_s"))
    ratio = f"{row['ratio_of_medians']:.2f} ({row['ratio_of_fastest']:.2f})"
    return f"| {name} | {' | '.join(cells)} | {ratio} |"
