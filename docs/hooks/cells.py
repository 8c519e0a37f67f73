"""A notebook as Markdown: its cells, and of what they printed and drew the text and the pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def as_markdown(path: Path) -> str:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield source
        return
    yield f"````python\n{source}\n````"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            yield f"![](data:image/png;base64,{''.join(data['image/png'].split())})"
        elif "text/markdown" in data:
            yield "".join(data["text/markdown"])
        elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
            yield f"````text\n{text}\n````"
