"""The token store: damage is noticed and named, cuts count their bytes exactly."""

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from scaling.config import DataConfig, TokenizerConfig
from scaling.data import describe, open_store, prepare
from scaling.data.manifest import file_facts
from scaling.errors import UserError

manifest_module, store_module = (sys.modules[f"scaling.data.{name}"] for name in ("manifest", "store"))
TOKENIZERS = {"bytes": TokenizerConfig(), "bpe": TokenizerConfig(kind="bpe", vocab=270, split_digits=True)}
DOCUMENTS = [f"{i}: " + "größe 漢字 and words " * (1 + i * 7 % 5) for i in range(120)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two finished stores over the same text, by tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    configs = {
        name: DataConfig(corpus=f"files:{folder}/*.jsonl", tokenizer=tokenizer, validation_fraction=0.2)
        for name, tokenizer in TOKENIZERS.items()
    }
    for data in configs.values():
        prepare(data, folder / "store", progress=False)
    return configs, folder / "store"


@pytest.fixture(params=sorted(TOKENIZERS))
def case(request, made, tmp_path):
    """A config and a store folder of the test's own."""
    configs, folder = made
    shutil.copytree(folder, tmp_path / "store")
    return configs[request.param], tmp_path / "store"


def test_cuts_count_tokens_documents_and_bytes_exactly(case):
    data, folder = case
    whole = open_store(data, folder)
    tokenizer, n = whole.tokenizer(), whole.train.n_tokens
    lengths = tokenizer.text_bytes()
    starts = whole.train.doc_starts
    for cut in [1, 2, int(starts[1]) - 1, int(starts[1]), int(starts[1]) + 1, int(starts[5]), 333, n - 1, n]:
        part = open_store(data.model_copy(update={"train_tokens": cut}), folder).train
        assert np.array_equal(part.tokens, whole.train.tokens[:cut])
        assert part.doc_starts.tolist() == [s for s in starts.tolist() if s < cut]
        assert part.n_bytes == lengths[whole.train.tokens[:cut]].sum()
        if data.tokenizer.kind == "bytes":
            assert part.n_bytes == np.count_nonzero(whole.train.tokens[:cut])
    held = open_store(data.model_copy(update={"validation_tokens": 50}), folder)
    assert held.validation.n_tokens == 50 and held.train.n_tokens == n


def test_a_cut_beyond_the_split_says_how_much_there_is(case):
    data, folder = case
    n = open_store(data, folder).validation.n_tokens
    with pytest.raises(
        UserError, match=rf"data.validation_tokens={n + 1:,} but the validation split has {n:,} tokens"
    ):
        open_store(data.model_copy(update={"validation_tokens": n + 1}), folder)


def store_files(folder: Path) -> list[Path]:
    (store,) = [path for path in (folder / "stores").iterdir() if path.is_dir() and "bpe" in path.name]
    return sorted(path for path in store.iterdir() if path.name != "manifest.json")


@pytest.mark.parametrize("damage", ["flip", "truncate", "grow", "delete"])
def test_damage_to_any_file_is_noticed_and_the_file_named(made, tmp_path, damage):
    configs, folder = made
    names = [path.name for path in store_files(folder)]
    assert len(names) == 7
    for name in names:
        own = tmp_path / name
        shutil.copytree(folder, own)
        path = next(path for path in store_files(own) if path.name == name)
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        elif damage == "truncate":
            del content[-1]
        elif damage == "grow":
            content.append(0)
        path.unlink() if damage == "delete" else path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            open_store(configs["bpe"], own)
        message = str(caught.value)
        expected = {"flip": "do not match", "truncate": "bytes where", "grow": "bytes where", "delete": "is missing"}
        assert str(path) in message and expected[damage] in message and "\n" not in message
        assert f"delete {path.parent} and run `scaling data prepare` again" in message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 0}', '{"format": 1}', None])
def test_a_broken_manifest_is_named(case, text):
    data, folder = case
    manifest = open_store(data, folder).folder / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    for function in (open_store, lambda *args: prepare(*args, progress=False)):
        with pytest.raises(UserError, match=r"manifest.*; delete .* and run `scaling data prepare` again"):
            function(data, folder)


def test_a_fact_that_was_changed_in_a_manifest_and_one_of_another_store_are_told(made, tmp_path):
    configs, folder = made
    shutil.copytree(folder, tmp_path / "store")
    bytes_, bpe = (open_store(configs[name], tmp_path / "store").folder for name in ("bytes", "bpe"))
    manifest = bpe / "manifest.json"
    manifest.write_text(re.sub(r'("trained_on_documents": )\d+', r"\g<1>7", manifest.read_text()))
    with pytest.raises(UserError, match=rf"{manifest} is not .*changed after it was written.*; delete {bpe}"):
        open_store(configs["bpe"], tmp_path / "store")
    shutil.rmtree(bpe)
    shutil.copytree(bytes_, bpe)
    with pytest.raises(
        UserError, match=rf"{bpe} holds the tokens of another configuration .*'bytes'.*; delete {bpe}"
    ):
        open_store(configs["bpe"], tmp_path / "store")


