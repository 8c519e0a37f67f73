"""Generating text with a run's model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.accounting import cache_bytes
from scaling.data import run_tokenizer
from scaling.data.tokenizer import Tokenizer
from scaling.errors import UserError
from scaling.generation.decode import Decoder
from scaling.generation.ending import Ended, Ending
from scaling.generation.sampling import Sampling, is_whole
from scaling.tokens import EOD
from scaling.training.trained import load_trained

POSITIONS = 2**20
"""most tokens of a text, prompt included: positions are tables of that length, and 2^20 take up to 1 GB"""


@dataclass(frozen=True)
class Generated:
    """Generated texts, with one entry per prompt."""

    run: str
    """folder of the run"""
    step: int
    """of its checkpoint"""
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    """continuation of each prompt, without a stop string"""
    tokens: tuple[tuple[int, ...], ...]
    """tokens of each text up to the one that ended it, including end-of-document (0) and stop strings"""
    log_probs: tuple[tuple[float, ...], ...]
    """nats, of each token under the model itself, before temperature and filters"""
    ended: tuple[Ended, ...]
    """why each text ended"""
    cache_bytes: int
    """size of the caches of all texts: keys and values, or recurrent states"""
    notes: tuple[str, ...] = ()
    """differences from training"""


def generate(
    run: str | Path,
    prompts: str | Sequence[str],
    *,
    tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    step: int | None = None,
    show: Callable[[int, str], None] | None = None,
) -> Generated:
    """Generate continuations of prompts with the model of a run.

    A text ends after `tokens` tokens, with the end-of-document token, or when a stop string is complete. An empty
    prompt begins a document: the model reads an end-of-document token. Texts are generated side by side but
    independently: draws depend on the seed, the prompt and, for equal prompts, its index among them.

    run: folder of a run, or of one of its checkpoints, see `training.trained.load_trained`.
    tokens: number of new tokens per text, without the prompt.
    temperature, top_k, top_p, min_p: see `Sampling`; applied in this order.
    stop: strings at which a text ends.
    step: of the checkpoint; default: the last one of a run that has ended.
    show: called with the index of a prompt and a piece of its text as soon as that is final.

    Raises UserError for a run that cannot be read or whose model cannot generate, for prompts that its tokenizer
    cannot encode or that are too long for its positions, and for numbers out of range.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    tokens = _check(texts, tokens, stop, seed)
    trained = load_trained(run, step)
    tokenizer = run_tokenizer(trained.run.data, trained.run.records.store_folder)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    sampling.check(tokenizer.vocab)
    read = _encoded(tokenizer, texts)
    length = max(map(len, read)) + tokens
    if length > POSITIONS:
        raise UserError(
            f"prompt and new tokens are {length:,} together; allowed: up to {POSITIONS:,}; ask for fewer tokens or "
            "give a shorter prompt"
        )
    decoder = Decoder(trained, sampling, tokenizer.vocab, length)
    states = decoder.read(read, seed)
    endings = [Ending(tokenizer, tuple(stop)) for _ in texts]
    left = tokens
    while left and any(ending.ended is None for ending in endings):
        states, new_BxW, log_probs_BxW = decoder.write(states, left, [e.ended is not None for e in endings])
        left -= new_BxW.shape[1]
        for row, ending in enumerate(endings):
            ending.take(new_BxW[row], log_probs_BxW[row])
            if ending.ended is None and not left:
                ending.ended = "length"
            if show is not None and (piece := ending.shown()):
                show(row, piece)
    return Generated(
        run=str(trained.folder),
        step=trained.step,
        prompts=tuple(texts),
        texts=tuple(ending.text for ending in endings),
        tokens=tuple(tuple(ending.tokens) for ending in endings),
        log_probs=tuple(tuple(ending.log_probs) for ending in endings),
        ended=tuple(ending.ended or "length" for ending in endings),
        cache_bytes=len(texts) * cache_bytes(trained.run.model, length, decoder.dtype),
        notes=trained.run.model.written,
    )


def _check(prompts: list[str], tokens: int, stop: Sequence[str], seed: int) -> int:
    """The number of tokens as an integer."""
    if not prompts:
        raise UserError("no prompt; give at least one (an empty one begins a new document)")
    if wrong := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise UserError(f"prompts: should be strings, got {wrong[0]!r}")
    if not (is_whole(tokens) and tokens >= 1):
        raise UserError(f"tokens={tokens}: should be a whole number, 1 or more")
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"stop={stop!r}: should be a list of strings, none of them empty")
    if not (is_whole(seed) and 0 <= seed < 2**32):
        raise UserError(f"seed={seed}: should be 0 to 2³² − 1")
    return int(tokens)


def _encoded(tokenizer: Tokenizer, prompts: list[str]) -> list[np.ndarray]:
    """Tokens of each prompt, at least one. Raises UserError if they do not decode to the prompt."""
    found = tokenizer.encode(prompts)
    for prompt, tokens in zip(prompts, found, strict=True):
        if (decoded := tokenizer.decode(tokens)) != prompt:
            at = next((i for i, (a, b) in enumerate(zip(prompt, decoded, strict=False)) if a != b), len(decoded))
            raise UserError(
                f"the run's tokenizer has no tokens for {prompt[at]!r}, character {at + 1} of the prompt "
                f"{prompt[:20]!r}; remove it"
            )
    return [np.append(np.array([EOD] * (len(tokens) == 0), np.int32), tokens).astype(np.int32) for tokens in found]
