"""The token store: a corpus tokenised once, as flat files that a manifest vouches for."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scaling.config import DataConfig
from scaling.data.corpora import changed_source, source_identity
from scaling.data.tokenizer import TOKENIZER_FILE, Tokenizer, load_tokenizer, token_bytes
from scaling.errors import UserError
from scaling.text import align
from scaling.tokens import EOD

FORMAT = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")
FULL_HASH_BYTES = 2**30  # larger files are checked by size and by samples, unless asked
SAMPLES, SAMPLE_BYTES = 64, 2**20
COUNTED = 2**24  # tokens counted at a time: NumPy makes 8 bytes of each


@dataclass(frozen=True)
class Split:
    """One part of a corpus as tokens: each document, then the end-of-document token 0."""

    tokens: np.ndarray
    """uint8, uint16 or uint32 [n_tokens], memory-mapped"""
    doc_starts: np.ndarray
    """int64 [n_documents]: where each document begins in `tokens`, ascending"""
    n_bytes: int
    """bytes of text (UTF-8) that the tokens stand for, end-of-document tokens not counted"""

    @property
    def n_tokens(self) -> int:
        """Tokens, end-of-document tokens included."""
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        """Documents, one that the end cuts included."""
        return len(self.doc_starts)

    def unigram_loss(self) -> float:
        """Nats per target of a model that knows how often each token is a target here, and nothing else."""
        targets = self.tokens[1:]
        counts = np.zeros(int(targets.max(initial=0)) + 1, np.int64)
        for start in range(0, len(targets), COUNTED):
            counts += np.bincount(targets[start : start + COUNTED], minlength=len(counts))
        share = counts[counts > 0] / max(1, len(targets))
        return float(-(share * np.log(share)).sum())


@dataclass(frozen=True)
class TokenStore:
    """Train and validation tokens of a corpus, cut to what a DataConfig asks for."""

    folder: Path
    manifest: Mapping[str, Any]
    train: Split
    validation: Split

    @property
    def vocab(self) -> int:
        """Tokens that the tokenizer knows, the end-of-document token included."""
        return int(self.manifest["tokenizer"]["vocab"])

    def tokenizer(self) -> Tokenizer:
        """What made the tokens, to encode and decode text."""
        return load_tokenizer(self.manifest["tokenizer"]["kind"], self.folder)


def store_folder_of(data: DataConfig, store_folder: str | Path) -> Path:
    """Folder of the store: its name says corpus and tokenizer, its hash all that defines the tokens."""
    defining = {
        "format": FORMAT,
        "source": source_identity(data),
        "text_field": data.text_field,
        "tokenizer": data.tokenizer.model_dump(mode="json"),
        "validation_fraction": data.validation_fraction,
    }
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:12]
    corpus = re.sub(r"[^\w.]+", "-", data.corpus.partition(":")[2] or data.corpus)[-40:].strip("-.")
    kind = data.tokenizer.kind if data.tokenizer.kind == "bytes" else f"bpe{data.tokenizer.vocab}"
    return Path(store_folder).expanduser() / "stores" / f"{corpus}-{kind}-{digest}"


def token_dtype(vocab: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds every token."""
    return np.dtype(np.uint8 if vocab <= 2**8 else np.uint16 if vocab <= 2**16 else np.uint32)


def open_store(data: DataConfig, store_folder: str | Path, full_check: bool = False) -> TokenStore:
    """The prepared store of a corpus, checked against its manifest.

    Sizes are always checked, contents by SHA-256; of a file over 1 GiB only 64 samples of 1 MiB unless
    `full_check`. A process checks a file once.

    Args:
      data: what to open; `train_tokens` and `validation_tokens` cut the splits.
      store_folder: where stores are kept (`records.store_folder`).
      full_check: hash every byte of every file.

    Raises:
      UserError: no such store, a file that is not what its manifest says, a cut longer than the split,
        or local files that changed since.
    """
    folder = store_folder_of(data, store_folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"no token store for data.corpus={data.corpus!r} in {folder.parent}; "
            "make it with `scaling data prepare DATA.yaml`"
        )
    for name, facts in manifest["files"].items():
        _check_file(folder, name, facts, full_check)
    if change := changed_source(data, manifest["source"]):
        raise UserError(f"data.corpus={data.corpus!r} changed since it was tokenised ({change}); {_again(folder)}")
    cuts = {"train": data.train_tokens, "validation": data.validation_tokens}
    splits = {split: _cut(_open_split(folder, manifest, split), folder, split, cuts[split]) for split in SPLITS}
    return TokenStore(folder, manifest, splits["train"], splits["validation"])


