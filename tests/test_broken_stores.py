"""Broken token stores and texts: the tokens stay what they were, or one line says why there are none."""

import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CASES, call, damaged, files_in
from tiny_run import Tiny
from waiting import LIMIT_S

from scaling.config import DataConfig
from scaling.data import TokenStore, eval_batches, open_store, prepare, run_tokenizer
from scaling.data.batches import Batches
from scaling.errors import UserError
from scaling.training import train

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
    beside = sorted(each for each in folder.parent.iterdir() if each.is_dir() and each != folder)
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


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def written_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes([7] * 64))


def cut_and_written_again(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[::-1])


def touched(path: Path) -> None:
    os.utime(path)


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_bytes(bytes(path.stat().st_size))
    path.with_suffix(".new").rename(path)


ACCIDENTS = (cut_short, written_over, cut_and_written_again, touched, removed, replaced)
READERS: dict[str, Callable[[TokenStore], np.ndarray]] = {
    "train.tokens": lambda store: Batches(store.train, context=16, batch_size=4, seed=0).rows(3, 0, 4).tokens_BxL,
    "train.starts.npy": lambda store: Batches(store.train, context=16, batch_size=4, seed=0).windows(3, 0, 4),
    "validation.tokens": lambda store: eval_batches(store.validation, 16, 8)[-1].tokens_BxL,
}
FORKED = """
import sys
sys.path.insert(0, sys.argv[1])
import test_broken_stores
test_broken_stores.read_beside_accidents(*map(test_broken_stores.Path, sys.argv[2:]))
"""


def read_beside_accidents(home: Path, stores: Path) -> None:
    """Prints, of each accident to each file, the exit code of a process that has it while it reads, and what it says:
    what is cut off a mapped file ends who reads it."""
    for accident in ACCIDENTS:
        for name, read in READERS.items():
            folder = stores / f"{accident.__name__}-{name}"
            shutil.copytree(home / "store", folder)
            told, tell = os.pipe()
            pid = os.fork()
            if not pid:
                os.write(tell, said_beside(accident, name, read, open_store(config(home, "bytes"), folder)).encode())
                os._exit(0)
            os.close(tell)
            with os.fdopen(told) as file:
                print(json.dumps([accident.__name__, name, os.waitpid(pid, 0)[1], file.read()]))


def said_beside(
    accident: Callable[[Path], None], name: str, read: Callable[[TokenStore], np.ndarray], store: TokenStore
) -> str:
    before = read(store)
    accident(store.folder / name)
    try:
        return "same" if np.array_equal(before, read(store)) else "other"
    except UserError as error:
        return str(error)


def test_tokens_that_are_changed_while_they_are_read_are_not_read(made: Path, tmp_path: Path) -> None:
    """What is done to a name, and not to the file that is mapped, changes nothing."""
    command = [sys.executable, "-c", FORKED, str(Path(__file__).parent), str(made), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == len(ACCIDENTS) * len(READERS)
    for accident, name, code, said in ends:
        assert code == 0, (accident, name, code)
        if accident in ("touched", "removed", "replaced"):
            assert said == "same", (accident, name, said)
        else:
            assert name in said and "scaling data prepare" in said, (accident, name, said)
    assert any("was changed while it was in use" in said for *_, said in ends)


def test_a_run_whose_tokens_are_changed_ends_in_one_line_and_goes_on_once_they_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny(tmp_path)
    config = tiny.config(records={"checkpoint_steps": 10})
    undisturbed = train(config, folder=tmp_path / "undisturbed", quiet=True)
    tokens, rows = tiny.open().folder / "train.tokens", Batches.windows
    data = tokens.read_bytes()

    def changed(self: Batches, step: int, start: int, stop: int) -> np.ndarray:
        if step == 25:
            tokens.write_bytes(data[::-1])
        return rows(self, step, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "windows", changed)
        with pytest.raises(UserError, match=f"{tokens} do not match its manifest"):
            train(config, folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "result.json").exists()
    tokens.write_bytes(data)
    assert train(config, folder=tmp_path / "run", quiet=True).loss == undisturbed.loss
