"""Signals while a run trains."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from scaling.errors import Interrupted
from scaling.stopping import ctrl_c_stops, end_on_sigterm
from scaling.training.interrupt import Signals, Stop


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As in a terminal: a process begun in the background of a script ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_worker_told_twice_to_stop_still_saves() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals(enabled=True) as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stop):
            signals.check()
        assert isinstance(signals.exception("saved"), Interrupted)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_ends_at_once() -> None:
    with Signals(enabled=True) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(signals.exception("saved"), KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    seen = []
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> None:
        with Signals(enabled=True):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("number", "block", "raised"),
    [
        (signal.SIGINT, ctrl_c_stops(), KeyboardInterrupt),
        (signal.SIGTERM, end_on_sigterm("told to stop"), Interrupted),
    ],
)
def test_a_signal_whose_exception_python_ignores_is_not_lost(
    number: int, block: AbstractContextManager[None], raised: type[BaseException]
) -> None:
    """As in callbacks of the garbage collector, of which JAX has one, and in finalizers."""
    sent = []

    class Ended:
        def __del__(self) -> None:
            time.sleep(0.1)  # the signal that is sent again is ignored, too

    def callback(phase: str, _: object) -> None:
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    gc.callbacks.append(callback)
    try:
        with pytest.raises(raised), block:
            gc.collect()
            Ended()
            time.sleep(5)
    finally:
        gc.callbacks.remove(callback)
    assert sent
