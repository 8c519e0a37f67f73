"""The mirror of a run's records in wandb, which can never stop the run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.config import RunConfig, run_id
from scaling.result import Result
from scaling.tracking.key import automatic_mode, has_key
from scaling.tracking.opening import Mode, Opening
from scaling.tracking.tracker import Tracker

FINISH_SECONDS: dict[Mode, float] = {"online": 60.0, "offline": 30.0, "disabled": 0.0}
"""how long the end of a run waits for wandb: an upload, or the last lines of a file"""

log = logging.getLogger(__name__)


class Mirror:
    """Sends a run's records to wandb, in the group of its sweep; a restarted run continues its record there.

    The first error is reported as a warning and ends the mirror.
    """

    def __init__(self, config: RunConfig, folder: Path, *, enabled: bool = True):
        """config: `records.wandb` is the mode, `records.wandb_project` the project, `records.sweep` the group.
        folder: the run's own, where wandb's files go. enabled: False: every call does nothing."""
        self._tracker: Tracker | None = None
        if enabled:
            self._guard(lambda: self._start(config, folder))

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl; it includes `tokens` and `flops`, the axes of the charts."""
        if (tracker := self._tracker) is not None:
            self._guard(lambda: tracker.log(step, record))

    def finish(self, result: Result | None) -> None:
        """Finish with the record of the run; None where it will continue later."""
        if (tracker := self._tracker) is not None:
            self._guard(lambda: tracker.finish(result))

    def _start(self, config: RunConfig, folder: Path) -> None:
        requested = config.records.wandb
        mode = automatic_mode() if requested == "auto" else requested
        keyless = mode == "online" and not has_key()
        if keyless:
            mode = "offline"
        name = run_id(config)
        facts = config.model_dump(mode="json") | {"params_total": accounting.params(config.model).total}
        self._tracker = Tracker(
            Opening(
                project=config.records.wandb_project,
                group=config.records.sweep,
                id=name,
                name=name,
                mode=mode,
                folder=str(folder),
                config=facts,
                finish_seconds=FINISH_SECONDS[mode],
            )
        )
        if keyless:
            self._tracker.warn("no API key (run `wandb login` or set WANDB_API_KEY), so the run is recorded offline")

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._tracker = None
            log.warning("wandb: %s: %s; the run continues without it", type(error).__name__, error)
