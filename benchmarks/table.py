"""The comparison with peers, made from the committed results.

``python -m benchmarks.table`` prints it; ``--write`` puts the tables into RESULTS.md,
three lines of figures into the README and the comparison, some into the clusters.
"""

import sys
from pathlib import Path
from statistics import median
from textwrap import fill

from benchmarks._map_table import FIRST, LAST, clusters
from benchmarks._report import load, prose
from benchmarks.worlds import table as worlds

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "RESULTS.md"
COMPARISON = README.parent / "docs" / "comparison.md"
CLUSTERS = README.parent / "docs" / "clusters.md"
TITLE = """# Results

Each table is of one machine and one run, with exact Jacobians for all. lmjax has its
default settings, the others have tolerances of 1e-15 (SciPy) and 1e-13 (optimistix).
[Commands](README.md); each file in `results/` names hardware and versions."""
START, END = "<!-- results -->", "<!-- end of results -->"


def summary() -> str:
    """Return three lines of figures."""
    nist, wild = load("accuracy")["nist"], load("honesty")["totals"]
    sure = {name: nist[name]["at_least_8_digits"] for name in nist}
    false = {name: row["false"] + row["plateau"] for name, row in wild.items()}
    spots = load("batch_cpu")["workloads"]["headline_5x5"]["peers"]
    rate = {name: row["fits_per_s"] for name, row in spots.items()}
    million = load("batch_million_gpu")
    gpu = million["workloads"]["headline_5x5"]["peers"]["lmjax"]["fits_per_s"]
    whole = {k: row["whole"] for k, row in load("first_answer")["median_s"].items()}
    lines = [
        f"""- **Right answers.** Of {nist["lmjax"]["runs"]} NIST runs, lmjax has 8
        digits in {sure["lmjax"]}, optimistix in {sure["optimistix"]}, SciPy's MINPACK
        in {sure["scipy lm"]}. From {load("honesty")["starts"]} wild starts on each of
        {len(load("honesty")["problems"])} problems, its batch claims
        {false["lmjax batch"]} false successes, MINPACK {false["minpack"]}, optimistix
        {false["optimistix"]}.""",
        f"""- **Many fits.** Spots of 5 × 5 pixels: {rate["lmjax"] / 1e6:.1f} million
        fits per second on two cores, {rate["lmjax"] / rate["optimistix"]:.0f} times as
        many as optimistix and {rate["lmjax"] / rate["scipy"]:,.0f} times as many as
        SciPy;
        {gpu / 1e6:.0f} million on one {million["environment"]["device"]}.""",
        f"""- **The first answer.** From import to 10,000 fitted decays with errors and
        statuses: {whole["lmjax"]:.1f} s. optimistix takes {whole["optimistix"]:.1f} s
        to the parameters alone.""",
    ]
    texts = [fill(" ".join(x.split()), 96, subsequent_indent="  ") for x in lines]
    return "\n".join([START, *texts, END])


def markdown() -> str:
    """Return the tables and the sentences under them."""
    double, single = load("accuracy"), load("accuracy_float32")
    speed, alone = load("latency"), load("latency_one_core")
    names = list(double["nist"])
    runs = double["nist"]["lmjax"]["runs"]
    rows = [
        f"| NIST StRD, {runs} runs | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for label, key in (
        ("runs with at least 6 digits", "at_least_6_digits"),
        ("runs with at least 8 digits", "at_least_8_digits"),
        ("mean digits", "mean_digits"),
    ):
        values = (double["nist"][name][key] for name in names)
        cells = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in values)
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    for label, count in (
        ("float32: within a tenth of a standard error", _within),
        ("float32: successes claimed outside it", _claims),
    ):
        cells = (count(single["nist"].get(name)) for name in names)
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    found = [row["minimum"] for row in double["mgh"]]
    steady = [row for row in double["units"] if row["same_steps"]]
    worst = max(row["worst_difference"] for row in double["units"])
    first = median(speed["first_call_s"])
    return "\n".join(
        [
            TITLE,
            "",
            *rows,
            "",
            prose(
                f"""Moré-Garbow-Hillstrom from 1, 10 and 100 times the start:
                {sum(f is not None for f in found)} of {len(found)} runs end at a known
                stationary value, {found.count(0)} at the global minimum. Parameters
                and residuals in units 10⁻⁸ to 10⁸: the same answer within {worst:.0e}
                on all {len(double["units"])} NIST problems, the same number of steps
                on {len(steady)}. One eager `curve_fit` of 50 points takes
                {_ratio(alone)} times SciPy's time with the process held on one core,
                {_ratio(speed)} on
                {speed["environment"]["cores"]} cores; the first call of a new model
                {first:.1f} s."""
            ),
            "",
            *_honesty(),
            "",
            *_batches(),
            *worlds.tables(load("worlds")),
            _first(),
            "",
            _beyond(),
            "",
            *_sums(),
            "",
        ]
    )


