"""Objectives whose attention mask is made of the text: documents apart, and a prefix that is read as a whole."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

from scaling import accounting
from scaling.config import Placement, config_hash, shape_of
from scaling.errors import UserError
from scaling.families import TransformerConfig
from scaling.models import functional
from scaling.objectives import Batch, NextToken, Prefix
from scaling.tokens import EOD
from scaling.training import train

pytestmark = pytest.mark.usefixtures("runs_once")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


L = 24
MODEL = TransformerConfig(vocab=11, context=L, layers=2, d_model=16, n_heads=2)
APART = NextToken(documents="mask")


def bound(params: Any, objective: Any) -> Any:
    return functional.bind(MODEL, Placement(), params, objective.mask)


def test_a_window_of_documents_costs_what_each_of_them_costs_alone() -> None:
    """With rotary positions, of which attention reads the differences alone."""
    params = functional.init(MODEL, jax.random.key(0))
    window = np.random.default_rng(0).integers(1, MODEL.vocab, (1, L + 1))
    window[0, [6, 7, 15]] = EOD  # one of these documents is empty
    batch = APART.batch(jnp.asarray(window))
    losses = quick_jit(lambda p: bound(p, APART).token_losses(bound(p, APART)(batch.tokens_BxL, batch.marks_BxL),
                                                              batch.targets_BxL)[0])(params)  # fmt: skip
    alone = []
    for start, stop in ((0, 7), (7, 8), (8, 16), (16, L)):
        model = bound(params, NextToken())
        hidden = model(batch.tokens_BxL[:, start:stop])
        alone.append(model.token_losses(hidden, batch.targets_BxL[:, start:stop])[0])
    np.testing.assert_allclose(losses, jnp.concatenate(alone, 1), atol=2e-5)
    together = bound(params, NextToken())(batch.tokens_BxL)
    assert jnp.abs(together - bound(params, APART)(batch.tokens_BxL, batch.marks_BxL)).max() > 0.1


@pytest.mark.parametrize(
    "values",
    [{"position": "learned"}, {"position": "sinusoidal"}, {"attention_chunk": [4]},
     {"sliding_window": [3], "global_tokens": [1]}, {"rope": {"temperature": {"floor": 3, "scale": 0.5}}}],
    ids=str,
)  # fmt: skip
def test_where_positions_restart_a_document_is_read_as_though_it_began_its_window(values: Any) -> None:
    """Whatever counts positions from the start: to have them go on is another model."""
    again = MODEL.model_copy(update={"restart_positions": True}).model_dump() | values
    on = TransformerConfig.model_validate(again | {"restart_positions": None})
    params = functional.init(on, jax.random.key(0))
    window = np.random.default_rng(0).integers(1, MODEL.vocab, (1, L + 1))
    window[0, [6, 15]] = EOD
    batch = APART.batch(jnp.asarray(window))

    def hidden(model: TransformerConfig, marks: Any, part: slice = slice(None)) -> jax.Array:
        run = functional.bind(model, Placement(), params, "causal" if marks is None else "document")
        found: jax.Array = run(batch.tokens_BxL[:, part], marks)
        return found

    apart = hidden(TransformerConfig.model_validate(again), batch.marks_BxL)
    for part in (slice(0, 7), slice(7, 16), slice(16, L)):
        np.testing.assert_allclose(apart[:, part], hidden(on, None, part), atol=2e-5)
    assert jnp.abs(apart - hidden(on, batch.marks_BxL)).max() > 0.05


def test_positions_restart_only_where_documents_are_apart(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"model.restart_positions=true needs objective.documents=mask; set that"):
        tiny.config(model={"restart_positions": True})
    apart, again = (
        tiny.config(objective={"documents": "mask"}, model={"restart_positions": on}) for on in (None, True)
    )
    assert config_hash(apart) != config_hash(again) and shape_of(apart) != shape_of(again)
    assert tiny.config(objective={"documents": "see"}) == tiny.config()
    with pytest.raises(UserError, match=r"documents.*should be 'mask' or 'see', got 'hide'"):
        tiny.config(objective={"documents": "hide"})


def test_flops_of_a_run_are_those_of_the_keys_that_its_documents_let_it_see(tiny: Tiny) -> None:
    """Counted token by token in the text; a plan, which has none, counts them as though they filled their windows."""
    config = tiny.config(objective={"documents": "mask"}, model={"sliding_window": [9, None], "layers": 2})
    tokens, length = tiny.open().train.tokens, config.model.context
    seen, begun = [], 0
    for i in range(len(tokens) // length * length):
        begun = i if i % length == 0 or (i and tokens[i - 1] == EOD) else begun
        seen.append(i - begun + 1)
    mean = np.mean([min(n, 9) for n in seen]) + np.mean(seen)
    layer = 3 * 4 * config.model.d_model  # two products of 2 FLOPs, and twice as many in their gradients
    plan = accounting.flops_per_token(config)
    result = train(config, quiet=True)
    want = plan.exact - plan.items["attention_scores"] + layer * mean
    assert result.flops == pytest.approx(want * result.tokens, rel=1e-9) and want < plan.exact


@pytest.mark.parametrize("placement", [{}, {"accumulate": 2, "layers": "scan", "remat": "full"}], ids=str)
@pytest.mark.parametrize("objective", [{"documents": "mask"}, {"kind": "prefix"}], ids=str)
def test_a_run_learns_and_is_held_to_its_own_measure(tiny: Tiny, objective: Any, placement: Any) -> None:
    config = tiny.config(objective=objective, placement=placement)
    result = train(config, quiet=True)
    assert result.status == "completed" and result.loss < math.log(256)
    assert result.objective == ("prefix" if "kind" in objective else "next_token")
    assert (result.bits_per_byte is None) == ("kind" in objective)
    assert config_hash(config) != config_hash(tiny.config(placement=placement))


def test_documents_are_apart_in_the_held_out_measure_too() -> None:
    tokens = np.array([[3, EOD, 5, EOD]], np.int32)
    (part,) = APART.held_out(Batch(tokens, tokens, np.ones_like(tokens, np.float32)), 0, MODEL)
    assert part.marks_BxL.tolist() == [[0, 0, 1, 1]]


def test_prefixes_are_uniform_and_what_they_tell_is_no_target() -> None:
    rows, length = 4000, 10
    source = type("Source", (), {"seed": 5, "batch_size": rows})()
    source.windows = lambda step, start, stop: np.tile(np.arange(length + 1), (stop - start, 1))
    batch = Prefix().rows(source, MODEL, 3, 0, rows)
    prefix = batch.marks_BxL.sum(1)
    counts = np.bincount(prefix, minlength=length)
    assert len(counts) == length and ((counts - rows / length) ** 2 / (rows / length)).sum() < 27.9  # χ²(9), .1 %
    for row in (0, 1, 2):
        known = set(range(prefix[row])) | {0}  # tokens of the prefix are read; a target within it is told
        assert batch.weights_BxL[row].tolist() == [float(target not in known or target >= prefix[row])
                                                   for target in batch.targets_BxL[row]]  # fmt: skip
    assert batch.weights_BxL.sum() / rows == pytest.approx(Prefix().targets(1000 * length, length) / 1000, rel=0.02)
    some = Prefix().rows(source, MODEL, 3, 100, 200)
    assert (some.marks_BxL == batch.marks_BxL[100:200]).all()  # a row is its own, whichever host makes it


def test_a_held_out_window_weighs_what_it_holds_whatever_its_prefix() -> None:
    weights = np.ones((50, 10), np.float32)
    weights[-1, 3:] = 0  # the end of the split
    (part,) = Prefix().held_out(Batch(*(np.zeros((50, 10), np.int32),) * 2, weights), 4, MODEL)
    np.testing.assert_allclose(part.weights_BxL.sum(1), weights.sum(1), rtol=1e-6)
    assert part.marks_BxL[-1].sum() < 3


def test_a_target_behind_a_prefix_is_not_seen() -> None:
    """To the last bit: another future changes no loss that counts, other prefixes do."""
    params = functional.init(MODEL, jax.random.key(1))
    tokens = np.random.default_rng(1).integers(1, MODEL.vocab, (1, L))
    marks = (np.arange(L) < 9).astype(np.int32)[None]
    run = quick_jit(lambda tokens: bound(params, Prefix())(tokens, marks))
    hidden, changed = run(tokens), tokens.copy()
    changed[0, 15] += 1
    assert (run(changed)[0, :15] == hidden[0, :15]).all()
    changed[0, 8] += 1
    assert (run(changed)[0, 0] != hidden[0, 0]).any()
