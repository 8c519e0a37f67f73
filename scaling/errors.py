"""The one exception for mistakes of the user's."""


class UserError(ValueError):
    """Something the user can mend: a wrong key, a missing file, an impossible shape.

    The message is one line and says which key or file, what was found, what is allowed and what to do. The
    command line prints it and exits with code 2; a program that calls the library may catch it.
    """
