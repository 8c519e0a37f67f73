"""Text files as they come: in other encodings, as one long text, as copies of each other, with other fields."""

import hashlib
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from scaling import laws, load_runs
from scaling.cli import main
from scaling.config import DataConfig
from scaling.data import describe, prepare
from scaling.data.corpora import open_corpus
from scaling.data.duplicates import told_again
from scaling.data.text_cut import text_cut

SWEEP = """name: s
run:
  model: {{ vocab: 256, context: 32, activation: relu2 }}
  data: {{ corpus: "files:{corpus}" }}
  batch_size: 4
design: {{ kind: list, points: [{{ params: 6e3, tokens: 2e3 }}] }}
ladder: {{ aspect: 16, d_head: 8, width_multiple: 8 }}
learning_rate: {{ kind: width, width: 16, learning_rate: 0.02, exponent: -0.9 }}
"""
WRONG = {
    "utf16.txt": ("plain English".encode("utf-16"), "it is UTF-16, not UTF-8; convert it"),
    "latin.txt": ("café au lait".encode("latin-1"), "byte 3 is not UTF-8; convert it"),
    "table.txt": (b"PK\x03\x04" + bytes(40), "it is a spreadsheet (save it as CSV) or another zip archive"),
    "field.jsonl": (b'{"content": "a"}\n' * 9, "line 1 has no field data.text_field='text'; it has: content"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_command_says_the_same_of_a_file_that_is_no_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, told = WRONG[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "data.yaml").write_text(f"corpus: files:{name}")
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(corpus=name))
    assert main(["init", "new.yaml", "--corpus", name]) == 2 and told in capsys.readouterr().err
    assert main(["data", "prepare", "data.yaml", "--store", "store"]) == 2 and told in capsys.readouterr().err
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 0
    assert told in " ".join(capsys.readouterr().out.split())
    if not name.endswith("jsonl"):
        assert main(["fit", name]) == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize("block", [1, 7, 1000, 2**20])
def test_a_cut_text_is_whole_ends_at_paragraphs_and_no_matter_how_it_is_read(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.data.text_cut.BLOCK", block)
    text = ("añb" * 30 + "\n") * 20 + "\n" + ("short line\n" * 4 + "\r\n") * 30 + "ü" * 2000
    pieces = list(text_cut(io.BytesIO(text.encode()), 300))
    assert "".join(piece.decode() for piece in pieces) == text
    assert all(300 <= len(piece) <= 600 for piece in pieces[:-1]) and len(pieces[-1]) <= 600
    assert pieces[0].endswith(b"\n") and any(piece.endswith(b"\r\n") for piece in pieces)
    assert hashlib.sha256(b"|".join(pieces)).hexdigest()[:12] == "b75779682938", "another cut is another corpus"


def test_one_long_text_is_documents_of_both_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "".join(f"Paragraph {i} says {i * i}.\n\n" for i in range(100_000))
    (tmp_path / "one.txt").write_text(text)
    data = DataConfig(corpus="files:one.txt", document_bytes=2048)
    corpus = open_corpus(data, "store")
    parts = {split: list(corpus.documents(split)) for split in ("train", "validation")}
    assert sum(len(found) for _, found in parts["train"] + parts["validation"]) == len(text)
    later = list(corpus.documents("train", parts["train"][3][0]))
    assert later == parts["train"][4:], "an interrupted preparation goes on where it was"
    store = prepare(data, tmp_path / "store", progress=False)
    assert store.manifest["data"]["document_bytes"] == 2048 and store.validation.n_documents > 10
    assert store.manifest["held_out_in_train"] == {"documents": 0, "tokens": 0} and "note" not in describe(store)
    assert main(["init", "new.yaml", "--corpus", "one.txt", "--minutes", "5"]) == 0
    assert f"document_bytes: {len(text) // 200}" in (tmp_path / "new.yaml").read_text()
    capsys.readouterr()
    (tmp_path / "data.yaml").write_text("corpus: files:one.txt")
    assert main(["data", "prepare", "data.yaml", "--store", "store"]) == 2
    assert f"data.document_bytes={len(text) // 200} to cut them into several" in capsys.readouterr().err


def test_copies_on_both_sides_are_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*['{"text": "the same"}\n'] * 100, *[f'{{"text": "number {i:4}"}}\n' for i in range(100)]]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    store = prepare(DataConfig(corpus=f"files:{tmp_path}/a.jsonl", validation_fraction=0.2), tmp_path / "store")
    held = [text for text in open_corpus(DataConfig(corpus=f"files:{tmp_path}/a.jsonl", validation_fraction=0.2), "")
            .documents("validation")]  # fmt: skip
    copies = sum(text == "the same" for _, text in held)
    assert 0 < copies < len(held)
    assert store.manifest["held_out_in_train"] == {"documents": copies, "tokens": copies * 9}
    told = f"{copies} of {len(held)} held-out documents"
    assert told in describe(store) and told in capsys.readouterr().err
    held_out = {"documents": 89, "tokens": 262_144}
    assert not told_again({"held_out_in_train": {"documents": 1, "tokens": 98}, "splits": {"validation": held_out}})


def test_copies_are_told_by_the_dry_run_and_wherever_a_law_is_fitted_to_their_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [*['{"text": "the same"}\n'] * 300, *[f'{{"text": "number {i:4}"}}\n' for i in range(300)]]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    points = "[{ params: 6e3, tokens: 2e3 }, { params: 6e3, tokens: 3e3 }]"
    store = "\n  records: { store_folder: store, wandb: disabled }"
    text = SWEEP.format(corpus="a.jsonl").replace("[{ params: 6e3, tokens: 2e3 }]", points)
    (tmp_path / "s.yaml").write_text(text.replace("\n  batch_size", f"{store}\n  batch_size"))
    told = "held-out documents"
    assert main(["sweep", "s.yaml", "--dry-run"]) == 0
    assert told not in capsys.readouterr().out, "what is not prepared is not known"
    assert main(["sweep", "s.yaml"]) == 0
    assert main(["sweep", "s.yaml", "--dry-run"]) == 0
    assert told in capsys.readouterr().out
    table = load_runs("runs/s")
    counted = json.loads(next(Path("store").rglob("manifest.json")).read_text())["held_out_in_train"]["tokens"]
    assert set(table["validation_tokens_in_train"]) == {counted}
    df = pd.concat([table.assign(run_id=table["run_id"] + str(i), loss=table["loss"] / i) for i in (1, 2)])
    share = counted / table["validation_targets"][0]
    runs = laws.from_results(df, law="power_law_D")
    note = f"with {share:.0%} of the held-out tokens are also in the training split"
    assert sum(note in each for each in runs.notes) == 1
    few = df.assign(validation_tokens_in_train=0.009 * df["validation_targets"])
    assert "word for word" not in str(laws.from_results(few, law="power_law_D").notes)
