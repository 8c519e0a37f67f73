"""Signals as exceptions: writes in progress are finished or rolled back, and the command says how to continue."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from scaling.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any]
AGAIN_S = 0.02
"""until a signal whose exception was ignored is sent again"""


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

    before = signal.signal(signal.SIGTERM, end)
    try:
        with _sent_again(signal.SIGTERM, end, Interrupted):
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
    with _sent_again(signal.SIGINT, signal.default_int_handler, KeyboardInterrupt):
        yield


@contextlib.contextmanager
def _sent_again(number: int, handler: Handler, raised: type[BaseException]) -> Iterator[None]:
    """Where the exception that a signal's handler raises is printed and ignored, the signal is sent again.

    Python ignores exceptions in callbacks of the garbage collector, such as JAX's, which a fit calls all the time, in
    those of weak references and in finalizers.
    """
    before = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, raised):
            before(ignored)
            return
        signal.signal(number, handler)
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


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
