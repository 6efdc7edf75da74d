"""Pages that run: their blocks of Python, what these print, the figures they save.

``python docs/_site/pages.py PAGE ...`` runs pages and puts what they print into the
``text`` blocks below, and what they save, where the page shows it, into docs/figures.
``tests/test_pages.py`` runs all pages and compares.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures"
# A block, and the text below it if that is what the block prints.
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.DOTALL | re.M,
)
FIGURE = re.compile(r"!\[[^\]]*\]\((?:\.\./)*figures/([^)]+)\)")
# Runs blocks in one namespace, with tracebacks that name the line of the page.
RUN = """
import contextlib, io, json, sys
namespace = {"__name__": "__main__"}
page, blocks = json.load(sys.stdin)
printed = []
for line, block in blocks:
    code = compile("\\n" * line + block, page, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, namespace)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def blocks(page: str) -> list[tuple[int, str]]:
    """Return each block of Python with the number of its line."""
    return [
        (page.count("\n", 0, found.start("code")), found["code"])
        for found in BLOCK.finditer(page)
    ]


def shown(page: str) -> list[str | None]:
    """Return what each block prints as the page has it, None where it does not say."""
    return [found["printed"] for found in BLOCK.finditer(page)]


def figures(page: str) -> list[str]:
    """Return the names of the figures that a page shows."""
    return FIGURE.findall(page)


def rewritten(page: str, printed: list[str]) -> str:
    """Return the page with what its blocks print."""
    texts = iter(printed)

    def block(found):
        text = next(texts)
        code = f"```python\n{found['code']}```\n"
        if found["printed"] is None:
            return code
        return f"{code}\n```text\n{text.rstrip()}\n```\n"

    return BLOCK.sub(block, page)


def main(paths: list[str]) -> None:
    """Run pages, then write what they print and what they save."""
    for path in map(Path, paths):
        page = path.read_text()
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", RUN],
                input=json.dumps([str(path), blocks(page)]),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=folder,
                env=os.environ | {"MPLBACKEND": "agg"},
            )
            for name in figures(page):
                (FIGURES / name).write_bytes((Path(folder) / name).read_bytes())
        path.write_text(rewritten(page, json.loads(done.stdout)))


if __name__ == "__main__":
    main(sys.argv[1:])
