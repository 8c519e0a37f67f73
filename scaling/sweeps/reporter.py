"""The interface of reports: the caller passes one to a launch, because reports import sweeps and not vice versa."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Draws the sweep in a folder; the module `scaling.report` is one."""

    def page_of(self, sweep_dir: Path) -> Path:
        """Where the page is written."""
        ...

    def live_command(self, sweep_dir: Path) -> Sequence[str]:
        """The command that writes `runs.parquet` and the page once, in a separate process, during training."""
        ...

    def settle(self, sweep_dir: Path) -> None:
        """Mark the page as final, so that it no longer says that training goes on; no effect without a page."""
        ...

    def write(self, sweep_dir: Path) -> Path:
        """Draw the whole report; the page's path."""
        ...

    def summary(self, sweep_dir: Path) -> str:
        """The results as lines for a terminal."""
        ...
