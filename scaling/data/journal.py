"""The journal of a preparation: what of each split is safely in its files, and by which hash they are known."""

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
    """What of a split is safely in its files."""

    position: Position = START
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    done: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file up to here, by its kind"""

    def sizes(self, dtype: np.dtype[Any]) -> dict[str, int]:
        """Bytes of each file up to here."""
        return {
            "tokens": self.tokens * dtype.itemsize,
            "starts": self.documents * 8,
            "text_bytes": self.documents * 8,
        }


def write_journal(partial: Path, corpus: Corpus, written: Mapping[str, Written]) -> None:
    journal = {"of": _whose(partial, corpus), "splits": {split: asdict(w) for split, w in written.items()}}
    write_text_atomically(partial / JOURNAL, json.dumps(sealed(journal)))


def read_journal(partial: Path, corpus: Corpus, dtype: np.dtype[Any]) -> dict[str, Written] | None:
    """What is safe of each split; None where nothing is: no journal, a damaged one, one of another store or corpus,
    or files that do not begin with what it vouches for. dtype: of the tokens."""
    try:
        journal = require_whole(read_json(partial / JOURNAL))
        written = {s: Written(**{**w, "position": tuple(w["position"])}) for s, w in journal["splits"].items()}
        whole = all(_is_whole(partial, split, each, dtype) for split, each in written.items())
        return written if journal["of"] == _whose(partial, corpus) and whole else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _whose(partial: Path, corpus: Corpus) -> dict[str, Any]:
    """The corpus, as it is now, and the folder's name, which stands for all else that defines the tokens."""
    return {"store": partial.name, "source": corpus.facts, "stamp": corpus.stamp}


def _is_whole(partial: Path, split: str, written: Written, dtype: np.dtype[Any]) -> bool:
    sizes = written.sizes(dtype)
    found = {kind: _hash_of(partial / f"{split}.{kind}", size).hexdigest() for kind, size in sizes.items() if size}
    return found == written.hashes


def _hash_of(path: Path, size: int) -> Any:
    """SHA-256 over the first `size` bytes of a file, to go on with."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(min(size, PIECE_BYTES)):
            digest.update(piece)
            size -= len(piece)
    return digest


class Growing:
    """A file cut back to what the journal vouches for, and appended to."""

    def __init__(self, path: Path, size: int):
        self.path = path
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)
        self._hash = _hash_of(path, size)

    def append(self, data: bytes) -> str:
        """Once this returns, `data` is safe; the SHA-256 of all that the file holds then."""
        with naming(self.path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self._hash.update(data)
        return str(self._hash.hexdigest())

    def close(self) -> None:
        with naming(self.path):
            self._file.close()
