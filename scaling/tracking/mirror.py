"""The mirror of a run's records in wandb, kept from ever stopping the run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, run_id
from scaling.result import Result

log = logging.getLogger(__name__)


class Mirror:
    """What `tracker` starts; its first error, if it ever has one, is a warning and its end."""

    def __init__(self, config: RunConfig, folder: Path, *, enabled: bool):
        self._tracker: Any = None
        if enabled:
            self._guard(lambda: self._start(config, folder))

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if self._tracker is not None:
            self._guard(lambda: self._tracker.log(step, record))

    def finish(self, result: Result | None) -> None:
        """The record of the run; None where it will go on later."""
        if self._tracker is not None:
            self._guard(lambda: self._tracker.finish(result))

    def _start(self, config: RunConfig, folder: Path) -> None:
        from scaling.tracking import tracker

        self._tracker = tracker.start(config, run_id(config), folder)

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._tracker = None
            log.warning("wandb: %s: %s; the run goes on without it", type(error).__name__, error)
