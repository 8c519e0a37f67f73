"""Tokens that need a long context, against readers of which it is known what they need, and against plain loops."""

import json
from math import exp
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

from scaling.cli import main
from scaling.errors import UserError
from scaling.evaluation.key_tokens import key_tokens
from scaling.evaluation.text_losses import TextLosses
from scaling.models import functional
from scaling.parallel import make_mesh
from scaling.training import train
from scaling.training.trained import Trained

pytestmark = pytest.mark.usefixtures("runs_once")

CONTEXT, SHORT = 32, 8
KNOWN, UNKNOWN, STUPID = 0.25, 5.0, 3.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("key_tokens"))


def untrained(tiny: Tiny, **changes: Any) -> Trained:
    run = tiny.config(**changes)
    mesh = make_mesh(run.placement.mesh, jax.devices()[:1])
    return Trained(Path("a"), run, 0, functional.init(run.model, jax.random.key(run.seed)), mesh)


def test_key_tokens_are_those_last_seen_beyond_the_short_context(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that knows a token again if it has read it, and one (seed 1) that never knows anything."""

    def nats(self: TextLosses, text: np.ndarray) -> np.ndarray:
        if self.run.seed == 1:
            return np.full((len(text), text.shape[1] - 1), STUPID)
        return np.array(
            [[KNOWN if row[i] in row[:i] else UNKNOWN for i in range(1, len(row))] for row in text], np.float32
        )

    monkeypatch.setattr(TextLosses, "__call__", nats)
    tokens = np.random.default_rng(0).integers(1, 60, 10 * CONTEXT + 5)
    key, others = [], []
    for target in range(1, 10 * CONTEXT + 1):  # place of the token in the text
        window = (target - 1) // CONTEXT * CONTEXT
        if target - window <= SHORT:
            continue
        begin = (target - SHORT + SHORT // 2 - 1) // (SHORT // 2) * (SHORT // 2)  # the earliest that reads ≤ SHORT
        assert SHORT // 2 < target - begin <= SHORT and begin >= window
        long, short = tokens[window:target], tokens[begin:target]
        new = tokens[target] in long and tokens[target] not in short
        (key if new else others).append(KNOWN if tokens[target] in long else UNKNOWN)
    found = key_tokens(untrained(tiny), tokens, short=SHORT)
    assert 40 < len(key) == found.tokens and found.targets == len(key) + len(others) == 10 * (CONTEXT - SHORT)
    assert found.share == len(key) / found.targets
    assert (found.loss, found.short_loss, found.perplexity) == (KNOWN, UNKNOWN, pytest.approx(exp(KNOWN)))
    assert found.other_loss == pytest.approx(np.mean(others))

    other = key_tokens(untrained(tiny, seed=1), tokens, short=SHORT, reference=untrained(tiny))
    assert other.tokens == found.tokens and (other.loss, other.short_loss, other.other_loss) == (STUPID,) * 3
    own = key_tokens(untrained(tiny, seed=1), tokens, short=SHORT)
    assert (own.tokens, own.loss, own.perplexity) == (0, None, None), "it gains nothing, so it has no key tokens"
    strict = key_tokens(untrained(tiny), tokens, short=SHORT, most=KNOWN)
    assert strict.tokens == 0, "a key token costs less than `most`"


def test_losses_of_key_tokens_are_those_of_the_model(tiny: Tiny) -> None:
    trained, step = untrained(tiny), SHORT // 2
    tokens = np.random.default_rng(1).integers(1, 256, 4 * CONTEXT + 1)
    log_p = quick_jit(lambda text: jax.nn.log_softmax(functional.bind_run(trained.run, trained.params).logits(text)))

    def nats(window: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return -np.asarray(log_p(jnp.asarray(window[None])))[0][np.arange(len(targets)), targets]

    gained = []
    for start in range(0, 4 * CONTEXT, CONTEXT):
        long = nats(tokens[start : start + CONTEXT], tokens[start + 1 : start + CONTEXT + 1])
        for i in range(SHORT, CONTEXT):
            begin = (start + i - step) // step * step
            if begin + SHORT >= len(tokens):
                continue
            short = nats(tokens[begin : begin + SHORT], tokens[begin + 1 : begin + SHORT + 1])[start + i - begin]
            gained.append((short - long[i], long[i], short))
    gain, long, short = np.array(gained).T
    middle = float(np.median(gain))
    found = key_tokens(trained, tokens, short=SHORT, gain=middle, most=6.0)
    chosen = (gain > middle) & (long < 6.0)
    assert found.tokens == pytest.approx(chosen.sum(), abs=1) and found.targets == len(gain)
    assert found.loss == pytest.approx(long[chosen].mean(), rel=2e-3)
    assert found.short_loss == pytest.approx(short[chosen].mean(), rel=2e-3)


def test_the_command_tells_them_and_refuses_what_has_none(tiny: Tiny, capsys: Any) -> None:
    result = train(tiny.config(records={"checkpoint_steps": 40}), quiet=True)
    folder = str(tiny.folder / "runs" / "single" / result.run_id)
    assert main(["evaluate", folder, "--short", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["key_tokens"]
    assert found["short"] == 8 and 0 <= found["share"] < 1 and found["reference"].endswith("at step 40")
    assert main(["evaluate", folder, "--short", "8", "--reference", folder]) == 0
    assert "key tokens, which need more than 8 tokens of context" in capsys.readouterr().out
    for short in ("1", "32"):
        assert main(["evaluate", folder, "--short", short]) == 2
        assert f"short={short}; allowed: 2 to 31" in capsys.readouterr().err
    assert main(["evaluate", folder, "--reference", folder]) == 2
    assert "also needs a short context" in capsys.readouterr().err


def test_models_that_cannot_choose_are_named(tiny: Tiny) -> None:
    tokens = np.ones(100, int)
    masked = untrained(tiny, model={"vocab": 257}, objective={"kind": "masked"})
    with pytest.raises(UserError, match="kind=masked of a does not read from left to right"):
        key_tokens(untrained(tiny), tokens, short=SHORT, reference=masked)
    with pytest.raises(UserError, match=r"the reference a has model\.context=16, less than the run's 32"):
        key_tokens(untrained(tiny), tokens, short=SHORT, reference=untrained(tiny, model={"context": 16}))
    with pytest.raises(UserError, match="30 held-out tokens are fewer than a window of 32"):
        key_tokens(untrained(tiny), tokens[:30], short=SHORT)
    with pytest.raises(UserError, match=r"none of 33 held-out tokens has more than 31 before it"):
        key_tokens(untrained(tiny), tokens[:33], short=31)
