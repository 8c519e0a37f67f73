"""Reasons that end a command early: a user's mistake, a stop signal, and a full disk."""

import errno
import os
import re

USER_ERROR = 2  # exit code: the same command would fail in the same way
INTERRUPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, run again to continue

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST_WORD, LONGEST_LINE, LONGEST_READ = 500, 4000, 100_000
"""limits in characters, beyond which messages are cut; a path may have a few hundred"""
REFUSED = (*DENIED, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT)


class UserError(ValueError):
    """Something the user can fix: a wrong key, a missing file, an impossible shape.

    The message is one line and says which key or file, what was found, what is allowed and what to do. The command
    line prints it and exits with code 2; a program that calls the library may catch it. User input in it is shortened
    where it is long, and escaped where it is not printable.
    """

    def __init__(self, message: str):
        super().__init__(legible(message))


class Interrupted(SystemExit):
    """A command was told to stop (SIGTERM): its state is saved, and nothing is half-written.

    The process ends with code 75; the message says how to continue.
    """

    def __init__(self, message: str):
        super().__init__(INTERRUPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


def legible(text: str) -> str:
    """A text as one line that any terminal can show, shortened where it is long."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text[:LONGEST_READ].split()))
    line = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda found: f"{found[0][:60]}…{found[0][-20:]}", line)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


def shown(value: object) -> str:
    """A value from a user, as a message shows it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or what is nested as deep
        return f"a {type(value).__name__} too long to show"
    if "\n" in text or " object at 0x" in text:  # a table, an array, or what has no words for itself
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def explain(error: OSError) -> tuple[str, int] | None:
    """What a file system error means to the user: one line and the exit code. None for any other error.

    The code is 1 where the disk is full: the work failed, and can continue once there is room. It is 2 where a folder
    or a file cannot be used at all: the same command would fail again.
    """
    reason = _in_the_way(error) if error.errno == errno.EEXIST else (error.strerror or "").lower()
    if error.errno in FULL:
        where = legible(str(error.filename or "a file"))
        return f"cannot write {where}: {reason}; free some space, and the same command continues", 1
    if error.errno in REFUSED and error.filename is not None:
        where = legible(str(error.filename))
        return f"cannot use {where}: {reason}; correct that, or choose another folder or file", USER_ERROR
    return None


def one_line(error: Exception) -> str:
    """The error in one line, for use within a longer message."""
    explained = explain(error) if isinstance(error, OSError) else None
    if explained is not None:
        return explained[0]
    return " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())


def _in_the_way(error: OSError) -> str:
    """What is in the way of a folder to be created."""
    path = error.filename
    if path is not None and os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which does not exist"
    return "it is a file, not a folder"
