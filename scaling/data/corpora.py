"""Opening the corpus of a configuration, and identifying it on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.config import DataConfig
from scaling.data.corpus import STDLIB, Corpus, interpreter
from scaling.data.files_corpus import FilesCorpus, from_root
from scaling.errors import UserError
from scaling.names import meant


def open_corpus(data: DataConfig, store_folder: str | Path, progress: bool = False) -> Corpus:
    """The corpus of a DataConfig, downloaded first if necessary (`progress`: with messages).

    Raises UserError if it is unknown or has no files.
    """
    kind, _, rest = data.corpus.partition(":")
    if data.corpus == STDLIB:
        data = data.model_copy(update={"text_field": "text"})  # the builder's own field
        return _tfds(f"{STDLIB}/{interpreter()}", data, store_folder, {"python": interpreter()}, progress)
    if kind == "tfds" and rest:
        return _tfds(rest, data, store_folder, {}, progress)
    if kind == "files" and rest:
        return FilesCorpus(rest, data)
    hint = meant(data.corpus, (STDLIB, "tfds:", "files:"), most=1)
    hint += " " * bool(hint)
    raise UserError(
        f"unknown data.corpus={data.corpus!r}; {hint}allowed: {STDLIB}, tfds:NAME (a dataset of "
        "tensorflow-datasets), files:GLOB (such as files:texts/**/*.txt)"
    )


def _tfds(name: str, data: DataConfig, store_folder: str | Path, facts: dict[str, Any], progress: bool) -> Corpus:
    try:
        from scaling.data.tfds_corpus import open_tfds
    except ModuleNotFoundError as error:
        raise UserError(
            f"data.corpus={data.corpus} needs the package {error.name}, which is not installed: pip install "
            "tensorflow-datasets; without it, use files (files:GLOB), or copy records.store_folder from a machine "
            "where the corpus is prepared"
        ) from None
    return open_tfds(name, data, store_folder, facts, progress)


def source_identity(data: DataConfig) -> dict[str, str]:
    """What identifies a corpus on this machine without reading it: an absolute glob, or the stdlib and its Python."""
    kind, _, rest = data.corpus.partition(":")
    if data.corpus == STDLIB:
        return {"corpus": STDLIB, "python": interpreter()}
    if kind == "files" and rest:
        return {"corpus": f"files:{from_root(rest)}"}
    return {"corpus": data.corpus}


def refused_source(data: DataConfig) -> str:
    """Why a corpus of local files cannot be prepared, judged by file names and first bytes; else empty."""
    kind, _, pattern = data.corpus.partition(":")
    if kind != "files":
        return ""
    try:
        FilesCorpus(pattern, data).require_usable()
    except UserError as error:
        return str(error)
    return ""


def changed_source(data: DataConfig, facts: Mapping[str, Any]) -> str:
    """What has changed in a corpus of local files since `facts` were recorded; empty if nothing has.

    If all files are gone, that is not a change: a store may outlive its sources or move to another machine.
    """
    kind, _, pattern = data.corpus.partition(":")
    if kind != "files":
        return ""
    try:
        now = FilesCorpus(pattern, data).facts
    except UserError:
        return ""
    if now == facts:
        return ""
    return (
        f"{facts['files']} files of {facts['file_bytes']:,} bytes then, {now['files']} of {now['file_bytes']:,} now"
    )
