"""What the pages show runs, prints what they say, and draws what they show."""

import codeop
import json
import re

import matplotlib.image
import numpy as np
import pages
import pytest
import quick
from processes import ROOT, run_python

PAGES = [
    ROOT / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TUTORIAL = [
    ROOT / "docs" / "index.md",
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
]
RUNNING = [path for path in PAGES if pages.blocks(path.read_text())]
FIELDS = [path for path in RUNNING if path.parent == ROOT / "docs" / "fields"]

# Of numbers that pages show: other compilers and libraries may round differently.
RTOL = 0.02
ROUNDING = 1e-8  # smaller numbers are rounding
MAX_FIGURE_BYTES = 100_000
MAX_DIFFERENCE = 0.02  # mean of a figure's pixels from 0 to 1: other fonts, not curves

NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d*)?(?:e[-+]?\d+)?")


def by_path(path):
    return path.relative_to(ROOT).as_posix()


def same_text(printed, shown):
    """Whether two texts are the same, apart from the last digits of numbers."""
    if NUMBER.sub("", printed).split() != NUMBER.sub("", shown).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    numbers = np.array([[float(n.replace(",", "")) for n in pair] for pair in pairs])
    return not numbers.size or np.allclose(*numbers.T, rtol=RTOL, atol=ROUNDING)


def check_blocks(path, tmp_path):
    """Check that a page prints what it says, and draws what it shows."""
    page = path.read_text()
    text = json.dumps([str(path), pages.blocks(page)])
    out = run_python("-c", pages.RUN, cwd=tmp_path, text=text, **quick.environment())
    for printed, shown in zip(json.loads(out), pages.shown(page), strict=True):
        assert shown is None or same_text(printed, shown), printed
    for name in pages.figures(page):
        drawn = matplotlib.image.imread(tmp_path / name)
        stored = matplotlib.image.imread(pages.FIGURES / name)
        assert drawn.shape == stored.shape, name
        assert np.abs(drawn - stored).mean() < MAX_DIFFERENCE, name


@pytest.mark.parametrize("path", sorted({*RUNNING} - {*FIELDS}), ids=by_path)
def test_blocks_of_a_page_run_in_order(path, tmp_path):
    check_blocks(path, tmp_path)


@pytest.mark.one_of(3)
@pytest.mark.parametrize("path", FIELDS, ids=by_path)
def test_blocks_of_a_page_of_a_field_run_in_order(path, tmp_path):
    check_blocks(path, tmp_path)


@pytest.mark.parametrize("path", TUTORIAL, ids=by_path)
def test_blocks_of_the_tutorial_can_be_pasted_into_the_prompt(path):
    """A prompt ends a function at an empty line, and a loop at nothing else."""
    for first, block in pages.blocks(path.read_text()):
        waiting = []
        for number, line in enumerate(block.splitlines(), first + 1):
            waiting.append(line)
            try:
                complete = codeop.compile_command("\n".join(waiting))
            except SyntaxError as error:
                raise AssertionError(f"{path}:{number}: {error}") from error
            if complete:
                waiting = []


@pytest.mark.parametrize("path", PAGES, ids=by_path)
def test_links_of_a_page_lead_to_files(path):
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    files = [link for link in links if not re.match(r"https?:|mailto:", link)]
    for target in files:
        assert (path.parent / target).exists(), f"{path} links to {target}"


def test_figures_are_small_and_shown():
    names = {name for path in PAGES for name in pages.figures(path.read_text())}
    stored = list(pages.FIGURES.iterdir())
    assert {path.name for path in stored} == names
    assert all(path.stat().st_size < MAX_FIGURE_BYTES for path in stored)
