"""What the site adds to the pages of docs/, as hooks of mkdocs.

Pages are written to be read on a host of repositories, too: a link leads to a file, and
formulas stand between dollars. Here, files outside of docs/ that pages link to become
pages, links follow them, formulas become MathML, and names of lmjax lead to the
reference.
"""

import functools
import html
import posixpath
import re
from pathlib import Path

import notebook
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Files outside of docs/ that are pages of the site, where they stand in the repository.
PAGES = (
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
    "benchmarks/batch/README.md",
    "benchmarks/data/README.md",
    "examples/*.py",
    "examples/README.md",
    "notebooks/*.ipynb",
    "notebooks/*.png",
    "tests/SCIPY.md",
    "tests/data/README.md",
)
# Its sections stand on pages of their own.
README = {"": "index.md", "did-it-work": "status.md"}
# How a search weighs pages: explanations come before records, such as the changelog.
GUIDES, RECORDS = 2.0, 0.3
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(?:#([^)\s]*))?(?=\))")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.M)
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
BLOCK = {"span": "inline", "div": "block"}
IN_TITLE = re.compile(r"\\\((.*?)\\\)")
# Code that begins with a name, such as a call. The first part skips what is a link, a
# heading or a block.
NAME = re.compile(
    r"<(?P<tag>a|autoref|h\d|pre)\b.*?</(?P=tag)>|<code>(?P<name>[\w.]+)[^<]*</code>",
    re.DOTALL,
)
ENTRY = re.compile(r"^::: (lmjax[\w.]+)", re.M)


def page_of(path: str) -> str:
    """Return where a file of the repository stands in the site.

    A README would be the front page of its part of the menu, and no entry there.
    """
    path = path.removeprefix("docs/").replace("README.md", "overview.md")
    return re.sub(r"\.(ipynb|py)$", ".md", path)


def content_of(path: Path) -> str | bytes:
    """Return a file as a page: notebooks and scripts become Markdown."""
    if path.suffix == ".ipynb":
        return notebook.as_markdown(path)
    if path.suffix == ".py":
        return f"# {path.name}\n\n```python\n{path.read_text()}```\n"
    return path.read_bytes()


@event_priority(100)
def on_files(files, config):
    """Add the pages that stand outside of docs/, and the pictures of notebooks."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            name = page_of(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, name, content=content_of(path)))
            if path.suffix == ".ipynb":
                folder = posixpath.dirname(name)
                for picture, content in notebook.pictures(path):
                    source = f"{folder}/{picture}"
                    files.append(File.generated(config, source, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Make links between files of the repository links between pages."""
    own = page.file.src_uri
    generated = page.file.generated_by is not None
    folder = posixpath.dirname(own if generated else f"docs/{own}")
    boost = RECORDS if generated else GUIDES if "/" not in own else 1.0
    page.meta["search"] = {"boost": boost}

    def moved(match):
        path, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(folder, path))
        if target == "README.md":
            target, anchor = README[anchor or ""], None
        elif (ROOT / target).is_dir():
            target += "/README.md"
        there = posixpath.relpath(page_of(target), posixpath.dirname(own) or ".")
        return f"{there}#{anchor}" if anchor else there

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content, page, config, files):
    """Write formulas as MathML, and let names of lmjax lead to the reference."""
    for section in all_sections(page.toc):
        section.title = IN_TITLE.sub(lambda found: mathml(found[1]), section.title)
    content = FORMULA.sub(lambda found: mathml(found[2], BLOCK[found[1]]), content)
    known = documented()
    if page.url.startswith("api/"):
        known = short_names(known) | known

    def linked(found):
        target = known.get(found["name"])
        return (
            f'<autoref identifier="{target}">{found[0]}</autoref>'
            if target
            else found[0]
        )

    return NAME.sub(linked, content)


@functools.cache
def documented() -> dict[str, str]:
    """Return the names that have an entry in the reference, each as its own target."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    return {name: name for page in pages for name in ENTRY.findall(page.read_text())}


def short_names(names: dict[str, str]) -> dict[str, str]:
    """Return the targets of names as docstrings have them: without their modules."""
    classes = {
        n.rpartition(".")[2]: n for n in names if n.rpartition(".")[2][0].isupper()
    }
    return classes | {name.removeprefix("lmjax."): name for name in names}


def all_sections(sections):
    """Yield the entries of a table of contents, at all levels."""
    for section in sections:
        yield section
        yield from all_sections(section.children)


def mathml(formula: str, display: str = "inline") -> str:
    """Return a formula of TeX as MathML."""
    plain = html.unescape(formula).strip()
    if "&" in plain:  # which the converter would print as it is
        raise ValueError(f"formula: expected one without columns, got {plain}")
    return convert(plain, display=display)
