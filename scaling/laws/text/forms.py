"""The registered laws as plain dictionaries for machines and as aligned text for people."""

from collections.abc import Sequence
from typing import Any

from scaling.laws.forms import FORMS
from scaling.text import align


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
    """The text of a `laws_table`."""
    rows = [("law", "reads", "formula", "source")]
    rows += [(law["law"], " ".join(law["columns"]), law["formula"], law["source"]) for law in table]
    return "\n".join(align(rows, left=4))
