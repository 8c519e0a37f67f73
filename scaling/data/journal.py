"""The journal of a preparation: how much of each split is safely on disk, with hashes of the files."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.corpus import START, Corpus, Position
from scaling.files import read_json, require_whole, sealed
from scaling.result import naming, write_text_atomically

JOURNAL = "journal.json"
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Written:
    """The part of a split that is safely on disk."""

    position: Position = START
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    done: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file up to this point, by kind"""

    def sizes(self, dtype: np.dtype[Any]) -> dict[str, int]:
        """Bytes of each file up to this point."""
        return {
            "tokens": self.tokens * dtype.itemsize,
            "starts": self.documents * 8,
            "text_bytes": self.documents * 8,
        }


def write_journal(partial: Path, corpus: Corpus, written: Mapping[str, Written]) -> None:
    journal = {"of": _identity(partial, corpus), "splits": {split: asdict(w) for split, w in written.items()}}
    write_text_atomically(partial / JOURNAL, json.dumps(sealed(journal)))


def read_journal(partial: Path, corpus: Corpus, dtype: np.dtype[Any]) -> dict[str, Written] | None:
    """The safely written part of each split. None if there is no journal, if it is damaged or of another store or
    corpus, or if the files do not match its hashes. dtype: of the tokens."""
    try:
        journal = require_whole(read_json(partial / JOURNAL))
        written = {s: Written(**{**w, "position": tuple(w["position"])}) for s, w in journal["splits"].items()}
        whole = all(_is_whole(partial, split, each, dtype) for split, each in written.items())
        return written if journal["of"] == _identity(partial, corpus) and whole else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _identity(partial: Path, corpus: Corpus) -> dict[str, Any]:
    """The corpus in its current state, and the folder's name, which covers all else that defines the tokens."""
    return {"store": partial.name, "source": corpus.facts, "stamp": corpus.stamp}


def _is_whole(partial: Path, split: str, written: Written, dtype: np.dtype[Any]) -> bool:
    sizes = written.sizes(dtype)
    found = {kind: _hash_of(partial / f"{split}.{kind}", size).hexdigest() for kind, size in sizes.items() if size}
    return found == written.hashes


def _hash_of(path: Path, size: int) -> Any:
    """SHA-256 object over the first `size` bytes of a file, to be continued."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(min(size, PIECE_BYTES)):
            digest.update(piece)
            size -= len(piece)
    return digest


class Growing:
    """A file that is truncated to the size in the journal and then appended to."""

    def __init__(self, path: Path, size: int):
        self.path = path
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)
        self._hash = _hash_of(path, size)

    def append(self, data: bytes) -> str:
        """Append `data` and fsync; returns the SHA-256 of the whole file."""
        with naming(self.path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self._hash.update(data)
        return str(self._hash.hexdigest())

    def close(self) -> None:
        with naming(self.path):
            self._file.close()
