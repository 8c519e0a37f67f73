"""The manifest of a token store: the source of its tokens, and size and hash of each file."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from scaling.config import DataConfig
from scaling.data.corpora import source_identity
from scaling.errors import UserError
from scaling.files import read_json, reading, require_whole, sealed
from scaling.result import write_text_atomically

FORMAT = 1
MANIFEST = "manifest.json"
KEYS = {"data", "files", "source", "splits", "tokenizer"}
FULL_HASH_BYTES = 2**30  # larger files are checked by size and samples, unless a full check is requested
SAMPLES, SAMPLE_BYTES = 64, 2**20


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished store; None if there is no store. Raises UserError if it is damaged,
    and NotADirectoryError if there is a file in place of a folder."""
    path = folder / MANIFEST
    if file := next((place for place in (folder, *folder.parents) if place.is_file()), None):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(file))
    try:
        with manifest_of(folder):
            manifest = require_whole(read_json(path))
            if manifest["format"] != FORMAT or not manifest.keys() >= KEYS:
                raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
            return manifest
    except FileNotFoundError:
        if folder.exists():
            raise UserError(f"{folder} has no {MANIFEST}; {again(folder)}") from None
        return None


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write a manifest with a checksum of its own, so that changes to it are detected like those to the files."""
    write_text_atomically(folder / MANIFEST, json.dumps(sealed(values), indent=1) + "\n")


def manifest_of(folder: Path) -> Any:
    """A context manager for using a manifest, which turns errors from a malformed one into UserError."""
    return reading(folder / MANIFEST, "a token store's manifest", again(folder))


def check_identity(folder: Path, manifest: Mapping[str, Any], data: DataConfig) -> None:
    """Raises UserError if a store was made for another corpus or tokenizer than its name says."""
    keys = {"text_field", "document_bytes", "tokenizer", "validation_fraction"}
    requested = data.model_dump(mode="json", include=keys)
    found = {key: manifest["data"].get(key) for key in requested}
    requested |= source_identity(data)
    found |= {key: manifest["source"].get(key) for key in source_identity(data)}
    if other := [key for key, value in requested.items() if found[key] != value]:
        differing = ", ".join(f"{key}={found[key]!r}" for key in other)
        raise UserError(f"{folder} holds the tokens of another configuration ({differing}); {again(folder)}")


def check_files(folder: Path, manifest: Mapping[str, Any], full: bool, names: Iterable[str] | None = None) -> None:
    """Raises UserError for a file that does not match the manifest. names: of the files to check; default: all."""
    for name in manifest["files"] if names is None else names:
        _check_file(folder, name, manifest["files"][name], full)


def _check_file(folder: Path, name: str, facts: Mapping[str, Any], full: bool) -> None:
    path = folder / name
    try:
        stat = path.stat()
    except OSError:
        raise UserError(f"{path} is missing from the token store; {again(folder)}") from None
    if stat.st_size != facts["bytes"]:
        raise UserError(
            f"{path} has {stat.st_size:,} bytes where its manifest says {facts['bytes']:,}; {again(folder)}"
        )
    kind = "sha256" if full or "sample_sha256" not in facts else "sample_sha256"
    if _cached_hash(str(path), stat.st_size, stat.st_mtime_ns, kind) != facts[kind]:
        raise UserError(f"the bytes of {path} do not match its manifest (SHA-256); {again(folder)}")


def file_facts(path: Path) -> dict[str, Any]:
    """Size and hashes of a file, as stored in the manifest."""
    size = path.stat().st_size
    facts: dict[str, Any] = {"bytes": size, "sha256": _sha256(path)}
    if size > FULL_HASH_BYTES:
        facts["sample_sha256"] = _sample_sha256(path)
    return facts


@lru_cache(maxsize=256)
def _cached_hash(path: str, size: int, mtime_ns: int, kind: str) -> str:
    """Hash of a file, computed once per process while its size and modification time stay the same."""
    return _sha256(Path(path)) if kind == "sha256" else _sample_sha256(Path(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample_sha256(path: Path) -> str:
    """SHA-256 over 64 samples of 1 MiB, evenly spaced from the first byte to the last."""
    digest, last = hashlib.sha256(), path.stat().st_size - SAMPLE_BYTES
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(last * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def again(folder: Path) -> str:
    """Advice for a damaged store."""
    return f"delete {folder} and run `scaling data prepare` again"
