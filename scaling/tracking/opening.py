"""The settings with which a run in wandb is opened."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["online", "offline", "disabled"]
COMMAND = (sys.executable, "-m", "scaling.tracking.process")
"""the process that talks to wandb"""


@dataclass(frozen=True)
class Opening:
    """The first line that the process reads."""

    project: str
    group: str
    id: str
    name: str
    mode: Mode
    folder: str
    """where wandb's files go"""
    config: Mapping[str, Any]
    finish_seconds: float
    """how long the end may take: an upload, or the last lines of a file"""
    job_type: str | None = None
    resume: Literal["allow"] | None = "allow"
    """None: the run of this id begins anew"""
