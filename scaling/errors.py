"""What ends a command early: a mistake of the user's, being told to stop, and a disk that takes no more."""

import errno
import os
import re

USER_ERROR = 2  # exit code: the same command would fail in the same way
INTERRUPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, try again and it will go on

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST_WORD, LONGEST_LINE, LONGEST_READ = 500, 4000, 100_000
"""characters of a message: what is longer is cut; a path may have a few hundred"""
REFUSED = (*DENIED, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT)


class UserError(ValueError):
    """Something the user can mend: a wrong key, a missing file, an impossible shape.

    The message is one line and says which key or file, what was found, what is allowed and what to do. The
    command line prints it and exits with code 2; a program that calls the library may catch it. What it repeats of a
    user's input is cut where it is long, and shown where it could not be printed.
    """

    def __init__(self, message: str):
        super().__init__(legible(message))


class Interrupted(SystemExit):
    """A command was told to stop (SIGTERM): its state is saved, or nothing of it is half-written.

    The process ends with code 75; the message says how to go on.
    """

    def __init__(self, message: str):
        super().__init__(INTERRUPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


def legible(text: str) -> str:
    """A text as one line that any terminal can show, without its length where that says nothing."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text[:LONGEST_READ].split()))
    line = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda found: f"{found[0][:60]}…{found[0][-20:]}", line)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


def shown(value: object) -> str:
    """A value that a user gave, as a message repeats it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or what is nested as deep
        return f"a {type(value).__name__} too long to show"
    if "\n" in text or " object at 0x" in text:  # a table, an array, or what has no words for itself
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def explain(error: OSError) -> tuple[str, int] | None:
    """What a file system's refusal means to the user: one line and the exit code. None for any other error.

    The code is 1 where the disk is full: the work failed, and goes on once there is room. It is 2 where a folder or a
    file cannot be used at all: the same command would fail again.
    """
    said = _in_the_way(error) if error.errno == errno.EEXIST else (error.strerror or "").lower()
    if error.errno in FULL:
        return f"cannot write {error.filename or 'a file'}: {said}; make room, and the same command goes on", 1
    if error.errno in REFUSED and error.filename is not None:
        return f"cannot use {error.filename}: {said}; mend that, or choose another folder or file", USER_ERROR
    return None


def one_line(error: Exception) -> str:
    """What went wrong, for a message that goes on after it."""
    told = explain(error) if isinstance(error, OSError) else None
    if told is not None:
        return told[0]
    return " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())


def _in_the_way(error: OSError) -> str:
    """What is where a folder was to be made."""
    path = error.filename
    if path is not None and os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which is not there"
    return "a file is where a folder should be"
