"""Docstrings as Markdown: in the project's own, arguments are lines `name: what it is` below a sentence."""

import re
from typing import Any

from griffe import Docstring, Extension, Object

ARGUMENT = re.compile(r"^(\*{0,2}[a-z]\w*(?:, \w+)*): ", re.M)
OUTCOME = re.compile(r"^(?=(?:Raises|Returns) )", re.M)


class Docstrings(Extension):
    """Sets arguments apart as a list."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None and (obj.is_function or obj.is_class):
            obj.docstring = Docstring(as_markdown(obj.docstring.value), parent=obj)


def as_markdown(text: str) -> str:
    listed = re.sub(r"\n(?=\* )", "\n\n", ARGUMENT.sub(r"* `\1`: ", text))
    return OUTCOME.sub("\n", listed)