def _honesty():
    """Return the table of what becomes of wild starts."""
    kinds = "right", "local", "false", "short", "unsure", "failed"
    double, single = load("honesty"), load("honesty_float32")
    problems, starts = len(double["problems"]), double["starts"]
    yield (
        " | ".join([f"| {problems} problems, {starts} wild starts each", *kinds]) + " |"
    )
    yield "|---" * (len(kinds) + 1) + "|"
    for precision, content in (("float64", double), ("float32", single)):
        for solver, row in content["totals"].items():
            counts = row | {"false": row["false"] + row["plateau"]}
            cells = " | ".join(f"{counts[kind]:,}" for kind in kinds)
            yield f"| {solver}, {precision} | {cells} |"
    yield ""
    yield prose(
        """Successes at the best known minimum (right), at another one (local) and at
        none (false, runaways and plateaus included), by a judge in float64;
        right answers that are more than a twentieth of a standard error away (short);
        no success at the best known minimum (unsure) and elsewhere (failed)."""
    )


def _batches():
    """Return the tables of batches: rates at equal final cost, where there was one."""
    for device, others in (("cpu", []), ("gpu", ["batch_million_gpu"])):
        first = load(f"batch_{device}")
        where = first["environment"]
        on = where["device"] if device == "gpu" else f"{where['cores']} cores"
        contents = [first, *map(load, others)]
        rows = [row for content in contents for row in content["workloads"].items()]
        peers = list(dict.fromkeys(p for _, row in rows for p in row["peers"]))
        yield f"| fits per second, {on} | " + " | ".join(peers) + " |"
        yield "|---" * (len(peers) + 1) + "|"
        for name, result in rows:
            cells = (_rate(result["peers"].get(peer)) for peer in peers)
            yield f"| {name}, {result['fits']:,} fits | " + " | ".join(cells) + " |"
        yield ""
    yield _on_gpu()
    yield ""


def _on_gpu():
    """Return what else was measured on a GPU."""
    peer = load("batch_gpu_optimistix")["workloads"]
    rates = [
        f"{row['peers']['optimistix']['fits_per_s'] / 1e6:.2g} M ({name})"
        for name, row in peer.items()
        if "optimistix" in row["peers"]
    ]
    times = load("first_answer_gpu")["median_s"]
    equal = load("ptx_gpu")["models"].values()
    same = sum(not (row["cost, 99.9 %"] or row["same steps"] < 1) for row in equal)
    return prose(
        f"""optimistix on the same kind of GPU, in another run, at equal cost or below:
        {", ".join(rates)} fits per second of 100,000. A whole process there takes
        {times["lmjax"]["whole"]:.1f} s, optimistix {times["optimistix"]["whole"]:.1f}
        s; the same again {1e3 * times["lmjax"]["warm"]:.1f} ms and
        {1e3 * times["optimistix"]["warm"]:.0f} ms. Of {len(equal)} models and
        precisions, {same} give the same costs and steps on the GPU as on a CPU, in
        each of 4,000 fits or all but a thousandth; the others differ by rounding."""
    )


def _rate(row):
    if row is None:
        return "-"
    low, high = row["fits_per_s_range"]
    rate = f"{row['fits_per_s']:,.0f} ({low:,.0f} to {high:,.0f})"
    return rate if row["equal_cost"] else f"{rate}, higher cost"


