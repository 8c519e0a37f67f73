"""Text from a trained run: against the whole model step by step, alone and in a batch, and what is refused."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

import scaling
from scaling.cli import main
from scaling.config import RunConfig, load, to_yaml
from scaling.data import prepare
from scaling.data.tokenizer import ByteTokenizer
from scaling.errors import UserError
from scaling.evaluation.evaluated import _text
from scaling.generation.decode import READ, WRITE
from scaling.generation.ending import Ending
from scaling.models import functional
from scaling.result import read_result
from scaling.training import train
from scaling.training.trained import load_trained

pytestmark = pytest.mark.usefixtures("runs_once")

PROMPTS = ["alpha beta ", "gamma", "delta\nalpha beta gamma alpha "]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    yield Tiny(tmp_path_factory.mktemp("generate"))


def trained(tiny: Tiny, **changes: Any) -> Path:
    """The folder of a run with checkpoints of steps 20 and 40."""
    config = tiny.config(**changes, records={"checkpoint_steps": 20})
    result = train(config, quiet=True)
    assert result.status == "completed"
    return tiny.folder / "runs" / "single" / result.run_id


@pytest.fixture(scope="module")
def run(tiny: Tiny) -> Path:
    return trained(tiny, model={"sliding_window": [8]})


def logits_of(folder: Path, tokens: list[int], marks: list[int] | None = None) -> np.ndarray:
    """Of what follows, by the model without a cache."""
    saved = load_trained(folder)
    told = None if marks is None else jnp.asarray([marks])
    model = functional.bind_run(saved.run, saved.params)
    hidden = model(jnp.asarray([tokens]), told)[0, -1]
    return np.asarray(hidden @ model.head_matrix())


def test_the_likeliest_text_is_that_of_the_model_without_a_cache(run: Path) -> None:
    found = scaling.generate(run, PROMPTS, tokens=WRITE + 5, temperature=0)
    for prompt, text, tokens, log_probs, ended in zip(
        found.prompts, found.texts, found.tokens, found.log_probs, found.ended, strict=True
    ):
        read = list(prompt.encode())
        assert ended == "length" and len(tokens) == WRITE + 5 and text == bytes(tokens).decode()
        saved = load_trained(run)
        model = functional.bind_run(saved.run, saved.params)
        logits = np.asarray(quick_jit(model.logits)(jnp.asarray([[*read, *tokens]])))[0, len(read) - 1 : -1]
        assert tokens == tuple(logits[:, :256].argmax(-1))
        expected = np.asarray(jax.nn.log_softmax(logits))[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(log_probs, expected, atol=1e-5)


@pytest.mark.parametrize("objective, after", [({"kind": "prefix"}, 0), ({"documents": "mask"}, 1)])
def test_marks_of_prompts_and_texts_are_those_of_the_objective(tiny: Tiny, objective: Any, after: int) -> None:
    """A prefix is read as a whole; an empty prompt is the end of a document that what follows does not see."""
    folder = trained(tiny, objective=objective)
    prompt = "" if after else "alpha be"
    read, marks = ([0], [0]) if after else (list(prompt.encode()), [1] * len(prompt))
    (tokens,) = scaling.generate(folder, prompt, tokens=5, temperature=0).tokens
    for token in tokens:
        assert token == logits_of(folder, read, marks)[:256].argmax()
        read, marks = [*read, token], [*marks, after]


def test_a_text_is_the_same_alone_and_beside_others(run: Path) -> None:
    """Of equal prompts each is drawn anew."""
    together = scaling.generate(run, [*PROMPTS, PROMPTS[1]], tokens=20, seed=3)
    assert together == scaling.generate(run, [*PROMPTS, PROMPTS[1]], tokens=20, seed=3)
    for row in (0, 1, 2):
        assert scaling.generate(run, PROMPTS[row], tokens=20, seed=3).texts == (together.texts[row],)
    assert together.texts[3] != together.texts[1]
    assert scaling.generate(run, PROMPTS, tokens=20, seed=4).texts != together.texts[:3]


def test_experts_of_limited_capacity_drop_nothing_in_a_text_and_it_is_said(tiny: Tiny, capsys: Any) -> None:
    part = {"kind": "moe", "experts": 4, "top_k": 2, "capacity": 0.5}
    folder = trained(tiny, model={"feed_forward": part})
    together = scaling.generate(folder, PROMPTS, tokens=12, temperature=0)
    assert scaling.generate(folder, PROMPTS[1], tokens=12, temperature=0).texts == (together.texts[1],)
    (note,) = together.notes
    assert main(["generate", str(folder), "--prompt", PROMPTS[1], "--tokens", "12", "--temperature", "0"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{PROMPTS[1]}{together.texts[1]}\n" and err == f"note: {note}\n"
    assert "capacity=0.5 limits the tokens of an expert in training" in note


def test_texts_of_one_prompt_and_tokens_of_one_text_are_drawn_independently(run: Path) -> None:
    """First tokens of many texts come as often as the model says, within 4 standard deviations; at a temperature that
    makes all tokens alike, those of a text are hardly ever the same."""
    texts = 600
    found = scaling.generate(run, ["alpha "] * texts, tokens=1, seed=5)
    logits = logits_of(run, list(b"alpha "))[:256].astype(np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    counts = np.bincount([tokens[0] for tokens in found.tokens], minlength=256)
    assert (np.abs(counts - texts * expected) <= 4 * np.sqrt(texts * expected * (1 - expected)) + 1).all()
    alike = scaling.generate(run, PROMPTS, tokens=40, temperature=1e6, seed=1)
    for tokens in alike.tokens:
        assert len(set(tokens)) > 0.75 * len(tokens)
    assert max(map(len, alike.tokens)) == 40


def test_a_long_prompt_is_read_in_chunks(run: Path) -> None:
    prompt = "alpha beta gamma " * (READ // 8)
    (tokens,) = scaling.generate(run, [prompt, "x"], tokens=2, temperature=0).tokens[:1]
    read = list(prompt.encode())
    assert len(read) > 2 * READ
    assert tokens[0] == logits_of(run, read)[:256].argmax()


def test_a_text_ends_before_a_stop_string_however_it_is_cut_into_pieces(run: Path) -> None:
    whole = scaling.generate(run, "alpha ", tokens=80, temperature=0)
    stop = whole.texts[0][40:44]
    at = whole.texts[0].index(stop)
    pieces: list[str] = []
    found = scaling.generate(
        run, "alpha ", tokens=80, temperature=0, stop=["never", stop], show=lambda row, piece: pieces.append(piece)
    )
    assert found.ended == ("stop",) and found.texts == (whole.texts[0][:at],) and "".join(pieces) == found.texts[0]
    assert found.tokens[0] == whole.tokens[0][: at + len(stop)]


def test_what_is_shown_never_changes() -> None:
    """Characters of several bytes and beginnings of a stop string wait; what is behind the end is not taken."""
    text = "aé…s stops sto"
    ending, shown = Ending(ByteTokenizer(), ("stop!",)), ""
    for byte in (text + "p!more").encode():
        ending.take(np.array([byte]), np.array([-1.0]))
        shown += ending.shown()
        assert text[: -len("sto")].startswith(shown) and "\ufffd" not in shown
    assert ending.ended == "stop" and shown == ending.text == text[: -len("sto")]
    assert len(ending.tokens) == len(ending.log_probs) == len((text + "p!").encode())

    ending = Ending(ByteTokenizer(), ())
    ending.take(np.array([97, 0, 98]), np.zeros(3))
    assert (ending.text, ending.tokens, ending.ended) == ("a", [97, 0], "end_of_document")


def test_a_checkpoint_is_named_by_step_or_folder(run: Path) -> None:
    last, first = (scaling.generate(run, "a", tokens=9, step=step) for step in (None, 20))
    assert (last.step, first.step) == (40, 20) and last.texts != first.texts
    assert scaling.generate(run / "checkpoints" / "20", "a", tokens=9) == first


def test_the_command_prints_prompt_and_text_or_json(run: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "prompt.txt").write_text("alpha ")
    options = ["--tokens", "12", "--top-k", "5", "--seed", "2"]
    assert main(["generate", str(run), "--prompt-file", str(tmp_path / "prompt.txt"), *options]) == 0
    text = capsys.readouterr().out
    assert main(["generate", str(run), "--prompt", "alpha ", "--prompt", "beta", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert text == f"alpha {found['texts'][0]}\n" and found["ended"] == ["length", "length"]
    assert [len(tokens) for tokens in found["tokens"]] == [12, 12]


@pytest.mark.parametrize(
    "options, says",
    [
        ([], "--prompt TEXT"),
        (["--prompt", "a\0b"], "has no tokens for '\\x00', character 2"),
        (["--prompt", "a", "--top-k", "257"], "top_k=257: should be 1 to 256"),
        (["--prompt", "a", "--temperature", "-1"], "temperature=-1"),
        (["--prompt", "a", "--tokens", "0"], "tokens=0"),
        (["--prompt", "a", "--tokens", "1000000000000"], "1,000,000,000,001 together; allowed: up to 1,048,576"),
        (["--prompt", "a", "--tokens", "many"], "expected a whole number, got 'many'"),
        (["--prompt", "a", "--stop", ""], "stop="),
        (["--prompt", "a", "--step", "7"], "--step=7; it has 20, 40"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(run: Path, capsys: Any, options: list[str], says: str) -> None:
    assert main(["generate", str(run), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err


@pytest.mark.parametrize(
    "asked, says",
    [
        ({"prompts": [5]}, "prompts: should be strings, got 5"),
        ({"tokens": 2.5}, "tokens=2.5: should be a whole number"),
        ({"tokens": True}, "tokens=True"),
        ({"top_k": 2.5}, "top_k=2.5: should be 1 to 256"),
        ({"temperature": "hot"}, "temperature='hot': should be a number"),
        ({"stop": [b"x"]}, "none of them empty"),
        ({"seed": 0.5}, "seed=0.5"),
    ],
)
def test_what_is_no_number_or_string_is_one_line_in_python(run: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        scaling.generate(run, **{"prompts": "a", **asked})


@pytest.mark.parametrize("command", [["generate", "--prompt", "a"], ["evaluate"]])
def test_a_run_without_an_end_or_a_checkpoint_is_one_line(
    tiny: Tiny, run: Path, tmp_path: Path, capsys: Any, command: list[str]
) -> None:
    unfinished, gone = tmp_path / "unfinished", tmp_path / "gone"
    for folder in (unfinished, gone):
        shutil.copytree(run, folder)
    (unfinished / "result.json").unlink()
    shutil.rmtree(gone / "checkpoints")
    for folder, says in (
        (unfinished, "has not ended"),
        (
            gone,
            f"has no checkpoint ({unfinished} has one); delete it and train that run again with, for example, ",
        ),
        (tmp_path, f"no run is in {tmp_path}; give a run's folder, which has config.yaml, such as {unfinished}"),
    ):
        assert main([*command, str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and says in err
    assert main([*command, str(unfinished), "--step", "20"]) == 0


def test_a_text_beyond_learned_positions_and_a_model_that_cannot_write_are_one_line(tiny: Tiny, capsys: Any) -> None:
    learned = str(trained(tiny, model={"position": "learned"}))
    assert main(["generate", learned, "--prompt", "a" * 30, "--tokens", "2"]) == 0
    capsys.readouterr()
    assert main(["generate", learned, "--prompt", "a" * 30, "--tokens", "3"]) == 2
    assert "prompt and new tokens are 33 together, more than model.context=32" in capsys.readouterr().err
    masked = str(trained(tiny, model={"vocab": 257}, objective={"kind": "masked"}))
    assert main(["generate", masked, "--prompt", "a"]) == 2
    assert "objective.kind=masked does not train" in capsys.readouterr().err


def test_evaluate_gives_the_loss_of_the_record_and_its_parts_by_position(run: Path, tiny: Tiny, capsys: Any) -> None:
    result = read_result(run)
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert result is not None
    assert (found["loss"], found["loss_sem"], found["bits_per_byte"]) == (
        result.loss, result.loss_sem, result.bits_per_byte,
    )  # fmt: skip
    parts = found["by_position"]
    assert [(part["first"], part["last"]) for part in parts] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 32)]
    assert sum(part["tokens"] for part in parts) == found["tokens"]
    mean = sum(part["loss"] * part["tokens"] for part in parts) / found["tokens"]
    assert mean == pytest.approx(found["loss"], rel=1e-6)
    assert parts[0]["loss"] > parts[3]["loss"] + 3 * parts[0]["loss_sem"], "what was read helps"

    saved = load_trained(run)
    tokens = tiny.open().validation.tokens.astype(np.int32)
    windows = tokens[: (len(tokens) - 1) // 32 * 32].reshape(-1, 32)
    follows = tokens[1 : windows.size + 1].reshape(-1, 32)
    model = functional.bind_run(saved.run, saved.params)
    nll = -np.asarray(jax.nn.log_softmax(quick_jit(model.logits)(jnp.asarray(windows))))
    third = nll[np.arange(len(nll))[:, None], np.arange(3, 7), follows[:, 3:7]]
    assert parts[2]["loss"] == pytest.approx(third.mean(), rel=0.01), "but for the last window"


def test_a_run_that_was_placed_as_cannot_be_here_is_read_on_one_device(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for placement in ({"attention": "splash"}, {"mesh": {"context": 2}}, {"mesh": {"data": 1}, "attention": "cudnn"}):
        config = load(RunConfig, run / "config.yaml").model_dump(mode="json") | {"placement": placement}
        (copy / "config.yaml").write_text(json.dumps(config))
        saved = load_trained(copy)
        assert saved.mesh.size == 1 and saved.run.placement.attention == "auto"


def test_evaluate_on_another_corpus_takes_its_held_out_split(
    run: Path, tiny: Tiny, tmp_path: Path, capsys: Any
) -> None:
    data = tiny.config(data={"validation_tokens": 500}).data
    (tmp_path / "data.yaml").write_text(to_yaml(data))
    found = scaling.evaluate(run, tmp_path / "data.yaml")
    assert found.tokens == 499 and found.split == "validation"
    assert scaling.evaluate(run, "train").tokens == tiny.open().train.n_tokens - 1
    for on, hint in (("nowhere.yaml", ""), ("test", ""), ("validaton", "; did you mean validation?")):
        assert main(["evaluate", str(run), "--on", on]) == 2
        said = capsys.readouterr().err
        assert f"on={on}: no such file" in said and said.endswith(f"{hint}\n")


def test_evaluate_on_text_reads_it_in_the_tokens_of_the_run(
    run: Path, tiny: Tiny, tmp_path: Path, capsys: Any
) -> None:
    """Text is bytes: the documents that a run held out, as lines of a file, cost what its record says; a store of
    other tokens is refused, and of a run with pieces for tokens the text of its store gives that store's tokens."""
    store, path = tiny.open(), tmp_path / "held.jsonl"
    ends = [*store.validation.doc_starts[1:], store.validation.n_tokens]
    documents = [store.validation.tokens[a : b - 1] for a, b in zip(store.validation.doc_starts, ends, strict=True)]
    path.write_text("".join(json.dumps({"text": bytes(d).decode()}) + "\n" for d in documents))
    found, result = scaling.evaluate(run, path), read_result(run)
    assert result is not None and (found.split, found.corpus) == ("text", str(path))
    assert (found.loss, found.bits_per_byte) == (result.loss, result.bits_per_byte)

    pieces = tiny.config(model={"vocab": 260}, data={"tokenizer": {"kind": "bpe", "vocab": 260}})
    made = prepare(pieces.data, tiny.store, progress=False).validation
    own = _text(pieces, str(path))
    assert own.tokens.dtype == made.tokens.dtype and own.n_bytes == made.n_bytes < made.n_tokens * 2
    np.testing.assert_array_equal(own.tokens, made.tokens)
    np.testing.assert_array_equal(own.doc_starts, made.doc_starts)
    (tmp_path / "pieces.yaml").write_text(to_yaml(pieces.data))
    (tmp_path / "none.txt").write_text("")
    for on, said in (("pieces.yaml", "has another tokenizer"), ("none.txt", "has no text")):
        assert main(["evaluate", str(run), "--on", str(tmp_path / on)]) == 2
        assert said in capsys.readouterr().err
