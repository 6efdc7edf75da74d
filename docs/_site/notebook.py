"""A notebook, as it was stored, as a page: no kernel, no scripts from elsewhere."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

PICTURE = "image/png"
# A formula of several lines, or on a line of its own, is a paragraph.
DISPLAYED = re.compile(r"\n*\$\$(.+?)\$\$\n*", re.DOTALL)


def cells(path: Path) -> list[dict]:
    """Return the cells of a notebook."""
    return json.loads(path.read_text())["cells"]


def name_of(path: Path, cell: int, output: int) -> str:
    """Return the file name of a picture."""
    return f"{path.stem}_{cell}_{output}.png"


def pictures(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield file name and content of each picture."""
    for i, cell in enumerate(cells(path)):
        for j, output in enumerate(cell.get("outputs", [])):
            if PICTURE in output.get("data", {}):
                content = base64.b64decode(output["data"][PICTURE])
                yield name_of(path, i, j), content


def as_markdown(path: Path) -> str:
    """Return the cells as Markdown, with what they printed and drew."""
    parts = []
    for i, cell in enumerate(cells(path)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(DISPLAYED.sub(displayed, source))
            continue
        parts.append(f"```python\n{source}\n```")
        for j, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", [])))
            if PICTURE in data:
                parts.append(f"![Output of the cell above]({name_of(path, i, j)})")
            elif text:
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def displayed(match) -> str:
    """Return a displayed formula as a paragraph of its own."""
    return f"\n\n$$\n{match.group(1).strip()}\n$$\n\n"
