"""SIGTERM as an exception: what is being written is finished or taken back, and the command says how to go on."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from scaling.errors import Interrupted


@contextlib.contextmanager
def end_on_sigterm(message: str) -> Iterator[None]:
    """SIGTERM ends the block with `Interrupted`, a second one as it would have without; what is in the block may have
    its own way. Does nothing outside the main thread, where Python delivers no signals.

    message: what is kept, and how to go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, before)
        raise Interrupted(message)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
