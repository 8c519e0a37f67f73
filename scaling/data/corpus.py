"""The interface of a corpus: documents in a fixed order, some of them held out."""

import hashlib
import platform
from collections.abc import Iterator
from typing import Any, Protocol

Position = tuple[int, int]
"""(file, record): the position of a reader in a corpus, so that an interrupted one can resume"""
START: Position = (0, 0)
STDLIB = "python_stdlib"


class Corpus(Protocol):
    """Documents in a fixed order, each either in `train` or in `validation`."""

    facts: dict[str, Any]
    """the source of the documents, for the manifest; a different value means a different corpus"""
    stamp: str
    """state of the source; a different value means that documents read before may have changed"""

    def documents(self, split: str, start: Position = START) -> Iterator[tuple[Position, str]]:
        """The documents of a split from `start` on, each with the position after it; empty ones are skipped.

        Raises UserError for a file or record that cannot be read.
        """
        ...

    def size(self, split: str) -> int | None:
        """Number of documents in a split, if it is known without reading them."""
        ...


def interpreter() -> str:
    """Name of the running interpreter, such as `cpython-3.11.7`; each has its own library sources."""
    return f"{platform.python_implementation().lower()}-{platform.python_version()}"


def held_out(key: str, fraction: float) -> bool:
    """Whether the document with this key is held out, by a hash of the key that is the same on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64
