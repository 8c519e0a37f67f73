"""The token store: a corpus tokenised once, as flat files verified against a manifest."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.config import DataConfig
from scaling.data.corpora import changed_source, source_identity
from scaling.data.duplicates import told_again
from scaling.data.manifest import FORMAT, again, check_files, check_identity, manifest_of, read_manifest
from scaling.data.mapped import MappedFiles
from scaling.data.tokenizer import TOKENIZER_FILE, Tokenizer, load_tokenizer, token_bytes
from scaling.errors import UserError
from scaling.files import path_of
from scaling.text import align
from scaling.tokens import EOD

SPLITS = ("train", "validation")
MAPPED = {split: [f"{split}.{kind}" for kind in ("tokens", "starts.npy")] for split in SPLITS}
"""files that stay memory-mapped and are read during training"""
COUNTED = 2**24  # tokens counted at once; NumPy needs 8 bytes for each


@dataclass(frozen=True)
class Split:
    """One part of a corpus as tokens: each document, then the end-of-document token 0."""

    tokens: np.ndarray
    """uint8, uint16 or uint32 [n_tokens], memory-mapped"""
    doc_starts: np.ndarray
    """int64 [n_documents]: where each document begins in `tokens`, ascending"""
    n_bytes: int
    """bytes of text (UTF-8) that the tokens represent; end-of-document tokens do not count"""
    check: Callable[[], None] = lambda: None
    """raises UserError if the files were changed since they were opened"""

    def taken(self, view: np.ndarray, index: np.ndarray) -> np.ndarray:
        """A copy `view[index]`, where `view` is `tokens` or a view of it. Raises UserError if the files were changed.

        Checks before, since a truncated file cannot be read, and after, since the data may change during the read.
        """
        self.check()
        found: np.ndarray = view[index]
        self.check()
        return found

    @property
    def n_tokens(self) -> int:
        """Number of tokens, end-of-document tokens included."""
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        """Number of documents, including one cut off at the end."""
        return len(self.doc_starts)

    def unigram_loss(self) -> float:
        """Nats per target of a model that predicts the token frequencies of this split."""
        targets = self.tokens[1:]
        self.check()
        counts = np.zeros(int(targets.max(initial=0)) + 1, np.int64)
        for start in range(0, len(targets), COUNTED):
            counts += np.bincount(targets[start : start + COUNTED], minlength=len(counts))
        self.check()
        share = counts[counts > 0] / max(1, len(targets))
        return float(-(share * np.log(share)).sum())


@dataclass(frozen=True)
class TokenStore:
    """Train and validation tokens of a corpus, cut to the lengths in a DataConfig."""

    folder: Path
    manifest: Mapping[str, Any]
    train: Split
    validation: Split

    @property
    def vocab(self) -> int:
        """Vocabulary size of the tokenizer, the end-of-document token included."""
        return int(self.manifest["tokenizer"]["vocab"])

    def tokenizer(self) -> Tokenizer:
        """The store's tokenizer, to encode and decode text."""
        return load_tokenizer(self.manifest["tokenizer"]["kind"], self.folder)


def store_folder_of(data: DataConfig, store_folder: str | Path) -> Path:
    """Folder of the store, named after corpus, tokenizer and a hash of everything that defines the tokens."""
    defining = {
        "format": FORMAT,
        "source": source_identity(data),
        "text_field": data.text_field,
        "tokenizer": data.tokenizer.model_dump(mode="json"),
        "validation_fraction": data.validation_fraction,
    }
    if data.document_bytes is not None:  # omitted if unset, so that existing stores keep their names
        defining["document_bytes"] = data.document_bytes
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:12]
    corpus = re.sub(r"[^\w.]+", "-", data.corpus.partition(":")[2] or data.corpus)[-40:].strip("-.")
    kind = data.tokenizer.kind if data.tokenizer.kind == "bytes" else f"bpe{data.tokenizer.vocab}"
    return path_of(store_folder) / "stores" / f"{corpus}-{kind}-{digest}"


