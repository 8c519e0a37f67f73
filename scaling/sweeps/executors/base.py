"""The executor interface: it receives commands, and reports when each of them ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """One process to run: a worker that trains the run in each of `folders` (several: a pack, in one program)."""

    name: str
    """run id of the first"""
    folders: tuple[Path, ...]
    """the command's output goes to the first one's `log.txt`"""
    command: tuple[str, ...]
    cost: float = 1.0
    """FLOPs: the most expensive start first, so that no long one is left to run alone at the end"""
    devices: int = 1
    """devices (CPU: cores) that it needs at once"""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A task that has ended."""

    task: Task
    exit_code: int | None
    """that of a process: negative for a signal; None where its end was not seen (its node died) or it never began;
    -SIGTERM also where it was told to stop, did not, and was killed by the executor"""
    seconds: float


class Executor(Protocol):
    """Runs tasks somewhere. Everything to be kept of a run is in its folder.

    `wait` reports every submitted task once, however it ended, cancelled tasks included. After `close` an executor
    may be opened again.
    """

    @property
    def slots(self) -> int:
        """Devices (CPU: cores) that tasks share; shown in plans and progress."""
        ...

    @property
    def device(self) -> str:
        """The kind of these devices, as `accounting.device` knows it; empty where unknown beforehand."""
        ...

    def open(self, home: Path) -> None:
        """Called before the first `submit`. home: the sweep's folder."""
        ...

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks and return at once. Raises UserError, before any is queued, for a task that can never run."""
        ...

    def wait(self, seconds: float) -> list[Finished]:
        """Tasks that ended since the last call; waits at most `seconds` for the first."""
        ...

    def cancel(self) -> None:
        """Start nothing further, and send SIGTERM to running tasks; later `wait`s report each."""
        ...

    def close(self) -> None:
        """Called at the end, also after an error. Tasks that end with their launcher (local, Ray) are not left
        running."""
        ...
