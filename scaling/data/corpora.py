"""Corpora: where documents come from, and which of them are held out."""

import glob
import gzip
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from scaling.config import DataConfig
from scaling.errors import UserError

Position = tuple[int, int]
"""(file, record): where in a corpus a reader has arrived, so that an interrupted one can go on"""
START: Position = (0, 0)
FILE_KINDS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
STDLIB = "python_stdlib"


class Corpus(Protocol):
    """Documents in a fixed order, each either in `train` or in `validation`."""

    facts: dict[str, Any]
    """what the documents came from, for the manifest; another value means another corpus"""

    def documents(self, split: str, start: Position = START) -> Iterator[tuple[Position, str]]:
        """The documents of a split from `start` on, each with the position after it; empty ones are left out.

        Raises UserError for a file or record that cannot be read.
        """
        ...

    def size(self, split: str) -> int | None:
        """Documents in a split where that is known without reading them."""
        ...


def open_corpus(data: DataConfig, store_folder: str | Path, progress: bool = False) -> Corpus:
    """The corpus that a DataConfig names, downloaded first where it has to be (`progress`: saying so).

    Raises UserError for an unknown one, or one with no files.
    """
    kind, _, rest = data.corpus.partition(":")
    if data.corpus == STDLIB:
        from scaling.data.tfds_corpus import open_tfds

        data = data.model_copy(update={"text_field": "text"})  # the builder's own field
        return open_tfds(f"{STDLIB}/{interpreter()}", data, store_folder, {"python": interpreter()}, progress)
    if kind == "tfds" and rest:
        from scaling.data.tfds_corpus import open_tfds

        return open_tfds(rest, data, store_folder, {}, progress)
    if kind == "files" and rest:
        return FilesCorpus(rest, data)
    raise UserError(
        f"unknown data.corpus={data.corpus!r}; allowed: {STDLIB}, tfds:NAME (a dataset of tensorflow-datasets), "
        "files:GLOB (such as files:texts/**/*.txt)"
    )


def source_identity(data: DataConfig) -> dict[str, str]:
    """What names a corpus on this machine without reading it: a glob from the root, the stdlib with its Python."""
    kind, _, rest = data.corpus.partition(":")
    if data.corpus == STDLIB:
        return {"corpus": STDLIB, "python": interpreter()}
    if kind == "files" and rest:
        return {"corpus": f"files:{_pattern(rest)}"}
    return {"corpus": data.corpus}


def changed_source(data: DataConfig, facts: Mapping[str, Any]) -> str:
    """What is different about a corpus of local files since `facts` were taken; empty where nothing is.

    Files that are all gone are no change: a store outlives its sources, and moves to machines without them.
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


def interpreter() -> str:
    """Name of the running interpreter, such as `cpython-3.11.7`: each has library sources of its own."""
    return f"{platform.python_implementation().lower()}-{platform.python_version()}"


def held_out(key: str, fraction: float) -> bool:
    """Whether the document of this key is held out: a hash of the key, the same on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


class FilesCorpus:
    """Local files: a .txt is one document, a line of .jsonl and a row of .parquet is one each.

    Files come in the order of their paths. Which documents are held out is decided by a hash of the file's path
    (below the fixed part of the glob) and of the record's number in it, so it holds wherever the folder is.
    """

    def __init__(self, pattern: str, data: DataConfig) -> None:
        self.pattern, self.field, self.fraction = _pattern(pattern), data.text_field, data.validation_fraction
        self.root = _fixed_part(self.pattern)
        self.files = sorted(path for path in glob.glob(self.pattern, recursive=True) if os.path.isfile(path))
        if not self.files:
            raise UserError(f"data.corpus={data.corpus!r} matches no file (looked for {self.pattern})")
        for path in self.files:
            if not path.endswith(FILE_KINDS):
                raise UserError(f"data.corpus: {path} is of no kind that is read; allowed: {', '.join(FILE_KINDS)}")
        self.facts = self._facts()

    def _facts(self) -> dict[str, Any]:
        sizes = [(self._name(path), os.path.getsize(path)) for path in self.files]
        digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
        return {"corpus": f"files:{self.pattern}", "files": len(sizes), "file_bytes": sum(size for _, size in sizes),
                "names_and_sizes_sha256": digest}  # fmt: skip

    def _name(self, path: str) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def size(self, split: str) -> int | None:
        return None

    def documents(self, split: str, start: Position = START) -> Iterator[tuple[Position, str]]:
        for file in range(start[0], len(self.files)):
            path = self.files[file]
            name = self._name(path)
            first = start[1] if file == start[0] else 0

            def wanted(record: int, name: str = name, first: int = first) -> bool:
                return record >= first and held_out(f"{name}:{record}", self.fraction) == (split == "validation")

            for record, text in _records(path, self.field, wanted):
                if text:
                    yield (file, record + 1), text


class _Wanted(Protocol):
    def __call__(self, record: int) -> bool: ...


def _records(path: str, field: str, wanted: _Wanted) -> Iterator[tuple[int, str]]:
    """The wanted records of a file, each with its number."""
    try:
        if path.endswith(".parquet"):
            yield from _parquet(path, field, wanted)
        elif path.endswith((".jsonl", ".jsonl.gz")):
            yield from _jsonl(path, field, wanted)
        elif wanted(0):
            with _open(path) as file:
                yield 0, file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; convert the file or leave it out") from None
    except (OSError, EOFError) as error:  # a broken .gz is an OSError or an EOFError
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _open(path: str) -> IO[bytes]:
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _jsonl(path: str, field: str, wanted: _Wanted) -> Iterator[tuple[int, str]]:
    with _open(path) as file:
        for number, line in enumerate(file):
            if not wanted(number) or not line.strip():
                continue
            try:
                record = json.loads(line)
            except UnicodeDecodeError:
                raise UserError(f"{path} line {number + 1} is not UTF-8") from None
            except ValueError as error:
                raise UserError(f"{path} line {number + 1} is not JSON: {error}") from None
            yield number, _text_of(record, field, f"{path} line {number + 1}")


def _text_of(record: Any, field: str, where: str) -> str:
    keys = sorted(record) if isinstance(record, dict) else []
    if field not in keys:
        raise UserError(f"{where} has no field data.text_field={field!r}; it has: {', '.join(keys) or 'no fields'}")
    if not isinstance(record[field], str):
        raise UserError(f"{where}: field {field!r} is {type(record[field]).__name__}, expected text")
    return str(record[field])


def _parquet(path: str, field: str, wanted: _Wanted) -> Iterator[tuple[int, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a parquet file: {error}") from None
    names = table.schema_arrow.names
    if field not in names:
        raise UserError(f"{path} has no column data.text_field={field!r}; it has: {', '.join(names)}")
    number = 0
    for rows in table.iter_batches(batch_size=1024, columns=[field]):
        for value in rows.column(0).to_pylist():
            if wanted(number):
                text = value.decode("utf-8") if isinstance(value, bytes) else value
                if text is not None:
                    yield number, _text_of({field: text}, field, f"{path} row {number + 1}")
            number += 1


def _pattern(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))


def _fixed_part(pattern: str) -> str:
    """The folder above the first wildcard of a glob."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return str(Path(*parts[:fixed]))
