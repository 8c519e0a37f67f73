"""What draws a sweep: handed to a launch by its caller, since a report reads sweeps and not the other way round."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Draws the sweep in a folder; the module `scaling.report` is one."""

    def page_of(self, sweep_dir: Path) -> Path:
        """Where the page is written."""
        ...

    def live_command(self, sweep_dir: Path) -> Sequence[str]:
        """What writes `runs.parquet` and the page once, in a process of its own, while the sweep is trained."""
        ...

    def settle(self, sweep_dir: Path) -> None:
        """The page no longer says that training goes on. Nothing where there is none."""
        ...

    def write(self, sweep_dir: Path) -> Path:
        """Draw the whole report; the page's path."""
        ...

    def summary(self, sweep_dir: Path) -> str:
        """What came out, as lines for a terminal."""
        ...
