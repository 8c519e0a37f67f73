"""Measurements during a run: running sums over losses, detection of divergence, and metrics.jsonl."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scaling.config import tail_steps
from scaling.metrics import METRICS_FILE, read_metrics
from scaling.result import naming, write_text_atomically

PATIENCE = 50
"""consecutive steps above the objective's limit that count as divergence; a non-finite loss does at once"""


@dataclass
class RunningLosses:
    """Running sums over the training losses of steps, in order; saved in checkpoints for resumed runs."""

    steps: int
    """steps of the whole run"""
    limit: float
    """the loss that a healthy run stays below, see `Objective.limit`"""
    window_sum: float = 0.0
    window_count: int = 0
    """since the last record"""
    tail_sum: float = 0.0
    tail_count: int = 0
    """in the last tenth of the steps"""
    above: int = 0
    """consecutive steps above the limit"""

    def add(self, step: int, loss: float) -> str | None:
        """Add the loss of update number `step` (from 1). Returns why the run has diverged, if it has."""
        if not math.isfinite(loss):
            return f"the loss of step {step} is {loss}"
        self.above = self.above + 1 if loss > self.limit else 0
        if self.above >= PATIENCE:
            return f"the loss was above {self.limit:.2f}, 1.5 times that of guessing, in {PATIENCE} consecutive steps"
        self.window_sum += loss
        self.window_count += 1
        if step > self.steps - tail_steps(self.steps):
            self.tail_sum += loss
            self.tail_count += 1
        return None

    def take_window(self) -> float | None:
        """Mean loss since the last call."""
        mean = self.window_sum / self.window_count if self.window_count else None
        self.window_sum, self.window_count = 0.0, 0
        return mean

    @property
    def tail(self) -> float | None:
        """Mean loss over the completed steps among the last tenth."""
        return self.tail_sum / self.tail_count if self.tail_count else None

    def state(self) -> dict[str, Any]:
        """Plain values; `RunningLosses(**values)` restores this exactly."""
        return asdict(self)


def write_metrics(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Rewrite `metrics.jsonl` with these records."""
    write_text_atomically(folder / METRICS_FILE, _lines(records))


def settled(records: Sequence[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
    """The records that a checkpoint of `step` covers: an evaluation after that update will be repeated."""
    return [r for r in records if r["step"] < step or (r["step"] == step and "eval_loss" not in r)]


def digest(records: Sequence[Mapping[str, Any]]) -> str:
    """Checksum of records, in hex."""
    return hashlib.sha256(_lines(records).encode()).hexdigest()


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line, in order of `step`; training has `loss`, evaluation `eval_loss`."""

    def __init__(self, folder: Path, step: int, expected: str | None = None, *, write: bool = True):
        """Continue the file after update number `step`; later lines belong to lost updates and are dropped.

        expected: `digest` of the kept lines as they were written. write: whether this process writes the file; one
        process of a run does.
        """
        self.path = folder / METRICS_FILE
        self.records = settled(read_metrics(folder), step)
        self.as_written = expected is None or digest(self.records) == expected
        self._believed = 0 if self.as_written else len(self.records)
        self._file: Any = None
        if write:
            write_metrics(folder, self.records)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, visible to readers immediately."""
        self.records.append(dict(record))
        if self._file:
            with naming(self.path):
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()

    def sync(self) -> None:
        """Flush all records to disk before a checkpoint relies on them."""
        if self._file:
            with naming(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()

    @property
    def measured(self) -> list[Mapping[str, Any]]:
        """The records known to be as measured, without those that were edited or cut since."""
        return self.records[self._believed :]

    def last(self, having: str) -> Mapping[str, Any] | None:
        """The latest measured record that has the key `having`."""
        return next((record for record in reversed(self.measured) if having in record), None)

    def tokens_per_s(self) -> float | None:
        """Median over the measurements; the first, taken while caches and clocks warm up, counts only if alone."""
        speeds = [record["tokens_per_s"] for record in self.measured if record.get("tokens_per_s")]
        return median(speeds[1:] or speeds) if speeds else None
