"""Modules of the user's own that add to the registries, see docs/extending.md."""

import importlib
import os

from scaling.errors import UserError

VARIABLE = "SCALING_EXTENSIONS"


def load_extensions() -> None:
    """Imports the modules that SCALING_EXTENSIONS names, by commas; every command and worker begins with it.

    Raises UserError for one that is not there.
    """
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{VARIABLE}: cannot import {name!r}: {error}; is it on PYTHONPATH?") from None
