"""JSON by its standard (RFC 8259), which has no NaN and no infinity."""

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """The value with None in place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(finite(item) for item in value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, *, ascii_only: bool = True) -> str:
    """The text of a file: `finite(value)`, indented, with a final newline."""
    return json.dumps(finite(value), indent=1, ensure_ascii=ascii_only, allow_nan=False) + "\n"
