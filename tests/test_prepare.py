"""Preparing a store: what it holds, and that interruptions, kills and rivals do it no harm."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from waiting import LIMIT_S, wait_until

from scaling.config import DataConfig, TokenizerConfig
from scaling.data import open_store, prepare
from scaling.data.corpus import held_out
from scaling.data.store import store_folder_of
from scaling.errors import UserError

prepare_module = sys.modules["scaling.data.prepare"]
DOCUMENTS = [f"document {i}: " + "wörter und zahlen 12345 " * (i % 7 + 1) for i in range(300)]
BYTES = TokenizerConfig()
BPE = TokenizerConfig(kind="bpe", vocab=300)


@pytest.fixture
def data(tmp_path):
    """A DataConfig for three files of a hundred documents."""
    return make_data(tmp_path)


def make_data(folder: Path, tokenizer: TokenizerConfig = BYTES, **changes: object) -> DataConfig:
    for part in range(3):
        lines = [json.dumps({"text": text}) for text in DOCUMENTS[part * 100 : part * 100 + 100]]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    values = {"corpus": f"files:{folder}/*.jsonl", "tokenizer": tokenizer, "validation_fraction": 0.1, **changes}
    return DataConfig(**values)


def expected(split: str) -> list[str]:
    keys = [f"{i // 100}.jsonl:{i % 100}" for i in range(300)]
    return [t for t, key in zip(DOCUMENTS, keys, strict=True) if held_out(key, 0.1) == (split == "validation")]


def files_of(store_folder: Path) -> dict[str, bytes]:
    """All files of the one store, without what tells when and how long it was made."""
    (folder,) = [path for path in (store_folder / "stores").iterdir() if path.is_dir()]
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(contents.pop("manifest.json"))
    for made in ("made_with", "seal"):
        manifest.pop(made)
    return contents | {"manifest": json.dumps(manifest, sort_keys=True).encode()}


def test_a_store_is_every_document_and_an_end_after_each(data, tmp_path):
    store = prepare(data, tmp_path / "s", progress=False)
    for name, split in (("train", store.train), ("validation", store.validation)):
        texts = expected(name)
        assert bytes(split.tokens) == b"".join(text.encode() + b"\0" for text in texts)
        lengths = [len(text.encode()) + 1 for text in texts]
        assert split.doc_starts.tolist() == np.cumsum([0, *lengths[:-1]]).tolist()
        assert split.doc_starts.dtype == np.int64 and split.tokens.dtype == np.uint8
        assert split.n_bytes == sum(lengths) - len(texts)
        assert (split.n_documents, split.n_tokens) == (len(texts), sum(lengths))
    assert store.vocab == 256
    assert {path.name for path in (tmp_path / "s/stores").iterdir()} == {
        store.folder.name,
        f"{store.folder.name}.lock",
    }


def test_a_bpe_store_decodes_to_the_documents(tmp_path):
    store = prepare(make_data(tmp_path, BPE), tmp_path / "s", progress=False)
    tokenizer = store.tokenizer()
    assert store.vocab == 300 and store.train.tokens.dtype == np.uint16
    for name, split in (("train", store.train), ("validation", store.validation)):
        documents = np.split(split.tokens, split.doc_starts[1:])
        assert [tokenizer.decode(document) for document in documents] == expected(name)
        assert all(document[-1] == 0 for document in documents) and (split.tokens == 0).sum() == len(documents)
        assert split.n_bytes == sum(len(text.encode()) for text in expected(name))
    facts = store.manifest["tokenizer"]
    assert facts["trained_on_documents"] == len(expected("train"))
    assert facts["trained_on_bytes"] == store.train.n_bytes


def test_the_tokenizer_learns_from_a_bounded_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "TRAINING_BYTES", 2000)
    store = prepare(make_data(tmp_path, BPE), tmp_path / "s", progress=False)
    facts = store.manifest["tokenizer"]
    sizes = np.cumsum([len(text.encode()) for text in expected("train")])
    assert facts["trained_on_documents"] == (sizes <= 2000).sum()
    assert facts["trained_on_bytes"] == sizes[sizes <= 2000][-1]


def test_preparing_again_reads_nothing_anew(data, tmp_path, monkeypatch):
    first = prepare(data, tmp_path / "s", progress=False)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    monkeypatch.setattr(prepare_module, "open_corpus", None)
    second = prepare(data, tmp_path / "s", progress=False)
    assert second.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == times


def test_only_what_defines_the_tokens_makes_another_store(data, tmp_path):
    def name(**changes: object) -> str:
        return store_folder_of(data.model_copy(update=changes), tmp_path).name

    assert name() == name(epochs=9.0) == name(train_tokens=5) == name(validation_tokens=7)
    others = [name(text_field="x"), name(validation_fraction=0.2), name(tokenizer=BPE), name(corpus="python_stdlib")]
    assert len({name(), *others}) == 5


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
@pytest.mark.parametrize("stop_after", [0, 1, 3, 8])
def test_an_interrupted_preparation_goes_on_and_ends_the_same(tmp_path, monkeypatch, tokenizer, stop_after):
    monkeypatch.setattr(prepare_module, "BATCH_CHARACTERS", 3000)
    data = make_data(tmp_path, tokenizer)
    prepare(data, tmp_path / "whole", progress=False)

    batches, encoded = 0, []
    real = prepare_module._batches

    def counted(documents):
        nonlocal batches
        for position, texts in real(documents):
            if batches == stop_after:
                raise KeyboardInterrupt
            batches += 1
            encoded.extend(texts)
            yield position, texts

    monkeypatch.setattr(prepare_module, "_batches", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tmp_path / "parts", progress=False)
    with pytest.raises(UserError, match="no token store"):
        open_store(data, tmp_path / "parts")
    (partial,) = (tmp_path / "parts/stores").glob("*.partial")
    with (partial / "train.tokens").open("ab") as file:
        file.write(b"a batch that was cut off")
    stop_after = -1
    prepare(data, tmp_path / "parts", progress=False)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert encoded == expected("train") + expected("validation")  # each text once: nothing was done twice


def test_sources_that_changed_under_an_interrupted_preparation_start_it_over(data, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "BATCH_CHARACTERS", 3000)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_finish", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(data, tmp_path / "s", progress=False)
    with (tmp_path / "2.jsonl").open("a") as file:
        file.write('{"text": "one more, whatever split it is in"}\n')
    prepare(data, tmp_path / "s", progress=False)
    prepare(data, tmp_path / "fresh", progress=False)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "fresh")


def test_a_text_that_is_rewritten_while_it_is_read_is_read_anew(data, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "BATCH_CHARACTERS", 3000)
    real, path = prepare_module._batches, tmp_path / "0.jsonl"
    with monkeypatch.context() as patch:

        def rewritten(documents):
            for at, batch in enumerate(real(documents)):
                if at == 1:
                    path.write_bytes(path.read_bytes().replace(b"zahlen", b"ZAHLEN"))  # as long as before
                    os.utime(path, ns=(1, 1))  # a system's own times may be coarser than the test is quick
                yield batch

        patch.setattr(prepare_module, "_batches", rewritten)
        with pytest.raises(UserError, match=rf"{path} changed while it was read"):
            prepare(data, tmp_path / "s", progress=False)
    prepare(data, tmp_path / "s", progress=False)
    prepare(data, tmp_path / "fresh", progress=False)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("cut_at", ["rename", "first unlink", "third unlink"])
def test_an_interruption_just_before_the_end_costs_nothing(data, tmp_path, monkeypatch, cut_at):
    with monkeypatch.context() as patch:
        unlinked = []
        real = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if len(unlinked) == {"first unlink": 0, "third unlink": 2}.get(cut_at):
                raise KeyboardInterrupt
            unlinked.append(path)
            real(path, missing_ok)

        def replace(source: Path, target: Path) -> None:
            raise KeyboardInterrupt

        patch.setattr(Path, "unlink", unlink)
        patch.setattr(prepare_module.os, "replace", replace if cut_at == "rename" else os.replace)
        for name in ("prepare", "journal", "manifest"):
            module = sys.modules[f"scaling.data.{name}"]
            patch.setattr(module, "write_text_atomically", lambda path, text: path.write_text(text))
        with pytest.raises(KeyboardInterrupt):
            prepare(data, tmp_path / "s", progress=False)
    with pytest.raises(UserError, match="no token store"):
        open_store(data, tmp_path / "s")
    monkeypatch.setattr(prepare_module, "open_corpus", None)  # nothing is read again
    prepare(data, tmp_path / "s", progress=False)
    monkeypatch.undo()
    prepare(data, tmp_path / "whole", progress=False)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "whole")


RUN = """
import itertools, sys, time
import scaling.data.tokenizer as tokenizer
from scaling.config import DataConfig
from scaling.data import prepare
module = sys.modules["scaling.data.prepare"]
module.BATCH_CHARACTERS = 500
real = tokenizer.ByteTokenizer.encode
calls = itertools.count(1)
def slow(self, texts):
    time.sleep(float(sys.argv[3]) if next(calls) <= int(sys.argv[4]) else 600)
    return real(self, texts)
