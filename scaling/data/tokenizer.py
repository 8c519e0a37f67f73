"""Tokenizers: bytes and byte-level BPE. Token 0 ends a document in both."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scaling.config import TokenizerConfig
from scaling.errors import UserError
from scaling.tokens import EOD

TOKENIZER_FILE = "tokenizer.json"
EOD_NAME = "<end of document>"  # contains spaces, which byte-level BPE tokens never do, so no text encodes to it
TRAINING_BYTES = 100_000_000  # taken from the first training documents; bounds memory and time, not tuned


class Tokenizer(Protocol):
    """Text to tokens and back; encoding is lossless (except NUL characters with bytes)."""

    vocab: int

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text, without an end-of-document token."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens; end-of-document tokens are dropped, invalid UTF-8 becomes U+FFFD."""
        ...

    def text_bytes(self) -> np.ndarray:
        """int64 [vocab]: number of bytes of text that each token represents."""
        ...


class ByteTokenizer:
    """A token is a byte of UTF-8. Byte 0 is the end-of-document token, so NUL characters in texts are dropped."""

    vocab = 256

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(_utf8(text).replace(b"\0", b""), np.uint8) for text in texts]

    def decode(self, tokens: np.ndarray) -> str:
        return np.asarray(tokens).astype(np.uint8).tobytes().replace(b"\0", b"").decode("utf-8", "replace")

    def text_bytes(self) -> np.ndarray:
        return (np.arange(256) != EOD).astype(np.int64)


class BpeTokenizer:
    """Byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2): every text can be encoded, losslessly."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocab = int(model.get_vocab_size())
        self._pieces = _pieces(model.get_vocab())

    @classmethod
    def load(cls, path: Path) -> "BpeTokenizer":
        import tokenizers

        return cls(tokenizers.Tokenizer.from_file(str(path)))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        texts = [_utf8(text).decode("utf-8") for text in texts]
        return [np.array(e.ids, np.uint32) for e in self._model.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, tokens: np.ndarray) -> str:
        return b"".join(self._pieces[t] for t in np.asarray(tokens).tolist()).decode("utf-8", "replace")

    def text_bytes(self) -> np.ndarray:
        return np.array([len(piece) for piece in self._pieces], np.int64)


def train_bpe(config: TokenizerConfig, texts: Iterable[str]) -> str:
    """A byte-level BPE tokenizer trained on texts, as JSON for `tokenizers`. The same texts give the same tokenizer.

    Raises UserError for an impossible vocabulary: fewer tokens than bytes, or more than the texts provide.
    """
    if config.vocab < 257:
        raise UserError(
            f"data.tokenizer.vocab={config.vocab}: bpe needs 257 or more (256 bytes and the end of a document)"
        )
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers, trainers

    learner = Model(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if config.split_digits else []
    learner.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab,
        special_tokens=[EOD_NAME],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator((_utf8(text).decode("utf-8") for text in texts), trainer)
    found = learner.get_vocab_size()
    if found != config.vocab:
        raise UserError(
            f"data.tokenizer.vocab={config.vocab:,} but the corpus gives only {found:,} different tokens; "
            f"set data.tokenizer.vocab={found} or use more text"
        )
    # Special tokens are matched in every text; without that mark, no text can encode to id 0.
    state = json.loads(learner.to_str()) | {"added_tokens": []}
    return json.dumps(state, ensure_ascii=False)


def load_tokenizer(kind: str, folder: Path) -> Tokenizer:
    """The tokenizer of a store."""
    return ByteTokenizer() if kind == "bytes" else BpeTokenizer.load(folder / TOKENIZER_FILE)


def token_bytes(folder: Path) -> np.ndarray:
    """int64 [vocab]: number of bytes of each token of a store, read without the tokenizers library."""
    path = folder / TOKENIZER_FILE
    if not path.exists():
        return ByteTokenizer().text_bytes()
    pieces = _pieces(json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"])
    return np.array([len(piece) for piece in pieces], np.int64)


def digest(kind: str, folder: Path) -> str:
    """SHA-256 of what defines a tokenizer."""
    text = b"bytes" if kind == "bytes" else (folder / TOKENIZER_FILE).read_bytes()
    return hashlib.sha256(text).hexdigest()


def _pieces(vocab: dict[str, int]) -> list[bytes]:
    """Bytes of each token, by id."""
    alphabet = _byte_alphabet()
    pieces = [b""] * len(vocab)
    for name, token in vocab.items():
        if token != EOD:
            pieces[token] = bytes(alphabet[char] for char in name)
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """The characters with which byte-level BPE writes bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _utf8(text: str) -> bytes:
    """Encode as UTF-8; lone surrogates, which JSON can contain, become question marks."""
    return text.encode("utf-8", "replace")
