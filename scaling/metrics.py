"""Reading `metrics.jsonl`, what a run measured on its way; nothing heavy is imported for it."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records in `folder`, without what a killed process left half written."""
    try:
        lines = (folder / METRICS_FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def last_metrics(folder: Path, size: int = 4096) -> dict[str, Any]:
    """The newest value of every quantity in the last `size` bytes of the file in `folder`; empty where there is none.

    Training and evaluation are in different records, so the last one alone does not say all.
    """
    newest: dict[str, Any] = {}
    with contextlib.suppress(OSError), (folder / METRICS_FILE).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        for line in file.read().splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    newest |= value
    return newest
