"""Tokenizers: text comes back whole, ids mean what they should, training repeats."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaling.config import TokenizerConfig
from scaling.data.tokenizer import (
    EOD_NAME,
    TOKENIZER_FILE,
    BpeTokenizer,
    ByteTokenizer,
    load_tokenizer,
    token_bytes,
    train_bpe,
)
from scaling.errors import UserError
from scaling.tokens import EOD

SOURCES = Path(__file__).parents[1] / "scaling/data"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.py"))]
SNIPPETS = "\0 \ufeffé漢字🙂\u200d  12 345\r\n\t <|endoftext|> e\u0301 é \x1f\x7f\xa0\xad" + EOD_NAME


def learn(folder: Path, **settings: object) -> BpeTokenizer:
    config = TokenizerConfig(kind="bpe", **settings)
    (folder / TOKENIZER_FILE).write_text(train_bpe(config, TEXTS), encoding="utf-8")
    tokenizer = load_tokenizer("bpe", folder)
    assert isinstance(tokenizer, BpeTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("bpe"), vocab=600)


@pytest.fixture(scope="module")
def bpe_digits(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("digits"), vocab=600, split_digits=True)


@settings(max_examples=200)
@given(text=st.text())
@example(text=SNIPPETS)
def test_bytes_are_utf8_without_nul(text):
    (tokens,) = ByteTokenizer().encode([text])
    assert bytes(tokens) == text.replace("\0", "").encode()
    assert EOD not in tokens
    assert ByteTokenizer().decode(tokens) == text.replace("\0", "")


@settings(max_examples=200)
@given(text=st.text())
@example(text=SNIPPETS)
@example(text=EOD_NAME)
def test_bpe_gives_every_text_back(bpe, bpe_digits, text):
    for tokenizer in (bpe, bpe_digits):
        (tokens,) = tokenizer.encode([text])
        assert tokenizer.decode(tokens) == text
        assert EOD not in tokens
        assert tokenizer.text_bytes()[tokens].sum() == len(text.encode())


def test_bpe_shortens_the_text_it_learned_from(bpe):
    assert sum(map(len, bpe.encode(TEXTS))) < 0.6 * sum(len(text.encode()) for text in TEXTS)


def test_vocabulary_has_the_size_asked_for_and_covers_all_bytes(bpe):
    assert bpe.vocab == 600 and len(bpe.text_bytes()) == 600
    lengths = bpe.text_bytes()
    assert lengths[EOD] == 0 and (np.delete(lengths, EOD) >= 1).all()
    assert sum(lengths == 1) == 256


def test_end_of_document_stands_for_no_text(bpe):
    a, b = bpe.encode(["one", "two"])
    assert bpe.decode(np.concatenate([a, [EOD], b, [EOD]])) == "onetwo"
    assert ByteTokenizer().decode(np.array([65, 0, 66], np.uint8)) == "AB"


def test_split_digits_makes_every_digit_a_token(bpe_digits):
    (tokens,) = bpe_digits.encode(["x = 1234567890 + 11"])
    digits = [bpe_digits.decode(np.array([t])) for t in tokens if any(c.isdigit() for c in bpe_digits.decode([t]))]
    assert digits == list("123456789011")


def test_digits_may_join_without_it(tmp_path):
    text = json.dumps(list(range(1000, 1999))) * 3
    (tmp_path / TOKENIZER_FILE).write_text(train_bpe(TokenizerConfig(kind="bpe", vocab=300), [text]))
    (tokens,) = BpeTokenizer.load(tmp_path / TOKENIZER_FILE).encode(["1234"])
    assert len(tokens) < 4


def test_training_twice_gives_the_same_tokenizer():
    config = TokenizerConfig(kind="bpe", vocab=700)
    assert train_bpe(config, TEXTS) == train_bpe(config, iter(TEXTS))


def test_lengths_read_without_the_library_are_those_of_the_tokenizer(tmp_path):
    tokenizer = learn(tmp_path, vocab=400)
    assert token_bytes(tmp_path).tolist() == tokenizer.text_bytes().tolist()
    assert token_bytes(tmp_path / "no_file").tolist() == ByteTokenizer().text_bytes().tolist()


def test_half_a_surrogate_pair_becomes_a_question_mark(bpe):
    assert bpe.decode(bpe.encode(["a\ud83d"])[0]) == "a?"
    assert ByteTokenizer().decode(ByteTokenizer().encode(["a\ud83d"])[0]) == "a?"


def test_the_smallest_vocabulary_is_bytes_and_the_end(tmp_path):
    tokenizer = learn(tmp_path, vocab=257)
    (tokens,) = tokenizer.encode(["naïve"])
    assert len(tokens) == len("naïve".encode())
    with pytest.raises(UserError, match="257 or more"):
        train_bpe(TokenizerConfig(kind="bpe", vocab=256), TEXTS)


def test_a_corpus_too_small_for_the_vocabulary_says_how_many_there_are():
    with pytest.raises(UserError, match=r"vocab=5,000 .* only (\d+) different tokens; set data\.tokenizer\.vocab=\1"):
        train_bpe(TokenizerConfig(kind="bpe", vocab=5000), ["abab"])
