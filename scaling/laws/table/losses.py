"""Checks whether a table's losses are really mean nats per token of one split in one vocabulary.

The unit of the losses only scales a law: N*, D* and the exponents are the same in bits; E, A and B are not. Losses
per token of text are similar in all published sets, so the unit can be inferred, within a factor, where the models
are large enough: bits per token are 1.44 times nats, and text in another vocabulary, or the mean over hard data sets,
is up to 1.3 times `TEXT`. Bits of a set whose nats would be below .94 times that law cannot be recognised.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array, Labels
from scaling.laws.table.seen import FEWEST_TOKENS, Table, number_or_none, unread
from scaling.laws.table.words import choice, leave

PERPLEXITY = 20.0
"""no loss in nats per token stays as large as this for long"""
TEXT = (1.8172, 482.01, 0.3478, 2085.43, 0.3658)
"""E, A, α, B, β of text in a vocabulary of 32,000 (Besiroglu et al. 2024, 2404.10102)"""
TIMES_TEXT, SHARE_OF_TEXT = 1.35, 0.6
"""median ratios of the losses to that law above and below which a note is made: ten published sets in nats per token
lie between .96 and 1.28, one approximately in bits per byte at .21"""
LARGE = 1e7
"""median parameters from which too small losses are noted: smaller models are often trained on bytes or toy data"""
AGAIN, LEAST_PAIRS = 0.02, 3
"""median difference in log loss between rows of the same N and D from which a note is made (seeds differ by .1 to 1
%), and the fewest such pairs"""
BITS = r"bpb|bpt|bits?([_ /]|$)|bits_?per"
VOCABULARY = r"(n|num)?_?vocab(ulary)?(_?size)?"
TOKENIZER = r"tokeni[sz]er(_?(name|id))?"


def refuse_perplexities(loss: Array, name: str) -> None:
    """Raises UserError for losses [runs] too large for nats, and for columns named as perplexities."""
    middle = float(np.median(loss))
    named = re.search(r"(^|[^a-z])(ppl|perplexit(y|ies))([^a-z]|$)", name.lower()) is not None
    if (named or middle > PERPLEXITY) and (loss > 0).all():
        look = "are" if named else "look like"
        raise UserError(
            f"losses around {middle:.3g} ({name}) {look} perplexities: laws are of the loss in nats, which is the "
            f"perplexity's logarithm ({np.log(middle):.3g}); use that, or, if these are losses, {leave('trusted')}"
        )


def check_unit(runs: Table) -> Iterator[str]:
    """Perplexities and bits instead of nats, by their name or by typical losses of text at these sizes."""
    name = runs.conventions["loss"]
    refuse_perplexities(runs.loss, name)
    bits = re.search(BITS, name.lower()) is not None
    if bits:
        yield f"{name} is in bits, and so are E, A and B (multiply by ln 2 for nats)"
    if bits or not {"N", "D"} <= runs.values.keys() or (runs.loss <= 0).any():
        return
    E, A, alpha, B, beta = TEXT
    times = float(np.median(runs.loss / (E + A / runs.N**alpha + B / runs.D**beta)))
    middle = f"losses around {np.median(runs.loss):.3g} ({name}) are {times:.2g} times those of text at these sizes"
    if times > TIMES_TEXT:
        yield (
            f"{middle}: laws are of nats per token; take the logarithm of perplexities, multiply bits by ln 2 (N*, "
            "D* and the exponents are the same in bits, E, A and B are not)"
        )
    elif times < SHARE_OF_TEXT and np.median(runs.N) >= LARGE and np.median(runs.D / runs.N) >= FEWEST_TOKENS:
        yield (
            f"{middle}: are they in bits or nats per byte, or of a small vocabulary, or is D in steps or sequences? "
            "Then E, A and B cannot be compared with those of laws in nats per token"
        )


def check_vocabulary(df: Any, runs: Table) -> Iterator[str]:
    """Losses per token in different vocabularies, and losses too large in nats for their vocabulary."""
    for name in unread(df, runs, VOCABULARY, TOKENIZER):
        values = np.asarray(df[name]).astype(str)
        if len(kinds := np.unique(values)) > 1:
            yield (
                f"rows differ in {name} ({', '.join(kinds[:4])}{', …' * (len(kinds) > 4)}): losses per token "
                "with different vocabularies are not comparable; fit one of them, or losses per byte"
            )
        sizes = number_or_none(df[name])
        if sizes is None or not (sizes > 1).all():
            continue
        above = runs.loss > np.log(sizes)
        if above.any():
            yield (
                f"{above.sum()} of {len(runs)} losses are above ln {name} ({np.log(sizes[above]).max():.3g}), "
                "the loss of guessing in nats: are they in bits, or did runs diverge?"
            )


def check_again(df: Any, runs: Table, group: str | None = None) -> Iterator[str]:
    """Rows that agree in every column read, with losses further apart than seeds explain.

    group: the column with a separate law for each value; rows of different groups are not compared.
    """
    letters = [letter for letter in runs.values if letter not in ("loss", "sigma")]
    if not letters or (runs.loss <= 0).any():
        return
    columns = np.stack([runs.values[letter] for letter in letters], 1)
    if group is not None and group in df:
        columns = np.column_stack([columns, np.unique(np.asarray(df[group]).astype(str), return_inverse=True)[1]])
    number = np.unique(columns, axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((runs.loss, number))
    same = number[order][1:] == number[order][:-1]
    first, second = order[:-1][same], order[1:][same]
    if len(first) < LEAST_PAIRS or 2 * len(first) < len(runs) / 3:
        return
    apart = float(np.median(np.log(runs.loss[second] / runs.loss[first])))
    if apart > AGAIN:
        further = [name for name in map(str, getattr(df, "columns", df)) if name not in runs.conventions.values()]
        named = [name for name in further if _differs(np.asarray(df[name]), first, second)]
        how = f"; they differ in {', '.join(named)}: {choice('group', named[0])}, or fit one of them" if named else ""
        yield (
            f"{len(first)} rows have the same {' and '.join(letters)} as another and a loss that differs by "
            f"{apart:.0%} in the median (seeds: .1 to 1 %): two splits, or settings that the law does not read" + how
        )


def _differs(values: NDArray[Any], first: Labels, second: Labels) -> bool:
    """Whether a column differs within most pairs, and has few values overall."""
    text = values.astype(str)
    return len(np.unique(text)) <= len(text) / 3 and float(np.mean(text[first] != text[second])) > 0.5