def _beyond():
    """Return what many fits, gradients, shared and linear parameters cost and bring."""
    growth, devices = load("batch_growth_cpu")["rows"], load("batch_devices_cpu")
    gradients, shared = load("gradients"), load("global_fit")
    linear = load("separable")
    few, many = growth[0], growth[-1]
    bad, good = linear["defeating"], linear["near"]
    return prose(
        f"""From host to host `fit_batch` takes {few["us_per_fit"]:.2f} µs for each of
        {few["fits"]:,} fits of 5 × 5 pixels, {many["us_per_fit"]:.2f} µs for each of
        {many["fits"]:,}, and {many["us_per_fit_own_chunks"]:.2f} µs in chunks as large
        as it chooses; two devices are {devices["speedup"]:.2f} times as fast as one.
        The gradient through 10,000 decays costs
        {_spread(gradients["lmjax"]["extra"])} times the time of the fits; 1,000 curves
        that share a parameter {_spread(shared["ratio"])} times the time of independent
        ones. Two exponentials from bad starts: {bad["separated"]["found"]:.2%} at the
        minimum with `linear=`, {bad["whole"]["found"]:.2%} without; from good ones
        {good["separated"]["steps_mean"]:.1f} steps instead of
        {good["whole"]["steps_mean"]:.1f}, in
        {_spread([1 / x for x in good["speedup"]])} times the time."""
    )


def _first():
    """Return how long a whole process takes, import included."""
    content = load("first_answer")
    times = content["median_s"]
    ours, peer = times["lmjax"], times["optimistix"]
    xla = times["lmjax, by XLA"]
    return prose(
        f"""A whole process, from import to parameters, errors and statuses of 10,000
        decays of 50 points in float32, takes {ours["whole"]:.1f} s (by the XLA engine
        {xla["whole"]:.1f} s; with `Exponential.guess`
        {times["lmjax, with a guess"]["whole"]:.1f} s; the gradient through them
        {times["lmjax, gradient"]["whole"]:.1f} s), optimistix to parameters alone
        {peer["whole"]:.1f} s; the same again {1e3 * ours["warm"]:.0f} ms and
        {1e3 * peer["warm"]:,.0f} ms."""
    )


def _sums():
    """Return the table of how often the guess of a sum leads to the minimum."""
    content = load("sums")
    sets = content["found by number of peaks"]
    counts = list(next(iter(sets.values())))
    names = [f"{count} peak{'s' * (count != '1')}" for count in counts]
    yield f"| `Sum.guess`, found of {content['of']} | " + " | ".join(names) + " |"
    yield "|---" * (len(counts) + 1) + "|"
    for kind, row in sets.items():
        yield f"| {kind} | " + " | ".join(str(row[count]) for count in counts) + " |"
    yield ""
    yield prose(
        """Synthetic spectra of Gaussians or Lorentzians on a constant or sloping
        background. Found: the fit from the guess ends at a chi-square no higher, within
        1e-6, than that of the fit from the true parameters. Centres lie at least 2.5
        widths of the wider peak apart (resolved), anywhere, or apart with heights of
        either sign (dips)."""
    )


def _ratio(times):
    pairs = zip(times["lmjax_us"], times["scipy_us"], strict=True)
    return _spread([a / b for a, b in pairs])


def _spread(ratios):
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _within(figures):
    return "-" if figures is None else str(figures["within_a_tenth_of_an_error"])


def _claims(figures):
    return "-" if figures is None else str(len(figures["false_success"]))


def main():
    """Print the tables, or write them where they belong."""
    if "--write" not in sys.argv:
        print(markdown())
        return
    for page in (README, COMPARISON):
        before, rest = page.read_text().split(START)
        page.write_text(before + summary() + rest.split(END)[1])
    RESULTS.write_text(markdown())
    before, rest = CLUSTERS.read_text().split(FIRST)
    CLUSTERS.write_text(before + clusters() + rest.split(LAST)[1])


if __name__ == "__main__":
    main()
