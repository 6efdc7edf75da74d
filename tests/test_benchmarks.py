"""What the README claims is what the committed results say."""

from benchmarks import table


def test_readme_shows_the_committed_results():
    assert table.markdown() in table.README.read_text()
