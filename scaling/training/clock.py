"""Seconds of training, and what they went into."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STEP = "step"
"""computing updates, and waiting for the device that does; also `data`: waiting for a batch; `compile`; `evaluate`;
`save`: until a checkpoint may be written beside the training"""
LOST, OTHER = "lost", "other"
"""updates after the last checkpoint that an interruption cost; all else, such as records and restoring"""


class Clock:
    """Seconds since it was made, without pauses, and all of them by what they went into."""

    def __init__(self) -> None:
        self._start = self._made = time.perf_counter()
        self._spent: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def spending(self, on: str, *, paused: bool = False) -> Iterator[None]:
        """What is inside goes into `on`. paused: it is no training."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self._spent[on] = self._spent.get(on, 0.0) + spent
            self._start += spent * paused

    def spent(self, before: Mapping[str, float]) -> dict[str, float]:
        """Seconds by what they went into, with those of earlier processes; they add up to all that passed."""
        rest = time.perf_counter() - self._made - sum(self._spent.values())
        names = dict.fromkeys([*before, *self._spent, OTHER])
        now = {**self._spent, OTHER: rest}
        return {name: round(before.get(name, 0.0) + now.get(name, 0.0), 3) for name in names}


def goodput(spent: Mapping[str, float]) -> float | None:
    """Share of a run's time, restarts included, in which updates were computed that count; None where none passed."""
    total = sum(spent.values())
    return spent.get(STEP, 0.0) / total if total else None


def shares(spent: Mapping[str, float]) -> str:
    """The same in words, the largest first; what is below a hundredth is left out."""
    total = sum(spent.values()) or 1.0
    largest = sorted(spent.items(), key=lambda item: -item[1])
    told = [f"{name} {seconds / total:.0%}" for name, seconds in largest if seconds / total >= 0.01]
    return f"{total:.1f} s: {', '.join(told)}"
