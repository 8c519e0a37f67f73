"""Building a token store: restartable, by one process at a time, and published atomically when complete."""

import contextlib
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaling.config import DataConfig
from scaling.data.corpora import open_corpus
from scaling.data.corpus import START, Corpus, Position
from scaling.data.duplicates import seen_again, told_again
from scaling.data.files_corpus import FilesCorpus
from scaling.data.journal import Growing, Written, read_journal, write_journal
from scaling.data.manifest import FORMAT, MANIFEST, file_facts, read_manifest, write_manifest
from scaling.data.progress import PreparationProgress
from scaling.data.store import SPLITS, TokenStore, open_store, token_dtype
from scaling.data.store import store_folder_of as folder_of
from scaling.data.tokenizer import TOKENIZER_FILE, TRAINING_BYTES, Tokenizer, digest, load_tokenizer, train_bpe
from scaling.errors import UserError
from scaling.files import read_json, require_whole, sealed
from scaling.locks import lock
from scaling.result import write_text_atomically
from scaling.tokens import EOD

TRAINING = "tokenizer_training.json"
BATCH_CHARACTERS = 8_000_000  # encoded between two journal entries; the most that an interruption costs


def prepare(data: DataConfig, store_folder: str | Path, progress: bool = True) -> TokenStore:
    """Tokenises a corpus into its store, or opens the store if it exists.

    An interrupted preparation resumes where it stopped; a second process that needs the same store waits for the
    first and uses its result.

    Args:
      data: the corpus, the tokenizer and the cuts of the returned store.
      store_folder: the folder of all stores (`records.store_folder`).
      progress: a bar on a terminal, plain lines elsewhere, both on standard error; False for none.

    Raises:
      UserError: the corpus is unknown, empty or unreadable, or its files changed since they were tokenised.
    """
    folder = folder_of(data, store_folder)
    if read_manifest(folder) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_name(f"{folder.name}.lock"), wait_s=math.inf):
            if read_manifest(folder) is None:
                _build(data, store_folder, folder, progress)
    return open_store(data, store_folder)


def _build(data: DataConfig, store_folder: str | Path, folder: Path, progress: bool) -> None:
    started = time.perf_counter()
    partial = folder.with_name(f"{folder.name}.partial")
    with contextlib.suppress(UserError):  # the partial store is unfinished, or its manifest is damaged
        if read_manifest(partial):  # complete, but interrupted before the rename
            return _publish(partial, folder)
    corpus = open_corpus(data, store_folder, progress)
    if isinstance(corpus, FilesCorpus):
        corpus.require_usable()
    written = _resume(data, partial, corpus)
    tokenizer, training = _tokenizer(data, partial, corpus, progress)
    for split in SPLITS:
        if not written[split].done:
            with PreparationProgress(f"tokenising {split}", corpus.size(split), progress) as bar:
                _write_split(partial, corpus, tokenizer, split, written, bar)
        if not written[split].documents:
            raise UserError(_empty(data, split, written["train"].documents))
    _finish(data, partial, corpus, tokenizer, training, written, time.perf_counter() - started)
    _publish(partial, folder)
    for note in told_again(read_manifest(folder) or {}) if progress else ():
        print(f"note: {data.corpus}: {note}", file=sys.stderr)


def _empty(data: DataConfig, split: str, train_documents: int) -> str:
    if split == "train":
        return f"data.corpus={data.corpus!r} has no text to train on: every document is empty or held out"
    return (
        f"data.corpus={data.corpus!r} has {train_documents} documents, none of which is held out by "
        f"data.validation_fraction={data.validation_fraction:g}; raise it, or cut the text into more documents "
        "(a .txt file is one document unless data.document_bytes is set)"
    )


def _resume(data: DataConfig, partial: Path, corpus: Corpus) -> dict[str, Written]:
    """What an interrupted preparation left, if it is intact and of the same corpus; else a fresh folder."""
    written = read_journal(partial, corpus, token_dtype(data.tokenizer.vocab))
    if written is None or _training(data, partial) is None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        written = {split: Written() for split in SPLITS}
        write_journal(partial, corpus, written)
    return written


def _training(data: DataConfig, partial: Path) -> dict[str, int] | None:
    """How much text the tokenizer in the folder was trained on; None if there is none or it is damaged."""
    if data.tokenizer.kind == "bytes":
        return {}
    try:
        facts = require_whole(read_json(partial / TRAINING))
        return facts if facts.pop("sha256") == digest("bpe", partial) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tokenizer(data: DataConfig, partial: Path, corpus: Corpus, progress: bool) -> tuple[Tokenizer, dict[str, int]]:
    """The store's tokenizer, trained on the first training documents if necessary, and how much text it used."""
    facts = _training(data, partial)
    if facts is None:
        facts = {"trained_on_documents": 0, "trained_on_bytes": 0}
        with PreparationProgress("learning a tokenizer", None, progress) as bar:
            text = train_bpe(data.tokenizer, _sample(corpus, facts, bar))
        write_text_atomically(partial / TOKENIZER_FILE, text)
        last = sealed({**facts, "sha256": digest("bpe", partial)})
        write_text_atomically(partial / TRAINING, json.dumps(last))  # marks the tokenizer as complete
    return load_tokenizer(data.tokenizer.kind, partial), facts


