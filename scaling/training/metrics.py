"""What a run measures on the way: running sums over losses, when it has diverged, and metrics.jsonl."""

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
"""steps in a row above the objective's limit are divergence; a loss that is no finite number is, at once"""


@dataclass
class RunningLosses:
    """Sums over the training losses of steps, in order; kept in checkpoints, so a resumed run goes on from them."""

    steps: int
    """steps of the whole run"""
    limit: float
    """what a healthy run stays below, see `Objective.limit`"""
    window_sum: float = 0.0
    window_count: int = 0
    """since the last record"""
    tail_sum: float = 0.0
    tail_count: int = 0
    """in the last tenth of the steps"""
    above: int = 0
    """steps in a row above the limit"""

    def add(self, step: int, loss: float) -> str | None:
        """Count the loss of update number `step` (from 1). Returns why the run has diverged, if it has."""
        if not math.isfinite(loss):
            return f"the loss of step {step} is {loss}"
        self.above = self.above + 1 if loss > self.limit else 0
        if self.above >= PATIENCE:
            return (
                f"the loss was above {self.limit:.2f}, what guessing costs half as much again, in {PATIENCE} steps "
                "in a row"
            )
        self.window_sum += loss
        self.window_count += 1
        if step > self.steps - tail_steps(self.steps):
            self.tail_sum += loss
            self.tail_count += 1
        return None

    def take_window(self) -> float | None:
        """Mean loss since this was last asked."""
        mean = self.window_sum / self.window_count if self.window_count else None
        self.window_sum, self.window_count = 0.0, 0
        return mean

    @property
    def tail(self) -> float | None:
        """Mean loss over the last tenth of the steps, as far as they are done."""
        return self.tail_sum / self.tail_count if self.tail_count else None

    def state(self) -> dict[str, Any]:
        """Plain values; `RunningLosses(**values)` is this again, to the bit."""
        return asdict(self)


def write_metrics(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """`metrics.jsonl` anew, with these records."""
    write_text_atomically(folder / METRICS_FILE, _lines(records))


def settled(records: Sequence[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
    """Those that a checkpoint of `step` stands for: an evaluation after that update is made again."""
    return [r for r in records if r["step"] < step or (r["step"] == step and "eval_loss" not in r)]


def digest(records: Sequence[Mapping[str, Any]]) -> str:
    """Checksum of records, in hex."""
    return hashlib.sha256(_lines(records).encode()).hexdigest()


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


class MetricsFile:
    """`metrics.jsonl`: a JSON object a line, in order of `step`. Training has `loss`, an evaluation `eval_loss`."""

    def __init__(self, folder: Path, step: int, expected: str | None = None, *, write: bool = True):
        """Continue the file after update number `step`; later lines come from updates that were lost and go.

        expected: `digest` of the lines that stay, as they were written. write: whether this process writes the file;
        one of a run does.
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
        """Append a record; a reader sees it at once."""
        self.records.append(dict(record))
        if self._file:
            with naming(self.path):
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()

    def sync(self) -> None:
        """Have all records on the disk before a checkpoint counts on them."""
        if self._file:
            with naming(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()

    @property
    def measured(self) -> list[Mapping[str, Any]]:
        """The records that are as they were measured: not those that somebody has changed, or cut, since."""
        return self.records[self._believed :]

    def last(self, having: str) -> Mapping[str, Any] | None:
        """The latest measured record that has the key `having`."""
        return next((record for record in reversed(self.measured) if having in record), None)

    def tokens_per_s(self) -> float | None:
        """Median over what was measured; the first, in which caches and clocks warm up, counts if it is alone."""
        speeds = [record["tokens_per_s"] for record in self.measured if record.get("tokens_per_s")]
        return median(speeds[1:] or speeds) if speeds else None
