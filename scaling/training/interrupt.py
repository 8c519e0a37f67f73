"""Signals to stop: a signal is recorded, and the loop saves its state at the next opportunity."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from scaling.errors import Interrupted


class Stop(Exception):
    """Raised inside the loop after a signal."""


class Signals:
    """While entered, SIGTERM and SIGINT are recorded instead of ending the process.

    A second Ctrl-C ends the process at once. A second SIGTERM does not: when a scheduler signals a whole process
    group, a worker receives the signal from it and from its launcher, and is already saving.

    Does nothing outside the main thread, where Python delivers no signals.
    """

    def __init__(self, *, enabled: bool):
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self.enabled:
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raises Stop after a signal."""
        if self.received is not None:
            raise Stop

    def exception(self, message: str) -> BaseException:
        """The exception that ends the program: KeyboardInterrupt after SIGINT, else `Interrupted`."""
        return KeyboardInterrupt(message) if self.received == signal.SIGINT else Interrupted(message)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, self._before.pop(number))

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