def test_a_store_of_an_older_version_whose_manifest_has_no_seal_is_read(case):
    data, folder = case
    store = open_store(data, folder)
    manifest = store.folder / "manifest.json"
    values = {key: value for key, value in json.loads(manifest.read_text()).items() if key != "seal"}
    manifest.write_text(json.dumps(values))
    assert np.array_equal(open_store(data, folder).train.tokens, store.train.tokens)
    values["splits"]["train"]["tokens"] -= 1
    manifest.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"its splits.train.tokens is \d+, but the files have"):
        open_store(data, folder)


def test_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no token store for data.corpus='python_stdlib' .*`scaling data prepare"):
        open_store(DataConfig(corpus="python_stdlib"), tmp_path)


def test_a_file_is_hashed_once_a_process_while_it_stays_the_same(case, monkeypatch):
    data, folder = case
    hashed: list[str] = []
    real = manifest_module._sha256
    monkeypatch.setattr(manifest_module, "_sha256", lambda path: hashed.append(path.name) or real(path))
    store = open_store(data, folder)
    assert sorted(hashed) == sorted(store.manifest["files"])
    open_store(data, folder)
    assert len(hashed) == len(store.manifest["files"])
    os.utime(store.folder / "train.tokens", ns=(1, 1))
    open_store(data, folder)
    assert hashed[-1] == "train.tokens" and len(hashed) == len(store.manifest["files"]) + 1


def test_large_files_are_sampled_unless_all_is_asked_for(made, tmp_path, monkeypatch):
    configs, _ = made
    monkeypatch.setattr(manifest_module, "FULL_HASH_BYTES", 2000)
    monkeypatch.setattr(manifest_module, "SAMPLES", 4)
    monkeypatch.setattr(manifest_module, "SAMPLE_BYTES", 8)
    store = prepare(configs["bytes"], tmp_path, progress=False)
    assert "sample_sha256" in store.manifest["files"]["train.tokens"]
    path = store.folder / "train.tokens"
    content = bytearray(path.read_bytes())

    def write(position: int) -> None:
        changed = content.copy()
        changed[position] ^= 1
        path.write_bytes(changed)

    write(9)  # between two samples
    open_store(configs["bytes"], tmp_path)
    with pytest.raises(UserError, match="do not match"):
        open_store(configs["bytes"], tmp_path, full_check=True)
    for seen in (0, 7, len(content) - 1):
        write(seen)
        with pytest.raises(UserError, match="do not match"):
            open_store(configs["bytes"], tmp_path)


def test_file_facts_are_the_sha256_of_the_standard_library(tmp_path):
    import hashlib

    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1000)
    assert file_facts(path) == {"bytes": 3000, "sha256": hashlib.sha256(b"abc" * 1000).hexdigest()}


def test_tokens_are_mapped_and_cannot_be_written(case):
    data, folder = case
    tokens = open_store(data, folder).train.tokens
    assert isinstance(tokens.base, np.memmap) and type(tokens) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_the_description_is_an_aligned_table(case):
    data, folder = case
    store = open_store(data, folder)
    lines = describe(store).splitlines()
    header, train, validation = lines[:3]
    assert len(header) == len(train) == len(validation)
    assert train.split() == [
        "train",
        f"{store.train.n_documents:,}",
        f"{store.train.n_tokens:,}",
        f"{store.train.n_bytes / 1e6:.2f}",
        f"{store.train.n_bytes / store.train.n_tokens:.3f}",
    ]
    about = dict(line.split("  ", 1) for line in lines[4:])
    assert about["store"].strip() == str(store.folder)
    assert str(store.vocab) in about["tokenizer"] and data.tokenizer.kind in about["tokenizer"]
    assert all(line == line.rstrip() for line in lines)


def test_the_loss_of_word_counts_is_the_entropy_of_the_targets(case, monkeypatch):
    split = open_store(*case).validation
    targets = split.tokens[1:].tolist()
    share = {token: targets.count(token) / len(targets) for token in set(targets)}
    wanted = -sum(p * math.log(p) for p in share.values())
    assert split.unigram_loss() == pytest.approx(wanted, rel=1e-12)
    monkeypatch.setattr(store_module, "COUNTED", 7)  # piece by piece
    assert split.unigram_loss() == pytest.approx(wanted, rel=1e-12)
