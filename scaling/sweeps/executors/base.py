"""What an executor is: it is given commands, and tells as each of them ends."""

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
    """the first one's `log.txt` takes what the command prints"""
    command: tuple[str, ...]
    cost: float = 1.0
    """FLOPs: the dearest start first, so that no long one is left to run alone at the end"""
    devices: int = 1
    """devices (CPU: cores) that it needs at once"""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A task that has ended."""

    task: Task
    exit_code: int | None
    """as a process's: negative for a signal; None where nobody saw it end (its node died) or where it never began;
    -SIGTERM also where it was told to stop, did not, and was killed by the executor"""
    seconds: float


class Executor(Protocol):
    """Runs tasks somewhere. All that is to be kept of a run is in its folder.

    Every task that was submitted is told once by `wait`, however it ended, those that were cancelled included.
    After `close` an executor may be opened again.
    """

    @property
    def slots(self) -> int:
        """Devices (CPU: cores) that tasks share; told in plans and progress."""
        ...

    @property
    def device(self) -> str:
        """The kind of these devices, as `accounting.device` knows it; empty where it is not known beforehand."""
        ...

    def open(self, home: Path) -> None:
        """Before the first `submit`. home: the sweep's folder."""
        ...

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks and return at once. Raises UserError, before any is queued, for one that can never run."""
        ...

    def wait(self, seconds: float) -> list[Finished]:
        """Tasks that ended since the last call; waits at most `seconds` for the first."""
        ...

    def cancel(self) -> None:
        """Nothing further starts, and what runs gets SIGTERM; later `wait`s tell of each."""
        ...

    def close(self) -> None:
        """At the end, however it came. Of tasks that end with their launcher (local, Ray) none is left running."""
        ...
