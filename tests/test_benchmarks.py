"""What is claimed is what the committed results say."""

import re
import statistics

from benchmarks import table

DOCS = table.COMPARISON.parent
QUOTES = re.compile(
    r"<!-- quoted from results -->(.*?)<!-- end of quotes -->", re.DOTALL
)


def test_readme_and_comparison_show_the_committed_results():
    assert table.summary() in table.README.read_text()
    assert table.summary() in table.COMPARISON.read_text()


def test_figures_that_pages_quote_are_in_the_tables():
    results = numbers(table.RESULTS.read_text())
    quoting = [path for path in DOCS.rglob("*.md") if QUOTES.search(path.read_text())]
    assert quoting
    for path in quoting:
        for quoted in QUOTES.findall(path.read_text()):
            assert numbers(quoted) <= results, path


def test_gpu_is_as_busy_with_a_hundred_fits_as_the_page_on_precision_says():
    rows = table.load("batch_engines_gpu")["rows"]
    few, many = (
        statistics.median(row["seconds"]["fused"])
        for fits in (100, 100_000)
        for row in rows
        if (row["fits"], row["points"]) == (fits, 20) and row["dtype"] == "float32"
    )
    assert many < 2 * few
    assert "less\n  than twice the time" in (DOCS / "precision.md").read_text()


def test_page_names_the_pose_graphs_on_which_a_peer_is_faster():
    results, page = table.RESULTS.read_text(), table.COMPARISON.read_text()
    graphs = results.split("| seconds: pose graph")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in graphs.splitlines()[2:]]
    ratios = {row[0]: row[-1].split()[0] for row in rows}
    told = page.split("**Pose graphs.**")[1].split("- **")[0]
    named = set(re.findall(r"\w[\w-]*", told))
    known = {name: float(ratio) for name, ratio in ratios.items() if ratio != "-"}
    slower = {name for name, ratio in known.items() if ratio > 1.0}
    assert named & set(known) == slower


def numbers(text):
    return set(re.findall(r"\d[\d,.]*\d|\d", text))


def test_page_on_clusters_shows_the_committed_results():
    assert table.clusters() in table.CLUSTERS.read_text()


def test_tables_are_those_of_the_committed_results():
    assert table.markdown() == table.RESULTS.read_text()
