"""Signals as exceptions: writes in progress are finished or rolled back, and the command says how to continue."""

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from scaling.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any]
AGAIN_S = 0.02
"""until a signal that came at a moment when nothing can be raised is sent again"""


@contextlib.contextmanager
def end_on_sigterm(message: str) -> Iterator[None]:
    """SIGTERM ends the block with `Interrupted`; a second one has its default effect; code in the block may handle
    the signal itself. Does nothing outside the main thread, where Python delivers no signals.

    message: what is kept, and how to continue.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before)
        raise Interrupted(message)

    before = signal.signal(signal.SIGTERM, where_it_ends(end))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def ctrl_c_stops() -> Iterator[None]:
    """SIGINT ends the block with KeyboardInterrupt, also one that arrives where Python would print and ignore it.

    No effect where SIGINT has another handler than Python's own, nor outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, where_it_ends(signal.default_int_handler))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def where_it_ends(handler: Handler) -> Handler:
    """A handler that raises, called where that ends the block; where it would be swallowed, a moment later."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not swallows(frame):
            handler(number, frame)
            return
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    return handle


def swallows(frame: FrameType | None) -> bool:
    """Whether an exception raised in `frame` would be printed and ignored: in a callback of the garbage collector,
    such as JAX's, which a fit calls all the time, or in a finalizer."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def closed_terminal_stops() -> Iterator[None]:
    """Treat a closed terminal (SIGHUP) as a SIGTERM in the block, and stop writing to it, which would fail.

    No effect where the signal is ignored, as under nohup, nor outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
        yield
        return
    shown = [stream for stream in (1, 2) if os.isatty(stream)]  # isatty fails once it is closed

    def gone(number: int, frame: FrameType | None) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in shown:
            os.dup2(nowhere, stream)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGHUP, gone)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
