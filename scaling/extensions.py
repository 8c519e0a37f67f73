"""Modules of the user's own that add to the registries, see docs/extending.md."""

import importlib
import os

from scaling.errors import UserError

VARIABLE = "SCALING_EXTENSIONS"


def load_extensions() -> None:
    """Import the comma-separated modules in SCALING_EXTENSIONS; every command and worker does this first.

    Raises UserError for a missing module.
    """
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{VARIABLE}: cannot import {name!r}: {error}; is it on PYTHONPATH?") from None
