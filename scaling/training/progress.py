"""Progress display of a training run: a bar in a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

SECONDS = 10.0  # least time between plain lines


class RunProgress(Protocol):
    """Shows the records of a run as they are written."""

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        """Show a record of metrics.jsonl, written after update number `step`."""

    def say(self, text: str) -> None:
        """Print one line permanently."""

    def close(self) -> None:
        """Restore the terminal."""


def open_progress(name: str, steps: int, start: int, *, quiet: bool, alone: bool = True) -> RunProgress:
    """The display that suits the output.

    name: of the run. steps: of the whole run. start: updates already done. alone: no other run shows its progress at
    the same time, since a terminal has room for one bar.
    """
    if quiet:
        return Silent()
    return Bar(name, steps, start) if alone and sys.stderr.isatty() else Lines(name, steps)


class Silent:
    """Shows no progress; messages still go to stderr."""

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        pass

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Lines(Silent):
    """A line every ten seconds, and one for each evaluation."""

    def __init__(self, name: str, steps: int):
        self.name, self.steps, self.last = name, steps, time.monotonic()

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if "eval_loss" in record or step == self.steps or now - self.last >= SECONDS:
            self.last = now
            self.say(f"{self.name}  step {step}/{self.steps}  {record_line(record)}")


class Bar:
    """A bar with the remaining time, the latest loss and the speed."""

    def __init__(self, name: str, steps: int, start: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = RichProgress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True))
        self.task = self.bar.add_task(name, total=steps, completed=start, text="compiling")
        self.bar.start()

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        if "eval_loss" in record:
            self.say(f"step {step}  {record_line(record)}")
        else:
            self.bar.update(self.task, completed=step, text=record_line(record))

    def say(self, text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self.bar.stop()


def record_line(record: Mapping[str, Any]) -> str:
    """The main numbers of a record, in one line."""
    if "eval_loss" in record:
        error, bits = record["eval_loss_sem"], record["bits_per_byte"]
        within = "" if error is None else f" ± {error:.4f}"
        return f"held-out loss {record['eval_loss']:.4f}{within}" + (
            "" if bits is None else f", {bits:.4f} bits per byte"
        )
    speed = record.get("tokens_per_s")
    return f"loss {record['loss']:.4f}" + (f"  {speed:,.0f} tokens/s" if speed else "")
