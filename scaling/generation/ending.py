"""Generation on the host: where a text ends, and what of it can already be shown."""

from typing import Literal

import numpy as np

from scaling.data.tokenizer import Tokenizer
from scaling.tokens import EOD

Ended = Literal["length", "end_of_document", "stop"]
"""why a text ended: it has the requested number of tokens, the model ended the document, or a stop string occurred"""


class Ending:
    """One text in progress."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]):
        self.tokenizer, self.stop = tokenizer, stop
        self.tokens: list[int] = []
        """all tokens, including the one that ended the text"""
        self.log_probs: list[float] = []
        self.text = ""
        """the text of all tokens, without a stop string and what follows it"""
        self.ended: Ended | None = None
        self._shown = 0

    def take(self, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        """Append tokens, up to the end of the text."""
        if self.ended is not None:
            return
        before = len(self.tokens)
        end = np.flatnonzero(tokens == EOD)
        count = int(end[0]) + 1 if len(end) else len(tokens)
        self.tokens += tokens[:count].tolist()
        self.log_probs += log_probs[:count].tolist()
        self.text, self.ended = self._decoded(len(self.tokens)), "end_of_document" if len(end) else None
        if any(stop in self.text for stop in self.stop):
            self.ended = "stop"
            count = next(n for n in range(before + 1, len(self.tokens) + 1) if self._stops(self._decoded(n)))
            del self.tokens[count:], self.log_probs[count:]
            text = self._decoded(count)
            self.text = text[: min(self._stops(text))]

    def shown(self) -> str:
        """The new part of the text that is final: without an incomplete character or a possible stop string."""
        text = self.text
        if self.ended is None:
            text = text.rstrip("\ufffd")
            half = (n for stop in self.stop for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
            text = text[: len(text) - max(half, default=0)]
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        return new

    def _decoded(self, count: int) -> str:
        return self.tokenizer.decode(np.array(self.tokens[:count], np.int64))

    def _stops(self, text: str) -> list[int]:
        """Positions at which stop strings begin."""
        return [text.index(stop) for stop in self.stop if stop in text]