def _sample(corpus: Corpus, count: dict[str, int], bar: PreparationProgress) -> Iterator[str]:
    for _, text in corpus.documents("train"):
        size = len(text.encode("utf-8", "replace"))
        if count["trained_on_documents"] and count["trained_on_bytes"] + size > TRAINING_BYTES:
            return
        count["trained_on_documents"] += 1
        count["trained_on_bytes"] += size
        bar.at(count["trained_on_documents"], count["trained_on_bytes"])
        yield text


def _write_split(
    partial: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    split: str,
    written: dict[str, Written],
    bar: PreparationProgress,
) -> None:
    """Appends the missing part of a split to its files, with a journal entry after each batch of documents."""
    dtype, lengths = token_dtype(tokenizer.vocab), tokenizer.text_bytes().astype(np.uint32)
    at = written[split]
    files = {kind: Growing(partial / f"{split}.{kind}", size) for kind, size in at.sizes(dtype).items()}
    bar.at(at.documents, at.text_bytes)
    try:
        for position, texts in _batches(corpus.documents(split, at.position)):
            encoded = tokenizer.encode(texts)
            n_tokens = np.array([len(tokens) + 1 for tokens in encoded], np.int64)
            n_bytes = np.array([lengths[tokens].sum(dtype=np.int64) for tokens in encoded], np.int64)
            end = np.array([EOD], dtype)
            flat = np.concatenate([part for tokens in encoded for part in (tokens.astype(dtype, copy=False), end)])
            new = {"tokens": flat, "starts": at.tokens + np.cumsum(n_tokens) - n_tokens}
            new["text_bytes"] = at.text_bytes + np.cumsum(n_bytes)
            hashes = {kind: file.append(new[kind].tobytes()) for kind, file in files.items()}
            text_bytes = at.text_bytes + int(n_bytes.sum())
            at = Written(position, at.tokens + len(flat), at.documents + len(texts), text_bytes, hashes=hashes)
            written[split] = at
            write_journal(partial, corpus, written)
            bar.at(at.documents, at.text_bytes)
    finally:
        for file in files.values():
            file.close()
    written[split] = replace(at, done=True)
    write_journal(partial, corpus, written)


def _batches(documents: Iterator[tuple[Position, str]]) -> Iterator[tuple[Position, list[str]]]:
    """Documents in groups of about BATCH_CHARACTERS, each with the position after its last document."""
    texts: list[str] = []
    size, position = 0, START
    for position, text in documents:
        texts.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield position, texts
            texts, size = [], 0
    if texts:
        yield position, texts


def _finish(
    data: DataConfig, partial: Path, corpus: Corpus, tokenizer: Tokenizer,
    training: dict[str, int], written: dict[str, Written], seconds: float,
) -> None:  # fmt: skip
    """Writes array files and then the manifest, which marks the store as complete."""
    for split in SPLITS:
        for kind in ("starts", "text_bytes"):
            path = partial / f"{split}.{kind}"
            np.save(partial / f"{split}.{kind}.npy", np.fromfile(path, np.int64))
    seen = seen_again(partial, token_dtype(tokenizer.vocab))
    names = [f"{split}.{kind}" for split in SPLITS for kind in ("tokens", "starts.npy", "text_bytes.npy")]
    names += [TOKENIZER_FILE] if data.tokenizer.kind == "bpe" else []
    dtype = token_dtype(tokenizer.vocab).name
    manifest = {
        "format": FORMAT,
        "source": corpus.facts,
        "made_with": {"python": platform.python_version(), "numpy": np.__version__, "seconds": round(seconds, 2)},
        "data": data.model_dump(
            mode="json", include={"corpus", "text_field", "document_bytes", "tokenizer", "validation_fraction"}
        ),
        "tokenizer": {**data.tokenizer.model_dump(mode="json"), "end_of_document": EOD,
                      "sha256": digest(data.tokenizer.kind, partial), **training},
        "splits": {s: {"tokens": w.tokens, "documents": w.documents, "text_bytes": w.text_bytes, "dtype": dtype}
                   for s, w in written.items()},
        "held_out_in_train": seen,
        "files": {name: file_facts(partial / name) for name in names},
    }  # fmt: skip
    write_manifest(partial, manifest)


def _publish(partial: Path, folder: Path) -> None:
    """Deletes files that the manifest does not list, and renames the store to its final name atomically."""
    keep = {MANIFEST, *(read_manifest(partial) or {})["files"]}
    for path in partial.iterdir():
        if path.name not in keep:
            path.unlink()
    os.replace(partial, folder)
