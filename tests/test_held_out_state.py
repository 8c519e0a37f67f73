"""The held-out measure of a model with a state, reset at each window or carried, against NumPy over the text."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from plain_lstm import plain_losses, zero_state
from tiny_run import Tiny, quick_jit

from scaling.config import RunConfig, canonical, config_hash
from scaling.data import Split, eval_batches
from scaling.families import tree
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import make_mesh
from scaling.training.evaluate import STREAMS, Evaluation, Evaluator
from scaling.training.gradients import gradients

CONTEXT, TOKENS = 8, 8 * 40 - 2  # 40 windows, the last not full: 16 streams of 3, of which the last two are shorter


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    made = Tiny(tmp_path_factory.mktemp("state"))
    yield made


def run(tiny: Tiny, state: str = "reset") -> RunConfig:
    base = tiny.config()
    model = {"kind": "lstm", "vocab": 256, "context": CONTEXT, "layers": 2, "d_model": 6, "projection": True}
    values = base.model_dump() | {"model": model | {"held_out_state": state}}
    return RunConfig.model_validate(values)


def parameters(config: RunConfig) -> Any:
    draw = np.random.default_rng(0)
    return tree(config.model.tensors(), lambda t: draw.normal(t.mean, 0.5, t.shape).astype(np.float32))


def text(tiny: Tiny) -> Split:
    whole = tiny.open().validation
    return Split(whole.tokens[: TOKENS + 1], whole.doc_starts[whole.doc_starts <= TOKENS], TOKENS + 1)


def measured(config: RunConfig, split: Split) -> Evaluation:
    mesh = make_mesh(config.placement.mesh, jax.devices()[:1])
    return Evaluator(config, mesh, split)(parameters(config))


def in_pieces(config: RunConfig, split: Split, length: int) -> float:
    """Mean nats of a text read in pieces of so many tokens, each as one whole and from a state of zeros."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters(config))
    starts = range(0, TOKENS, length)
    pieces = [np.asarray(split.tokens[i : min(i + length, TOKENS) + 1], np.int64) for i in starts]
    nats = [plain_losses(params, piece[:-1], piece[1:], zero_state(params))[0] for piece in pieces]
    assert sum(map(len, nats)) == TOKENS
    return float(np.concatenate(nats).mean())


def test_a_carried_state_knows_the_text_since_the_start_of_its_stream(tiny: Tiny) -> None:
    split, carried, reset = text(tiny), run(tiny, "carried"), run(tiny)
    stretch = -(-40 // STREAMS) * CONTEXT
    assert measured(carried, split).loss == pytest.approx(in_pieces(carried, split, stretch), rel=1e-5)
    assert measured(reset, split).loss == pytest.approx(in_pieces(reset, split, CONTEXT), rel=1e-5)
    assert abs(in_pieces(carried, split, stretch) - in_pieces(reset, split, CONTEXT)) > 1e-3, "two measures"
    for config in (carried, reset):
        assert measured(config, split).tokens == TOKENS


def test_each_evaluation_begins_without_a_past(tiny: Tiny) -> None:
    config = run(tiny, "carried")
    evaluator = Evaluator(config, make_mesh(config.placement.mesh, jax.devices()[:1]), text(tiny))
    assert evaluator(parameters(config)) == evaluator(parameters(config))


def test_the_measure_is_part_of_what_a_run_is(tiny: Tiny) -> None:
    """So fits, which compare whole configurations, do not mix the two."""
    carried, reset = run(tiny, "carried"), run(tiny)
    assert config_hash(carried) != config_hash(reset)
    assert '"held_out_state":"carried"' in canonical(carried) and '"held_out_state":"reset"' in canonical(reset)


@pytest.mark.parametrize("batch_size", [5, 8])
def test_streams_meet_every_target_once_and_each_row_goes_on(tiny: Tiny, batch_size: int) -> None:
    split = text(tiny)
    batches = eval_batches(split, CONTEXT, batch_size, streams=5)
    rows = [np.concatenate([batch.tokens_BxL[r] for batch in batches]) for r in range(batch_size)]
    weights = [np.concatenate([batch.weights_BxL[r] for batch in batches]) for r in range(batch_size)]
    read = [row[weight > 0] for row, weight in zip(rows, weights, strict=True)]
    assert [len(row) for row in read] == [64, 64, 64, 64, 62] + [0] * (batch_size - 5)
    np.testing.assert_array_equal(np.concatenate(read), split.tokens[:TOKENS])


@pytest.mark.parametrize("state", ["reset", "carried"])
def test_training_begins_every_window_with_a_state_of_zeros(tiny: Tiny, state: str) -> None:
    """A batch of windows that follow each other costs what each costs alone."""
    config, split = run(tiny, state), text(tiny)
    windows = np.asarray(split.tokens[: 4 * CONTEXT + 1], np.int32)
    tokens, targets = windows[:-1].reshape(4, CONTEXT), windows[1:].reshape(4, CONTEXT)
    batch = Batch(tokens, targets, np.ones_like(tokens, np.float32))
    params = parameters(config)
    found = quick_jit(lambda p: gradients(config, p, batch, None).means.loss)(params)
    plain = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    nats = [plain_losses(plain, *window, zero_state(plain))[0] for window in zip(tokens, targets, strict=True)]
    assert float(found) == pytest.approx(np.concatenate(nats).mean(), rel=1e-5)
    bound = functional.bind_run(config, params)
    assert all(not x.any() for x in jax.tree.leaves(bound.start_state(3)))
