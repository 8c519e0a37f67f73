"""Training time, broken down by activity."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STEP = "step"
"""computing updates, including waiting for the device. Other activities are `data`: waiting for a batch; `compile`;
`evaluate`; `save`: until a checkpoint can be written asynchronously"""
LOST, OTHER = "lost", "other"
"""updates after the last checkpoint, lost in an interruption; everything else, such as records and restoring"""


class Clock:
    """Seconds since its creation, without pauses, and all seconds by activity."""

    def __init__(self) -> None:
        self._start = self._created = time.perf_counter()
        self._spent: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def spending(self, on: str, *, paused: bool = False) -> Iterator[None]:
        """Attribute the time inside to the activity `on`. paused: it does not count as training time."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self._spent[on] = self._spent.get(on, 0.0) + spent
            self._start += spent * paused

    def spent(self, before: Mapping[str, float]) -> dict[str, float]:
        """Seconds by activity, including those of earlier processes; they add up to the total time."""
        rest = time.perf_counter() - self._created - sum(self._spent.values())
        names = dict.fromkeys([*before, *self._spent, OTHER])
        now = {**self._spent, OTHER: rest}
        return {name: round(before.get(name, 0.0) + now.get(name, 0.0), 3) for name in names}


def goodput(spent: Mapping[str, float]) -> float | None:
    """Share of a run's time, restarts included, spent on updates that were not lost; None if no time has passed."""
    total = sum(spent.values())
    return spent.get(STEP, 0.0) / total if total else None


def shares(spent: Mapping[str, float]) -> str:
    """The shares of the activities as text, largest first, omitting those below 1 %."""
    total = sum(spent.values()) or 1.0
    largest = sorted(spent.items(), key=lambda item: -item[1])
    listed = [f"{name} {seconds / total:.0%}" for name, seconds in largest if seconds / total >= 0.01]
    return f"{total:.1f} s: {', '.join(listed)}"
