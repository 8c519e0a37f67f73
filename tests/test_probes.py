"""Probes against readers whose answers are known: one that finds again what it has read, and one that does not."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import RUN, Tiny, quick_jit

from scaling.cli import main
from scaling.config import RunConfig, build
from scaling.data.tokenizer import ByteTokenizer
from scaling.errors import UserError
from scaling.evaluation import probes
from scaling.evaluation.text_losses import TextLosses
from scaling.families import LSTMConfig
from scaling.models import functional
from scaling.parallel import make_mesh
from scaling.training import train
from scaling.training.trained import Trained

pytestmark = pytest.mark.usefixtures("runs_once")

CONTEXT, WRONG = 512, 7.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("probes"))


def untrained(tiny: Tiny, **changes: Any) -> Trained:
    run = tiny.config(**changes)
    mesh = make_mesh(run.placement.mesh, jax.devices()[:1])
    return Trained(Path(), run, 0, functional.init(run.model, jax.random.key(0)), mesh)


def finds_again(text: np.ndarray, by: int = 4) -> np.ndarray:
    """0 where the token is the one that followed the last few when they were read before, else WRONG."""
    nats = np.full(len(text) - 1, WRONG)
    seen: dict[bytes, int] = {}
    for i in range(by, len(text)):
        read = text[i - by : i].tobytes()
        if seen.get(read) == text[i]:
            nats[i - 1] = 0.0
        seen[read] = int(text[i])
    return nats


def all_probes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, reader: Any) -> list[probes.Probe]:
    def nats(self: TextLosses, text: np.ndarray) -> np.ndarray:
        return np.stack([reader(row) for row in text])

    def answers(self: TextLosses, text: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
        found = nats(self, text)[:, -last:]
        return found, found == 0

    monkeypatch.setattr(TextLosses, "__call__", nats)
    monkeypatch.setattr(TextLosses, "answers", answers)
    trained = untrained(tiny, model={"context": CONTEXT})
    return probes.probe(trained, ByteTokenizer(), tiny.open().validation.tokens)


def test_a_reader_that_finds_again_what_it_has_read_gains_by_every_probe(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = all_probes(tiny, monkeypatch, finds_again)
    assert [own.name for own in found[:2]] == ["copy", "induction"]
    induction = found[1]
    assert induction.untold == WRONG and induction.loss == pytest.approx(WRONG * 4 / 255, abs=0.4)
    keys = [own for own in found if own.name == "passkey"]
    assert [(own.length, own.depth) for own in keys] == [(n, d) for n in (512, 256, 128) for d in probes.DEPTHS]
    for own in keys:
        assert own.accuracy is not None and own.accuracy > 0.9
        assert own.loss < 0.05 * WRONG
        assert own.untold > 0.75 * WRONG and own.gain > 8 * own.gain_sem
        assert own.gain == pytest.approx(own.untold - own.loss)


def test_of_several_keys_only_a_reader_of_their_names_finds_the_right_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question ends with ` is `, which goes before every key: four tokens tell the key said last, eight the right
    one."""
    found = {
        by: [own for own in all_probes(tiny, monkeypatch, partial(finds_again, by=by)) if own.name == "needle"]
        for by in (4, 8)
    }
    for near, named in zip(found[4], found[8], strict=True):
        assert (near.length, named.length) == (512, 512), "half a context has no room for four keys"
        assert named.accuracy == 1 and named.gain == pytest.approx(named.untold) and named.untold > 0.75 * WRONG
        assert near.accuracy is not None and (near.accuracy < 0.8 or near.depth == 1), "it was said last"
    assert [own.depth for own in found[8]] == [*probes.DEPTHS]


def test_a_reader_that_forgets_gains_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for own in all_probes(tiny, monkeypatch, lambda text: np.sin(text[1:].astype(float)) + 2):
        assert abs(own.gain) < 0.05


def test_the_losses_of_probes_are_those_of_the_model(tiny: Tiny) -> None:
    trained = untrained(tiny)
    text = np.random.default_rng(0).integers(1, 256, (11, 33))
    logits = quick_jit(functional.bind_run(trained.run, trained.params).logits)(jnp.asarray(text[:, :-1]))
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), text[:, 1:, None], -1)[..., 0]
    losses = TextLosses(trained)
    np.testing.assert_allclose(losses(text), expected, rtol=1e-4)
    nats, likeliest = losses.answers(text, 5)
    np.testing.assert_allclose(nats, expected[:, -5:], rtol=1e-4)
    greedy = np.asarray(logits).argmax(-1)[:, -5:]
    np.testing.assert_array_equal(likeliest, greedy == text[:, -5:])
    chosen = np.concatenate([text[:, :-1], greedy[:, -1:]], 1)
    assert losses.answers(chosen, 1)[1].all() and not losses.answers((chosen + 1) % 256, 1)[1].all()


def test_texts_of_a_model_that_carries_its_state_begin_without_a_past() -> None:
    model = LSTMConfig(kind="lstm", vocab=256, context=32, layers=2, d_model=16)
    run = build(RunConfig, RUN | {"model": model.model_dump(), "data": {"corpus": "files:*"}}, "lstm")
    trained = Trained(Path(), run, 0, functional.init(model, jax.random.key(0)), make_mesh(run.placement.mesh))
    text = np.random.default_rng(0).integers(1, 256, (3, 33))
    logits = quick_jit(functional.bind_run(run, trained.params).logits)(jnp.asarray(text[:, :-1]))
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), text[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(TextLosses(trained)(text), expected, rtol=1e-4)


def test_the_command_tells_probes_and_refuses_what_has_no_direction(tiny: Tiny, capsys: Any) -> None:
    result = train(tiny.config(records={"checkpoint_steps": 40}), quiet=True)
    folder = tiny.folder / "runs" / "single" / result.run_id
    assert main(["evaluate", str(folder), "--probes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["probes"]
    assert [own["name"] for own in found] == ["copy", "induction"], "a context of 32 has no room for a pass key"
    assert main(["evaluate", str(folder), "--probes"]) == 0
    told = capsys.readouterr().out
    assert "induction" in told and "passkey and needle left out: the run's context is too short" in told
    masked = untrained(tiny, model={"vocab": 257}, objective={"kind": "masked"})
    with pytest.raises(UserError, match="kind=masked does not read from left to right"):
        probes.probe(masked, ByteTokenizer(), tiny.open().validation.tokens)
