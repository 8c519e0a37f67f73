"""What an executor is: it is given commands, and tells as each of them ends."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """One command to run: usually a worker that trains the run in `folder`."""

    run_id: str
    folder: Path
    """its `log.txt` takes what the command prints"""
    command: tuple[str, ...]
    cost: float = 1.0
    """in any unit: the dearest start first, so that no long one is left to run alone at the end"""
    devices: int = 1
    """devices (CPU: cores) that it needs at once"""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A task that has ended."""

    task: Task
    exit_code: int
    """as a process's: negative for a signal"""
    seconds: float


class Executor(Protocol):
    """Runs tasks somewhere. All that is to be kept of a run is in its folder, so an executor keeps no state."""

    @property
    def slots(self) -> int:
        """Devices (CPU: cores) that tasks share."""
        ...

    def run(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Finished]:
        """Each task once, told as it ends, whatever its exit code. When `stop` is set, no further one is started,
        and those that run are ended by SIGTERM and told too."""
        ...
