"""Broken token stores and texts: the tokens stay what they were, or one line says why there are none."""

import functools
import hashlib
import itertools
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CASES, call, damaged, files_in

from scaling.config import DataConfig
from scaling.data import TokenStore, open_store, prepare, run_tokenizer
from scaling.errors import UserError

SEEDS = st.integers(0, 2**40)
TOKENIZERS: dict[str, dict[str, Any]] = {
    "bytes": {},
    "bpe": {"kind": "bpe", "vocab": 270},
    "other": {"kind": "bpe", "vocab": 271},
}
TEXTS = [f"{i}: " + "größe 漢字 and words " * (1 + i * 7 % 5) for i in range(60)]
prepare_module = sys.modules["scaling.data.prepare"]


def config(folder: Path, tokenizer: str) -> DataConfig:
    return DataConfig(corpus=f"files:{folder}/*.jsonl", tokenizer=TOKENIZERS[tokenizer], validation_fraction=0.2)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`store`: whole stores over the same text; `begun`: their preparations, interrupted."""
    home = tmp_path_factory.mktemp("made")
    (home / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name in TOKENIZERS:
        prepare(config(home, name), home / "store", progress=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare_module, "BATCH_CHARACTERS", 1000)
            patch.setattr(prepare_module, "_batches", interrupted)
            with pytest.raises(KeyboardInterrupt):
                prepare(config(home, name), home / "begun", progress=False)
    return home


def interrupted(documents: Iterator[Any], batches: Any = prepare_module._batches) -> Iterator[Any]:
    yield from itertools.islice(batches(documents), 3)
    raise KeyboardInterrupt


def what(store: TokenStore) -> tuple[Any, ...]:
    """All of a store that numbers are made from, or that is told."""
    splits = [
        (hashlib.sha256(split.tokens).hexdigest(), str(split.tokens.dtype), split.doc_starts.tolist(), split.n_bytes)
        for split in (store.train, store.validation)
    ]
    return (
        store.vocab,
        store.tokenizer().text_bytes().tolist(),
        splits,
        [store.manifest[key] for key in ("source", "tokenizer")],
    )


@functools.cache
def of_whole(made: Path, name: str) -> tuple[Any, ...]:
    return what(open_store(config(made, name), made / "store"))


def broken(folder: Path, draw: random.Random) -> str:
    """Does one accident to one of the files, or puts all files of another store in their place; returns which."""
    files = files_in(folder)
    beside = [each for each in folder.parent.iterdir() if each.is_dir() and each != folder]
    if draw.randrange(20) == 0:
        shutil.rmtree(folder)
        shutil.copytree(draw.choice(beside), folder)
        return "all"
    name = draw.choice(sorted(files))
    path, data = folder / name, files[name]
    others = [other / name for other in beside if (other / name).exists()]
    accident = draw.randrange(8)
    path.unlink()
    if accident == 1:
        path.mkdir()
    elif accident == 2:
        path.symlink_to(path.name)
    elif accident == 3:
        at = draw.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :])
    elif accident == 4 and others:
        path.write_bytes(draw.choice(others).read_bytes())
    elif accident > 4:
        path.write_bytes(damaged(data, draw, tuple(each.read_bytes() for each in others)))
    return name


def case_of(made: Path, kind: str, folder: Path, draw: random.Random) -> tuple[str, Path]:
    """A copy of the folder `kind` with one store in it broken: the store's name, and its folder."""
    shutil.copytree(made / kind, folder / "store")
    name = draw.choice(sorted(TOKENIZERS))
    store = "bytes" if name == "bytes" else f"bpe{TOKENIZERS[name]['vocab']}"
    (path,) = (
        each for each in (folder / "store" / "stores").iterdir() if each.is_dir() and f"-{store}-" in each.name
    )
    return name, path


@settings(max_examples=CASES // 10)
@given(seed=SEEDS)
def test_a_broken_store_gives_its_tokens_or_none(
    made: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("case")
    name, path = case_of(made, "store", folder, draw)
    before, file, data = of_whole(made, name), broken(path, draw), config(made, name)
    try:
        try:
            assert run_tokenizer(data, folder / "store").text_bytes().tolist() == before[1], file
            assert what(open_store(data, folder / "store")) == before, file
        except UserError as error:
            assert str(error).isprintable() and str(path) in str(error), file
        (folder / "data.yaml").write_text(yaml.safe_dump(data.model_dump(mode="json", exclude_none=True)))
        argv = ["data", "prepare", folder / "data.yaml", "--store", folder / "store"]
        call(*argv).check(["data", "prepare", file])
    finally:
        shutil.rmtree(folder)


@settings(max_examples=CASES // 40)
@given(seed=SEEDS)
def test_a_preparation_goes_on_from_what_is_whole_and_begins_again_where_that_is_broken(
    made: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("case")
    name, path = case_of(made, "begun", folder, draw)
    file = broken(path, draw)
    try:
        assert what(prepare(config(made, name), folder / "store", progress=False)) == of_whole(made, name), file
    finally:
        shutil.rmtree(folder)
