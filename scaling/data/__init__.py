"""From text to batches: corpora, tokenizers, the token store, and batches as a function of (seed, step)."""

from scaling.data.batches import Batches, check_run, cut, eval_batches, run_batches
from scaling.data.prefetch import prefetch
from scaling.data.prepare import prepare
from scaling.data.store import Split, TokenStore, describe, open_store, run_tokenizer

__all__ = [
    "Batches",
    "Split",
    "TokenStore",
    "check_run",
    "cut",
    "describe",
    "eval_batches",
    "open_store",
    "prefetch",
    "prepare",
    "run_batches",
    "run_tokenizer",
]
