"""The registered laws as plain dictionaries for machines and as aligned text for people."""

from collections.abc import Sequence
from typing import Any

from scaling.laws.forms import FORMS
from scaling.text import wrapped


def laws_table() -> list[dict[str, Any]]:
    """What `scaling fit --list --json` prints: every registered law."""
    return [
        {
            "law": form.name,
            "formula": form.formula,
            "columns": list(form.columns),
            "records": {column: form.feed(column).column for column in form.columns} | {"loss": form.predicts.column},
            "params": list(form.params),
            "source": form.source,
        }
        for form in FORMS.values()
    ]


def format_laws(table: Sequence[dict[str, Any]]) -> str:
    """The text of a `laws_table`: the name of each law, and below it its formula, columns and source."""
    blocks = []
    for law in table:
        details = (law["formula"], f"reads {' '.join(law['columns'])}", law["source"])
        blocks.append("\n".join([law["law"], *(wrapped(text, "  ") for text in details)]))
    return "\n\n".join(blocks)
