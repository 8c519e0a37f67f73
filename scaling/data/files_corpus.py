"""Local files as a corpus."""

import glob
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from scaling.config import DataConfig
from scaling.data.corpus import START, Position, held_out
from scaling.data.matches import files_matching
from scaling.data.text_cut import text_cut
from scaling.errors import UserError
from scaling.files import not_text, path_of

PLAIN = (".txt", ".txt.gz")
FILE_KINDS = (*PLAIN, ".jsonl", ".jsonl.gz", ".parquet")
LONGEST = 2**28
"""largest .txt or line in bytes, uncompressed: a document is read whole, and a small .gz may unpack to any size"""
PIECE_BYTES = 2**20
HEADS, HEAD = 50, 2**16
"""number of files whose beginning is checked in advance, and bytes checked of each"""
ROWS = 64  # rows of a parquet file read at once


class FilesCorpus:
    """Local files: a .txt is one document, or cut into several; a line of .jsonl or a row of .parquet is one each.

    Files are ordered by path; links that lead back to a parent folder are not followed. Which documents are held out
    is decided by a hash of the file's path (below the fixed part of the glob) and the record's number in the file, so
    it does not depend on where the folder is.
    """

    def __init__(self, pattern: str, data: DataConfig) -> None:
        self.pattern, self.field, self.fraction = from_root(pattern), data.text_field, data.validation_fraction
        self.cut, self.root = data.document_bytes, _fixed_part(self.pattern)
        self.files = sorted(files_matching(self.pattern))
        if not self.files:
            raise UserError(f"data.corpus={data.corpus!r} {no_match(self.pattern)}")
        for path in self.files:
            if not path.endswith(FILE_KINDS):
                raise UserError(
                    f"data.corpus: {path} is not a supported kind of file; allowed: {', '.join(FILE_KINDS)}; copy "
                    "other text files to a name that ends with .txt"
                )
        self._seen = [_state(path) for path in self.files]
        self.facts = self._facts()
        self.stamp = hashlib.sha256(json.dumps(self._seen).encode()).hexdigest()

    def _facts(self) -> dict[str, Any]:
        sizes = [(self._name(path), size) for path, (size, _) in zip(self.files, self._seen, strict=True)]
        digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
        return {"corpus": f"files:{self.pattern}", "files": len(sizes), "file_bytes": sum(size for _, size in sizes),
                "names_and_sizes_sha256": digest}  # fmt: skip

    def _name(self, path: str) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def size(self, split: str) -> int | None:
        return None

    def lone_split(self) -> bool:
        """Whether the file names alone show that a split has no document."""
        if self.cut or not all(path.endswith(PLAIN) for path in self.files):
            return False
        return len({held_out(f"{self._name(path)}:0", self.fraction) for path in self.files}) == 1

    def require_usable(self) -> None:
        """Raises UserError if file names or first records show that the corpus cannot be prepared."""
        for path in self.files[:: -(-len(self.files) // HEADS)]:
            _check_head(path, self.field)
        if self.lone_split():
            none = not held_out(f"{self._name(self.files[0])}:0", self.fraction)
            raise UserError(
                f"data.corpus='files:{self.pattern}': each .txt file is one document, and of {len(self.files)} "
                f"{'none is' if none else 'all are'} held out (data.validation_fraction={self.fraction:g}); set "
                f"data.document_bytes={document_bytes(self.facts['file_bytes'])} to cut them into several"
            )

    def documents(self, split: str, start: Position = START) -> Iterator[tuple[Position, str]]:
        for file in range(start[0], len(self.files)):
            path = self.files[file]
            name = self._name(path)
            first = start[1] if file == start[0] else 0

            def wanted(record: int, name: str = name, first: int = first) -> bool:
                return record >= first and held_out(f"{name}:{record}", self.fraction) == (split == "validation")

            for record, text in _records(path, self.field, wanted, self.cut):
                if text:
                    yield (file, record + 1), text
            if _state(path) != self._seen[file]:
                raise UserError(
                    f"{path} changed while it was read; run the same command again when it is no longer written to"
                )


def texts_of(path: str, field: str) -> Iterator[str]:
    """The non-empty documents of one file. Raises UserError if it cannot be read."""
    return (text for _, text in _records(path, field, lambda record: True) if text)


def _state(path: str) -> tuple[int, int]:
    """(size, modification time), to detect changes. Raises UserError for a file that is gone or inaccessible."""
    try:
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


class _Wanted(Protocol):
    def __call__(self, record: int) -> bool: ...


def no_match(pattern: str) -> str:
    """Why a glob matches nothing, and what to write."""
    whole = from_root(pattern)
    if os.path.isdir(whole):
        return f"is a folder; name the files in it, quoted, such as '{whole}/**/*.txt'"
    return f"matches no file (looked for {whole}); quote the pattern, such as 'texts/**/*.txt'"


def text_bytes(files: Sequence[str]) -> float:
    """Bytes of files, those of gzip as unpacked, estimated by the beginnings of some; parquet counts as on disk."""
    packed = [path for path in files if path.endswith(".gz")]
    sizes = [_unpacked(path) for path in packed[:: -(-len(packed) // HEADS) or 1]]
    ratio = sum(size for size, _ in sizes) / (sum(read for _, read in sizes) or 1)
    return sum(os.path.getsize(path) * (ratio if path.endswith(".gz") else 1.0) for path in files)


def _unpacked(path: str) -> tuple[int, int]:
    """Bytes of the beginning of a .gz, unpacked and on disk."""
    with _reporting(path), open(path, "rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
        return len(unpacked.read(4 * PIECE_BYTES)), file.tell()


def document_bytes(size: int) -> int:
    """The `data.document_bytes` that cuts a text of `size` bytes into about two hundred documents."""
    return min(max(size // 200, 2**10), 2**20)


def _check_head(path: str, field: str) -> None:
    """Raises UserError if the first record of a file is unreadable, judged by its first bytes."""
    if path.endswith(".parquet"):
        return next((None for _ in _records(path, field, lambda record: record == 0)), None)
    with _reporting(path), _open(path) as file:
        data = file.read(HEAD)
    if why := not_text(data, whole=len(data) < HEAD):
        raise UserError(f"{path}: {why}")
    if not path.endswith(PLAIN) and b"\n" in data:
        next(_jsonl(path, field, lambda record: True), None)


def _records(path: str, field: str, wanted: _Wanted, cut: int | None = None) -> Iterator[tuple[int, str]]:
    """The wanted records of a file, each with its number. cut: `data.document_bytes`."""
    with _reporting(path):
        if path.endswith(".parquet"):
            yield from _parquet(path, field, wanted)
        elif path.endswith((".jsonl", ".jsonl.gz")):
            yield from _jsonl(path, field, wanted)
        elif cut:
            with _open(path) as file:
                for number, piece in enumerate(text_cut(file, cut)):
                    if wanted(number):
                        yield number, _decoded(piece, f"{path} document {number + 1}")
        elif wanted(0):
            yield 0, _plain(path)


@contextmanager
def _reporting(path: str) -> Iterator[None]:
    """Turns errors in reading a file into UserError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; convert the file or leave it out") from None
    except (OSError, EOFError, zlib.error) as error:  # a broken .gz may raise any of these
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _open(path: str) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


def _plain(path: str) -> str:
    pieces, size = [], 0
    with _open(path) as file:
        while piece := file.read(PIECE_BYTES):
            size += len(piece)
            if size > LONGEST:
                raise _too_long(path)
            pieces.append(piece)
    return _decoded(b"".join(pieces), path)


def _decoded(data: bytes, where: str) -> str:
    if why := not_text(data):
        raise UserError(f"{where}: {why}")
    return data.decode("utf-8")


def _jsonl(path: str, field: str, wanted: _Wanted) -> Iterator[tuple[int, str]]:
    with _open(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b"")):
            if len(line) > LONGEST:
                raise _too_long(f"{path} line {number + 1}")
            if not wanted(number) or not line.strip():
                continue
            try:
                record = json.loads(line)
            except UnicodeDecodeError:
                raise UserError(f"{path} line {number + 1} is not UTF-8") from None
            except ValueError as error:
                raise UserError(f"{path} line {number + 1} is not JSON: {error}") from None
            except RecursionError:
                raise UserError(f"{path} line {number + 1} is nested too deep") from None
            yield number, _text_of(record, field, f"{path} line {number + 1}")


def _too_long(where: str) -> UserError:
    return UserError(
        f"{where} has more than {LONGEST / 2**20:g} MiB uncompressed, the limit for one document; cut it into "
        "several (each line of a .jsonl or row of a .parquet is one)"
    )


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
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if field not in names:
                raise UserError(f"{path} has no column data.text_field={field!r}; it has: {', '.join(names)}")
            batches = table.iter_batches(batch_size=ROWS, columns=[field])
            values = (value for rows in batches for value in rows.column(0).to_pylist())
            for number, value in enumerate(values):
                if value is not None and wanted(number):
                    text = value.decode("utf-8") if isinstance(value, bytes) else value
                    yield number, _text_of({field: text}, field, f"{path} row {number + 1}")
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a parquet file: {error}") from None


def from_root(pattern: str) -> str:
    """A glob as an absolute path."""
    return os.path.abspath(path_of(pattern))


def _fixed_part(pattern: str) -> str:
    """The folder above the first wildcard of a glob."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return str(Path(*parts[:fixed]))
