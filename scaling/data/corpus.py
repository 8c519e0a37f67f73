"""What a corpus is: documents in a fixed order, some of them held out."""

import hashlib
import platform
from collections.abc import Iterator
from typing import Any, Protocol

Position = tuple[int, int]
"""(file, record): where in a corpus a reader has arrived, so that an interrupted one can go on"""
START: Position = (0, 0)
STDLIB = "python_stdlib"


class Corpus(Protocol):
    """Documents in a fixed order, each either in `train` or in `validation`."""

    facts: dict[str, Any]
    """what the documents came from, for the manifest; another value means another corpus"""
    stamp: str
    """of the moment: another value means that what was read of it before may not be what is there now"""

    def documents(self, split: str, start: Position = START) -> Iterator[tuple[Position, str]]:
        """The documents of a split from `start` on, each with the position after it; empty ones are left out.

        Raises UserError for a file or record that cannot be read.
        """
        ...

    def size(self, split: str) -> int | None:
        """Documents in a split where that is known without reading them."""
        ...


def interpreter() -> str:
    """Name of the running interpreter, such as `cpython-3.11.7`: each has library sources of its own."""
    return f"{platform.python_implementation().lower()}-{platform.python_version()}"


def held_out(key: str, fraction: float) -> bool:
    """Whether the document of this key is held out: a hash of the key, the same on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64
