"""The exceptions that end a command: a mistake of the user's, and being told to stop."""

INTERRUPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, try again and it will go on


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
