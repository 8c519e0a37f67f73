"""Labels of runs, what the design wished of each, as cells of a table."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

OF_THE_DESIGN = ("budget", "target_params", "target_tokens", "model.params", "tokens", "tokens_per_param", "round")
"""keys of labels that say what N, D and FLOPs were wanted, and when"""


def varied(labels: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys in which runs differ by their labels and that no column of N, D and FLOPs tells, such as the seed."""
    values: dict[str, set[str]] = {}
    for label in labels:
        for key, value in label.items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True, default=str))
    return [key for key, found in values.items() if len(found) > 1 and key not in OF_THE_DESIGN]


def label_cell(label: Mapping[str, Any], key: str) -> str:
    """What a label says of a key, as a configuration has it; empty where it says nothing."""
    value = label.get(key, "")
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
