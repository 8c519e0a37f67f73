"""Where documents begin in windows, and what a mask that keeps them apart lets a query see."""

from pathlib import Path

import numpy as np
import pytest
from tiny_run import Tiny

from scaling.config.run import LongDocuments
from scaling.data import Batches, Split, documents
from scaling.data.documents import Documents, cut_documents
from scaling.families.attention_mask import AttentionMask, visible_keys
from scaling.tokens import EOD

CONTEXT = 16


def split(lengths: list[int]) -> Split:
    """Documents of so many tokens, the one that ends each included."""
    starts = np.cumsum([0, *lengths[:-1]])
    tokens = np.ones(sum(lengths), np.uint8)
    tokens[starts + np.array(lengths) - 1] = EOD
    return Split(tokens, starts.astype(np.int64), 0)


def drawn() -> Split:
    rng = np.random.default_rng(0)
    return split([int(n) for n in rng.choice([1, 2, 5, 16, 40], 60)])


def test_a_token_sees_its_document_from_where_that_or_the_window_begins() -> None:
    text = drawn()
    found = Documents(text, CONTEXT).starts()
    whole = (text.n_tokens - 1) // CONTEXT
    assert found.shape == (whole, CONTEXT)
    for n, i in np.ndindex(found.shape):
        j = i
        while j > 0 and text.tokens[n * CONTEXT + j - 1] != EOD:
            j -= 1
        assert found[n, i] == j
    seen = np.arange(CONTEXT) - found + 1
    of = Documents(text, CONTEXT).visible_keys
    assert of(AttentionMask(CONTEXT, kind="document")) == pytest.approx(seen.mean())
    assert of(AttentionMask(3, kind="document")) == pytest.approx(np.minimum(seen, 3).mean())


def test_of_a_large_text_windows_are_read_that_lie_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn()
    every = Documents(text, CONTEXT).starts()
    monkeypatch.setattr(documents, "MEASURED", 4 * CONTEXT)
    some = Documents(text, CONTEXT).starts()
    assert (some == every[np.arange(4) * len(every) // 4]).all()


def test_windows_of_long_documents_count_as_often_as_a_run_meets_them() -> None:
    text, mask = split([4] * 8 + [48] + [4] * 9), AttentionMask(CONTEXT, kind="document")
    found = Documents(text, CONTEXT, LongDocuments(tokens=40, times=3)).visible_keys(mask)
    short, long = (4 + 1) / 2, (CONTEXT + 1) / 2
    assert found == pytest.approx((4 * short + 3 * 3 * long) / (4 + 3 * 3))


def test_a_stage_of_shorter_windows_meets_the_parts_of_whole_windows() -> None:
    """As `Batches` cuts them, over an epoch: a part is repeated with its window, whatever its own document."""
    text, long = drawn(), LongDocuments(tokens=40, times=3)
    epoch = Batches(text, CONTEXT, 1, seed=0, shuffle=False, long=long)
    first = [int(epoch.window_ids(step, 0, 1)[0]) * CONTEXT for step in range(epoch.epoch_windows)]
    whole = Documents(text, 4, None).starts()
    wanted = [whole[at // 4 + part] for at in first for part in range(CONTEXT // 4)]
    found = Documents(text, 4, long, parts=CONTEXT // 4).starts()
    assert sorted(map(tuple, found)) == sorted(map(tuple, wanted)) and len(found) > len(whole)


def test_one_document_that_fills_all_windows_is_a_causal_text() -> None:
    for mask in (AttentionMask(CONTEXT, kind="document"), AttentionMask(5, kind="document", global_tokens=2)):
        assert Documents(split([160]), CONTEXT).visible_keys(mask) == pytest.approx(visible_keys(CONTEXT, mask))


def test_a_run_is_told_that_most_of_its_text_is_in_documents_that_windows_cut(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    apart = tiny.config(objective={"documents": "mask"}, model={"context": CONTEXT})
    (note,) = cut_documents(apart, split([17, 16]))
    assert note.startswith("objective.documents=mask: 52% of the text is in documents longer than model.context=16,")
    assert cut_documents(apart, split([16, 17, 16])) == []
    assert cut_documents(tiny.config(model={"context": CONTEXT}), split([17])) == []
