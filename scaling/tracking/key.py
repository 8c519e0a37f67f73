"""Whether wandb's server can be asked: its key, and the mode that follows from it."""

import netrc
import os
from pathlib import Path
from typing import cast, get_args
from urllib.parse import urlparse

from scaling.tracking.opening import Mode


def automatic_mode() -> Mode:
    """What `auto` means: WANDB_MODE where it is set, else online with a key and offline without."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked in get_args(Mode):
        return cast(Mode, asked)
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether there is a key for wandb's server, in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser()).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
