"""The held-out loss against plain sums over the split, and its standard error against the spread of repetitions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

from scaling.data import open_store
from scaling.models import functional
from scaling.parallel import make_mesh
from scaling.training import evaluate
from scaling.training.evaluate import Evaluation, Evaluator, summarise
from scaling.training.progress import record_line


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.parametrize("batch_tokens", [96, 8192])
def test_loss_is_the_mean_over_every_target_of_the_split(
    tiny: Tiny, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "CPU_BATCH_TOKENS", batch_tokens)
    config = tiny.config(data={"validation_tokens": 1000})  # 999 targets: 31 windows of 32, and 7
    split = open_store(config.data, tiny.store).validation
    params = functional.init(config.model, jax.random.key(3))
    mesh = make_mesh(config.placement.mesh, jax.devices()[:1])
    calls: list[int] = []
    evaluator = Evaluator(config, mesh, split)
    got = evaluator(params, lambda: calls.append(1))
    assert evaluator(params) == got

    logits = quick_jit(lambda tokens: jax.nn.log_softmax(functional.bind_run(config, params).logits(tokens)))
    nats = []
    for start in range(0, split.n_tokens - 1, 32):
        window = np.zeros(33, np.int32)
        piece = split.tokens[start : start + 33]
        window[: len(piece)] = piece
        log_p = np.asarray(logits(jnp.asarray(window[None, :32])))[0]
        nats.append([-log_p[i, window[i + 1]] for i in range(len(piece) - 1)])
    flat = np.concatenate(nats)
    assert len(flat) == 999 == got.tokens and got.windows == 32
    assert got.loss == pytest.approx(flat.mean(), rel=1e-5)
    assert got.bits_per_byte == pytest.approx(flat.mean() / math.log(2) * 1000 / split.n_bytes, rel=1e-5)
    assert len(calls) == math.ceil(32 / evaluator.batch_size)


def test_standard_error_is_the_spread_of_the_mean_over_repetitions() -> None:
    draw = np.random.default_rng(0)

    def sample() -> tuple[float, float]:
        weights = draw.choice([32.0, 32.0, 7.0], 400)
        nats = weights * (1.5 + 0.3 * draw.standard_normal(400))
        result = summarise(nats, weights, tokens_per_byte=1.0)
        assert result.loss_sem is not None
        return result.loss, result.loss_sem

    losses, errors = map(np.array, zip(*(sample() for _ in range(2000)), strict=True))
    assert losses.mean() == pytest.approx(1.5, abs=0.002)
    assert errors.mean() == pytest.approx(losses.std(), rel=0.05)


def test_padding_does_not_count_and_one_window_has_no_error() -> None:
    nats, weights = np.array([30.0, 10.0, 0.0, 0.0]), np.array([32.0, 8.0, 0.0, 0.0])
    assert summarise(nats, weights, tokens_per_byte=1.0) == summarise(nats[:2], weights[:2], tokens_per_byte=1.0)
    assert summarise(nats[:1], weights[:1], tokens_per_byte=1.0).loss_sem is None


def test_bits_per_byte_are_the_same_for_tokens_that_stand_for_more_bytes() -> None:
    """4 nats for a token of 4 bytes is 1 nat for each of its bytes."""
    coarse = summarise(np.array([4.0, 4.0]), np.array([1.0, 1.0]), tokens_per_byte=0.25)
    fine = summarise(np.array([4.0, 4.0]), np.array([4.0, 4.0]), tokens_per_byte=1.0)
    assert coarse.bits_per_byte == fine.bits_per_byte == 1 / math.log(2)


def test_a_record_gives_the_evaluation_back() -> None:
    made = Evaluation(1.25, None, 1.8, 999, 32)
    record: dict[str, Any] = {"step": 3, "loss": 7.0, **made.as_record()}
    assert Evaluation.from_record(record) == made
    assert record["loss"] == 7.0  # a training loss beside it is another thing


@pytest.mark.parametrize(
    "sem, bits, told",
    [
        (0.01, 1.5, "held-out loss 2.0000 ± 0.0100, 1.5000 bits per byte"),
        (None, None, "held-out loss 2.0000"),
    ],
)
def test_the_line_of_an_evaluation_says_what_there_is(sem: float | None, bits: float | None, told: str) -> None:
    """An objective whose loss is no likelihood has no bits, a split of one window no error."""
    assert record_line(Evaluation(2.0, sem, bits, 10, 1).as_record()) == told
