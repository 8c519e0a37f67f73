"""What a model makes of what it has read: copies of text, copies of random tokens, and a pass key in other text.

Each probe has targets that the tokens before them tell, and the same targets where nothing tells them; the difference
is what the model finds. Texts are drawn once and are the same for every model of a tokenizer and a context.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from scaling.data.tokenizer import Tokenizer
from scaling.errors import UserError
from scaling.families.attention_mask import LOOK_AHEAD
from scaling.models import functional
from scaling.parallel import use
from scaling.tokens import EOD
from scaling.training.trained import Trained

TEXTS, BATCH = 32, 8
"""texts of each probe, and how many are read at a time"""
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = 3
"""of texts with a pass key: the context, a half and a quarter of it"""
NEEDLE, QUESTION = " The pass key is {}. Remember it. ", " The pass key is "


@dataclass(frozen=True)
class Probe:
    """Means over texts, in nats per target."""

    name: str
    """copy: held-out text a second time; induction: random tokens a second time (Olsson et al. 2022, 2209.11895);
    passkey: five digits that were said before (Mohtashami and Jaggi 2023, 2305.16300)"""
    length: int
    """tokens that are read"""
    depth: float | None
    """of a pass key: where it was said, 0 at the beginning and 1 just before it is asked for"""
    loss: float
    untold: float
    """of the same targets where nothing tells them: the first time; beside another pass key"""
    gain: float
    """untold − loss"""
    gain_sem: float
    """standard error of it: the texts are the same"""


def probe(trained: Trained, tokenizer: Tokenizer, tokens: np.ndarray) -> list[Probe]:
    """All probes at lengths of the context. tokens: held-out text.

    Pass keys are left out where a text has no room for them. Raises UserError for an objective that is not read from
    left to right, and for too little text.
    """
    if trained.run.objective.mask in LOOK_AHEAD:
        raise UserError(f"probes: objective.kind={trained.run.objective.name} does not read from left to right")
    context, draw = trained.run.model.context, np.random.default_rng(0)
    if len(tokens) <= context:
        raise UserError(f"probes: {len(tokens):,} held-out tokens are less than a window of {context}")
    losses = _Losses(trained)
    half = context // 2
    found = []
    if half > 1:
        text = _pieces(tokens, half, draw)
        noise = draw.integers(EOD + 1, tokenizer.vocab, (TEXTS, half))
        found = [_copied(losses, name, rows) for name, rows in (("copy", text), ("induction", noise))]
    for length in (context >> i for i in range(LENGTHS)):
        found += _passkeys(losses, tokenizer, tokens, length, draw)
    return found


class _Losses:
    """−log p of every token but the first, [rows, L − 1]."""

    def __init__(self, trained: Trained):
        run, self.params, self.objective = trained.run, trained.params, trained.run.objective

        def losses(params: functional.Params, text_BxL: jax.Array, marks_BxL: jax.Array) -> jax.Array:
            with use(trained.mesh):
                read, targets = text_BxL[:, :-1], text_BxL[:, 1:]
                model = functional.bind_run(run, params)
                return model.target_losses(read, targets, jnp.ones(read.shape), marks_BxL[:, :-1])[0]

        self._losses = jax.jit(losses)

    def __call__(self, text_NxL: np.ndarray) -> np.ndarray:
        text_NxL = text_NxL.astype(np.int32)
        marks_NxL = np.stack([self.objective.continued(row)[0] for row in text_NxL])
        parts = (slice(i, i + BATCH) for i in range(0, len(text_NxL), BATCH))
        return np.concatenate([np.asarray(self._losses(self.params, text_NxL[p], marks_NxL[p])) for p in parts])


def _pieces(tokens: np.ndarray, length: int, draw: np.random.Generator) -> np.ndarray:
    """[TEXTS, length] of held-out text, documents of their own as one."""
    start = draw.integers(0, len(tokens) - length, TEXTS)
    pieces = tokens[start[:, None] + np.arange(length)].astype(np.int32)
    return np.where(pieces == EOD, np.roll(pieces, 1, 1), pieces)


def _copied(losses: _Losses, name: str, rows_NxL: np.ndarray) -> Probe:
    length = rows_NxL.shape[1]
    both = losses(np.concatenate([rows_NxL, rows_NxL], 1))
    return _compared(name, 2 * length - 1, None, both[:, length:].mean(1), both[:, : length - 1].mean(1))


def _passkeys(
    losses: _Losses, tokenizer: Tokenizer, tokens: np.ndarray, length: int, draw: np.random.Generator
) -> Iterator[Probe]:
    """For each depth. The filling is held-out text."""
    keys = [f"{key:05d}" for key in draw.integers(0, 10**5, 2 * TEXTS)]
    told, question = tokenizer.encode([NEEDLE.format(key) for key in keys]), tokenizer.encode([QUESTION])[0]
    answers = tokenizer.encode(keys[:TEXTS])
    widest = max(map(len, told)) + len(question) + max(map(len, answers))
    if length < 2 * widest:
        return
    filling = _pieces(tokens, length, draw)
    for depth in DEPTHS:

        def text(row: int, needle: np.ndarray, depth: float = depth) -> np.ndarray:
            room = length + 1 - len(needle) - len(question) - len(answers[row])
            before = round(depth * room)
            parts = (filling[row, :before], needle, filling[row, before:room], question, answers[row])
            return np.concatenate(parts)

        def of(needles: list[np.ndarray]) -> np.ndarray:
            nats = losses(np.stack([text(row, needle) for row, needle in enumerate(needles)]))
            return np.array([row[-len(answer) :].mean() for row, answer in zip(nats, answers, strict=True)])

        yield _compared("passkey", length, depth, of(told[:TEXTS]), of(told[TEXTS:]))


def _compared(name: str, length: int, depth: float | None, loss_N: np.ndarray, untold_N: np.ndarray) -> Probe:
    gain_N = untold_N - loss_N
    sem = float(gain_N.std(ddof=1) / len(gain_N) ** 0.5)
    return Probe(name, length, depth, float(loss_N.mean()), float(untold_N.mean()), float(gain_N.mean()), sem)
