"""A machine without wandb and tensorflow-datasets: what needs neither works, what needs one says so in a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import Tiny

from scaling.config import to_yaml
from scaling.result import read_result
from scaling.training.records import run_folder

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("wandb", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of processes that do not find the two."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ABSENT)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"}


def test_a_run_needs_neither_wandb_nor_tensorflow_datasets(tmp_path: Path, environment: dict[str, str]) -> None:
    """Files are tokenised, and their store is trained on when they are gone, with wandb as it is by default."""
    tiny, store = Tiny(tmp_path / "tiny"), tmp_path / "fresh"
    config = tiny.config(records={"wandb": "auto", "store_folder": str(store)})
    (tmp_path / "data.yaml").write_text(f"corpus: {tiny.corpus}\n")
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    for arguments in (
        ("data", "prepare", tmp_path / "data.yaml", "--store", store),
        ("train", tmp_path / "run.yaml"),
    ):
        command = [sys.executable, "-m", "scaling.cli", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        for text in (tmp_path / "tiny" / "corpus").iterdir():
            text.unlink()
    assert "wandb" in done.stderr  # it is said that there is no mirror
    result = read_result(run_folder(config))
    assert result is not None and result.status == "completed"


def test_a_corpus_that_needs_what_is_absent_says_so(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "data.yaml").write_text("corpus: python_stdlib\n")
    command = [sys.executable, "-m", "scaling.cli", "data", "prepare", str(tmp_path / "data.yaml")]
    done = subprocess.run([*command, "--store", str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "needs the package tensorflow_datasets" in done.stderr and "files:GLOB" in done.stderr
