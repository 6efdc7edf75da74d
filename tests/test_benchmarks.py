"""What is claimed is what the committed results say."""

from benchmarks import table


def test_readme_shows_the_committed_results():
    assert table.summary() in table.README.read_text()


def test_page_on_clusters_shows_the_committed_results():
    assert table.clusters() in table.CLUSTERS.read_text()


def test_tables_are_those_of_the_committed_results():
    assert table.markdown() == table.RESULTS.read_text()
