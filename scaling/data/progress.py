"""Progress of a preparation: a bar on a terminal, occasional plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

SECONDS_BETWEEN_LINES = 5.0


class PreparationProgress:
    """Shows documents and bytes done, on standard error."""

    def __init__(self, label: str, documents: int | None, show: bool) -> None:
        self.label, self.total, self.show = label, documents, show
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.perf_counter()
        self._state = (0, 0)

    def __enter__(self) -> Self:
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"),
                       TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.label, total=self.total, amount="")
            self._bar.start()
        return self

    def at(self, documents: int, text_bytes: int) -> None:
        """Update the display with what is done so far."""
        self._state = documents, text_bytes
        if self._bar is not None:
            self._bar.update(self._task, completed=documents, amount=f"{text_bytes / 1e6:,.1f} MB")
        elif self.show and time.perf_counter() - self._last_line > SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        documents, text_bytes = self._state
        total = f" of {self.total:,}" if self.total else ""
        print(
            f"{self.label}: {documents:,}{total} documents, {text_bytes / 1e6:,.1f} MB", file=sys.stderr, flush=True
        )
        self._last_line = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.show and kind is None:
            self._line()
