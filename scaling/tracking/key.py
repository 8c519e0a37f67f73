"""Whether wandb's server can be used: its key, and the mode that follows from it."""

import http.client
import netrc
import os
import urllib.error
import urllib.request
from typing import cast, get_args
from urllib.parse import urlparse

from scaling.errors import UserError
from scaling.files import path_of
from scaling.tracking.opening import Mode

REACH_S = 10.0
"""seconds for the server to answer: wandb itself would wait for a minute, and record nothing meanwhile"""


def automatic_mode() -> Mode:
    """What `auto` means: WANDB_MODE where it is set, else online with a key and offline without."""
    requested = os.environ.get("WANDB_MODE", "")
    if requested in get_args(Mode):
        return cast(Mode, requested)
    return "online" if has_key() else "offline"


def server() -> str:
    """The address of wandb's server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def unreachable() -> str:
    """Why wandb's server does not answer; empty where it gives any answer. Uses the environment's proxies."""
    try:
        with urllib.request.urlopen(server(), timeout=REACH_S):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{server()} does not answer ({getattr(error, 'reason', None) or error})"


def has_key() -> bool:
    """Whether there is a key for wandb's server, in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(server()).hostname or ""
    try:
        return netrc.netrc(path_of(os.environ.get("NETRC", "~/.netrc"))).authenticators(host) is not None
    except (OSError, ValueError, UserError, netrc.NetrcParseError):
        return False
