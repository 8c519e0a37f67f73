"""Text datasets of tensorflow-datasets as corpora, read as array_record without TensorFlow."""

import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from scaling.config import DataConfig
from scaling.data.corpus import START, STDLIB, Position, held_out
from scaling.errors import UserError
from scaling.files import path_of
from scaling.locks import lock
from scaling.names import nearest

READ_AT_ONCE = 256  # records
RETRIES = 4
"""retries of a download, within 6 s; the ten of tensorflow-datasets take over three minutes without a network"""


class TfdsCorpus:
    """The `train` split and, if there is one, the `validation` split; else a hash of the index holds some out."""

    stamp = ""  # a prepared dataset does not change

    def __init__(self, builder: Any, data: DataConfig, facts: dict[str, Any]) -> None:
        self.field, self.fraction = data.text_field, data.validation_fraction
        features = sorted(builder.info.features or ())
        if self.field not in features:
            raise UserError(
                f"{builder.info.full_name} has no field data.text_field={self.field!r}; it has: {', '.join(features)}"
            )
        splits = builder.info.splits
        if "train" not in splits:
            raise UserError(f"{builder.info.full_name} has no train split; it has: {', '.join(sorted(splits))}")
        self.has_validation = "validation" in splits
        names = ("train", "validation") if self.has_validation else ("train",)
        try:
            self.sources = {name: builder.as_data_source(split=name) for name in names}
        except (NotImplementedError, ValueError) as error:
            raise UserError(
                f"{builder.info.full_name} in {builder.data_dir} has no random access: {_line(error)}; "
                "prepare it again with file_format=array_record"
            ) from None
        self.facts = {
            "corpus": data.corpus,
            "dataset": builder.info.full_name,
            **facts,
            **{f"{name}_records": len(source) for name, source in self.sources.items()},
            "own_validation_split": self.has_validation,
        }

    def size(self, split: str) -> int | None:
        return len(self.sources[split]) if self.has_validation else None

    def documents(self, split: str, start: Position = START) -> Iterator[tuple[Position, str]]:
        source = self.sources[split if self.has_validation else "train"]
        for first in range(start[1], len(source), READ_AT_ONCE):
            records = range(first, min(first + READ_AT_ONCE, len(source)))
            wanted = [i for i in records if self._is_in(split, i)]
            for record, example in zip(wanted, source.__getitems__(wanted), strict=True):
                if text := self._text(example[self.field], record):
                    yield (0, record + 1), text

    def _is_in(self, split: str, record: int) -> bool:
        return self.has_validation or held_out(str(record), self.fraction) == (split == "validation")

    def _text(self, value: Any, record: int) -> str:
        try:
            if isinstance(value, bytes):
                return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"record {record}, field {self.field!r}: {error}") from None
        if not isinstance(value, str):
            raise UserError(f"data.text_field={self.field!r} holds {type(value).__name__}, expected text")
        return value


def open_tfds(
    name: str, data: DataConfig, store_folder: str | Path, facts: dict[str, Any], progress: bool
) -> TfdsCorpus:
    """A dataset of tensorflow-datasets, prepared first if necessary.

    It is stored in TFDS_DATA_DIR if that is set, else in `store_folder/tfds`. Raises UserError if the name is
    unknown, if the dataset cannot be prepared (no network), or if it has no such field.
    """
    folder = path_of(os.environ.get("TFDS_DATA_DIR") or Path(store_folder) / "tfds")
    if name.partition("/")[0] == STDLIB:
        import scaling.data.python_stdlib  # noqa: F401  (registers the builder)
    output = sys.stderr if progress else io.StringIO()  # tfds prints to standard output, which is the caller's
    with contextlib.redirect_stdout(output):
        builder = _builder(name, folder)
        if not builder.info.splits:
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder / f".{name.replace('/', '-')}.lock", wait_s=math.inf):
                builder = _builder(name, folder)
                if not builder.info.splits:
                    _prepare(builder, name, progress)
    return TfdsCorpus(builder, data, facts)


def _builder(name: str, folder: Path) -> Any:
    """The builder of a name, or of previously prepared data whose code is not installed."""
    try:
        return tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        pass
    import tensorflow_datasets.text  # tfds imports it lazily, and its datasets are unknown until then

    try:
        return tfds.builder(name, data_dir=folder)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, FileNotFoundError) as error:
        known = list(tensorflow_datasets.core.registered.list_imported_builders())
        near = nearest(name.partition("/")[0], known)
        hint = f"nearest names: {', '.join(near)}" if near else f"none of that name is prepared in {folder}"
        raise UserError(f"data.corpus=tfds:{name} is not a dataset of tensorflow-datasets ({hint})") from error


def _prepare(builder: Any, name: str, progress: bool) -> None:
    if progress and sys.stderr.isatty():
        tfds.enable_progress_bar()
    else:
        tfds.disable_progress_bar()
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = RETRIES
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # otherwise each retry prints a warning of several lines
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # any error of a builder or of the network
        raise UserError(
            f"tensorflow-datasets cannot prepare {name}: {type(error).__name__}: {_line(error)}; prepare it on a "
            f"machine that can (`tfds build {name} --file_format=array_record`) and set TFDS_DATA_DIR to its folder"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
