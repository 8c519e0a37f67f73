"""Batches: every target once an epoch, a pure function of (seed, step), whatever the hosts; runs that do not fit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import accounting
from scaling.config import RunConfig, build, run_id
from scaling.config.run import LongDocuments
from scaling.data import Batches, Split, TokenStore, check_run, eval_batches
from scaling.data.batches import BLOCK
from scaling.errors import UserError


def make_split(n_tokens: int, starts: tuple[int, ...] = (0,), dtype: type = np.uint32) -> Split:
    """Tokens that are their own positions, so that a batch shows where it was taken."""
    return Split(np.arange(n_tokens, dtype=dtype), np.array(starts, np.int64), n_tokens)


@settings(max_examples=60)
@given(
    n_tokens=st.integers(2, 400),
    context=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 99),
    shuffle=st.booleans(),
)
def test_an_epoch_meets_every_target_exactly_once(n_tokens, context, batch_size, seed, shuffle):
    if n_tokens <= context:
        return
    batches = Batches(make_split(n_tokens), context, batch_size, seed, shuffle)
    n = batches.n_windows
    steps = -(-3 * n // batch_size)
    targets = np.concatenate([batches.batch(step).targets_BxL for step in range(steps)])
    for epoch in range(3):
        met = np.sort(targets[epoch * n : (epoch + 1) * n].ravel())
        assert np.array_equal(met, np.arange(1, n * context + 1))
    assert n * context > n_tokens - 1 - context


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    context=st.integers(1, 20),
    batch_size=st.integers(1, 9),
    long=st.builds(LongDocuments, tokens=st.integers(1, 40), times=st.integers(2, 4)),
    shuffle=st.booleans(),
)
def test_windows_of_long_documents_are_met_as_often_as_is_said(lengths, context, batch_size, long, shuffle):
    starts = np.cumsum([0, *lengths[:-1]])
    split = make_split(sum(lengths), tuple(starts))
    if split.n_tokens <= context:
        return
    batches = Batches(split, context, batch_size, 3, shuffle, long)
    of_token = np.repeat(lengths, lengths)
    wanted = {first: long.times if of_token[first] >= long.tokens else 1
              for first in range(0, batches.n_windows * context, context)}  # fmt: skip
    n, repeated = sum(wanted.values()), [first for first, times in wanted.items() if times > 1]
    steps = -(-2 * n // batch_size)
    met = np.concatenate([batches.batch(step).tokens_BxL[:, 0] for step in range(steps)])
    for epoch in range(2):
        first, times = np.unique(met[epoch * n : (epoch + 1) * n], return_counts=True)
        assert dict(zip(first.tolist(), times.tolist(), strict=True)) == wanted
    for step in {1, steps // 3 + 1, max(1, n // batch_size)}:
        shown = met[: step * batch_size]
        assert batches.unique_tokens(step) == len(np.unique(shown)) * context
        if len(shown) < n:
            assert batches.long_share(step) == pytest.approx(np.isin(shown, repeated).mean())
    assert batches.long_share(steps) == pytest.approx(sum(wanted[first] for first in repeated) / n)


def test_targets_are_the_tokens_that_follow():
    batch = Batches(make_split(1000, dtype=np.uint16), 7, 5, seed=3).batch(11)
    assert np.array_equal(batch.tokens_BxL + 1, batch.targets_BxL)
    assert (batch.tokens_BxL.dtype, batch.targets_BxL.dtype) == (np.int32, np.int32)
    assert batch.weights_BxL.dtype == np.float32 and (batch.weights_BxL == 1).all()
    assert batch.tokens_BxL.shape == batch.targets_BxL.shape == batch.weights_BxL.shape == (5, 7)


def test_a_batch_depends_on_seed_and_step_alone():
    split = make_split(BLOCK * 3 * 4 + 1)
    forward = Batches(split, 4, 64, seed=1)
    backward = Batches(split, 4, 64, seed=1)
    steps = range(0, 3 * BLOCK // 64 * 2, 37)  # over two epochs and every block of the order
    first = [forward.batch(step) for step in steps]
    for step, batch in reversed(list(zip(steps, first, strict=True))):
        assert np.array_equal(backward.batch(step).tokens_BxL, batch.tokens_BxL)
    other = Batches(split, 4, 64, seed=2).batch(0)
    assert not np.array_equal(other.tokens_BxL, forward.batch(0).tokens_BxL)


@settings(max_examples=40)
@given(hosts=st.sampled_from([1, 2, 3, 4, 6, 12]), step=st.integers(0, 50), n_tokens=st.integers(20, 500))
def test_data_order_is_independent_of_the_number_of_hosts(hosts, step, n_tokens):
    batches = Batches(make_split(n_tokens), 5, 12, seed=4)
    whole = batches.batch(step)
    per_host = 12 // hosts
    parts = [batches.rows(step, h * per_host, (h + 1) * per_host) for h in range(hosts)]
    for i, array in enumerate(whole[:3]):
        assert np.array_equal(np.concatenate([part[i] for part in parts]), array)


def test_one_batch_can_reach_over_several_epochs():
    batches = Batches(make_split(31), 10, 8, seed=0)  # 3 windows an epoch, 8 in a batch
    first_tokens = np.concatenate([batches.batch(step).tokens_BxL[:, 0] for step in range(3)])
    for epoch in range(8):
        assert sorted(first_tokens[epoch * 3 : epoch * 3 + 3]) == [0, 10, 20]


def test_epochs_differ_in_order_when_shuffled_and_not_otherwise():
    split = make_split(40 * 5 + 1)
    shuffled, plain = Batches(split, 5, 40, seed=0), Batches(split, 5, 40, seed=0, shuffle=False)
    assert not np.array_equal(shuffled.batch(0).tokens_BxL, shuffled.batch(1).tokens_BxL)
    assert np.array_equal(plain.batch(0).tokens_BxL, plain.batch(1).tokens_BxL)
    assert np.array_equal(plain.batch(0).tokens_BxL.ravel(), np.arange(200))


def test_unique_tokens_and_epochs_count_what_was_met():
    batches = Batches(make_split(106), 5, 4, seed=0)  # 21 windows
    met: set[int] = set()
    for step in range(14):
        assert batches.unique_tokens(step) == len(met)
        assert batches.epochs(step) == pytest.approx(step * 4 / 21)
        met |= set(batches.batch(step).targets_BxL.ravel().tolist())


def test_weights_cannot_be_changed_for_later_batches():
    batches = Batches(make_split(100), 5, 4, seed=0)
    with pytest.raises(ValueError, match="read-only"):
        batches.batch(0).weights_BxL[0, 0] = 0
    batches.batch(0).tokens_BxL[:] = 0
    assert batches.batch(0).tokens_BxL.any()


@pytest.mark.parametrize("rows", [(0, 9), (3, 2), (-1, 2)])
def test_rows_outside_the_batch_are_refused(rows):
    with pytest.raises(ValueError, match="rows"):
        Batches(make_split(100), 5, 8, seed=0).rows(0, *rows)


def test_a_split_shorter_than_a_window_is_refused():
    Batches(make_split(9), 8, 1, seed=0)
    with pytest.raises(UserError, match=r"8 tokens is too short for a window of model.context=8, which needs 9"):
        Batches(make_split(8), 8, 1, seed=0)


@settings(max_examples=80)
@given(n_tokens=st.integers(2, 300), context=st.integers(1, 50), batch_size=st.integers(1, 8))
def test_evaluation_meets_every_target_once_in_order(n_tokens, context, batch_size):
    batches = eval_batches(make_split(n_tokens), context, batch_size)
    tokens, targets, weights = (
        np.concatenate(arrays).ravel() for arrays in zip(*(batch[:3] for batch in batches), strict=True)
    )
    assert set(np.unique(weights)) <= {0.0, 1.0}
    assert np.array_equal(targets[weights == 1], np.arange(1, n_tokens))
    assert np.array_equal(tokens[weights == 1], np.arange(n_tokens - 1))
    assert len(batches) * batch_size * context - (n_tokens - 1) < batch_size * context
    assert all(batch.tokens_BxL.shape == (batch_size, context) for batch in batches)


def test_evaluation_batches_are_a_sequence():
    batches = eval_batches(make_split(100), 7, 3)
    assert len(batches) == 5 and len(batches[1:3]) == 2
    assert np.array_equal(batches[-1].tokens_BxL, list(batches)[4].tokens_BxL)
    with pytest.raises(IndexError):
        batches[5]
    with pytest.raises(UserError, match="too short; it needs 2 or more"):
        eval_batches(make_split(1), 7, 3)


def make_run(**changes: object) -> RunConfig:
    values = {
        "model": {"vocab": 256, "context": 10, "layers": 1, "d_model": 8, "n_heads": 2},
        "data": {"corpus": "python_stdlib"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": 4,
        "tokens": 400,
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        values[part] = {**values[part], name: value} if name else value
    return build(RunConfig, values, "test")


def make_store(train: int, validation: int, vocab: int = 256) -> TokenStore:
    manifest = {"tokenizer": {"kind": "bytes", "vocab": vocab}}
    return TokenStore(Path("store"), manifest, make_split(train), make_split(validation))


def test_a_run_that_fits_its_data_passes():
    check_run(make_run(), make_store(401, 2))
    check_run(make_run(data__epochs=4), make_store(101, 2))


def test_too_few_tokens_names_epochs_and_the_number_needed():
    with pytest.raises(UserError, match=r"data.epochs=1 .*need.* 400; set data.epochs=1.026 or more, or tokens=360 "):
        check_run(make_run(), make_store(400, 2))
    check_run(make_run(data__epochs=1.026), make_store(400, 2))
    check_run(make_run(tokens=360), make_store(400, 2))


def test_of_a_sweep_the_run_is_named_and_what_its_file_calls_the_keys() -> None:
    run = make_run(records={"sweep": "fine"})
    with pytest.raises(UserError) as caught:
        check_run(run, make_store(400, 2))
    told = str(caught.value)
    flops = accounting.flops_per_token(run.model).exact * 360
    assert told.startswith(f"run {run_id(run)} of sweep fine: data.epochs=1 allows 390 training tokens")
    assert told.endswith(
        f"or tokens=360 or fewer ({flops:.3g} FLOPs for this model; in a sweep's file: run.data.epochs, and "
        "run.tokens or the design)"
    )


@settings(max_examples=100)
@given(train=st.integers(11, 3000), tokens=st.integers(1, 5000), epochs=st.floats(0.01, 9))
def test_what_the_error_proposes_is_accepted(train, tokens, epochs):
    run, store = make_run(tokens=tokens, data__epochs=epochs), make_store(train, 2)
    try:
        check_run(run, store)
        assert run.steps * 40 <= epochs * ((train - 1) // 10 * 10) + 1e-6
    except UserError as error:
        proposed = str(error).partition("set data.epochs=")[2]
        passes = run.steps * 40 / ((train - 1) // 10 * 10)
        assert bool(proposed) == (passes <= 10) and ("use more text" in str(error)) != bool(proposed)
        if proposed:
            check_run(make_run(tokens=tokens, data__epochs=float(proposed.split()[0])), store)
        if ", or tokens=" in str(error):
            fewer = int(str(error).partition(", or tokens=")[2].split()[0])
            check_run(make_run(tokens=fewer, data__epochs=epochs), store)


def test_vocabulary_may_be_padded_to_the_next_128_and_no_more():
    store, data = make_store(401, 2, vocab=300), {"kind": "bpe", "vocab": 300}
    for rows in (300, 301, 384):
        check_run(make_run(model__vocab=rows, data__tokenizer=data), store)
    with pytest.raises(UserError, match=r"model.vocab=385 .* allowed: 300 to 384"):
        check_run(make_run(model__vocab=385, data__tokenizer=data), store)


def test_a_tokenizer_of_another_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"data.tokenizer.vocab=256 but the store .* with 300"):
        check_run(make_run(model__vocab=300), make_store(401, 2, vocab=300))


def test_splits_too_short_for_the_run_are_refused():
    with pytest.raises(UserError, match=r"too short for a window of model\.context=10"):
        check_run(make_run(), make_store(10, 2))
    with pytest.raises(UserError, match=r"held-out split has 1 tokens.*data.validation"):
        check_run(make_run(), make_store(401, 1))


def test_a_batch_is_quick():
    """Goal: under 50 µs on a quiet core, 7 measured; the limit here is for a crowded one, of its own time."""
    import time

    batches = Batches(make_split(5_000_000, dtype=np.uint8), 128, 16, seed=0)
    batches.batch(0)
    times = []
    for step in range(1, 400):
        start = time.thread_time()
        batches.batch(step)
        times.append(time.thread_time() - start)
    assert np.median(times) < 200e-6


def test_documents_of_a_length_that_there_is_not_cannot_be_met_more_often():
    store = make_store(901, 2)
    check_run(make_run(data__long_documents={"tokens": 901, "times": 3}), store)
    with pytest.raises(UserError, match=r"long_documents.tokens=902: no window .* the longest has 901 tokens"):
        check_run(make_run(data__long_documents={"tokens": 902, "times": 3}), store)
