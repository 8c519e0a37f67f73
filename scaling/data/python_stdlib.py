"""The built-in corpus: the running interpreter's library sources as a tensorflow-datasets dataset."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from scaling.data.corpus import held_out, interpreter

VALIDATION_SHARE = 0.05
FOREIGN = {"site-packages", "dist-packages"}  # packages that pip and the system install beside the library


def source_files(root: Path) -> list[Path]:
    """Every Python source below `root`, tests included, without installed packages; sorted by path."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in FOREIGN]  # pruned, since they may hold most files
        files += (Path(folder, name) for name in names if name.endswith(".py"))
    return sorted((path for path in files if path.is_file()), key=lambda path: path.relative_to(root).as_posix())


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """One example per UTF-8 source file: its path below the library folder, and its text."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)  # tfds would determine it with a package that it does not depend on
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name=interpreter(), description="Library of this interpreter."),)

    def _info(self) -> Any:
        # not dataset_info_from_configs, which needs a folder of its own with CITATIONS.bib
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sources of the Python standard library, one example a file, split by file.",
            homepage="https://docs.python.org/3/library/",
            features=tfds.features.FeaturesDict({"path": tfds.features.Text(), "text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(False), "validation": self._generate_examples(True)}

    def _generate_examples(self, validation: bool = False) -> Iterator[tuple[str, dict[str, str]]]:
        root = Path(sysconfig.get_path("stdlib"))
        for path in source_files(root):
            name = path.relative_to(root).as_posix()
            if held_out(name, VALIDATION_SHARE) != validation:
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue  # about ten tests of the parser, in other encodings
            yield name, {"path": name, "text": text}
