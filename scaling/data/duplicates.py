"""Held-out documents that are also in the training split: a loss on them measures memorisation."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaling.validity import MEMORISED


def seen_again(folder: Path, dtype: np.dtype[Any]) -> dict[str, int]:
    """Counts of held-out documents that occur in the training split, token for token: `documents` and `tokens`.

    folder: has the `.tokens` and `.starts` of both splits. Only training documents with the length of a held-out one
    are hashed.
    """
    held = list(_documents(folder, "validation", dtype))
    lengths = {length for length, _ in held}
    wanted = {digest for _, digest in held}
    both = wanted & {digest for _, digest in _documents(folder, "train", dtype, lengths)}
    found = [length for length, digest in held if digest in both]
    return {"documents": len(found), "tokens": sum(found)}


def tokens_in_train(manifest: Mapping[str, Any]) -> int:
    """Tokens of the held-out documents that are also trained on; 0 for a store made before this was counted."""
    return int(manifest.get("held_out_in_train", {}).get("tokens", 0))


def told_again(manifest: Mapping[str, Any]) -> list[str]:
    """A note if a share of the held-out documents that matters is also trained on; none for a store made before this
    was counted."""
    seen, whole = manifest.get("held_out_in_train", {}), manifest["splits"]["validation"]
    if (share := tokens_in_train(manifest) / max(1, whole["tokens"])) < MEMORISED:
        return []
    return [
        f"{seen['documents']:,} of {whole['documents']:,} held-out documents ({share:.0%} of their tokens) are also "
        "in the training split, word for word, so the held-out loss partly measures memorisation; remove the copies"
    ]


def _documents(
    folder: Path, split: str, dtype: np.dtype[Any], lengths: set[int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Length and hash of each document of a split, or of those with one of `lengths`."""
    tokens = np.memmap(folder / f"{split}.tokens", dtype=dtype, mode="r")
    starts = np.fromfile(folder / f"{split}.starts", np.int64)
    sizes = np.diff(starts, append=len(tokens))
    chosen = np.arange(len(starts)) if lengths is None else np.flatnonzero(np.isin(sizes, list(lengths)))
    for i in chosen:
        data = tokens[starts[i] : starts[i] + sizes[i]]
        yield int(sizes[i]), hashlib.blake2b(data.tobytes(), digest_size=16).digest()
