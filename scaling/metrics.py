"""Reading `metrics.jsonl`, the measurements during a run, without heavy imports."""

import contextlib
import os
from pathlib import Path
from typing import Any

from scaling.files import parse_json, read_lines

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records in `folder`, without half-written ones of a killed process. Raises UserError as `read_lines`
    does."""
    return [record for record in read_lines(folder / METRICS_FILE) if _is_record(record)]


def _is_record(record: dict[str, Any]) -> bool:
    """Whether a record has a step, and only numbers."""
    return type(record.get("step")) is int and all(value is None or _is_number(value) for value in record.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def last_metrics(folder: Path, size: int = 4096) -> dict[str, Any]:
    """The newest value of every quantity in the last `size` bytes of the file in `folder`; empty where there is none.

    Training and evaluation are in different records, so the last record alone does not have all quantities.
    """
    newest: dict[str, Any] = {}
    with contextlib.suppress(OSError), (folder / METRICS_FILE).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        for line in file.read().splitlines():
            with contextlib.suppress(ValueError):
                value = parse_json(line)
                if isinstance(value, dict) and _is_record(value):
                    newest |= value
    return newest
