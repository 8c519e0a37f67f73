"""Probes of in-context retrieval: copies of text, copies of random tokens, and keys hidden in other text.

Each probe has targets that the preceding tokens determine, and the same targets where nothing determines them; the
difference measures what the model retrieves. Texts are drawn once and are the same for every model with the same
tokenizer and context.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.data.tokenizer import Tokenizer
from scaling.errors import UserError
from scaling.evaluation.text_losses import TextLosses
from scaling.families.attention_mask import LOOK_AHEAD
from scaling.tokens import EOD
from scaling.training.trained import Trained

TEXTS = 32
"""texts per probe"""
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = 3
"""number of lengths of texts with keys: the context, a half and a quarter of it"""
PROBES = ("copy", "induction", "passkey", "needle")
NEEDLE, QUESTION = " The pass key{} is {}. Remember it. ", " The pass key{} is "
NEEDLES = 4
"""keys in a `needle` text, one of which is asked for"""


@dataclass(frozen=True)
class Probe:
    """Means over texts, in nats per target."""

    name: str
    """copy: held-out text repeated; induction: random tokens repeated (Olsson et al. 2022, 2209.11895); passkey: five
    digits that were stated before (Mohtashami and Jaggi 2023, 2305.16300); needle: the same with further keys under
    other names (multi-keys of RULER, Hsieh et al. 2024, 2404.06654)"""
    length: int
    """number of tokens read"""
    depth: float | None
    """position of the key: 0 at the beginning and 1 just before it is asked for"""
    loss: float
    untold: float
    """loss on the same targets without the information: at their first occurrence, or with another key stated"""
    gain: float
    """untold − loss"""
    gain_sem: float
    """standard error of the gain, paired over texts"""
    accuracy: float | None = None
    """for a key: share of texts in which every token of the answer is the likeliest, so greedy decoding gives it"""


def probe(trained: Trained, tokenizer: Tokenizer, tokens: np.ndarray) -> list[Probe]:
    """All probes at lengths of the context. tokens: held-out text.

    Keys are left out if a text has no room for them. Raises UserError for an objective that does not read from left
    to right, and for too little text.
    """
    if trained.run.objective.mask in LOOK_AHEAD:
        raise UserError(f"probes: objective.kind={trained.run.objective.name} does not read from left to right")
    context, draw = trained.run.model.context, np.random.default_rng(0)
    if len(tokens) <= context:
        raise UserError(f"probes: {len(tokens):,} held-out tokens are fewer than a window of {context}")
    losses = TextLosses(trained)
    half = context // 2
    found = []
    if half > 1:
        text = _pieces(tokens, half, draw)
        noise = draw.integers(EOD + 1, tokenizer.vocab, (TEXTS, half))
        found = [_copied(losses, name, rows) for name, rows in (("copy", text), ("induction", noise))]
    for name in ("passkey", "needle"):
        for length in (context >> i for i in range(LENGTHS)):
            found += _hidden(name, losses, tokenizer, tokens, length, draw)
    return found


def _pieces(tokens: np.ndarray, length: int, draw: np.random.Generator) -> np.ndarray:
    """[TEXTS, length] of held-out text, without document boundaries."""
    start = draw.integers(0, len(tokens) - length, TEXTS)
    pieces = tokens[start[:, None] + np.arange(length)].astype(np.int32)
    return np.where(pieces == EOD, np.roll(pieces, 1, 1), pieces)


def _copied(losses: TextLosses, name: str, rows_NxL: np.ndarray) -> Probe:
    length = rows_NxL.shape[1]
    both = losses(np.concatenate([rows_NxL, rows_NxL], 1))
    return _compared(name, 2 * length - 1, None, both[:, length:].mean(1), both[:, : length - 1].mean(1))


@dataclass(frozen=True)
class _KeyText:
    """The parts of a text other than its filling, as tokens."""

    needles: list[np.ndarray]
    """each states a key; the first one is asked for"""
    instead: np.ndarray
    """states another key in place of the first"""
    question: np.ndarray
    answer: np.ndarray
    places: np.ndarray
    """positions of the other needles, as shares of the filling"""

    @classmethod
    def of(cls, tokenizer: Tokenizer, names: Sequence[str], keys: Sequence[int], places: np.ndarray) -> "_KeyText":
        """keys: the one that is asked for, its substitute, and those of the other names."""
        written = [f"{key:05d}" for key in keys]
        sentences = [NEEDLE.format(*both) for both in zip([names[0], *names], written, strict=True)]
        first, instead, *others = tokenizer.encode(sentences)
        question, answer = tokenizer.encode([QUESTION.format(names[0]), written[0]])
        return cls([first, *others], instead, question, answer, places)

    @property
    def length(self) -> int:
        return sum(map(len, (*self.needles, self.question, self.answer)))

    def within(self, filling: np.ndarray, depth: float, told: bool) -> np.ndarray:
        """The text, one token longer than the filling. told: whether it states the key or its substitute."""
        needles = [self.needles[0] if told else self.instead, *self.needles[1:]]
        room = len(filling) + 1 - sum(map(len, (*needles, self.question, self.answer)))
        parts, start = list[np.ndarray](), 0
        for place, needle in sorted(zip([depth, *self.places], needles, strict=True), key=lambda own: own[0]):
            parts += [filling[start : round(place * room)], needle]
            start = round(place * room)
        return np.concatenate([*parts, filling[start:room], self.question, self.answer])


def _hidden(
    name: str, losses: TextLosses, tokenizer: Tokenizer, tokens: np.ndarray, length: int, draw: np.random.Generator
) -> Iterator[Probe]:
    """For each depth, texts of `length` tokens that state a key there and ask for it, filled with held-out text."""
    others = NEEDLES - 1 if name == "needle" else 0
    keys = draw.integers(0, 10**5, (2 + others, TEXTS)).T
    names = [[""]] * TEXTS
    if others:
        numbers = [draw.choice(np.arange(100, 1000), 1 + others, replace=False) for _ in range(TEXTS)]
        names = [[f" of {number}" for number in row] for row in numbers]
    texts = [_KeyText.of(tokenizer, *own) for own in zip(names, keys, draw.random((TEXTS, others)), strict=True)]
    if length < 2 * max(text.length for text in texts):
        return
    filling = _pieces(tokens, length, draw)
    last = max(len(text.answer) for text in texts)

    def measure(depth: float, told: bool) -> tuple[np.ndarray, np.ndarray]:
        """(nats per target, whether all targets are the likeliest tokens) for each text."""
        rows = np.stack([text.within(row, depth, told) for text, row in zip(texts, filling, strict=True)])
        parts = [
            (nats[-len(text.answer) :].mean(), likeliest[-len(text.answer) :].all())
            for text, nats, likeliest in zip(texts, *losses.answers(rows, last), strict=True)
        ]
        nats_N, right_N = map(np.array, zip(*parts, strict=True))
        return nats_N, right_N

    for depth in DEPTHS:
        nats_N, right_N = measure(depth, True)
        yield _compared(name, length, depth, nats_N, measure(depth, False)[0], float(right_N.mean()))


def _compared(
    name: str,
    length: int,
    depth: float | None,
    loss_N: np.ndarray,
    untold_N: np.ndarray,
    accuracy: float | None = None,
) -> Probe:
    gain_N = untold_N - loss_N
    sem = float(gain_N.std(ddof=1) / len(gain_N) ** 0.5)
    return Probe(
        name, length, depth, float(loss_N.mean()), float(untold_N.mean()), float(gain_N.mean()), sem, accuracy
    )