def token_dtype(vocab: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds every token."""
    return np.dtype(np.uint8 if vocab <= 2**8 else np.uint16 if vocab <= 2**16 else np.uint32)


def open_store(data: DataConfig, store_folder: str | Path, full_check: bool = False) -> TokenStore:
    """The prepared store of a corpus, checked against its manifest.

    Sizes are always checked, and contents by SHA-256; for a file over 1 GiB only 64 samples of 1 MiB unless
    `full_check`. A process checks each file once.

    Args:
      data: what to open; `train_tokens` and `validation_tokens` cut the splits.
      store_folder: the folder of all stores (`records.store_folder`).
      full_check: hash every byte of every file.

    Raises:
      UserError: there is no such store, a file does not match its manifest, a cut is longer than the split,
        or local files changed since they were tokenised.
    """
    folder = store_folder_of(data, store_folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"no token store for data.corpus={data.corpus!r} in {folder.parent}; "
            "create it with `scaling data prepare DATA.yaml`"
        )
    with manifest_of(folder):
        check_identity(folder, manifest, data)
        mapped = {split: MappedFiles(folder, manifest, MAPPED[split]) for split in SPLITS}
        check_files(folder, manifest, full_check)
        if change := changed_source(data, manifest["source"]):
            raise UserError(f"data.corpus={data.corpus!r} changed since it was tokenised ({change}); {again(folder)}")
        whole = {split: _open_split(folder, manifest, split) for split in SPLITS}
    cuts = {"train": data.train_tokens, "validation": data.validation_tokens}
    splits = {
        split: replace(_cut(whole[split], folder, split, cuts[split]), check=mapped[split].check) for split in SPLITS
    }
    for split in SPLITS:
        splits[split].check()
    return TokenStore(folder, manifest, splits["train"], splits["validation"])


def run_tokenizer(data: DataConfig, store_folder: str | Path) -> Tokenizer:
    """The tokenizer of a corpus, without its tokens. Raises UserError if it belonged to a store that is gone."""
    folder = store_folder_of(data, store_folder)
    if data.tokenizer.kind != "bytes":
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(
                f"{folder}, which holds the tokenizer of data.corpus={data.corpus!r}, is missing; create it again "
                "with `scaling data prepare DATA.yaml`"
            )
        with manifest_of(folder):
            check_identity(folder, manifest, data)
            check_files(folder, manifest, full=True, names=[TOKENIZER_FILE])
    return load_tokenizer(data.tokenizer.kind, folder)


def _open_split(folder: Path, manifest: Mapping[str, Any], split: str) -> "_FullSplit":
    dtype, facts = token_dtype(manifest["tokenizer"]["vocab"]), manifest["splits"][split]
    tokens = np.memmap(folder / f"{split}.tokens", dtype=dtype, mode="r")
    full = _FullSplit(
        np.asarray(tokens),  # the same pages without the memmap subclass, whose slices cost microseconds each
        np.load(folder / f"{split}.starts.npy", mmap_mode="r"),
        np.load(folder / f"{split}.text_bytes.npy", mmap_mode="r"),
    )
    found = {"tokens": len(full.tokens), "documents": len(full.starts), "text_bytes": int(full.text_bytes[-1])}
    if wrong := [key for key, value in found.items() if facts[key] != value]:
        raise ValueError(f"its splits.{split}.{wrong[0]} is {facts[wrong[0]]}, but the files have {found[wrong[0]]}")
    return full


@dataclass(frozen=True)
class _FullSplit:
    tokens: np.ndarray
    starts: np.ndarray
    text_bytes: np.ndarray
    """int64 [n_documents]: bytes of text up to the end of each document"""


def _cut(full: _FullSplit, folder: Path, split: str, n_tokens: int | None) -> Split:
    """The first `n_tokens` of a split; its bytes are counted exactly even if the cut is inside a document."""
    if n_tokens is None or n_tokens == len(full.tokens):
        return Split(full.tokens, np.asarray(full.starts), int(full.text_bytes[-1]))
    if n_tokens > len(full.tokens):
        raise UserError(
            f"data.{split}_tokens={n_tokens:,} but the {split} split has {len(full.tokens):,} tokens; "
            "set that many or fewer, or leave it out to use all of them"
        )
    n_documents = int(np.searchsorted(full.starts, n_tokens))
    whole = int(full.text_bytes[n_documents - 2]) if n_documents > 1 else 0
    piece = full.tokens[full.starts[n_documents - 1] : n_tokens]
    rest = int(token_bytes(folder)[piece].sum())
    return Split(full.tokens[:n_tokens], np.asarray(full.starts[:n_documents]), whole + rest)


def describe(store: TokenStore) -> str:
    """The contents of a store as an aligned table."""
    rows = [("", "documents", "tokens", "text MB", "bytes/token")]
    for name, split in (("train", store.train), ("validation", store.validation)):
        ratio, megabytes = split.n_bytes / split.n_tokens, split.n_bytes / 1e6
        rows.append((name, f"{split.n_documents:,}", f"{split.n_tokens:,}", f"{megabytes:.2f}", f"{ratio:.3f}"))
    tokenizer, source = store.manifest["tokenizer"], store.manifest["source"]
    about = [
        *source.items(),
        ("tokenizer", f"{tokenizer['kind']}, vocabulary {tokenizer['vocab']:,}, end of document {EOD}"),
        ("store", store.folder),
    ]
    named = [(key.replace("_", " "), str(value)) for key, value in about]
    notes = [f"note: {note}" for note in told_again(store.manifest)]
    return "\n".join([*align(rows), "", *align(named, left=2), *notes])