def run_tokenizer(data: DataConfig, store_folder: str | Path) -> Tokenizer:
    """The tokenizer of a corpus, without its tokens. Raises UserError where it was made with a store that is gone."""
    folder = store_folder_of(data, store_folder)
    if data.tokenizer.kind != "bytes" and not (folder / TOKENIZER_FILE).is_file():
        raise UserError(
            f"{folder} has no {TOKENIZER_FILE}, the tokenizer of data.corpus={data.corpus!r}; make it again with "
            "`scaling data prepare DATA.yaml`"
        )
    return load_tokenizer(data.tokenizer.kind, folder)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished store; None where there is no store. Raises UserError for a damaged one."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or not {"files", "splits", "tokenizer"} <= manifest.keys():
            raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
        return dict(manifest)
    except FileNotFoundError:
        if folder.exists():
            raise UserError(f"{folder} has no {MANIFEST}; {_again(folder)}") from None
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a token store's manifest ({error}); {_again(folder)}") from None


def file_facts(path: Path) -> dict[str, Any]:
    """Size and hashes of a file, as the manifest keeps them."""
    size = path.stat().st_size
    facts: dict[str, Any] = {"bytes": size, "sha256": _sha256(path)}
    if size > FULL_HASH_BYTES:
        facts["sample_sha256"] = _sample_sha256(path)
    return facts


def _open_split(folder: Path, manifest: Mapping[str, Any], split: str) -> "_FullSplit":
    facts = manifest["splits"][split]
    tokens = np.memmap(folder / f"{split}.tokens", dtype=facts["dtype"], mode="r", shape=(facts["tokens"],))
    return _FullSplit(
        np.asarray(tokens),  # the same pages without the subclass, whose every slice costs microseconds
        np.load(folder / f"{split}.starts.npy", mmap_mode="r"),
        np.load(folder / f"{split}.text_bytes.npy", mmap_mode="r"),
    )


@dataclass(frozen=True)
class _FullSplit:
    tokens: np.ndarray
    starts: np.ndarray
    text_bytes: np.ndarray
    """int64 [n_documents]: bytes of text up to the end of each document"""


def _cut(full: _FullSplit, folder: Path, split: str, n_tokens: int | None) -> Split:
    """The first `n_tokens` of a split, its bytes counted exactly also where the cut is inside a document."""
    if n_tokens is None or n_tokens == len(full.tokens):
        return Split(full.tokens, np.asarray(full.starts), int(full.text_bytes[-1]))
    if n_tokens > len(full.tokens):
        raise UserError(
            f"data.{split}_tokens={n_tokens:,} but the {split} split has {len(full.tokens):,} tokens; "
            "ask for that many or fewer, or leave it out for all of them"
        )
    n_documents = int(np.searchsorted(full.starts, n_tokens))
    whole = int(full.text_bytes[n_documents - 2]) if n_documents > 1 else 0
    piece = full.tokens[full.starts[n_documents - 1] : n_tokens]
    rest = int(token_bytes(folder)[piece].sum())
    return Split(full.tokens[:n_tokens], np.asarray(full.starts[:n_documents]), whole + rest)


def _check_file(folder: Path, name: str, facts: Mapping[str, Any], full: bool) -> None:
    path = folder / name
    try:
        stat = path.stat()
    except OSError:
        raise UserError(f"{path} is missing from the token store; {_again(folder)}") from None
    if stat.st_size != facts["bytes"]:
        raise UserError(
            f"{path} has {stat.st_size:,} bytes where its manifest says {facts['bytes']:,}; {_again(folder)}"
        )
    kind = "sha256" if full or "sample_sha256" not in facts else "sample_sha256"
    if _cached_hash(str(path), stat.st_size, stat.st_mtime_ns, kind) != facts[kind]:
        raise UserError(f"the bytes of {path} do not match its manifest (SHA-256); {_again(folder)}")


@lru_cache(maxsize=256)
def _cached_hash(path: str, size: int, mtime_ns: int, kind: str) -> str:
    """Hash of a file, computed once a process while its size and time stay the same."""
    return _sha256(Path(path)) if kind == "sha256" else _sample_sha256(Path(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample_sha256(path: Path) -> str:
    """SHA-256 over 64 pieces of 1 MiB, evenly spaced from the first byte to the last."""
    digest, last = hashlib.sha256(), path.stat().st_size - SAMPLE_BYTES
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(last * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _again(folder: Path) -> str:
    return f"delete {folder} and run `scaling data prepare` again"


def describe(store: TokenStore) -> str:
    """What is in a store, as an aligned table."""
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
    return "\n".join([*align(rows), "", *align(named, left=2)])