tokenizer.ByteTokenizer.encode = slow
print(prepare(DataConfig.model_validate_json(sys.argv[1]), sys.argv[2], progress=False).train.n_tokens)
"""


def start(data: DataConfig, store: Path, delay: float, batches: int = 1000) -> subprocess.Popen[str]:
    """batches: after so many it hangs."""
    arguments = [sys.executable, "-c", RUN, data.model_dump_json(), str(store), str(delay), str(batches)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_preparation_goes_on_and_ends_the_same(data, tmp_path):
    process = start(data, tmp_path / "killed", 0.0, batches=20)

    def done() -> int:
        journals = list((tmp_path / "killed/stores").glob("*.partial/journal.json"))
        return json.loads(journals[0].read_text())["splits"]["train"]["documents"] if journals else 0

    wait_until(lambda: done() > 20, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 20 < done() < len(expected("train"))
    prepare(data, tmp_path / "killed", progress=False)
    prepare(data, tmp_path / "whole", progress=False)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_two_processes_at_once_make_one_store(data, tmp_path):
    processes = [start(data, tmp_path / "s", 0.02) for _ in range(2)]
    outputs = [process.communicate(timeout=LIMIT_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    n_tokens = sum(len(text.encode()) + 1 for text in expected("train"))
    assert [out.strip() for out, _ in outputs] == [str(n_tokens)] * 2
    prepare(data, tmp_path / "alone", progress=False)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "alone")


def test_no_text_at_all_and_no_held_out_text_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n\n')
    with pytest.raises(UserError, match=r"has no text to train on"):
        prepare(DataConfig(corpus=f"files:{tmp_path}/empty.jsonl"), tmp_path / "s", progress=False)
    (tmp_path / "one.jsonl").write_text('{"text": "one document"}\n')
    one = DataConfig(corpus=f"files:{tmp_path}/one.jsonl")
    with pytest.raises(UserError, match=r"has 1 documents, none of which is held out by data.*fraction=0.05"):
        prepare(one, tmp_path / "s", progress=False)
    with pytest.raises(UserError, match="no token store"):
        open_store(one, tmp_path / "s")


def test_files_that_changed_since_are_noticed_and_files_that_are_gone_are_not_needed(data, tmp_path):
    prepare(data, tmp_path / "s", progress=False)
    (tmp_path / "1.jsonl").write_text('{"text": "another"}\n')
    for again in (lambda: prepare(data, tmp_path / "s", progress=False), lambda: open_store(data, tmp_path / "s")):
        with pytest.raises(UserError, match=r"changed since it was tokenised \(3 files of .* then, 3 of .* now\)"):
            again()
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    assert open_store(data, tmp_path / "s").train.n_documents == len(expected("train"))


def test_progress_is_plain_lines_off_a_terminal(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scaling.data.progress.SECONDS_BETWEEN_LINES", LIMIT_S)  # however busy the machine is
    prepare(data, tmp_path / "s")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2 and "\x1b" not in err
    assert lines[0].startswith(f"tokenising train: {len(expected('train'))} documents, 0.0 MB")
    prepare(data, tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(data, tmp_path):
    import pty

    code = RUN.replace("progress=False", "progress=True")
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-c", code, data.model_dump_json(), str(tmp_path / "s"), "0.005", "1000"]
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the terminal is closed by its last user
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(timeout=LIMIT_S) == 0
    assert "━".encode() in shown and b"tokenising train" in shown and b"MB" in shown


@pytest.mark.slow
def test_the_real_standard_library_can_be_prepared(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    store = prepare(DataConfig(corpus="python_stdlib"), tmp_path, progress=False)
    assert store.train.n_bytes > 2_000_000 and store.validation.n_bytes > 50_000
    text = bytes(store.train.tokens[:2_000_000])
    assert text.count(b"import ") > 200 and text.count(b"\0") > 10
