"""Notebooks as pages: their texts, their code, and the outputs that are stored in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def page(notebook: Path) -> str:
    """Return a notebook as Markdown."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return "\n".join(line for cell in content["cells"] for line in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield from (source, "")
        return
    yield from ("```python", source, "```", "")
    for output in cell["outputs"]:
        yield from _output(output)


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if "text/html" in data:
        # A blank line would end the block of HTML.
        lines = [line for line in "".join(data["text/html"]).splitlines() if line.strip()]
        yield from ('<div class="output">', *lines, "</div>", "")
    else:
        text = "".join(output.get("text", data.get("text/plain", "")))
        yield from ("```text", text.rstrip("\n"), "```", "")
