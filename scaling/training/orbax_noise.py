"""Keeps Orbax from printing, at length and several times, the errors that it also raises.

A file that cannot be read or written is an exception here, and whoever catches it tells it in one line. Orbax logs
it with its traceback as well, once for each of its threads, and leaves behind the reads that were under way: each
ends in an event loop that is closed, which Python prints, too. Threads may do so long after the error was raised, so
what is turned off stays off; all else is printed as before.
"""

import functools
import inspect
import logging
import sys

READ_ONLY = ("CheckpointManagerOptions.read_only=True", "Given directory is read only")
"""how the warnings begin that another run's checkpoints are only read, as they should be"""


@functools.cache
def quieten_orbax() -> None:
    """From here on Orbax only raises its errors."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda r: not (r.exc_info or str(r.msg).startswith(READ_ONLY)))
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        coroutine = unraisable.object if inspect.iscoroutine(unraisable.object) else None
        abandoned = coroutine is not None and "orbax" in coroutine.cr_code.co_filename
        if not abandoned and "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
