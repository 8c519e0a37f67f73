"""Keeps Orbax from also printing, at length and repeatedly, the errors that it raises.

A file that cannot be read or written raises an exception, which the caller reports in one line. Orbax additionally
logs it with a traceback in each of its threads and abandons pending reads, each of which ends in a closed event loop,
which Python prints too. Threads may do so long after the error, so the filters stay on; everything else is printed
as before.
"""

import functools
import inspect
import logging
import sys

READ_ONLY = ("CheckpointManagerOptions.read_only=True", "Given directory is read only")
"""beginnings of the warnings that another run's checkpoints are opened read-only, as intended"""


@functools.cache
def quieten_orbax() -> None:
    """From now on, Orbax raises its errors without printing them."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda r: not (r.exc_info or str(r.msg).startswith(READ_ONLY)))
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        coroutine = unraisable.object if inspect.iscoroutine(unraisable.object) else None
        abandoned = coroutine is not None and "orbax" in coroutine.cr_code.co_filename
        if not abandoned and "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
