"""Lists of sections in a configuration, such as the feed-forward layers of a pattern, as columns of their keys."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import scaling

if TYPE_CHECKING:
    import pandas as pd

    import scaling.config

KIND = "kind"
"""the key that comes first in a section"""


def apart(df: "pd.DataFrame") -> "pd.DataFrame":
    """The table with each list of sections in which runs differ (`model.feed_forward`) as a column for every key.

    One section gives the key's value, several give a list of their values. Without sections all are None.
    """
    for column in [str(name) for name in df.columns if scaling.config.is_recipe(str(name))]:
        sections = [_sections(text) for text in df[column]]
        if any(sections) and len({str(text) for text in df[column]}) > 1:
            keys = dict.fromkeys(key for parts in sections for part in parts for key in part)
            added = {f"{column}.{key}": [_merged(parts, key) for parts in sections] for key in keys}
            df = df.drop(columns=column).assign(**added)
    return df


def absent(row: Mapping[Any, Any], column: str) -> bool:
    """Whether a key belongs to a section that the run does not have, so that its value is undefined there."""
    section, _, key = column.rpartition(".")
    kind = row.get(f"{section}.{KIND}", KIND)
    return key != KIND and (kind is None or kind != kind)


def _sections(text: Any) -> list[dict[str, Any]]:
    found = json.loads(text) if isinstance(text, str) and text.startswith("[{") else []
    return found if all(isinstance(part, dict) for part in found) else []


def _merged(parts: list[dict[str, Any]], key: str) -> Any:
    values = [part.get(key) for part in parts]
    return json.dumps(values) if len(values) > 1 else next(iter(values), None)
