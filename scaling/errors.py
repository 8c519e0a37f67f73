"""What ends a command early: a mistake of the user's, being told to stop, and a disk that takes no more."""

import errno
import os

USER_ERROR = 2  # exit code: the same command would fail in the same way
INTERRUPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, try again and it will go on

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
REFUSED = (*DENIED, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT)


class UserError(ValueError):
    """Something the user can mend: a wrong key, a missing file, an impossible shape.

    The message is one line and says which key or file, what was found, what is allowed and what to do. The
    command line prints it and exits with code 2; a program that calls the library may catch it.
    """


class Interrupted(SystemExit):
    """A run or a sweep was told to stop (SIGTERM) and its state is saved; the process ends with code 75."""

    def __init__(self, message: str):
        super().__init__(INTERRUPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


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
