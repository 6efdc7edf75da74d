"""The site has every public name, every page and every status."""

import re

import pytest
import test_docs
from processes import ROOT

import lmjax

DOCS = ROOT / "docs"
API = DOCS / "api"
ENTRIES = [
    name
    for page in API.glob("*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
]
NAMED = {
    name
    for name, thing in test_docs.PUBLIC.items()
    if hasattr(thing, "__qualname__")  # modules have pages of their own
}


def test_every_public_name_is_in_the_reference_once():
    assert sorted(ENTRIES) == sorted(NAMED | {"lmjax.optax.levenberg_marquardt"})


def test_index_of_the_reference_names_all():
    index = (API / "index.md").read_text()
    short = [name.removeprefix("lmjax.").removeprefix("models.") for name in ENTRIES]
    assert [name for name in short if f"{name}`" not in index] == []


def test_every_page_of_a_field_is_in_the_table_and_in_the_menu():
    menu, table = (
        (ROOT / "mkdocs.yml").read_text(),
        (DOCS / "fields/index.md").read_text(),
    )
    for page in (DOCS / "fields").glob("[!i]*.md"):
        assert f"fields/{page.name}" in menu
        assert f"]({page.name})" in table


def rows(page):
    """Return the cells of the tables of a page, by the code in the first cell."""
    found = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            text = " ".join(cells).replace("`", "").strip()
            found |= {name.strip(" `"): text for name in first.split(",")}
    return found


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "status.md"], ids=str)
def test_pages_give_the_advice_of_the_status(path):
    known = rows(path.read_text())
    for status in lmjax.Status:
        if status != lmjax.Status.RUNNING:
            assert known[status.name] == status.advice


def test_page_has_the_number_of_every_status():
    page = (DOCS / "status.md").read_text()
    for status in lmjax.Status:
        if status != lmjax.Status.RUNNING:
            assert f" {int(status)} `{status.name}`" in page.replace("\n", " ")


@pytest.mark.parametrize("codes", [lmjax.ParamStatus, lmjax.ProfileStatus])
def test_page_has_the_remark_of_every_code(codes):
    known = rows((DOCS / "status.md").read_text())
    for code in codes:
        assert known[code.name].startswith(code.remark)


def test_page_has_every_engine():
    known = rows((DOCS / "status.md").read_text())
    assert all(engine.name in known for engine in lmjax.Engine)
