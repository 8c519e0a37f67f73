"""Labels of runs (what the design requested for each) as cells of a table."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

OF_THE_DESIGN = ("budget", "target_params", "target_tokens", "model.params", "tokens", "tokens_per_param", "round")
"""keys of labels with the requested N, D and FLOPs, and the round"""


def varied(labels: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys in which the labels of runs differ and that no column of N, D and FLOPs shows, such as the seed."""
    values: dict[str, set[str]] = {}
    for label in labels:
        for key, value in label.items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True, default=str))
    return [key for key, found in values.items() if len(found) > 1 and key not in OF_THE_DESIGN]


def label_cell(label: Mapping[str, Any], key: str) -> str:
    """A label's value of a key, written as in a configuration; empty where it has none."""
    value = label.get(key, "")
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
